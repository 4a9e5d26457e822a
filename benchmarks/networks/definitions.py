"""Which networks are compared, and what all runs of a comparison have in common."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from scripts.atomic_files import require_writable
from scripts.datasets.runs import require_runs
from scripts.datasets.truth import TRUTH_TABLE, list_labelled_runs
from scripts.errors import InputError, chain_of
from scripts.networks.model_card import sha256_of
from scripts.networks.recipe import pass_on
from torch import Tensor, nn

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
CONFIGS_DIR = BUNDLE / "configs"
CONFIGS = [CONFIGS_DIR / name for name in ("train.json", "evaluate.json", "species.json")]
TRAINING, EVALUATION = CONFIGS[:1], CONFIGS[:2]
PRIOR = 1e-3  # probability that every untrained network predicts for a voxel
OWN_NETWORK = "network_def#"  # settings of our network alone
PROBE_SIDE = 32  # voxels; divisible by the stride of every network here

# The config of every network, and the number of voxels that the sides of its windows must be a multiple of. Ours is in
# train.json, the 2.5D network in its overlay; both pad their windows themselves.
THREE_DIMENSIONS = {"spatial_dims": 3, "in_channels": 1, "out_channels": "$len(@species.picked)"}
NETWORKS: dict[str, tuple[dict[str, Any] | None, int]] = {
    "ours": (None, 1),
    "unet": (
        {
            "_target_": "monai.networks.nets.UNet",
            **THREE_DIMENSIONS,
            "channels": [48, 64, 80, 80],
            "strides": [2, 2, 1],
            "num_res_units": 1,
        },
        4,
    ),
    "flexible_unet": (
        {
            "_target_": "monai.networks.nets.FlexibleUNet",
            **THREE_DIMENSIONS,
            "backbone": "resnet34",
            "pretrained": False,
        },
        32,
    ),
    "segresnet": ({"_target_": "monai.networks.nets.SegResNet", **THREE_DIMENSIONS, "init_filters": 16}, 8),
    "dynunet": (
        {
            "_target_": "monai.networks.nets.DynUNet",
            **THREE_DIMENSIONS,
            "kernel_size": [3, 3, 3, 3, 3],
            "strides": [1, 2, 2, 2, 2],
            "upsample_kernel_size": [2, 2, 2, 2],
        },
        16,
    ),
    "slice_encoder": (json.loads((CONFIGS_DIR / "slice_encoder.json").read_text())["network_def"], 1),
}
NEEDS_TIMM = ("slice_encoder",)
MEMORY_FORMATS = {"contiguous": "$torch.contiguous_format", "channels_last_3d": "$torch.channels_last_3d"}
FORMATS = [f"{precision}, {order}" for precision, order in product(("float32", "bfloat16"), MEMORY_FORMATS)]


@dataclass(frozen=True)
class Plan:
    """What all runs of a comparison have in common.

    Attributes:
        dataset_dir: the folder with all runs and their truth.
        validation_runs: names of the runs that thresholds are fitted on.
        test_runs: names of the runs that are scored; all others are trained on.
        budget: how long each network may train.
        output_dir: where the results are written.
        settings: other values of keys of ``train.json``, for every network.
        unit: of the budget, one of `networks.clocks.UNITS`.
        clock: one of `networks.clocks.CLOCKS`.
    """

    dataset_dir: str
    validation_runs: tuple[str, ...]
    test_runs: tuple[str, ...]
    budget: float
    output_dir: Path
    settings: Mapping[str, Any]
    unit: str = "seconds"
    clock: str = "wall"

    def parser(self, files: Sequence[Path] = TRAINING, network: str = "ours", **settings: Any) -> ConfigParser:
        """Return the bundle's configs with a network and other settings.

        Raises:
            InputError: a setting is not in the configs.
        """
        parser = ConfigParser(globals={"comparable": comparable})
        parser.read_config([str(path) for path in files])
        fixed = {"bundle_root": str(BUNDLE), "dataset_dir": self.dataset_dir, "output_dir": str(self.output_dir)}
        for key, value in {**fixed, **self.settings, **settings}.items():
            if key not in parser:
                raise InputError(f"{key} is not a setting of {', '.join(path.name for path in files)}.")
            parser[key] = value
        definition, stride = NETWORKS[network]
        own = parser["network_def"]
        if isinstance(own, dict):  # its settings may refer to each other
            own = {key: _moved(value, "network_def", "compared") for key, value in own.items()}
        parser["compared"] = own if definition is None else definition
        parser["network_def"] = f"$comparable(@compared, {stride})"
        return parser

    @property
    def common_settings(self) -> dict[str, Any]:
        """The settings without those of our network alone."""
        return {key: value for key, value in self.settings.items() if not key.startswith(OWN_NETWORK)}

    def conditions(self) -> dict[str, Any]:
        """Return what results must have in common to be compared in one table, ready for JSON."""
        cuda, species_path = torch.cuda.is_available(), self.settings.get("species_path")
        return {
            "dataset_dir": str(Path(self.dataset_dir).resolve()),
            "truths_sha256": [sha256_of(path) for path in Path(self.dataset_dir).glob(TRUTH_TABLE)],
            "species_sha256": None if species_path is None else sha256_of(species_path),
            "validation_runs": list(self.validation_runs),
            "test_runs": list(self.test_runs),
            f"budget_{self.unit}": self.budget,
            "clock": self.clock,
            "settings": self.common_settings,
            "configs_sha256": hashlib.sha256(b"".join(path.read_bytes() for path in CONFIGS)).hexdigest(),
            "device": torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
        }

    def check(self) -> None:
        """Check for errors that would otherwise show only after hours.

        Raises:
            InputError: see `check_scored`; or there is no time or no run to train on.
        """
        self.check_scored()
        if not self.budget > 0:
            raise InputError(f"budget_{self.unit} must be positive; got {self.budget}.")
        held_out = [*self.validation_runs, *self.test_runs]
        kind = self.settings.get("tomogram_kind")
        if not list_labelled_runs(self.dataset_dir, without=held_out, tomogram_kind=kind):
            raise InputError(f"{self.dataset_dir} holds no run beside {', '.join(held_out)} to train on.")

    def check_scored(self) -> None:
        """Check the runs that are scored, and the folder of the results.

        Raises:
            InputError: a run is missing or is both validated and tested on; or ``output_dir`` cannot be written to.
        """
        twice = sorted(set(self.validation_runs) & set(self.test_runs))
        if twice:
            raise InputError(f"{', '.join(twice)} cannot be both validation_runs and test_runs.")
        kind = self.settings.get("tomogram_kind")
        for names in (self.validation_runs, self.test_runs):
            require_runs(list_labelled_runs(self.dataset_dir, only=names, tomogram_kind=kind), self.dataset_dir)
        require_writable(self.output_dir)


def _moved(value: Any, key: str, new_key: str) -> Any:
    """Return a value of a config with its references to the settings of a key as references to those of another."""
    return re.sub(rf"@{key}(?=#|::)", f"@{new_key}", value) if isinstance(value, str) else value


class PaddedNetwork(nn.Module):
    """A network for windows of any size: they are padded with zeros at the far end, the output is cropped back.

    What the bundle's inference asks a network for is passed on, so that ours is run as it is without this.

    Args:
        network: needs sides that are multiples of ``stride``.
        stride: in voxels; if the network has an attribute of this name, it counts instead.

    Shape:
        ``(B, C, Z, Y, X)`` -> ``(B, channels of the network, Z, Y, X)``, the three axes divided by the network's
        ``output_stride``, if it has one, and rounded up.
    """

    def __init__(self, network: nn.Module, stride: int) -> None:
        super().__init__()
        self.network, self.stride = network, stride
        self.output_stride = 1
        pass_on(network, self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's output."""
        depth, height, width = x.shape[2:]
        missing = [-size % self.stride for size in (depth, height, width)]
        if any(missing):
            x = F.pad(x, [0, missing[2], 0, missing[1], 0, missing[0]])
        answer: Tensor = self.network(x)
        depth, height, width = (-(-size // self.output_stride) for size in (depth, height, width))
        return answer[:, :, :depth, :height, :width]


def comparable(network: nn.Module, stride: int) -> PaddedNetwork:
    """Return a network for windows of any size, whose untrained output is the probability `PRIOR` for every voxel."""
    nn.init.constant_(head_bias(network), math.log(PRIOR / (1 - PRIOR)))
    return PaddedNetwork(network, stride)


def head_bias(network: nn.Module) -> nn.Parameter:
    """Return the bias of the last convolution: a number per species, or several that become neighbouring voxels.

    It is identified by its effect, whatever the names of the network's parts: it is added to every voxel's logit.
    """
    training = network.training
    logits = network.eval()(torch.zeros(1, 1, PROBE_SIDE, PROBE_SIDE, PROBE_SIDE))
    network.train(training)
    species, voxels = logits.shape[1], float(logits[0, 0].numel())
    biases = [value for value in network.parameters() if value.ndim == 1 and len(value) % species == 0]
    gradients = torch.autograd.grad(logits.sum(), biases, allow_unused=True) if biases else []
    for bias, gradient in zip(biases, gradients, strict=True):
        if gradient is not None and torch.allclose(gradient, torch.tensor(voxels * species / len(bias)), rtol=1e-3):
            return bias
    raise ValueError(f"the last convolution of {type(network).__name__} needs a bias, for the prior")


def build_networks(plan: Plan, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Build every network once; return its settings and its number of parameters.

    Raises:
        InputError: a network needs a package that is not installed, or its settings are wrong.
    """
    facts: dict[str, dict[str, Any]] = {}
    for name in names:
        parser = plan.parser(network=name)
        try:
            network = parser.get_parsed_content("network_def")
        except (ImportError, RuntimeError) as error:  # MONAI wraps what a constructor raises
            causes = list(chain_of(error))
            missing = [cause for cause in causes if isinstance(cause, ImportError)]
            why = (
                f"needs a package that is not installed: {missing[0]}" if missing else f"cannot be built: {causes[-1]}"
            )
            raise InputError(f"the network {name} {why}. Leave it out of networks, or change that.") from error
        settings = {key: parser.get_parsed_content(f"compared#{key}") for key in parser["compared"]}
        parameters = sum(value.numel() for value in network.parameters())
        facts[name] = {"definition": json.loads(json.dumps(settings)), "parameters": parameters}
    return facts


def format_settings(chosen: str) -> dict[str, Any]:
    """Return the settings of ``train.json`` for one of `FORMATS`."""
    precision, order = chosen.split(", ")
    return {"precision": precision, "memory_format": MEMORY_FORMATS[order]}


def settings_of(text: str) -> dict[str, Any]:
    """Return the settings of a command line, keys of ``train.json`` as JSON.

    Raises:
        InputError: it is no JSON object.
    """
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise InputError(f"settings is not valid JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise InputError(f"settings must be a JSON object of keys of train.json; got {text}.")
    return settings
