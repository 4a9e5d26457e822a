import json
import math

import pytest
from scripts.errors import InputError
from scripts.species import parse_species, positive_weights, read_species, with_thresholds

RIBOSOME = {
    "label": 1,
    "radius_angstrom": 150.0,
    "target_radius_angstrom": 50.0,
    "weight": 1.0,
    "positive_weight": 16.0,
    "probability_threshold": 0.5,
    "min_voxels": 16,
}
GOLD = {**RIBOSOME, "label": 0, "positive_weight": 4.0}
FERRITIN = {**RIBOSOME, "label": 2, "positive_weight": 32.0}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a species file; ``changes`` replace values of its one species."""

    def write_file(changes=None, **content):
        path = tmp_path / "mine.json"
        species = {**RIBOSOME, **(changes or {})}
        path.write_text(json.dumps({"voxel_size_angstrom": 10.0, "species": {"ribosome": species}, **content}))
        return path

    return write_file


@pytest.fixture
def three(write):
    return read_species(write(species={"apo-ferritin": FERRITIN, "gold": GOLD, "ribosome": RIBOSOME}))


# The shipped file


def test_the_shipped_species_have_the_radii_and_weights_of_the_challenge(shipped_species):
    facts = [(one.label, one.name, one.radius_angstrom, one.weight) for one in shipped_species.known]
    assert facts == [
        (0, "beta-amylase", 65, 0),
        (1, "apo-ferritin", 60, 1),
        (2, "beta-galactosidase", 90, 2),
        (3, "ribosome", 150, 1),
        (4, "thyroglobulin", 130, 2),
        (5, "virus-like-particle", 135, 1),
    ]


def test_the_shipped_targets_are_a_half_or_a_third_of_the_radius(shipped_species):
    parts = [one.radius_angstrom / one.target_radius_angstrom for one in shipped_species.known]
    assert parts == pytest.approx([2, 2, 2, 3, 3, 3], rel=1e-4)


def test_the_shipped_voxel_size_is_that_of_the_challenge(shipped_species):
    assert shipped_species.voxel_size_angstrom == pytest.approx(10.012444, rel=1e-4)


def test_the_shipped_smallest_blob_is_at_most_a_seventh_of_the_target(shipped_species):
    for one in shipped_species.picked:
        radius_vox = one.target_radius_angstrom / shipped_species.voxel_size_angstrom
        assert one.min_voxels <= 4 / 3 * math.pi * radius_vox**3 / 7


# The set


def test_species_stand_in_the_order_of_their_labels(three):
    assert [one.name for one in three.known] == ["gold", "ribosome", "apo-ferritin"]


def test_a_species_with_label_0_is_known_but_not_picked(three):
    assert three.named("gold", "truth.csv").label == 0
    assert three.names == [one.name for one in three.picked] == ["ribosome", "apo-ferritin"]
    assert len(three.picked) == 2


def test_the_picked_species_can_be_walked_through_twice(three):
    picked = three.picked
    assert list(picked) == list(picked)


def test_loss_weights_come_in_the_order_of_the_labels(three):
    assert positive_weights(three) == [16.0, 32.0]


def test_an_unknown_name_is_refused_with_its_place_and_the_known_ones(three):
    message = r"truth\.csv, row 3: unknown species 'virus'; known are gold, ribosome, apo-ferritin\. Add it to"
    with pytest.raises(InputError, match=message):
        three.named("virus", "truth.csv, row 3")


def test_whole_numbers_may_be_written_as_floats(write):
    (species,) = read_species(write({"label": 1.0, "min_voxels": 8.0})).picked
    assert [(type(value), value) for value in (species.label, species.min_voxels)] == [(int, 1), (int, 8)]


def test_a_file_that_begins_with_a_byte_order_mark_is_read(write):
    path = write()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_species(path).names == ["ribosome"]


# Thresholds


def test_thresholds_given_by_name_replace_those_of_the_file(write):
    path = write(species={"ribosome": RIBOSOME, "apo-ferritin": FERRITIN})
    species_set = read_species(path, {"apo-ferritin": 0.25})
    assert [one.probability_threshold for one in species_set.picked] == [0.5, 0.25]


def test_thresholds_in_a_file_replace_those_of_the_species_file(write, tmp_path):
    (tmp_path / "thresholds.json").write_text('{"ribosome": 0.125}')
    (species,) = read_species(write(), str(tmp_path / "thresholds.json")).picked
    assert species.probability_threshold == 0.125


def test_new_thresholds_leave_the_given_set_as_it_was(three):
    changed = with_thresholds(three, {"ribosome": 0.75})
    assert [one.probability_threshold for one in three.picked] == [0.5, 0.5]
    assert [one.probability_threshold for one in changed.picked] == [0.75, 0.5]


def test_thresholds_change_nothing_else(three):
    assert with_thresholds(three, {"ribosome": 0.5}) == three


def test_a_threshold_of_an_unknown_species_is_refused(three):
    with pytest.raises(InputError, match="probability_thresholds: unknown species 'ribosom'; known are gold"):
        with_thresholds(three, {"ribosom": 0.5})


def test_a_file_of_thresholds_is_named_when_it_is_wrong(write, tmp_path):
    (tmp_path / "thresholds.json").write_text('{"ribosom": 0.5}')
    with pytest.raises(InputError, match=r"thresholds\.json: unknown species 'ribosom'"):
        read_species(write(), str(tmp_path / "thresholds.json"))


@pytest.mark.parametrize("threshold", [-0.1, 1, 1.5, float("nan"), "0.5", None])
def test_a_threshold_that_is_no_probability_is_refused(three, threshold):
    message = f"probability_thresholds: the threshold of 'ribosome' is a probability, 0 <= t < 1; got {threshold!r}"
    with pytest.raises(InputError, match=message):
        with_thresholds(three, {"ribosome": threshold})


def test_threshold_0_is_a_probability(three):
    assert with_thresholds(three, {"ribosome": 0}).picked[0].probability_threshold == 0


# Wrong files


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius_angstrom": 0}, "radius_angstrom of 'ribosome' must be positive; got 0"),
        ({"target_radius_angstrom": -5}, "target_radius_angstrom of 'ribosome' must be positive; got -5"),
        ({"positive_weight": 0}, "positive_weight of 'ribosome' must be positive; got 0"),
        ({"min_voxels": 0}, "min_voxels of 'ribosome' must be positive; got 0"),
        ({"min_voxels": 2.5}, "min_voxels of 'ribosome' must be a whole number from 0; got 2.5"),
        ({"label": -1}, "label of 'ribosome' must be a whole number from 0; got -1"),
        ({"label": 1.5}, "label of 'ribosome' must be a whole number from 0; got 1.5"),
        ({"weight": -1}, "weight of 'ribosome' must not be negative; got -1"),
        ({"probability_threshold": 1}, "the threshold of 'ribosome' is a probability, 0 <= t < 1; got 1"),
        ({"radius_angstrom": "150"}, "radius_angstrom of 'ribosome' must be a number; got '150'"),
        ({"label": None}, "label of 'ribosome' must be a number; got None"),
        ({"weight": True}, "weight of 'ribosome' must be a number; got True"),
        ({"radius_angstrom": float("inf")}, "radius_angstrom of 'ribosome' must be a number; got inf"),
        ({"radius": 150}, r"'ribosome' needs exactly the keys \['label', .*\]; check \['radius'\]"),
    ],
)
def test_a_wrong_value_is_named_with_file_and_species(write, changes, message):
    with pytest.raises(InputError, match=rf"mine\.json: .*{message}\."):
        read_species(write(changes))


@pytest.mark.parametrize(
    ("changes", "bounds", "given"),
    [
        ({"radius_angstrom": 15.0, "target_radius_angstrom": 4.5}, r"5 \(half a voxel\) to 15 \(its radius_", "4.5"),
        ({"target_radius_angstrom": 4.999}, r"5 \(half a voxel\) to 150", "4.999"),
        ({"target_radius_angstrom": 150.5}, r"5 \(half a voxel\) to 150", "150.5"),
        ({"radius_angstrom": 15.0}, r"5 \(half a voxel\) to 15", "50"),
    ],
)
def test_radii_that_are_no_angstroms_are_refused(write, changes, bounds, given):
    message = rf"mine\.json: target_radius_angstrom of 'ribosome' must be from {bounds}.*; got {given}\. Give both .* Å"
    with pytest.raises(InputError, match=message):
        read_species(write(changes))


def test_weights_that_were_trained_on_other_targets_stay_usable(write):
    content = json.loads(write({"target_radius_angstrom": 200.0}).read_text())
    assert parse_species(content, "model.json").picked[0].target_radius_angstrom == 200


def test_a_target_may_be_half_a_voxel_or_the_whole_particle(write):
    for radius in (5.0, 150.0):
        (species,) = read_species(write({"target_radius_angstrom": radius})).picked
        assert species.target_radius_angstrom == radius


@pytest.mark.parametrize("key", RIBOSOME)
def test_a_missing_key_of_a_species_is_named(write, key):
    values = {name: value for name, value in RIBOSOME.items() if name != key}
    with pytest.raises(InputError, match=rf"species 'ribosome' needs exactly the keys .*; check \['{key}'\]"):
        read_species(write(species={"ribosome": values}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"voxel_size_angstrom": 0}, "voxel_size_angstrom must be positive; got 0"),
        ({"voxel_size_angstrom": "10"}, "voxel_size_angstrom must be positive; got '10'"),
        ({"species": ["ribosome"]}, "species must be an object with one entry per species"),
        ({"species": {"ribosome": 1}}, "species 'ribosome' needs an object of settings; got 1"),
        ({"species": {}}, r"labels must be 1, 2, 3 \.\.\. without gaps or repeats; got \[\]"),
        ({"species": {"a": GOLD}}, r"without gaps or repeats; got \[\]"),
        ({"species": {"a": FERRITIN}}, r"without gaps or repeats; got \[2\]"),
        ({"species": {"a": RIBOSOME, "b": RIBOSOME}}, r"without gaps or repeats; got \[1, 1\]"),
        ({"species": {str(n): {**RIBOSOME, "label": n} for n in range(1, 257)}}, "at most 255 species .*; got 256"),
    ],
)
def test_a_wrong_file_is_refused(write, content, message):
    with pytest.raises(InputError, match=rf"mine\.json: .*{message}"):
        read_species(write(**content))


def test_255_species_are_not_too_many(write):
    species = {str(n): {**RIBOSOME, "label": n} for n in range(1, 256)}
    assert len(read_species(write(species=species)).picked) == 255


@pytest.mark.parametrize("key", ["voxel_size_angstrom", "species"])
def test_a_missing_key_is_named(tmp_path, key):
    content = {"voxel_size_angstrom": 10.0, "species": {"ribosome": RIBOSOME}}
    del content[key]
    (tmp_path / "mine.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"mine\.json: the key '{key}' is missing\."):
        read_species(tmp_path / "mine.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"species": ', r"mine\.json is not valid JSON: Expecting value"),
        (b'{"species": "\xff"}', r"mine\.json is not valid JSON: 'utf-8' codec"),
        (b"[1, 2]", r"mine\.json must hold a JSON object; got a list\."),
    ],
)
def test_a_file_that_is_no_json_object_is_refused(tmp_path, content, message):
    (tmp_path / "mine.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_species(tmp_path / "mine.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none\.json: no such file\."):
        read_species(tmp_path / "none.json")


def test_a_folder_is_no_species_file(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory\."):
        read_species(tmp_path)


def test_a_species_with_a_slip_of_the_pen_is_guessed(shipped_species):
    with pytest.raises(InputError, match=r"a file: unknown species 'ribosom'; .* Did you mean 'ribosome'\?"):
        shipped_species.named("ribosom", "a file")


@pytest.mark.parametrize("name", ["apo_ferritin", "Apo-Ferritin", "APO FERRITIN", "apoferritin", "apo-feritin"])
def test_another_way_of_writing_a_species_is_refused_with_the_known_one(shipped_species, name):
    with pytest.raises(InputError, match=rf"unknown species '{name}'; .* Did you mean 'apo-ferritin'\?"):
        shipped_species.named(name, "a file")


def test_no_species_file_is_refused_by_the_settings_name():
    with pytest.raises(InputError, match="species_path is null: give the file"):
        read_species(None)
