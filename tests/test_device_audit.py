"""A training step and a window of a tomogram stay on the network's device, and do not wait for it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from device_audit import META, Auditor, CopiedNumbers, audit, pretend
from devices import GPU, NEEDS_GPU
from monai.bundle import ConfigParser
from scripts.handlers.weights import AverageWeights, GradientClipHandler
from scripts.inference.inferers import TomogramInferer, WindowInferer
from scripts.networks.convnext_unet import ACTIVATIONS, NORMS
from synthetic import tiny_network
from torch import nn

DEVICES = [pytest.param(META, id="meta"), pytest.param(torch.device(GPU), marks=NEEDS_GPU, id="cuda")]
STEPS = 2

# The audit itself


MISTAKES = {
    "a tensor without a device": (lambda x: torch.zeros(3), "works on cpu"),
    "a tensor without a device in a sum": (lambda x: x + torch.zeros(2, 1, 1, 1, 1), "works on cpu"),
    "random numbers without a device": (lambda x: torch.rand(3), "works on cpu"),
    "an array": (lambda x: torch.from_numpy(np.ones(3)), "works on cpu"),
    "a tensor moved to the device": (lambda x: torch.ones(3).to(x.device), "copies from cpu"),
    "a list made a tensor of the device": (lambda x: torch.tensor([1.0, 2.0], device=x.device), "copies from the host"),
    "a new tensor from a list": (lambda x: x.new_tensor([1.0, 2.0]), "copies from the host"),
    "a tensor written over": (lambda x: x.copy_(torch.ones(x.shape)), "copies from cpu"),
    "item": (lambda x: x.sum().item(), "reads a number"),
    "float": (lambda x: float(x.sum()), "reads a number"),
    "a condition": (lambda x: 1 if x.sum() > 0 else 0, "reads a number"),
    "equal": (lambda x: torch.equal(x, x), "reads a number"),
    "tolist": (lambda x: x[0, 0, 0, 0].tolist(), "copies from"),
    "cpu": (lambda x: x.cpu(), "copies from"),
    "numpy": (lambda x: x.cpu().numpy(), "copies from"),
    "an array of the device": (lambda x: np.asarray(x), "stops: can't convert"),
    "elements selected": (lambda x: x[x > 0], "waits for the number"),
    "elements selected and set": (lambda x: x.__setitem__(x > 0, x[0, 0, 0, 0, 0]), "waits for the number"),
    "places of elements": (lambda x: (x > 0).nonzero(), "waits for the number"),
    "places by where": (lambda x: torch.where(x > 0), "waits for the number"),
    "a layer that was left behind": (lambda x: nn.Linear(4, 4)(x), "works on cpu"),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MISTAKES)
def test_the_audit_finds_a_mistake_and_where_it_is(name, device):
    mistake, what = MISTAKES[name]
    volume = torch.ones(2, 1, 4, 4, 4, device=device)
    found = audit(lambda: mistake(volume), device)
    assert any(what in one.what for one in found), list(map(str, found))
    assert {(one.file, one.function) for one in found} == {("tests/test_device_audit.py", "<lambda>")}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "right",
    [
        lambda x: torch.zeros(3, device=x.device) + x.new_ones(3),
        lambda x: x * 2 + torch.tensor(2.0),  # a single number is an argument
        lambda x: torch.where(x > 0, x, 0.0).masked_fill(x > 1, 0.0),
        lambda x: x[:, 0, ::2].flip(-1).to(torch.float64),
        lambda x: x.shape[0] * len(x),
        lambda x: torch.as_tensor(x),
    ],
    ids=["created there", "a number", "masks", "views and formats", "shapes", "no copy"],
)
def test_the_audit_finds_nothing_in_what_stays_on_the_device(right, device):
    volume = torch.ones(2, 1, 4, 4, 4, device=device)
    assert audit(lambda: right(volume), device) == []


# Training


def is_loss_for_handlers(violation):
    """Return whether MONAI makes a number of a step's loss, which all handlers share."""
    return violation.function == "decollate_batch" and violation.what == "reads a number on the host"


@pytest.fixture
def make_trainer(bundle_dir, tmp_path):
    """Return a function that builds the config's trainer on a device, with a small network and batches of noise."""

    def make(device, overlays=(), batch=None, **settings):
        configs = [str(bundle_dir / "configs" / f"{name}.json") for name in ("train", *overlays)]
        parser = ConfigParser(ConfigParser.load_config_files(configs))
        if batch is None:
            batch = {"image": torch.rand(2, 1, 12, 16, 20), "label": torch.rand(2, 5, 6, 8, 10)}
            settings = {"network_def#output_stride": 2, **settings}
        batch = {key: value.to(device) for key, value in batch.items()}
        settings = {
            "bundle_root": str(bundle_dir), "output_dir": str(tmp_path), "device": device, "epochs": 1,
            "network_def#widths": [4, 8], "network_def#depths": [1, 1],
            "train#handlers": [one for one in parser["train#handlers"] if ".checkpoint." not in one["_target_"]],
            "train#dataloader": [batch] * STEPS, "validate#dataset": [], "validate#dataloader": [], **settings,
        }  # fmt: skip
        for key, value in settings.items():
            parser[key] = value
        return parser.get_parsed_content("train#trainer")

    return make


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_by_the_config_waits_only_for_its_loss(precision, device, make_trainer):
    with pretend(device):
        trainer = make_trainer(device, precision=precision)
        found = audit(trainer.run, device)
    assert trainer.state.iteration == STEPS, list(map(str, found))
    assert [str(one) for one in found if not is_loss_for_handlers(one)] == []
    assert len(found) == STEPS


@pytest.mark.parametrize("device", DEVICES)
def test_a_training_of_a_second_look_waits_only_where_monai_takes_its_batches_apart(device, make_trainer):
    batch = {"image": torch.rand(4, 1, 32, 32, 32), "label": torch.tensor([0, 5, 3, 0])}
    with pretend(device):
        trainer = make_trainer(device, ["second_look"], batch)
        found = audit(trainer.run, device)
    assert trainer.state.iteration == STEPS, list(map(str, found))
    assert [str(one) for one in found if not one.file.endswith("monai/data/utils.py")] == []


def training_step(network, precision, device):
    """Return a training step with all that changes the weights, in the order of MONAI's trainer."""
    windows = torch.rand(2, 1, 9, 14, 19, device=device)
    averaged = tiny_network(**network).to(device)
    network = tiny_network(**network).to(device)
    loss_of = nn.BCEWithLogitsLoss(pos_weight=torch.full((2, 1, 1, 1), 16.0).to(device))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.001)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    clip, average = GradientClipHandler(network, 1.0), AverageWeights(network, averaged, 0.005)
    inferer = WindowInferer(precision)

    def step():
        optimizer.zero_grad()
        answer = inferer(windows, network)
        loss_of(answer, torch.zeros_like(answer)).backward()
        clip(None)
        optimizer.step()
        schedule.step()
        average(SimpleNamespace(state=SimpleNamespace(iteration=1)))

    return step


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("output_stride", [1, 2])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_a_training_step_stays_on_its_device_and_waits_for_nothing(norm, activation, output_stride, device):
    network = {"norm": norm, "activation": activation, "output_stride": output_stride, "align_corners": False}
    with pretend(device):
        assert audit(training_step(network, "float32", device), device) == []


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("network", "precision"),
    [
        ({"align_corners": True}, "float32"),
        ({"stem_stride": 4, "output_stride": 4, "align_corners": False, "kernel_size": 5}, "float32"),
        ({"stem_stride": 1}, "float32"),
        *(({"norm": norm}, "bfloat16") for norm in NORMS),
    ],
)
def test_other_strides_corners_and_number_formats_stay_on_their_device(network, precision, device):
    with pretend(device):
        assert audit(training_step(network, precision, device), device) == []


@pytest.mark.parametrize(
    ("mistake", "what"),
    [
        (lambda module, given, answer: answer + torch.zeros(5, 1, 1, 1), "works on cpu"),
        (lambda module, given, answer: answer * answer.mean().item(), "reads a number on the host"),
    ],
    ids=["zeros without a device", "item"],
)
def test_a_mistake_in_the_network_is_found_in_the_training(mistake, what, make_trainer):
    with pretend(META):
        trainer = make_trainer(META)
        trainer.network.register_forward_hook(mistake)
        found = audit(trainer.run, META)
    assert (what, "tests/test_device_audit.py") in {(one.what, one.file) for one in found}


@pytest.mark.parametrize(
    ("mistake", "what"),
    [
        (lambda gradient: gradient + torch.zeros(1), "works on cpu"),
        (lambda gradient: gradient * gradient.norm().item(), "reads a number on the host"),
    ],
    ids=["zeros without a device", "item"],
)
def test_a_mistake_in_the_backward_pass_is_found_in_the_training(mistake, what, make_trainer):
    with pretend(META):
        trainer = make_trainer(META)
        trainer.network.head.weight.register_hook(mistake)
        found = audit(trainer.run, META)
    assert (what, "tests/test_device_audit.py") in {(one.what, one.file) for one in found}


def test_weights_of_the_loss_that_were_left_behind_are_found_in_the_training(make_trainer):
    with pretend(META):
        trainer = make_trainer(META)
        trainer.loss_function.loss.pos_weight = torch.ones(5, 1, 1, 1)
        found = audit(trainer.run, META)
    assert any("cpu" in one.what for one in found)


# Tomograms


def audit_of_windows(device, precision="float32", **settings):
    """Return what happens in a tomogram, as lists of violations: before its first window, and in each window.

    The last list also has what happens after its last window.
    """
    inferer = TomogramInferer((32, 48, 48), precision=precision, **settings)
    network = tiny_network(output_stride=2, align_corners=False).eval().to(device)
    volume = torch.rand(1, 1, 32, 72, 71, device=device)
    marks = []
    network.register_forward_pre_hook(lambda *_: marks.append(len(auditor.found)))
    with torch.no_grad(), pretend(device), Auditor(device) as auditor, CopiedNumbers(auditor):
        logits = inferer(volume, network)
    assert (logits.shape, logits.device) == ((1, 2, 16, 36, 36), device)
    views = len(list(inferer.views()))
    return [auditor.found[start:end] for start, end in zip([0, *marks[::views]], [*marks[::views], None], strict=True)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"rotations": 2, "flips": ("x",)}, {"precision": "bfloat16"}, {"precision": "float16"}],
    ids=["one view", "views", "bfloat16", "float16"],
)
def test_a_window_is_waited_for_once_to_see_whether_its_logits_are_finite(settings, device):
    before, *windows = audit_of_windows(device, **settings)
    assert len(windows) == 4
    assert not [one for one in before if "reads" in one.what or "waits" in one.what]
    for window in windows:
        waits = [one for one in window if "reads" in one.what or "waits" in one.what]
        assert len(waits) <= 1, list(map(str, waits))
        assert not [one for one in window if one.what.startswith(f"copies from {device}")]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("settings", [{}, {"flips": ("x",)}], ids=["one view", "views"])
def test_a_window_is_turned_answered_and_blended_on_its_device(settings, device):
    _, *windows = audit_of_windows(device, **settings)
    assert {str(one) for window in windows for one in window if "reads" not in one.what} == set()
