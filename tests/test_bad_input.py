"""What a user gets who gives the bundle something wrong: one line, with the file, the fact and the remedy."""

import re
import subprocess
import sys

import numpy as np
import pytest
from monai.bundle import ConfigWorkflow
from scripts.errors import find_input_error
from scripts.picks import read_csv
from synthetic import SHAPE, tiny_network, write_mrc, write_weights

VOXEL_SIZE = 10.012


@pytest.fixture
def weights(tmp_path, shipped_species):
    return write_weights(tmp_path / "weights.pt", tiny_network(out_channels=5), shipped_species)


def settings(dataset, weights, output):
    return {
        "dataset_dir": str(dataset), "checkpoint_path": str(weights), "output_dir": str(output),
        "inference_window_size": [16, 24, 24], "precision": "float32",
    }  # fmt: skip


def infer(bundle_dir, **given):
    workflow = ConfigWorkflow(
        config_file=str(bundle_dir / "configs" / "inference.json"), workflow_type="infer",
        bundle_root=str(bundle_dir), logging_file=False, device="$torch.device('cpu')", **given,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()


def line_of(bundle_dir, **given):
    with pytest.raises(Exception) as caught:  # noqa: PT011 MONAI wraps what the bundle raises
        infer(bundle_dir, **given)
    found = find_input_error(caught.value)
    assert found is not None, f"no line for the user, only: {caught.value!r}"
    assert "\n" not in str(found)
    return str(found)


def noise():
    return np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def missing_file(folder):
    return folder / "none.mrc"


def truncated(folder):
    path = write_mrc(folder / "cut.mrc", noise(), VOXEL_SIZE)
    path.write_bytes(path.read_bytes()[:-5000])
    return path


def not_an_mrc(folder):
    path = folder / "page.mrc"
    path.write_text("<!DOCTYPE html>" + " " * 3000)
    return path


def without_voxel_size(folder):
    return write_mrc(folder / "bare.mrc", noise(), 0.0)


def of_other_voxel_size(folder):
    return write_mrc(folder / "fine.mrc", noise(), 5.0)


def all_nan(folder):
    return write_mrc(folder / "nothing.mrc", np.full(SHAPE, np.nan), VOXEL_SIZE)


@pytest.mark.filterwarnings("ignore:Data array contains NaN")  # says mrcfile when it writes them
@pytest.mark.parametrize(
    ("make", "line"),
    [
        (missing_file, r"cannot read .*none.mrc: no such file or folder. Set dataset_dir"),
        (truncated, r"cut.mrc is cut short: the header promises 80640 bytes of data, the file has 75640"),
        (not_an_mrc, r"page.mrc.*HTML"),
        (without_voxel_size, r"bare.mrc states no voxel size: set voxel_size_angstrom"),
        (of_other_voxel_size, r"fine.mrc has voxels of 5 Å, the model was trained at 10.01 Å: give --resample True"),
        (all_nan, r"nothing.mrc: 20160 of 20160 voxels are NaN or infinite"),
    ],
)
def test_a_bad_tomogram_gives_one_line(make, line, weights, bundle_dir, tmp_path):
    text = line_of(bundle_dir, **settings(make(tmp_path), weights, tmp_path / "out"))
    assert re.search(line, text), text
    assert not list((tmp_path / "out").glob("*/picks.csv"))


def test_weights_of_another_network_are_refused(weights, bundle_dir, tmp_path):
    path = write_mrc(tmp_path / "good.mrc", noise(), VOXEL_SIZE)
    network = {"_target_": "scripts.networks.convnext_unet.ConvNeXtUNet", "widths": [4, 16], "depths": [1, 1]}
    line = line_of(bundle_dir, **settings(path, weights, tmp_path / "out"), network_def=network)
    assert re.search(r"weights.pt is of another network than the settings say: widths was \[4, 8\], now", line)


def test_the_shipped_weights_with_a_flipped_byte_are_refused(bundle_dir, tmp_path):
    """A copy of the bundle's folders, with one byte of the weights changed."""
    copy = tmp_path / "copy"
    for folder in ("configs", "models"):
        (copy / folder).mkdir(parents=True)
        for file in (bundle_dir / folder).iterdir():
            (copy / folder / file.name).write_bytes(file.read_bytes())
    (copy / "scripts").symlink_to(bundle_dir / "scripts")
    damaged = bytearray((copy / "models" / "model.pt").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (copy / "models" / "model.pt").write_bytes(damaged)
    path = write_mrc(tmp_path / "good.mrc", noise(), VOXEL_SIZE)
    line = line_of(copy, dataset_dir=str(path), output_dir=str(tmp_path / "out"))
    assert re.search(r"model.pt is not the file that .*model.json describes: SHA-256", line)


def refusal_of(workflow):
    """Return the line with which a workflow is refused."""
    workflow.initialize()
    with pytest.raises(RuntimeError) as caught:
        workflow.run()
    return str(find_input_error(caught.value))


def test_an_unknown_species_in_the_truth_stops_a_training_with_one_line(bundle_dir, tmp_path):
    write_mrc(tmp_path / "data" / "one.mrc", noise(), VOXEL_SIZE)
    truth = tmp_path / "data" / "truth.csv"
    truth.write_text("id,experiment,particle_type,x,y,z\n0,one,proteasome,100,120,90\n")
    workflow = ConfigWorkflow(
        config_file=str(bundle_dir / "configs" / "train.json"), workflow_type="train", bundle_root=str(bundle_dir),
        logging_file=False, device="$torch.device('cpu')", dataset_dir=str(truth.parent), output_dir=str(tmp_path),
        validation_runs=[], **{"network_def#widths": [4, 8], "network_def#depths": [1, 1]},
    )  # fmt: skip
    line = refusal_of(workflow)
    assert re.search(r"truth.csv.*unknown species 'proteasome'; known are .*Add it to species.json", line), line


def test_an_evaluation_refuses_a_run_that_can_have_no_folder_before_it_picks(weights, bundle_dir, tmp_path):
    tomogram = write_mrc(tmp_path / "data" / "con.mrc", noise(), VOXEL_SIZE)
    tomogram.with_name("truth.csv").write_text("id,experiment,particle_type,x,y,z\n0,con,ribosome,100,120,90\n")
    workflow = ConfigWorkflow(
        config_file=[str(bundle_dir / "configs" / name) for name in ("train.json", "evaluate.json")],
        workflow_type="train", bundle_root=str(bundle_dir), logging_file=False, device="$torch.device('cpu')",
        **settings(tomogram.parent, weights, tmp_path / "out"),
    )  # fmt: skip
    line = refusal_of(workflow)
    assert re.search(r"data/con.mrc: the run 'con' is the name of a device in Windows; .* Rename it\.$", line), line
    assert not (tmp_path / "out").exists()


def test_a_resampled_tomogram_is_picked_in_its_own_frame(weights, bundle_dir, tmp_path):
    given = settings(of_other_voxel_size(tmp_path), weights, tmp_path / "out")
    thresholds = dict.fromkeys(("apo-ferritin", "ribosome"), 0.0001)
    infer(bundle_dir, **given, resample=True, probability_thresholds=thresholds)
    for pick in read_csv(tmp_path / "out" / "picks.csv"):
        assert pick.x_angstrom == pytest.approx(5 * pick.x_voxel, abs=0.01)


def command(bundle_dir, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json", *arguments],
        cwd=bundle_dir, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def arguments_of(given):
    return [word for key, value in given.items() for word in (f"--{key}", str(value))]


def test_the_command_line_ends_with_the_line_and_status_1(weights, bundle_dir, tmp_path):
    done = command(bundle_dir, *arguments_of(settings(truncated(tmp_path), weights, tmp_path / "out")))
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "cut.mrc is cut short" in lines[-1]
    assert "Traceback" not in done.stderr


def test_a_constant_volume_has_failed(weights, bundle_dir, tmp_path):
    path = write_mrc(tmp_path / "flat.mrc", np.full(SHAPE, 7.0), VOXEL_SIZE)
    done = command(bundle_dir, *arguments_of(settings(path, weights, tmp_path / "out")))
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: 1 of 1 tomograms failed: ")
    assert "flat.mrc is constant: nothing can be picked in it." in line
    assert read_csv(tmp_path / "out" / "picks.csv") == []


def test_a_misspelt_setting_is_refused(bundle_dir):
    done = command(bundle_dir, "--inference_overlap_vox", "8")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        "error: --inference_overlap_vox is not a setting of configs/inference.json; did you mean "
        "--inference_overlap_voxels?"
    )
