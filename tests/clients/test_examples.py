"""Every command of the worked examples runs, in its order, on a small tomogram in the sample's place."""

import shutil
from pathlib import Path

import pytest
from documented import commands_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "start" / "examples.md").read_text()
EXAMPLES = {"mrc": "## MRC files", "copick": "## A copick project", "nifti": "## NIfTI files"}

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # MONAI's and Ignite's
    pytest.mark.timeout(900),  # an example is several trainings and evaluations
]


@pytest.fixture(scope="module")
def repository(published, dataset_dir, tmp_path_factory):
    """Return a folder laid out like the repository: ``bundle``, and a ``sample`` of one small tomogram."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(published, folder / "bundle")
    (folder / "sample").mkdir()
    shutil.copy(dataset_dir / "one.mrc", folder / "sample" / "sample.mrc")
    (folder / "sample" / "truth.csv").write_text((dataset_dir / "truth.csv").read_text().replace("one,", "sample,"))
    return folder


def example(name):
    return commands_of(PAGE.partition(EXAMPLES[name])[2].partition("\n## ")[0])


@pytest.mark.parametrize(
    ("name", "count", "results"),
    [
        ("mrc", 2, {"picks/picks.csv"}),
        (
            "copick",
            5,
            {"picks/picks.csv", "evaluation/operating_points.csv", "training/model.pt", "own_evaluation/scores.csv"},
        ),
        ("nifti", 5, {"picks/picks.csv"}),
    ],
)
def test_an_example_runs(name, count, results, repository, run_command):
    commands = example(name)
    assert len(commands) == count
    for line in commands:
        run_command(line, repository / "bundle")
    output = repository / "output" / "examples" / name
    assert {path for path in results if not (output / path).is_file()} == set()


def test_the_picks_of_the_nifti_file_are_those_of_the_mrc_file(repository):
    """After the two examples."""
    output = repository / "output" / "examples"
    assert (output / "nifti/picks/picks.csv").read_bytes() == (output / "mrc/picks/picks.csv").read_bytes()
