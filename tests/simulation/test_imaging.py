"""The microscope obeys the laws of physics: geometry, contrast transfer, dose, the missing wedge."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import rotate
from scipy.optimize import brentq
from scripts.errors import InputError
from scripts.simulation.imaging import (
    Imaging,
    back_project,
    beams,
    contrast_transfer,
    count_electrons,
    critical_dose,
    dose_before,
    expected_counts,
    filtered,
    frequencies,
    low_pass,
    project,
    radian_per_volt_angstrom,
    reconstruct,
    wavelength_angstrom,
)

VOXEL = 10.0


def ball(shape, centre, radius):
    grid = np.meshgrid(*(np.arange(length) for length in shape), indexing="ij", sparse=True)
    distance = np.sqrt(sum((axis - place) ** 2 for axis, place in zip(grid, centre, strict=True)))
    return np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)


def test_electrons_of_300_kv_have_the_textbook_wavelength_and_interaction():
    assert wavelength_angstrom(300) == pytest.approx(0.019687, abs=2e-6)
    assert wavelength_angstrom(200) == pytest.approx(0.025079, abs=2e-6)
    assert radian_per_volt_angstrom(300) == pytest.approx(6.526e-4, abs=1e-7)


def test_contrast_transfer_is_zero_where_the_phase_says():
    imaging = Imaging(defocus_angstrom=30000.0, amplitude_contrast=0.07)
    frequency = np.linspace(1e-3, 0.05, 20001)
    transfer = contrast_transfer(frequency, imaging)
    found = frequency[1:][np.diff(np.sign(transfer)) != 0]

    def turns(k, number):  # chi(k) + asin(w) = number * pi, written out independently
        wavelength, aberration = 0.0196875, 2.7e7
        chi = np.pi * wavelength * 30000.0 * k**2 - np.pi / 2 * aberration * wavelength**3 * k**4
        return chi + np.arcsin(0.07) - number * np.pi

    expected = [brentq(turns, 1e-3, 0.0501, args=(number,)) for number in range(1, len(found) + 1)]
    assert len(found) >= 1
    np.testing.assert_allclose(found, expected, atol=5e-6)


def test_matter_is_dark_in_focus_and_at_low_frequencies():
    assert contrast_transfer(np.array([0.0]), Imaging(defocus_angstrom=0))[0] == pytest.approx(-0.08)
    assert contrast_transfer(np.array([0.005]), Imaging())[0] < 0


def test_a_phase_plate_moves_the_zeros():
    quarter = Imaging(phase_shift_degree=90.0, amplitude_contrast=0.0, defocus_angstrom=0.0)
    assert contrast_transfer(np.array([0.001]), quarter)[0] == pytest.approx(-1.0)


def test_thon_rings_of_a_simulated_image_lie_at_the_computed_radii():
    imaging = Imaging(tilt_range_degree=(0, 0), damage=False, defocus_angstrom=45000.0)
    noise = np.random.default_rng(1).standard_normal((1, 256, 256)).astype(np.float32) * 0.05
    geometry = beams(1, 256, imaging.angles_degree)
    image = expected_counts(noise, VOXEL, imaging, geometry)[0]
    power = np.abs(np.fft.rfft2(image - image.mean())) ** 2
    frequency = frequencies(image.shape, VOXEL)
    rings = np.arange(0.02, 0.048, 5e-4)
    profile = [power[(frequency >= low) & (frequency < low + 5e-4)].mean() for low in rings]
    zero = brentq(lambda k: contrast_transfer(np.array([k]), imaging)[0], 0.025, 0.04)
    darkest = rings[np.argmin(profile)] + 2.5e-4
    assert darkest == pytest.approx(zero, abs=5e-4)
    assert min(profile) < 0.02 * max(profile)


def test_projection_is_a_sum_along_the_beam():
    volume = np.random.default_rng(0).random((5, 4, 9), dtype=np.float32)
    images = project(volume, beams(5, 9, [0.0]))
    np.testing.assert_allclose(images[0], volume.sum(axis=0), rtol=1e-6)


@pytest.mark.parametrize("angle", [-45.0, 20.0, 60.0])
def test_a_tilted_projection_is_the_projection_of_the_tilted_volume(angle):
    volume = filtered(ball((48, 8, 64), (25.0, 4.0, 35.0), 6.0), low_pass(frequencies((48, 8, 64), 1.0), 6.0))
    image = project(volume, beams(48, 64, [angle]))[0]
    turned = rotate(volume, angle, axes=(0, 2), reshape=False, order=3)
    np.testing.assert_allclose(image, turned.sum(axis=0), atol=0.02 * image.max())


def test_a_point_casts_its_shadow_where_geometry_says():
    volume = np.zeros((33, 3, 65), dtype=np.float32)
    volume[26, 1, 40] = 1
    for angle in (-60.0, -30.0, 0.0, 30.0, 60.0):
        image = project(volume, beams(33, 65, [angle]))[0]
        place = (image[1] * np.arange(65)).sum() / image[1].sum()
        radians = np.radians(angle)
        assert place == pytest.approx(8 * np.cos(radians) + 10 * np.sin(radians) + 32, abs=0.05)  # pixels see areas


def test_back_projection_is_the_transpose_of_projection():
    random = np.random.default_rng(0)
    geometry = beams(6, 10, [-50.0, 0.0, 35.0])
    volume = random.random((6, 4, 10), dtype=np.float32)
    images = random.random((3, 4, 10), dtype=np.float32)
    one, other = (project(volume, geometry) * images).sum(), (volume * back_project(images, geometry)).sum()
    assert one == pytest.approx(other, rel=1e-5)


def test_the_missing_wedge_is_empty_and_the_rest_is_not():
    imaging = Imaging(tilt_range_degree=(-60, 60), damage=False, dose_weighting=False)
    geometry = beams(128, 128, imaging.angles_degree)
    white = np.random.default_rng(0).standard_normal((41, 8, 128)).astype(np.float32)
    volume = reconstruct(100 + white, VOXEL, imaging, geometry)
    power = (np.abs(np.fft.fftn(volume * np.hanning(128)[:, None, None] * np.hanning(128))) ** 2).mean(axis=1)
    k_z, k_x = np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128), indexing="ij")
    length, angle = np.hypot(k_z, k_x), np.degrees(np.arctan2(np.abs(k_z), np.abs(k_x)))
    ring = (length > 0.1) & (length < 0.35)
    by_angle = {low: power[ring & (angle >= low) & (angle < low + 3)].mean() for low in range(0, 90, 3)}
    measured, missing = by_angle[57], by_angle[66]
    assert all(value < 0.03 * by_angle[30] for low, value in by_angle.items() if low >= 66)
    assert measured > 10 * missing


def test_matter_comes_back_bright_at_its_place():
    imaging = Imaging(defocus_angstrom=30000.0)
    geometry = beams(48, 64, imaging.angles_degree)
    density = ball((48, 40, 64), (19.0, 24.0, 45.0), 2.0) * 0.8
    volume = reconstruct(expected_counts(density, VOXEL, imaging, geometry), VOXEL, imaging, geometry)
    smooth = filtered(volume, low_pass(frequencies(volume.shape, VOXEL), 60.0))
    assert np.unravel_index(smooth.argmax(), smooth.shape) == (19, 24, 45)


def test_noise_power_falls_as_one_over_the_dose():
    imaging = Imaging(readout_electrons=0, tilt_range_degree=(-3, 3))
    empty = np.zeros((4, 200, 200), dtype=np.float32)
    geometry = beams(4, 200, imaging.angles_degree)
    spread = {}
    for dose in (30.0, 120.0):
        series = replace(imaging, dose_per_square_angstrom=dose)
        expected = expected_counts(empty, VOXEL, series, geometry)
        counts = count_electrons(expected, series, np.random.default_rng(0))
        spread[dose] = (counts / expected.mean() - 1).var()
        assert spread[dose] == pytest.approx(1 / expected.mean(), rel=0.02)
    assert spread[30.0] / spread[120.0] == pytest.approx(4.0, rel=0.03)


def test_the_detectors_own_noise_is_added_to_the_shot_noise():
    expected = np.full((1, 300, 300), 100.0, dtype=np.float32)
    counts = count_electrons(expected, Imaging(readout_electrons=5.0), np.random.default_rng(0))
    assert counts.var() == pytest.approx(125.0, rel=0.03)


def test_thick_tilted_ice_lets_fewer_electrons_through():
    imaging = Imaging(ice_thickness_angstrom=1550.0, mean_free_path_angstrom=3100.0, tilt_range_degree=(-60, 0))
    counts = expected_counts(np.zeros((4, 8, 8), np.float32), VOXEL, imaging, beams(4, 8, imaging.angles_degree))
    means = counts.mean(axis=(1, 2))
    assert means[0] / means[-1] == pytest.approx(np.exp(-1.0) / np.exp(-0.5), rel=1e-4)


def test_dose_symmetric_series_spend_their_first_electrons_at_low_tilt():
    imaging = Imaging(tilt_range_degree=(-6, 6), tilt_step_degree=3, dose_per_square_angstrom=50.0)
    np.testing.assert_allclose(dose_before(imaging), [45.0, 25.0, 5.0, 15.0, 35.0])
    rising = replace(imaging, tilt_order="rising")
    np.testing.assert_allclose(dose_before(rising), [5.0, 15.0, 25.0, 35.0, 45.0])


def test_damage_takes_fine_detail_first():
    assert critical_dose(np.array([1 / 50.0])) > 3 * critical_dose(np.array([1 / 20.0]))
    # at 3 Å the intensity has fallen to 1/e after 4.3 electrons per Å^2: 0.24499 * 3^1.6649 + 2.8141
    assert critical_dose(np.array([1 / 3.0]))[0] == pytest.approx(4.340, abs=1e-3)


def test_a_low_pass_halves_at_its_resolution():
    np.testing.assert_allclose(low_pass(np.array([0.0, 1 / 40.0]), 40.0), [1.0, 0.5])
    np.testing.assert_allclose(low_pass(np.array([0.0, 1 / 20.0]), 0.0), [1.0, 1.0])


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"defocus": 3}, "no setting defocus"),
        ({"tilt_order": "random"}, "tilt_order"),
        ({"tilt_range_degree": (60, -60)}, "rising angles"),
        ({"dose_per_square_angstrom": 0}, "dose_per_square_angstrom"),
        ({"tilt_range_degree": [60]}, "two rising angles"),
        ({"tilt_range_degree": 60}, "two rising angles"),
        ({"tilt_step_degree": 1e-9}, "tilt_step_degree to 0.1 or more"),
        ({"amplitude_contrast": 2}, "amplitude_contrast is from 0 to 1; got 2"),
        ({"readout_electrons": -1}, "readout_electrons must not be less than 0"),
        ({"voltage_kv": "300"}, "voltage_kv is a number; got '300'"),
        ({"mean_free_path_angstrom": None}, "mean_free_path_angstrom is a number; got None"),
        ({"contrast": float("nan")}, "contrast is a number; got nan"),
        ({"damage": "no"}, "damage is true or false; got 'no'"),
    ],
)
def test_impossible_settings_are_refused(settings, word):
    with pytest.raises(InputError, match=word):
        Imaging.of(settings)
