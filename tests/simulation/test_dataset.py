"""A simulated dataset is a copick project with a correct truth, even after an interruption."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scripts.coordinates import to_zyx_vox
from scripts.datasets.truth import list_labelled_runs
from scripts.errors import InputError
from scripts.picks import read_copick_folder, xyz_angstrom_of
from scripts.simulation.dataset import placed_truth, simulate_dataset, take_tomograms
from scripts.simulation.imaging import Imaging, beams, expected_counts, filtered, frequencies, low_pass, reconstruct
from scripts.simulation.scene import Scene
from scripts.simulation.settings import drawn
from scripts.simulation.specimens import phantom, read_specimen
from scripts.volumes.mrc_writer import write_mrc
from scripts.volumes.reading import read_tomogram

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
REAL_PICKS = BUNDLE.parents[1] / "shared" / "data" / "picks" / "ExperimentRuns"


def contents(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "copick.json"  # it names its own folder
    }


def test_a_dataset_is_listed_with_its_truth(simulation_settings, shipped_species, tmp_path):
    names = simulate_dataset(tmp_path, shipped_species, simulation_settings, runs=2, workers=1)
    runs = list_labelled_runs(tmp_path, tomogram_kind="wbp")
    assert [item["run"] for item in runs] == names == ["S000", "S001"]
    volume = read_tomogram(runs[0]["image"])
    assert volume.data.shape == (40, 72, 88)
    assert volume.voxel_size_angstrom == pytest.approx(shipped_species.voxel_size_angstrom)
    truth = read_copick_folder(tmp_path / "overlay" / "ExperimentRuns" / "S000" / "Picks", "S000")
    placed = json.loads((tmp_path / "static" / "ExperimentRuns" / "S000" / "simulation.json").read_text())["placed"]
    assert len(truth) == sum(placed[name] for name in simulation_settings["specimens"]) > 0
    points = to_zyx_vox(xyz_angstrom_of(truth), shipped_species.voxel_size_angstrom)
    assert ((points >= 0) & (points <= np.array([39, 71, 87]))).all()


def test_one_seed_gives_the_same_bytes_and_another_does_not(simulation_settings, shipped_species, tmp_path):
    for folder, seed, workers in (("a", 0, 1), ("b", 0, 2), ("c", 1, 1)):
        simulate_dataset(tmp_path / folder, shipped_species, simulation_settings, runs=2, seed=seed, workers=workers)
    one, same, other = (contents(tmp_path / folder) for folder in "abc")
    assert one == same
    assert one != other


def test_a_run_that_was_cut_off_is_made_again_and_a_whole_one_is_kept(simulation_settings, shipped_species, tmp_path):
    simulate_dataset(tmp_path, shipped_species, simulation_settings, runs=2, workers=1)
    whole = contents(tmp_path)
    runs = tmp_path / "static" / "ExperimentRuns"
    kept = (runs / "S000" / "simulation.json").stat().st_mtime_ns
    (runs / "S001" / "simulation.json").unlink()
    chunks = next((runs / "S001").rglob("wbp.zarr")) / "0"
    next(path for path in chunks.rglob("*") if path.is_file() and not path.name.startswith(".")).unlink()
    simulate_dataset(tmp_path, shipped_species, simulation_settings, runs=2, workers=1)
    assert contents(tmp_path) == whole
    assert (runs / "S000" / "simulation.json").stat().st_mtime_ns == kept


def test_other_settings_do_not_go_into_the_same_dataset(simulation_settings, shipped_species, tmp_path):
    simulate_dataset(tmp_path, shipped_species, simulation_settings, runs=1, workers=1)
    with pytest.raises(InputError, match=r'particles_are was "bright", now it is "dark". Set another dataset_dir'):
        simulate_dataset(tmp_path, shipped_species, {**simulation_settings, "particles_are": "dark"}, runs=1)
    with pytest.raises(InputError, match=r"run_name was .*S.*, now it is .*T"):  # the same tomograms, other names
        simulate_dataset(tmp_path, shipped_species, simulation_settings, runs=1, run_name="T{number:03d}")


def with_half_the_radius(species_set, name):
    half = {name: species_set.named(name, "").radius_angstrom / 2}
    known = (replace(one, radius_angstrom=half.get(one.name, one.radius_angstrom)) for one in species_set.known)
    return replace(species_set, known=tuple(known))


def test_another_species_does_not_go_into_the_same_dataset(simulation_settings, shipped_species, tmp_path):
    settings = {**simulation_settings, "specimens": {"ribosome": simulation_settings["specimens"]["ribosome"]}}
    simulate_dataset(tmp_path, shipped_species, settings, runs=1, workers=1)
    before = contents(tmp_path)
    other, unused = (with_half_the_radius(shipped_species, name) for name in ("ribosome", "thyroglobulin"))
    with pytest.raises(InputError, match=r"species ribosome radius_angstrom was 150.0, now it is 75.0. Set another"):
        simulate_dataset(tmp_path, other, settings, runs=2)
    assert contents(tmp_path) == before
    assert simulate_dataset(tmp_path, unused, settings, runs=1) == ["S000"]


@pytest.fixture
def with_a_map(simulation_settings, tmp_path):
    """Settings with one map among the distractors, and its path."""
    path = tmp_path / "a.mrc"
    write_mrc(path, phantom("p97", 10.0).density_kda.copy(), 10.0)
    crowd = {"sources": [{"map": str(path), "mass_kda": 540}], "per_square_micrometer": 1}
    return {**simulation_settings, "distractors": {"a": crowd}}, path


def test_a_map_of_other_content_does_not_go_into_the_same_dataset(with_a_map, shipped_species, tmp_path):
    settings, path = with_a_map
    simulate_dataset(tmp_path / "data", shipped_species, settings, runs=1, workers=1)
    kept = path.read_bytes()
    write_mrc(path, phantom("rubisco", 10.0).density_kda.copy(), 10.0)
    for runs in (1, 2):  # also where nothing is missing: what is there is not what the command asks for
        with pytest.raises(InputError, match=r"a\.mrc has changed since .* was begun with it: put the old file back"):
            simulate_dataset(tmp_path / "data", shipped_species, settings, runs=runs, workers=1)
    path.write_bytes(kept)
    assert simulate_dataset(tmp_path / "data", shipped_species, settings, runs=2, workers=1) == ["S000", "S001"]
    path.unlink()  # a whole dataset does not need it
    assert simulate_dataset(tmp_path / "data", shipped_species, settings, runs=2, workers=1) == ["S000", "S001"]


def test_a_dataset_of_an_older_version_goes_on_without_digests(with_a_map, shipped_species, tmp_path):
    settings, _ = with_a_map
    root = tmp_path / "data"
    simulate_dataset(root, shipped_species, settings, runs=1, workers=1)
    record = json.loads((root / "simulation.json").read_text())
    older = {key: value for key, value in record.items() if key not in ("run_name", "species", "files")}
    (root / "simulation.json").write_text(json.dumps(older))
    assert simulate_dataset(root, shipped_species, settings, runs=2, workers=1) == ["S000", "S001"]


def test_a_damaged_record_of_a_dataset_is_refused(simulation_settings, shipped_species, tmp_path):
    simulate_dataset(tmp_path, shipped_species, simulation_settings, runs=1, workers=1)
    (tmp_path / "simulation.json").write_text('{"shape": [')
    with pytest.raises(InputError, match=r"simulation\.json is a damaged JSON file"):
        simulate_dataset(tmp_path, shipped_species, simulation_settings, runs=1, workers=1)


def test_settings_may_change_until_a_run_is_written(simulation_settings, shipped_species, tmp_path, monkeypatch):
    def fail(*job):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("scripts.simulation.dataset.simulate_run", fail)
        with pytest.raises(MemoryError):
            simulate_dataset(tmp_path, shipped_species, {**simulation_settings, "particles_are": "dark"}, 1, workers=1)
    simulate_dataset(tmp_path, shipped_species, simulation_settings, runs=1, workers=1)
    assert json.loads((tmp_path / "simulation.json").read_text())["particles_are"] == "bright"


def test_two_simulations_at_once_do_not_share_a_folder(simulation_settings, shipped_species, tmp_path, monkeypatch):
    def simulate_another(*job):
        simulate_dataset(tmp_path, shipped_species, {**simulation_settings, "particles_are": "dark"}, 1, workers=1)

    monkeypatch.setattr("scripts.simulation.dataset.simulate_run", simulate_another)
    with pytest.raises(InputError, match=r"another simulation is at work in .*: wait for it, or set another dataset"):
        simulate_dataset(tmp_path, shipped_species, simulation_settings, 1, workers=1)
    assert json.loads((tmp_path / "simulation.json").read_text())["particles_are"] == "bright"


def test_a_project_that_was_not_simulated_stays_as_it_is(simulation_settings, shipped_species, tmp_path):
    (tmp_path / "copick.json").write_text('{"name": "mine"}')
    with pytest.raises(InputError, match="is a copick project that was not simulated: set another dataset_dir"):
        simulate_dataset(tmp_path, shipped_species, simulation_settings, runs=1, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["copick.json"]
    assert (tmp_path / "copick.json").read_text() == '{"name": "mine"}'


def test_dark_particles_are_the_same_tomogram_turned_over(simulation_settings, shipped_species, tmp_path):
    for folder, contrast in (("bright", "bright"), ("dark", "dark")):
        simulate_dataset(
            tmp_path / folder, shipped_species, {**simulation_settings, "particles_are": contrast}, 1, workers=1
        )
    bright, dark = (
        read_tomogram(list_labelled_runs(tmp_path / name, tomogram_kind="wbp")[0]["image"]).data
        for name in ("bright", "dark")
    )
    np.testing.assert_array_equal(bright, -dark)


def test_mrc_files_hold_the_same_volume(simulation_settings, shipped_species, tmp_path):
    project = tmp_path / "simulated"
    simulate_dataset(project, shipped_species, {**simulation_settings, "write_mrc": True}, runs=1, workers=1)
    (mrc,) = tmp_path.rglob("wbp.mrc")
    (item,) = list_labelled_runs(project, tomogram_kind="wbp")  # each tomogram once
    volume, zarr = read_tomogram(mrc), read_tomogram(item["image"])
    np.testing.assert_array_equal(volume.data, zarr.data)
    assert volume.voxel_size_angstrom == pytest.approx(zarr.voxel_size_angstrom, abs=1e-4)
    assert mrc.parent == tmp_path / "simulated_mrc" / item["run"]
    assert [path.name for path in mrc.parent.glob("*wbp*")] == ["wbp.mrc"]


def test_mrc_files_lie_beside_the_folder_that_one_stands_in(
    simulation_settings, shipped_species, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    simulate_dataset(".", shipped_species, {**simulation_settings, "write_mrc": True}, runs=1, workers=1)
    assert [path.parent.parent for path in tmp_path.rglob("wbp.mrc")] == [tmp_path / "here_mrc"]


def test_an_mrc_file_is_whole_or_not_there(tmp_path):
    write_mrc(tmp_path / "one.mrc", np.zeros((2, 3, 4), np.float32), 10.0)
    before = (tmp_path / "one.mrc").read_bytes()
    with pytest.raises(ValueError, match="dtype"):
        write_mrc(tmp_path / "one.mrc", np.zeros((2, 3, 4), "datetime64[s]"), 10.0)
    assert (tmp_path / "one.mrc").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["one.mrc"]


def test_maps_are_read_only_where_a_run_is_missing(simulation_settings, shipped_species, tmp_path, monkeypatch):
    simulate_dataset(tmp_path, shipped_species, simulation_settings, runs=1, workers=1)
    monkeypatch.setattr("scripts.simulation.dataset.read_specimen", lambda *what: pytest.fail("read again"))
    assert simulate_dataset(tmp_path, shipped_species, simulation_settings, runs=1, workers=1) == ["S000"]


def test_a_single_particle_is_found_at_its_written_coordinate(shipped_species):
    ribosome = read_specimen("ribosome", {"phantom": "ribosome"}, 10.0)
    scene = Scene((72, 88, 104), 10.0, np.random.default_rng(0), 720.0)
    place = np.array([28.3, 51.6, 43.2])
    turn = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # z, y, x -> y, x, z
    assert scene.add_specimen(ribosome, place, turn)
    imaging = Imaging(defocus_angstrom=30000.0, ice_thickness_angstrom=500.0)
    geometry = beams(72, 104, imaging.angles_degree)
    tomogram = reconstruct(expected_counts(scene.density_kda, 10.0, imaging, geometry), 10.0, imaging, geometry)

    middle = Scene((72, 88, 104), 10.0, np.random.default_rng(0), 720.0)
    centre = np.array([36.0, 44.0, 52.0])
    assert middle.add_specimen(ribosome, centre, turn)
    smooth = low_pass(frequencies(tomogram.shape, 10.0), 40.0)
    template = filtered(middle.density_kda, smooth)
    spectrum = np.fft.fftn(filtered(tomogram, smooth)) * np.conj(np.fft.fftn(template - template.mean()))
    likeness = np.fft.ifftn(spectrum).real
    peak = np.array(np.unravel_index(likeness.argmax(), likeness.shape))
    offset = []
    for axis in range(3):  # the top of a parabola through three voxels
        low, high = (likeness[tuple((peak + step * np.eye(3, dtype=int)[axis]) % likeness.shape)] for step in (-1, 1))
        offset.append((low - high) / (2 * (low + high - 2 * likeness[tuple(peak)])))
    half = np.array(likeness.shape) // 2
    found = centre + (peak + half) % likeness.shape - half + offset
    written = to_zyx_vox(xyz_angstrom_of(placed_truth(scene, "run", shipped_species)), 10.0)[0]
    np.testing.assert_allclose(written, place, atol=1e-9)
    np.testing.assert_allclose(found, written, atol=0.25)


def test_what_looks_denoised_has_the_noise_taken_out(simulation_settings):
    used = drawn(simulation_settings, np.random.default_rng(0).uniform)
    same = {"resolution_angstrom": 30.0}
    shares = {"clean": 0.0, "half": 0.5, "raw": 1.0}
    used = {**used, "reconstructions": {name: {**same, "noise_share": share} for name, share in shares.items()}}
    volumes = take_tomograms(Scene((40, 72, 88), 10.0, np.random.default_rng(0), 400.0), used, np.random.default_rng(1))
    assert np.abs(volumes["clean"]).max() < 1e-4 * np.abs(volumes["raw"]).max()
    np.testing.assert_allclose(volumes["half"], 0.5 * volumes["raw"], atol=1e-3 * np.abs(volumes["raw"]).max())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"imaging": {"defocus": 1}}, "no setting defocus"),
        ({"specimens": {"unicorn": {"sources": [{"phantom": "p97"}], "per_square_micrometer": 1}}}, "names unicorn"),
        ({"distractors": {"a": {"sources": [{"map": "no.mrc"}], "per_square_micrometer": 1}}}, "no.mrc"),
        ({"distractors": {"a": {"sources": [{"phantom": "a"}], "per_square_micrometer": 1}}}, "no phantom 'a'"),
    ],
)
def test_impossible_settings_leave_nothing_behind(change, word, simulation_settings, shipped_species, tmp_path):
    with pytest.raises(InputError, match=word):
        simulate_dataset(tmp_path / "new", shipped_species, {**simulation_settings, **change}, runs=1)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not REAL_PICKS.is_dir(), reason="the real annotations are not here")
def test_particles_crowd_as_the_real_ones_do(simulation_settings, shipped_species):
    """Median distance to the nearest neighbour of the same species in Å, simulated against annotated."""
    real, found = {}, {}
    for run in REAL_PICKS.iterdir():
        for pick in read_copick_folder(run / "Picks", run.name):
            real.setdefault((run.name, pick.species), []).append(pick.xyz_angstrom)
    scene = Scene((184, 420, 420), 10.0, np.random.default_rng(3), 1300.0)
    for name in ("virus-like-particle", "ribosome", "apo-ferritin"):
        crowd = simulation_settings["specimens"][name]
        specimen = replace(read_specimen(name, crowd["sources"][0], 10.0), name=name)
        count = round(crowd["per_square_micrometer"] * scene.square_micrometers)
        scene.add_particles([specimen], count, crowd["companion_share"], crowd["companion_distance_angstrom"])
        points = np.array([one.centre_zyx_vox for one in scene.placed if one.name == name]) * 10.0
        found[name] = np.median(cKDTree(points).query(points, k=2)[0][:, 1])
        gaps = [cKDTree(points).query(points, k=2)[0][:, 1] for (_, species), points in real.items() if species == name]
        assert found[name] == pytest.approx(np.median(np.concatenate(gaps)), rel=0.35), name
