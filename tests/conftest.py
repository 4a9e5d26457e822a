from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scripts.particles import read_particles

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"


@pytest.fixture(scope="session")
def bundle_dir():
    return BUNDLE


@pytest.fixture(scope="session")
def shipped_particles():
    return read_particles(BUNDLE / "configs" / "particles.json")


@pytest.fixture(scope="session")
def all_phantoms():
    from scripts.phantoms import PHANTOMS  # here, because the environment for copick lacks what they need
    from scripts.specimens import phantom

    return {name: phantom(name, 10.0) for name in PHANTOMS}


@pytest.fixture(scope="session")
def assert_points_close():
    """Compare two sets of points whatever their order: as many, and every pair at most ``atol`` apart."""

    def compare(found, expected, atol):
        found, expected = (np.asarray(points, dtype=float).reshape(-1, 3) for points in (found, expected))
        assert len(found) == len(expected), f"{len(found)} points, expected {len(expected)}:\n{found}\n{expected}"
        gaps = cdist(found, expected)
        gaps = gaps[linear_sum_assignment(gaps)]
        assert gaps.max(initial=0.0) <= atol, f"up to {gaps.max():.4g} apart:\n{found}\n{expected}"

    return compare
