"""A training by the config learns on every device, and is resumed on another one."""

import pytest
import torch
from device_audit import audit
from devices import DEVICES, GPU, NEEDS_GPU, NEEDS_TWO_GPUS, ON_GPU
from scripts.handlers.weights import AverageWeights, GradientClipHandler
from scripts.networks.weights import read_tensors

WHERE = [
    ("cpu", "cpu"),
    *(pytest.param(*pair, marks=NEEDS_GPU) for pair in ((GPU, GPU), (GPU, "cpu"), ("cpu", GPU))),
]


@pytest.fixture(scope="module")
def trained_on_cpu(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cpu")
    train("cpu", folder)
    return folder


def mean_difference(one, other):
    """Return the mean distance of two sets of weights."""
    gaps = [(one[name] - other[name]).abs().flatten() for name in one]
    return torch.cat(gaps).mean().item()


@pytest.mark.parametrize("device", DEVICES)
def test_a_training_learns_on_a_device_and_leaves_weights_that_any_machine_can_read(device, train, losses, tmp_path):
    made = train(device, tmp_path)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    for name in ("network", "averaged"):
        assert {str(one.device) for one in made.parser.get_parsed_content(name).parameters()} == {device}
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert {str(one.device) for one in saved.values()} == {"cpu"}
    assert all(torch.isfinite(one).all() for one in saved.values())


@pytest.mark.parametrize("device", [ON_GPU])
def test_a_training_on_a_gpu_is_that_of_the_cpu(device, trained_on_cpu, train, losses, tmp_path):
    train(device, tmp_path)
    assert losses(tmp_path) == pytest.approx(losses(trained_on_cpu), rel=1e-3)
    cpu, gpu = (read_tensors(folder / "model_last.pt") for folder in (trained_on_cpu, tmp_path))
    assert mean_difference(cpu, gpu) < 1e-4


@pytest.mark.parametrize("device", DEVICES)
def test_a_training_in_bfloat16_learns_nearly_the_same(device, trained_on_cpu, train, losses, tmp_path):
    train(device, tmp_path, precision="bfloat16")
    assert losses(tmp_path) == pytest.approx(losses(trained_on_cpu), rel=0.01)
    assert losses(tmp_path) != losses(trained_on_cpu)


@pytest.mark.parametrize(("first", "second"), WHERE)
def test_an_interrupted_training_goes_on_on_the_same_or_another_device(
    first, second, trained_on_cpu, train, losses, tmp_path
):
    train(first, tmp_path, stop_after_epoch=1)
    assert len(losses(tmp_path)) == 1
    made = train(second, tmp_path)
    state = made.parser.get_parsed_content("optimizer").state.values()
    assert {str(one["exp_avg"].device) for one in state} == {second}
    assert losses(tmp_path) == pytest.approx(losses(trained_on_cpu), rel=1e-3)
    whole, parts = (read_tensors(folder / "model_last.pt") for folder in (trained_on_cpu, tmp_path))
    assert mean_difference(whole, parts) < 1e-4


@pytest.fixture
def step_of(train, tmp_path):
    """Return a function that takes the parts of a training by the config and returns one step of it."""

    def make(device):
        get = train(device, tmp_path, epochs=1).parser.get_parsed_content
        network, loss_of, optimizer, inferer = map(get, ("network", "loss", "optimizer", "train#inferer"))
        clip, average = (
            next(one for one in get("train#handlers") if isinstance(one, kind))
            for kind in (GradientClipHandler, AverageWeights)
        )
        windows = torch.rand(2, 1, 16, 16, 16, device=device)
        targets = torch.zeros_like(inferer(windows, network))

        def step():
            optimizer.zero_grad()
            loss_of(inferer(windows, network), targets).backward()
            clip(get("train#trainer"))
            optimizer.step()
            average(get("train#trainer"))

        return step

    return make


@pytest.mark.parametrize("device", [ON_GPU])
def test_a_step_of_the_training_stays_on_its_device(device, step_of):
    assert audit(step_of(device), torch.device(device)) == []


@pytest.mark.parametrize("device", [ON_GPU])
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_torch_sees_no_operation_of_a_step_wait_for_the_gpu(device, step_of):
    step = step_of(device)
    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("processes", [pytest.param(2, marks=NEEDS_TWO_GPUS)])
def test_two_gpus_train_together_like_two_processes_on_the_cpu(
    processes, dataset_dir, small_settings, torchrun, losses, tmp_path
):
    for name in ("gpu", "cpu"):
        where = {"dataset_dir": dataset_dir, "output_dir": tmp_path / name}
        torchrun(["train.json", "multi_gpu_train.json"], "training", name == "gpu", **where, **small_settings)
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-3)
    weights = [read_tensors(tmp_path / name / "model_last.pt") for name in ("gpu", "cpu")]
    assert mean_difference(*weights) < 1e-4
