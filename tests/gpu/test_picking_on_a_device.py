"""A device picks what the CPU picks."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from devices import GPU, NEEDS_GPU, NEEDS_TWO_GPUS, ON_GPU
from scripts.inference.precision import number_format
from scripts.picks import read_csv

CLEAR = 0.02  # picks this close to the threshold may come and go with a device's arithmetic
SAMPLE, PART = "whole sample", "part of the sample"
PARTS = [("cpu", PART), pytest.param(GPU, SAMPLE, marks=NEEDS_GPU)]


@pytest.fixture(scope="module")
def datasets(bundle_dir, part_of_sample):
    return {SAMPLE: bundle_dir.parent / "sample" / "sample.mrc", PART: part_of_sample}


@pytest.fixture(scope="module")
def on_cpu(pick, datasets):
    """Return a function that picks one of the datasets on the CPU in float32."""
    return functools.cache(lambda name: pick("cpu", datasets[name]))


def strays(one, other, species_set, atol_vox, clear):
    """Return the picks above the threshold without a pick of the same species in the other set, near enough."""

    def gap(pick):
        same = [twin.zyx_voxel for twin in other if twin.species == pick.species]
        return np.linalg.norm(np.array(same).reshape(-1, 3) - pick.zyx_voxel, axis=1).min(initial=np.inf)

    thresholds = {species.name: species.probability_threshold for species in species_set.picked}
    return [pick for pick in one if pick.score > thresholds[pick.species] + clear and gap(pick) > atol_vox]


def assert_same_picks(one, other, species_set, atol_vox=0.1, clear=CLEAR):
    assert len(one) > 0
    assert strays(one, other, species_set, atol_vox, clear) == []
    assert strays(other, one, species_set, atol_vox, clear) == []


@pytest.mark.parametrize(("device", "name"), PARTS)
def test_the_picks_are_those_of_the_cpu(device, name, pick, datasets, on_cpu, shipped_species):
    """On the CPU itself, another memory order gives other rounding, as another device would."""
    found = pick(device, datasets[name], memory_format="$torch.contiguous_format")
    assert_same_picks(found, on_cpu(name), shipped_species)


@pytest.mark.parametrize(
    ("device", "name", "precision"),
    [
        ("cpu", PART, "bfloat16"),
        *(pytest.param(GPU, SAMPLE, precision, marks=NEEDS_GPU) for precision in ("bfloat16", "float16")),
    ],
)
def test_fewer_digits_give_nearly_the_same_picks(device, name, precision, pick, datasets, on_cpu, shipped_species):
    found = pick(device, datasets[name], precision=precision)
    assert_same_picks(found, on_cpu(name), shipped_species, atol_vox=0.5, clear=0.1)


def test_a_pick_that_moved_or_is_missing_is_noticed(pick, on_cpu, shipped_species):
    picks = on_cpu(PART)
    moved = [replace(picks[0], x_voxel=picks[0].x_voxel + 0.2), *picks[1:]]
    for other in (moved, picks[1:]):
        with pytest.raises(AssertionError):
            assert_same_picks(picks, other, shipped_species, clear=0)


@pytest.mark.parametrize("device", [ON_GPU])
@pytest.mark.parametrize(
    "settings",
    [{"rotations": 2, "flips": ["z"]}, {"slab_z_angstrom": [100, 300]}, {"inference_window_size": [32, 48, 48]}],
    ids=["views", "slab", "windows"],
)
def test_views_regions_and_windows_give_the_picks_of_the_cpu(settings, device, pick, datasets, shipped_species):
    found, wanted = (pick(where, datasets[PART], **settings) for where in (device, "cpu"))
    assert_same_picks(found, wanted, shipped_species)


@pytest.mark.parametrize("device", [ON_GPU])
def test_the_format_is_chosen_by_what_the_gpu_computes_natively(device):
    native = torch.cuda.get_device_capability(device)[0] >= 8
    assert number_format("auto", torch.device(device)) == (torch.bfloat16 if native else torch.float32)


@pytest.mark.parametrize("device", [ON_GPU])
@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_an_evaluation_on_a_gpu_scores_like_that_on_the_cpu(device, evaluate, train, tmp_path):
    train("cpu", tmp_path / "trained")
    weights = tmp_path / "trained" / "model_last.pt"
    scores = [evaluate(where, tmp_path / where[:3], weights) for where in (device, "cpu")]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("processes", [pytest.param(2, marks=NEEDS_TWO_GPUS)])
def test_two_gpus_share_a_batch_and_pick_what_the_cpu_picks(
    processes, part_of_sample, pick, torchrun, shipped_species, tmp_path
):
    folder = tmp_path / "data"
    folder.mkdir()
    for run in ("one", "three", "two"):
        (folder / f"{run}.mrc").symlink_to(part_of_sample)
    quick = {"page_megabytes": 0, "pick_formats": "['csv']", "precision": "float32"}
    where = {"dataset_dir": folder, "output_dir": tmp_path / "out"}
    torchrun(["inference.json", "multi_gpu_inference.json"], **where, **quick)
    found, wanted = read_csv(tmp_path / "out" / "picks.csv"), pick("cpu", folder)
    for run in ("one", "three", "two"):
        one, other = ([each for each in picks if each.run == run] for picks in (found, wanted))
        assert_same_picks(one, other, shipped_species)


@pytest.mark.parametrize("device", [ON_GPU])
@pytest.mark.filterwarnings("ignore")  # torch_tensorrt and TorchScript announce what they will remove
def test_a_tensorrt_file_picks_what_the_cpu_picks(
    device, bundle_dir, pick, datasets, on_cpu, shipped_species, tmp_path
):
    pytest.importorskip("torch_tensorrt")
    from monai.bundle import trt_export

    configs, weights, path = bundle_dir / "configs", bundle_dir / "models" / "model.pt", tmp_path / "model_trt.ts"
    trt_export(
        net_id="network_def", filepath=str(path), ckpt_file=str(weights), meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"), precision="fp32", bundle_root=str(bundle_dir),
    )  # fmt: skip
    found = pick(device, datasets[SAMPLE], ("inference.json", "inference_trt.json"), checkpoint_path=str(path))
    assert_same_picks(found, on_cpu(SAMPLE), shipped_species, atol_vox=0.5, clear=0.1)
