import json
from dataclasses import asdict

import nibabel as nib
import numpy as np
import pytest
from scripts.errors import InputError
from scripts.picks import Pick, read_csv, write_csv
from scripts.picks.__main__ import main
from scripts.picks.label_volume import annotations_of_labels
from scripts.volumes.labels import label_map_of, paint_spheres
from synthetic import SHAPE, make_species, write_mrc

VOXEL_SIZE, OFFSET = 10.0, 0.5


def pick(species, z, y, x, score=0.9):
    places = ((value + OFFSET) * VOXEL_SIZE for value in (x, y, z))
    return Pick("TS_1", species, *places, score, 40.0, x, y, z)


KEPT, ERASED, RENAMED = pick("a", 6.2, 9.1, 11.3), pick("a", 13, 20, 30), pick("b", 14, 8, 26)


@pytest.fixture
def labels():
    """Three picks were painted; one is erased now, one has another label, and a particle was added."""
    volume = np.zeros(SHAPE, dtype=np.uint8)
    paint_spheres(volume, [KEPT.zyx_voxel], 2.5, 1)
    paint_spheres(volume, [RENAMED.zyx_voxel, (5, 22, 7)], 2.5, 1)
    return volume


def annotations(labels, picks, source="TS_1.mrc"):
    found = annotations_of_labels(labels, picks, make_species(2), "TS_1", VOXEL_SIZE, OFFSET, source)
    return [(one.species, one.zyx_voxel, one.weight) for one in found], found


def test_what_was_kept_erased_renamed_and_added_is_told_apart(labels):
    rows, found = annotations(labels, [KEPT, ERASED, RENAMED], "studies/TS_1.mrc")
    assert rows[:3] == [("a", KEPT.zyx_voxel, 1), ("a", ERASED.zyx_voxel, 0), ("b", RENAMED.zyx_voxel, 0)]
    assert sorted(rows[3:]) == [("a", (5, 22, 7), 1), ("a", RENAMED.zyx_voxel, 1)]
    assert found[0].xyz_angstrom == KEPT.xyz_angstrom  # not the centroid of its voxels
    assert found[3].xyz_angstrom in {(75.0, 225.0, 55.0), RENAMED.xyz_angstrom}
    assert {one.origin for one in found} == {"corrected in TS_1.mrc"}


def test_picks_whose_spheres_touch_are_both_kept(labels):
    near = pick("a", 6.2, 9.1, 14.3)
    paint_spheres(labels, [near.zyx_voxel], 2.5, 1)
    rows, _ = annotations(labels, [KEPT, near])
    assert [weight for *_, weight in rows[:2]] == [1, 1]
    assert len(rows) == 4


def test_a_label_map_that_nobody_edited_keeps_picks_under_the_spheres_of_others():
    picks = [pick("a", 6, 9, 11), pick("b", 6, 9, 13)]
    places = {one.species: [one.zyx_voxel] for one in picks}
    volume = label_map_of(SHAPE, places, make_species(2), VOXEL_SIZE)
    assert volume[6, 9, 11] == 2  # the later species lies over the earlier one's centre
    rows, _ = annotations(volume, picks)
    assert rows == [(one.species, one.zyx_voxel, 1) for one in picks]


def test_a_particle_that_was_painted_beside_its_old_place_is_new(labels):
    paint_spheres(labels, [KEPT.zyx_voxel], 2.5, 0)
    paint_spheres(labels, [(6, 9, 14)], 2.5, 1)  # over a part of the old sphere
    rows, _ = annotations(labels, [KEPT, RENAMED])
    assert rows[0] == ("a", KEPT.zyx_voxel, 0)
    assert ("a", (6, 9, 14), 1) in rows


def test_without_picks_every_blob_is_a_particle_and_without_labels_every_pick_is_rejected(labels):
    assert [weight for *_, weight in annotations(labels, [])[0]] == [1, 1, 1]
    assert [weight for *_, weight in annotations(np.zeros_like(labels), [KEPT, ERASED])[0]] == [0, 0]


def test_labels_that_meet_no_pick_are_refused(labels):
    with pytest.raises(InputError, match="no label where any pick of run 'TS_1' is: it is another run's, or mirrored"):
        annotations(labels[:, ::-1, ::-1], [KEPT, RENAMED])


@pytest.mark.parametrize("name", ["TS_1.mrc", "TS_1.nii.gz"])
def test_the_command_turns_a_label_volume_into_a_table(tmp_path, labels, name, capsys):
    path = write_mrc(tmp_path / "labels" / "TS_1.mrc", labels, VOXEL_SIZE).with_name(name)
    if name != "TS_1.mrc":  # as MONAI Label saves it: the first axis is x
        nib.save(nib.Nifti1Image(labels.transpose(2, 1, 0), np.diag([VOXEL_SIZE] * 3 + [1])), path)
    write_csv(tmp_path / "picks.csv", [KEPT, ERASED, RENAMED])
    target, volume, picks = (str(tmp_path / name) for name in ("TS_1_corrected.csv", f"labels/{name}", "picks.csv"))
    species = {one.name: asdict(one) for one in make_species(2).known}
    rows = {name: {key: value for key, value in row.items() if key != "name"} for name, row in species.items()}
    (tmp_path / "species.json").write_text(json.dumps({"voxel_size_angstrom": VOXEL_SIZE, "species": rows}))
    more = ["--species", str(tmp_path / "species.json"), "--voxel_offset", "0.5"]
    assert main(["labels", target, volume, "--picks", picks, *more]) == 0
    assert capsys.readouterr().out == f"{target}: 3 particles, 2 rejected, 0 uncertain\n"
    assert [one.weight for one in read_csv(target)] == [1, 0, 0, 1, 1]
    assert main(["labels", target, volume, "--picks", picks, *more, "--overwrite", "--run", "TS_9"]) == 1
    assert "picks.csv has no pick of run 'TS_9': give --run NAME." in capsys.readouterr().err


def test_a_label_volume_of_another_voxel_size_than_the_picks_is_refused(tmp_path, labels, capsys):
    path = write_mrc(tmp_path / "TS_1.mrc", labels, 7.84)
    write_csv(tmp_path / "picks.csv", [KEPT, RENAMED])
    given = ["labels", str(tmp_path / "new.csv"), str(path), "--picks", str(tmp_path / "picks.csv")]
    assert main([*given, "--voxel_offset", "0.5"]) == 1
    assert "voxels and ångströms of particle 1 disagree" in capsys.readouterr().err
    path.unlink()
    write_mrc(path, labels, VOXEL_SIZE)
    assert main(given) == 1  # the picks' ångströms count from voxel -0.5
    assert "with voxel_offset 0: state what the picks have" in capsys.readouterr().err
    assert not (tmp_path / "new.csv").exists()
