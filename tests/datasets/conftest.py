import pytest
from dataset_files import touch, touch_picks, touch_tomogram, write_truth


@pytest.fixture
def folder(tmp_path):
    """Runs D1 (tomogram.mrc with copick picks), deep (NIfTI) and zarr (a folder), and files that are no tomograms."""
    touch(tmp_path / "D1" / "tomogram.mrc")
    touch(tmp_path / "D1" / "Picks" / "ribosome.json")
    touch(tmp_path / "more" / "deep.nii.gz")
    touch(tmp_path / "zarr.zarr" / "0" / "inner.mrc")
    touch(tmp_path / "README.md")
    touch(tmp_path / ".hidden" / "trash.mrc")
    return tmp_path


@pytest.fixture
def project(tmp_path):
    """The challenge's tree with runs A and B, each with one tomogram, and truth in the overlay."""
    root = tmp_path / "project"
    for run in ("A", "B"):
        touch_tomogram(root, run)
        touch_picks(root, run)
    return root


@pytest.fixture
def two_folders(tmp_path):
    """Runs A and B in one folder, B and C in the other, each with its own table."""
    for name, runs in (("one", "AB"), ("two", "BC")):
        for run in runs:
            touch(tmp_path / name / f"{run}.mrc")
        write_truth(tmp_path / name, *runs)
    return [str(tmp_path / "one"), str(tmp_path / "two")]
