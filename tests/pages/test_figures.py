import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scripts.pages.figures import (
    DOTS_PER_INCH,
    busiest_slice,
    colour_of,
    overlay_figure,
    save_figure,
    section_radius,
    sweep_figure,
)
from scripts.picks import Pick
from synthetic import SHAPE, make_species


def pick(species, z, y, x):
    return Pick("run", species, 10.0 * x, 10.0 * y, 10.0 * z, x_voxel=x, y_voxel=y, z_voxel=z)


@pytest.fixture
def volume():
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def test_a_sphere_is_cut_in_smaller_circles_farther_from_its_centre():
    assert section_radius(5, 0) == 5
    assert section_radius(5, 3) == 4
    assert section_radius(5, -3) == 4
    assert section_radius(5, 5.1) == 0


def test_the_slice_with_the_most_particles_is_shown():
    picks = [pick("a", 4, 5, 6), pick("a", 15, 5, 6), pick("b", 15, 20, 30)]
    assert busiest_slice(picks, 0, 20, make_species(2), 10.0) in range(13, 18)
    assert busiest_slice([], 1, 28, make_species(2), 10.0) == 14


def test_circles_lie_at_the_picks_in_both_planes(volume):
    species_set = make_species(2)
    picks = [pick("a", 6, 9, 11), pick("b", 6, 20, 30)]
    figure = overlay_figure(volume, picks, species_set, 10.0, "title")
    xy, xz = figure.axes
    assert sorted(circle.center for circle in xy.patches) == [(11, 9), (30, 20)]
    assert {circle.center[1] for circle in xz.patches} == {6}
    assert {circle.center[0] for circle in xz.patches} <= {11, 30}
    assert (xy.get_xlabel(), xy.get_ylabel(), xz.get_ylabel()) == ("x (voxel)", "y (voxel)", "z (voxel)")
    assert xy.images[0].get_array().shape == SHAPE[1:]
    assert xz.images[0].get_array().shape == (SHAPE[0], SHAPE[2])


def test_species_have_their_colours_and_a_legend_with_counts(volume):
    picks = [pick("a", 6, 9, 11), pick("a", 6, 20, 30)]
    figure = overlay_figure(volume, picks, make_species(2), 10.0, "title", truth=[pick("b", 6, 9, 20)])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a (2)", "b (0)", "truth"]
    assert colour_of(1) != colour_of(2)
    assert len(figure.axes[0].patches) == 3


def test_a_picture_without_picks_and_of_a_constant_volume_can_be_drawn(tmp_path):
    title = "TS_$x^$: nothing"  # no formula
    figure = overlay_figure(np.zeros(SHAPE, dtype=np.float32), [], make_species(1), 10.0, title)
    save_figure(figure, tmp_path / "empty.png")
    assert (tmp_path / "empty.png").read_bytes().startswith(b"\x89PNG")


def test_the_sweep_marks_the_chosen_threshold():
    thresholds = np.array([0.2, 0.4, 0.6])
    figure = sweep_figure(thresholds, {"a": np.array([0.1, 0.9, 0.5])}, {"a": 0.4}, make_species(1))
    curve, mark = figure.axes[0].lines
    assert curve.get_ydata().tolist() == [0.1, 0.9, 0.5]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (0.4, 0.9)


def test_a_saved_figure_is_the_picture_that_matplotlib_saves(tmp_path):
    figures = []
    for _ in range(2):
        figure = Figure(figsize=(3, 2), layout="constrained")
        figure.subplots().imshow(np.random.default_rng(0).random((20, 30)))
        figures.append(figure)
    save_figure(figures[0], tmp_path / "ours.png")
    figures[1].savefig(tmp_path / "theirs.png", dpi=DOTS_PER_INCH)
    with Image.open(tmp_path / "ours.png") as ours, Image.open(tmp_path / "theirs.png") as theirs:
        assert np.array_equal(np.asarray(ours), np.asarray(theirs.convert("RGB")))
