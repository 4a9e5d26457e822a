"""Which truths are doubtful, and where nothing was annotated."""

import math

import numpy as np
import pytest
from scripts.coordinates import to_xyz_angstrom
from scripts.datasets.annotated import Annotated
from scripts.errors import InputError
from scripts.picks import Pick, write_csv
from scripts.preparation.annotation import Annotation
from scripts.preparation.truth import LoadTruthd
from synthetic import box_mask, image_of, noise, write_mrc
from volume_files import write_ome_zarr

PLACES = {(6, 9, 11): 1.0, (13, 20, 30): 0.25, (3, 14, 18): 0.0, (15, 5, 5): math.nan}


def load(tmp_path, species_set, allow_missing_chunks=False, **entry):
    """Load the four annotations of `PLACES`, with an entry of what was annotated."""
    xyz = to_xyz_angstrom(list(PLACES), 10.0).tolist()
    rows = zip("abab", xyz, PLACES.values(), strict=True)
    write_csv(tmp_path / "truth.csv", [Pick("run", name, *place, weight=weight) for name, place, weight in rows])
    sample = {"image": image_of(noise()), "label": str(tmp_path / "truth.csv"), "run": "run"}
    loading = LoadTruthd("label", species_set, allow_missing_chunks=allow_missing_chunks)
    return loading(sample | Annotated(**entry).as_row())


def test_certain_particles_are_the_truth_and_the_others_are_doubtful(tmp_path, species_set):
    sample = load(tmp_path, species_set)
    assert sample["label"].tolist() == [[1, 6, 9, 11]]
    assert np.allclose(
        sample["doubtful"], [[2, 13, 20, 30, 0.25], [1, 3, 14, 18, 0], [2, 15, 5, 5, math.nan]], equal_nan=True
    )
    assert "is_complete" not in sample
    assert "annotated_region" not in sample


def test_a_species_that_was_not_annotated_has_no_truth(tmp_path, species_set):
    sample = load(tmp_path, species_set, species=("b",))
    assert sample["label"].shape == (0, 4)
    assert sample["doubtful"][:, 0].tolist() == [2, 2]
    assert sample["is_complete"].tolist() == [False, True]


def test_points_alone_leave_every_species_incomplete(tmp_path, species_set):
    sample = load(tmp_path, species_set, complete=False)
    assert sample["label"].tolist() == [[1, 6, 9, 11]]
    assert sample["is_complete"].tolist() == [False, False]


@pytest.mark.parametrize(
    "box",
    [
        {"z_voxel": (4, 10), "y_voxel": (10, 19), "x_voxel": (6, 29)},
        {"z_angstrom": (40, 100), "y_angstrom": (100, 190), "x_angstrom": (60, 290)},
    ],
)
def test_a_region_is_a_box_in_voxels_or_angstroms(tmp_path, species_set, box):
    sample = load(tmp_path, species_set, box=tuple(box.items()))
    assert np.array_equal(sample["annotated_region"][0], box_mask())
    assert sample["annotated_box"].tolist() == [[4, 10, 6], [10, 19, 29]]


def test_a_region_is_a_mask_and_truths_outside_are_uncertain(tmp_path, species_set):
    write_mrc(tmp_path / "mask.mrc", box_mask())
    sample = load(tmp_path, species_set, mask=str(tmp_path / "mask.mrc"))
    assert np.array_equal(sample["annotated_region"][0], box_mask())
    assert sample["label"].shape == (0, 4)
    assert sample["doubtful"][:, 4].isnan().all()


def test_a_missing_chunk_of_the_mask_of_a_region_is_refused_unless_allowed(tmp_path, species_set):
    path = write_ome_zarr(tmp_path, box_mask().astype(np.uint8), name="mask.zarr", chunks=(10, 14, 18), scales=(10.0,))
    (path / "0" / "0" / "0" / "0").unlink()
    with pytest.raises(InputError, match=r"mask\.zarr/0: the chunk file 0/0/0 is missing\. .*allow_missing_chunks"):
        load(tmp_path, species_set, mask=str(path))
    region = load(tmp_path, species_set, allow_missing_chunks=True, mask=str(path))["annotated_region"][0]
    assert not region[:10, :14, :18].any()
    assert np.array_equal(region[10:], box_mask()[10:])


def test_an_empty_region_or_a_mask_of_another_grid_is_refused(tmp_path, species_set):
    with pytest.raises(InputError, match=r"the region that was annotated, z_voxel \[30, 40\], is empty"):
        load(tmp_path, species_set, box=(("z_voxel", (30, 40)),))
    write_mrc(tmp_path / "mask.mrc", box_mask(shape=(20, 28, 60)))
    with pytest.raises(InputError, match=r"mask.mrc: the mask covers .* its tomogram"):
        load(tmp_path, species_set, mask=str(tmp_path / "mask.mrc"))


def test_an_unknown_species_is_refused(tmp_path, species_set):
    with pytest.raises(InputError, match="annotated in run 'run': unknown species 'c'"):
        load(tmp_path, species_set, species=("c",))


def test_the_truth_tells_about_particles_always_and_about_the_rest_where_it_is_known():
    points = np.array([[6, 9, 11], [13, 20, 30], [15, 5, 5], [5, 11, 7]], dtype=float)
    every = Annotation.of({})
    assert every.is_told(1, points, points[:1], 2.0).all()
    region = box_mask().astype(np.uint8)[None]
    assert Annotation.of({"annotated_region": region}).is_told(1, points, points[:1], 2.0).tolist() == [1, 0, 0, 1]
    far = np.array([[5, 11, 7], [-9, 11, 7], [5, 11, 70]], dtype=float)
    assert Annotation.of({"annotated_region": region}).is_told(1, far, points[:0], 2.0).tolist() == [1, 0, 0]
    incomplete = Annotation.of({"is_complete": np.array([False, True])})
    assert incomplete.is_told(1, points, points[:1], 2.0).tolist() == [1, 0, 0, 0]
    assert incomplete.is_told(2, points, points[:1], 2.0).all()
    rows = np.array([[1, 13, 20, 31, math.nan], [1, 15, 5, 5, 0], [1, 5, 11, 7, 0.5], [1, 6, 9, 12, math.nan]])
    doubtful = Annotation.of({"doubtful": rows})
    assert doubtful.is_told(1, points, points[:1], 2.0).tolist() == [1, 0, 1, 0]
    assert doubtful.is_told(2, points, points[:1], 2.0).all()


def test_a_rejected_place_is_told_where_its_species_has_points_alone():
    points = np.array([[6, 9, 11], [13, 20, 30], [15, 5, 5]], dtype=float)
    rows = np.array([[1, 13, 20, 31, 0], [1, 15, 5, 5, 0.5]])
    alone = Annotation.of({"doubtful": rows, "is_complete": np.array([False, False])})
    assert alone.is_told(1, points, points[:0], 2.0).tolist() == [0, 1, 0]
    assert not alone.is_told(2, points, points[:0], 2.0).any()
