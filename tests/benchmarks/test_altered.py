"""The parts of `benchmarks/altered.py` that need no weights."""

import altered
import numpy as np
import pytest
from recipe.training import Judged
from scripts.scoring.metrics import Counts
from synthetic import noise


def test_alterations_keep_the_shape_and_change_the_noise():
    volume = noise(shape=(24, 30, 36))
    found = dict(altered.alterations(volume))
    assert {one.shape for one in found.values()} == {volume.shape}
    assert found.pop("as it is") is volume
    spreads = {name: float(np.diff(one, axis=2).std() / one.std()) for name, one in found.items()}
    assert spreads["blurred by 1.5 voxels"] < spreads["binned to 15.7 Å and back"] < np.sqrt(2)
    assert found["with blotches of 30 Å"].std() == pytest.approx(volume.std() * np.hypot(1, 1.2), rel=0.05)
    assert abs(found["band-passed"].mean()) < 0.01


def test_counts_are_those_of_the_f1_point_and_rows_add_tomograms_up():
    candidates = Judged(np.array([0.95, 0.9, 0.1]), np.array([True, False, True]), truths=2)
    counts = altered.counts_of(candidates)
    assert counts == Counts(1, 2, 2)
    assert altered.row_of(["a"], [[counts], [Counts(2, 2, 2)]]) == ["0.750", "1 of 4"]
