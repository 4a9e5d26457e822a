from pathlib import Path

import numpy as np
import pytest
from scripts.errors import InputWarning
from scripts.preparation.contrast import INVERTED_SKEWNESS, CheckContrastd, block_means, smoothed_skewness
from scripts.preparation.scaling import scale_percentiles
from scripts.volumes.labels import draw_spheres
from scripts.volumes.reading import read_tomogram
from synthetic import image_of, noise

ROOT = Path(__file__).resolve().parents[2]
TOMOGRAMS = [ROOT / "sample" / "sample.mrc", *sorted(ROOT.glob("../shared/data/tomograms/D*/tomogram.mrc"))]


def crowded(shape=(72, 72, 72)):
    """Noise with bright balls of 60 Å radius in it."""
    centres = np.random.default_rng(2).uniform(6, 66, (40, 3))
    return noise(shape=shape) + 1.5 * draw_spheres(shape, centres, 6)


def test_bright_particles_are_silent_and_dark_ones_give_a_warning(recwarn):
    bright, dark = image_of(crowded()), image_of(-crowded())
    for image, inverted in ((bright, False), (image_of(noise(shape=(72, 72, 72))), False)):
        CheckContrastd("image", inverted)({"image": image})
    assert not recwarn.list
    with pytest.warns(InputWarning, match=r"tomogram.mrc: its particles look dark .*give --invert True if that is so"):
        assert CheckContrastd("image")({"image": dark})["image"] is dark
    with pytest.warns(InputWarning, match=r"after inversion its particles look dark .*give --invert False"):
        CheckContrastd("image", inverted=True)({"image": dark})


@pytest.mark.parametrize("path", TOMOGRAMS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_tomograms_look_bright_and_their_negatives_dark(path):
    volume = np.asarray(read_tomogram(path).data, dtype=np.float32)
    assert smoothed_skewness(scale_percentiles(volume), 10.012) > 0.5
    assert smoothed_skewness(scale_percentiles(-volume), 10.012) < INVERTED_SKEWNESS


def test_a_volume_too_small_or_too_even_to_tell_is_not_judged():
    assert smoothed_skewness(-crowded((48, 48, 48)), 10.0) is None
    assert smoothed_skewness(np.ones((72, 72, 72), dtype=np.float32), 10.0) is None


@pytest.mark.parametrize("side", [1, 3, 7])
def test_block_means_are_the_means_of_the_cubes(side):
    volume = noise()
    means = block_means(volume, side)
    for index in np.ndindex(means.shape):
        cube = tuple(slice(place * side, (place + 1) * side) for place in index)
        assert means[index] == pytest.approx(volume[cube].mean(dtype=np.float64), abs=1e-6)
    assert means.shape == tuple(size // side for size in volume.shape)


def test_block_means_leave_out_what_fills_no_block():
    volume = np.arange(2 * 5 * 4, dtype=np.float32).reshape(2, 5, 4)
    means = block_means(volume, 4)
    assert means.shape == (1, 1, 1)
    assert means[0, 0, 0] == volume[:, :4].mean()
