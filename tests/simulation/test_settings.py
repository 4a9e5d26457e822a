"""Every odd setting of a simulation is one line that states it, before anything is written."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from scripts.errors import InputError
from scripts.simulation.dataset import simulate_dataset
from scripts.simulation.settings import SCENE, check_imaging, check_settings, drawn

NAN = float("nan")


@pytest.fixture
def refused(simulation_settings, shipped_species, tmp_path):
    """Return what is said of a simulation with one other setting, which leaves nothing behind."""

    def run(key, value):
        arguments, settings = {"runs": 1}, copy.deepcopy(simulation_settings)
        *path, last = key.split("#")
        place = settings if path or last in settings else arguments
        for name in path:
            place = place[name]
        place[last] = value
        with pytest.raises(InputError) as error:
            simulate_dataset(tmp_path / "new", shipped_species, settings, **arguments)
        assert not list(tmp_path.iterdir())
        assert "\n" not in str(error.value)
        return str(error.value)

    return run


@pytest.mark.parametrize("value", [0, -2, "2", 1.5, True, None, NAN, 10**400])
def test_runs_are_a_whole_number(value, refused):
    assert refused("runs", value) == f"runs is a whole number from 1 to 100000; got {value!r}."


@pytest.mark.parametrize("value", [-3, 1.5, "two", True])
def test_workers_are_a_whole_number_or_none(value, refused):
    assert refused("workers", value) == f"workers is null or a whole number, 0 or more; got {value!r}."


@pytest.mark.parametrize("value", [-1, "x", 0.5, None, True])
def test_a_seed_is_a_whole_number(value, refused):
    assert refused("seed", value) == f"seed is a whole number from 0 to 4294967295; got {value!r}."


@pytest.mark.parametrize("value", [3, None])
def test_the_pattern_of_the_names_is_a_text(value, refused):
    assert refused("run_name", value) == f"run_name is a text; got {value!r}."


@pytest.mark.parametrize(
    "value", [[40, 72], [40, 72, 88, 9], 40, "[40,72,88]", [8, 72, 88], [40, 72, 88.0], [True, 72, 88], None]
)
def test_a_shape_is_three_whole_numbers(value, refused):
    assert refused("shape", value) == f"shape is three whole numbers, 16 or more; got {value!r}."


@pytest.mark.parametrize("value", ["two", NAN, True, None, [1, 2], 1e9])
def test_a_number_is_no_text_and_within_its_bounds(value, refused):
    assert refused("scene#crowding", value) == f"scene#crowding is a number from -1000 to 1000; got {value!r}."


@pytest.mark.parametrize("value", [[200], [200, 300, 400], [600, 200], "200", 200, [0, 200], [200, NAN], ["2", 3]])
def test_a_pair_is_two_numbers_the_smaller_one_first(value, refused):
    message = "scene#vesicle_radius_angstrom is two numbers, 1 or more, the smaller one first; got"
    assert refused("scene#vesicle_radius_angstrom", value) == f"{message} {value!r}."


@pytest.mark.parametrize("value", ["no", 2, None])
def test_a_choice_of_true_or_false_is_no_text(value, refused):
    assert refused("write_mrc", value) == f"write_mrc is true or false; got {value!r}."


@pytest.mark.parametrize(
    "value",
    [{"from": 1}, {"from": 3, "to": 1}, {"from": "a", "to": 1}, {"from": 0, "to": NAN}, {"from": 0, "to": 1, "x": 2}],
)
def test_a_range_is_from_a_number_to_a_larger_one(value, refused):
    assert refused("scene#crowding", value).startswith('scene#crowding: a range is {"from": a, "to": b}, two numbers')
    assert refused("imaging#contrast", value).startswith('imaging#contrast: a range is {"from": a, "to": b}')


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("scene#carbon_share", {"from": 0.5, "to": 1.5}, "scene#carbon_share is a number from 0 to 1; got 1.5"),
        ("scene#specimen_scale", {"from": -1, "to": 1}, "specimen_scale is a number from 0.1 to 10; got -1.0"),
        ("imaging#dose_per_square_angstrom", {"from": -5, "to": 900}, "dose_per_square_angstrom must be more than 0"),
        (
            "reconstructions#wbp#resolution_angstrom",
            {"from": -3, "to": 9},
            "resolution_angstrom is a number, 0 or more",
        ),
    ],
)
def test_both_ends_of_a_range_are_checked(key, value, said, refused):
    assert said in refused(key, value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("particles_are", "grey", "particles_are is bright or dark; got 'grey'"),
        ("voxel_size_angstrom", {"from": 9, "to": 11}, "voxel_size_angstrom is a number from 1 to 100"),
        ("spacing_folder_angstrom", "x", "spacing_folder_angstrom is a number from 1 to 100; got 'x'"),
        ("specimens", None, "specimens is a table of settings; got None"),
        ("specimens#ribosome", 3, "specimens#ribosome is a table of settings; got 3"),
        ("specimens#ribosome", {"sources": []}, "specimens#ribosome needs the setting per_square_micrometer"),
        ("specimens#ribosome#sources", [], "sources is a list of tables, each of a map, a model or a phantom"),
        ("specimens#ribosome#sources", ["a.mrc"], "sources is a list of tables"),
        ("specimens#ribosome#per_square_micrometer", -1e6, "per_square_micrometer is a number from -100000 to 100000"),
        ("specimens#ribosome#companion_share", 2, "companion_share is a number from 0 to 1; got 2"),
        ("specimens#ribosome#companion_distance_angstrom", [9, 1], "companion_distance_angstrom is two numbers"),
        ("specimens#beta-amylase#companion_share", 0.5, "set its companion_distance_angstrom, too"),
        ("distractors#ribosome", {"sources": [{"phantom": "p97"}], "per_square_micrometer": 1}, "as specimens does"),
        ("scene#crowd", 1, "scene has no setting crowd; it has actin_filaments_per_square_micrometer, "),
        ("scene#vesicle_layers", [1.5, 2], "vesicle_layers is two whole numbers from 1 to 100, the smaller one first"),
        ("imaging", 3, "imaging is a table of settings; got 3"),
        ("imaging#resolution_angstrom", 30, "set reconstructions#KIND#resolution_angstrom"),
        ("imaging#contrast", -1, "contrast must not be less than 0; got -1"),
        ("imaging#damage", "no", "damage is true or false; got 'no'"),
        ("reconstructions", {}, "reconstructions is a table of one reconstruction or more; got {}"),
        ("reconstructions#wbp", 3, "reconstructions#wbp is a table of settings; got 3"),
        ("reconstructions#wbp#resolution_angstrom", -3, "resolution_angstrom is a number, 0 or more; got -3"),
        ("reconstructions#a_b", {"noise_share": 1, "resolution_angstrom": 9}, "of a kind of tomogram; got 'a_b'"),
    ],
)  # fmt: skip
def test_an_odd_setting_is_stated_with_its_value(key, value, said, refused):
    assert said in refused(key, value)


def test_a_species_that_copick_would_refuse_is_refused_before_the_dataset_is_begun(
    simulation_settings, shipped_species, tmp_path
):
    first, *others = shipped_species.known
    odd = replace(shipped_species, known=(replace(first, name="my_particle"), *others))
    settings = {**simulation_settings, "specimens": {}}
    with pytest.raises(InputError, match="of a species; got 'my_particle'"):
        simulate_dataset(tmp_path / "new", odd, settings, runs=1)
    assert not (tmp_path / "new").exists()


def test_a_distractor_that_is_left_out_may_have_the_name_of_a_specimen(simulation_settings, shipped_species):
    crowd = {"sources": [{"phantom": "p97"}], "per_square_micrometer": 0}
    settings = {**simulation_settings, "distractors": {"ribosome": crowd}}
    check_settings({**settings, "runs": 1, "run_name": "S", "seed": 0, "workers": None}, shipped_species)


def test_every_setting_of_the_scene_is_shipped_and_has_its_rule(simulation_settings):
    assert set(simulation_settings["scene"]) == set(SCENE)


def test_the_ice_of_the_imaging_is_set_in_the_scene():
    with pytest.raises(InputError, match="imaging has no setting ice_thickness_angstrom: set scene#ice_thickness"):
        check_imaging({"ice_thickness_angstrom": 900.0})


def test_ranges_are_drawn_and_everything_else_stays():
    settings = {"a": {"from": 2, "to": 3}, "b": [1, 2], "c": {"d": "text", "e": [{"from": 5, "to": 5}]}}
    used = drawn(settings, np.random.default_rng(0).uniform)
    assert 2 <= used["a"] <= 3
    assert used["b"] == [1, 2]
    assert used["c"] == {"d": "text", "e": [5.0]}
    assert (drawn(settings, min)["a"], drawn(settings, max)["a"]) == (2.0, 3.0)
