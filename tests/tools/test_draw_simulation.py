"""The pictures of simulated tomograms show what they claim: circles on particles, tiles of the same particle."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Circle
from monai.bundle import ConfigParser
from scripts.errors import InputError
from scripts.picks import read_copick_folder
from scripts.simulation.dataset import simulate_dataset

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundle"


@pytest.fixture(scope="module")
def draw():
    """The script as a module; it puts the bundle on the path, which is taken back."""
    spec = importlib.util.spec_from_file_location("draw_simulation", ROOT / "tools" / "draw_simulation.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, shipped_species):
    """A run with ribosomes and nothing else, in an ice of no noise to speak of."""
    folder = tmp_path_factory.mktemp("dataset")
    parser = ConfigParser(ConfigParser.load_config_file(str(BUNDLE / "configs" / "simulate.json")))
    parser["bundle_root"] = str(BUNDLE)
    found = parser.get_parsed_content("settings")
    ribosome = {**found["specimens"]["ribosome"], "per_square_micrometer": 600, "companion_share": 0.0}
    scene = {**found["scene"], "crowding": 1.0, "count_variation": 0.0, "carbon_probability": 0.0,
             "vesicles_per_square_micrometer": 0, "gold_per_square_micrometer": 0}  # fmt: skip
    few = {**found, "shape": [48, 96, 128], "specimens": {"ribosome": ribosome}, "distractors": {}, "scene": scene}
    few["reconstructions"] = {"denoised": {"noise_share": 0.1, "resolution_angstrom": 40.0},
                              "wbp": {"noise_share": 1.0, "resolution_angstrom": 40.0}}  # fmt: skip
    simulate_dataset(folder, shipped_species, few, runs=1, workers=1)
    return folder


def circles_of(axis):
    return [patch for patch in axis.patches if isinstance(patch, Circle)]


@pytest.fixture(scope="module")
def figure(draw, dataset, shipped_species):
    return draw.dataset_figure(dataset, shipped_species)


def test_every_kind_is_drawn_bare_and_with_its_truth(figure):
    titles = [axis.get_title("left") for axis in figure.axes]
    assert titles == [f"{kind}, {plane}" if bare else "with its truth"
                      for plane in ("xy", "xz") for kind in ("wbp", "denoised") for bare in (True, False)]  # fmt: skip
    shapes = {axis.get_images()[0].get_array().shape for axis in figure.axes}
    assert shapes == {(96, 128), (48, 128)}
    for title, axis in zip(titles, figure.axes, strict=True):
        assert bool(circles_of(axis)) == (title == "with its truth")


def test_circles_lie_on_bright_places(figure):
    for axis in (figure.axes[3], figure.axes[7]):  # denoised, with its truth
        image = axis.get_images()[0].get_array()
        up, right = np.mgrid[: image.shape[0], : image.shape[1]]
        inside = np.zeros(image.shape, dtype=bool)
        for circle in circles_of(axis):
            inside |= np.hypot(right - circle.center[0], up - circle.center[1]) < 0.8 * circle.radius
        assert image[inside].mean() > image[~inside].mean() + 0.5 * image.std()


def test_the_legend_counts_the_whole_tomogram(figure, dataset):
    (picks,) = dataset.rglob("Picks")
    count = len(read_copick_folder(picks, "S000"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"ribosome ({count})"]


def test_a_run_that_is_not_there_is_refused(draw, dataset, shipped_species):
    with pytest.raises(InputError, match="no run S007"):
        draw.dataset_figure(dataset, shipped_species, "S007")


def test_a_tile_of_the_tomogram_shows_the_particle_of_the_density(draw):
    specimens, voxel_size = draw.read_specimens(None)
    scene, centres = draw.lay_out(specimens, voxel_size)
    volume = draw.take_tomograms(scene)["tomogram,\nno noise"]
    for plane in ("xy", "xz"):
        tiles = [draw.tile_of(None, specimen, None, plane).ravel() for specimen in specimens]
        for tile, specimen, centre in zip(tiles, specimens, centres, strict=True):
            seen = draw.tile_of(volume, specimen, centre, plane).ravel()
            likeness = [np.corrcoef(seen, other)[0, 1] for other in tiles]
            assert likeness[int(np.argmax(likeness))] == np.corrcoef(seen, tile)[0, 1], (specimen.name, plane)
            assert max(likeness) > 0.5, (specimen.name, plane)


def test_the_picture_of_the_species_has_a_tile_for_each(draw):
    figure = draw.species_figure()
    tiles = [axis for part in figure.subfigs for axis in part.axes]
    assert len(tiles) == 2 * len(draw.ROWS) * 6
    assert all(axis.get_images()[0].get_array().shape == (draw.TILE_VOX, draw.TILE_VOX) for axis in tiles)
