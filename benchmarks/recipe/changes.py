"""The changes of the training recipe that are screened."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from monai.transforms import RandomizableTransform
from networks.definitions import CONFIGS_DIR, NETWORKS
from scripts.networks.convnext_unet import MIDDLE_GREY
from scripts.species import SpeciesSet
from torch import Tensor

BASE = "base"  # the row that all others are compared with, and the config key with the values that changes start from
BASE_VALUES = ("batch_size", "windows_per_epoch", "learning_rate", "positive_weights")
CUT, PAINT, FLIP_Z = (f"train#window#{place}" for place in range(3))


@dataclass(frozen=True)
class Change:
    """A change of the recipe.

    Attributes:
        sentence: what it is, for readers of the table.
        settings: other values of keys of ``train.json``; ``@base#KEY`` is the value that KEY has without the change.
        before_painting: transforms of a window whose target is not painted yet.
        after_painting: transforms of a window after all others.
    """

    sentence: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    before_painting: Sequence[Mapping[str, Any]] = ()
    after_painting: Sequence[Mapping[str, Any]] = ()

    def definition(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return asdict(self)

    def apply(self, parser: ConfigParser) -> None:
        """Make the change in the config of a training."""
        own = copy.deepcopy(self)  # the parser writes references in it anew
        parser[BASE] = {key: parser[key] for key in BASE_VALUES}
        for key, value in own.settings.items():
            parser[key] = value
        cut, *others, as_tensors = parser["train#window"]
        parser["train#window"] = [cut, *own.before_painting, *others, *own.after_painting, as_tensors]


def with_target_radii(species_set: SpeciesSet, factor: float) -> SpeciesSet:
    """Return the species with larger or smaller targets."""
    known = [replace(one, target_radius_angstrom=factor * one.target_radius_angstrom) for one in species_set.known]
    return replace(species_set, known=tuple(known))


def with_equal_weights(species_set: SpeciesSet) -> SpeciesSet:
    """Return the species, all with the weight 1."""
    return replace(species_set, known=tuple(replace(one, weight=1.0) for one in species_set.known))


class RandTurnAndScaled(RandomizableTransform):
    """Turn a window in xy and scale it, about its centre; the true particles move with it.

    It comes before the target is painted, so that image and target agree whatever the network's output stride.

    Args:
        degrees: largest angle, in either direction.
        scaling: largest change of size, as a share.
        prob: share of the windows that are changed.
        image_key: the window ``(1, Z, Y, X)``, Y equal to X.
        label_key: the true particles ``(N, 4)``, rows of label and voxel index.
    """

    def __init__(
        self,
        degrees: float = 0.0,
        scaling: float = 0.0,
        prob: float = 0.75,
        image_key: str = "image",
        label_key: str = "label",
    ) -> None:
        super().__init__(prob)
        self.degrees, self.scaling, self.image_key, self.label_key = degrees, scaling, image_key, label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the sample with both changed, or as it is."""
        sample = dict(data)
        self.randomize(None)
        angle = math.radians(self.R.uniform(-self.degrees, self.degrees))
        size = 1 + self.R.uniform(-self.scaling, self.scaling)
        if self._do_transform:
            image = sample[self.image_key]
            forth = size * torch.tensor(  # of offsets (x, y, z)
                [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0], [0.0, 0.0, 1.0]]
            )
            sample[self.image_key] = resample(image, torch.linalg.inv(forth))
            points = sample[self.label_key].clone()
            centre = (torch.tensor(image.shape[1:], dtype=points.dtype) - 1) / 2
            points[:, 1:] = (points[:, 1:] - centre) @ forth.flip(0, 1).T.to(points.dtype) + centre
            sample[self.label_key] = points
        return sample


def resample(image: Tensor, back: Tensor) -> Tensor:
    """Return a window ``(1, Z, Y, X)`` whose voxel at an offset (x, y, z) from the centre is taken from ``back`` of it.

    Turns are in xy, where the window is as long as it is wide. Beyond its faces the window is mirrored.
    """
    whole = image.float()[None]
    theta = torch.cat([back, torch.zeros(3, 1)], dim=1)[None]
    grid = F.affine_grid(theta, list(whole.shape), align_corners=False)
    return F.grid_sample(whole, grid, padding_mode="reflection", align_corners=False)[0]


def _optimizer(name: str, **settings: Any) -> dict[str, Any]:
    changed = {"_target_": f"torch.optim.{name}", **settings}
    return {f"optimizer#{key}": value for key, value in changed.items()}


def _species(place: str, function: str, **settings: Any) -> dict[str, Any]:
    """Return the setting that gives other species to one transform of a window."""
    return {f"{place}#species_set": {"_target_": f"recipe.changes.{function}", "species_set": "@species", **settings}}


def _network(name: str) -> dict[str, Any]:
    """Return the setting for one of the networks that ours is compared with."""
    definition, stride = NETWORKS[name]
    return {"network_def": {"_target_": "networks.definitions.comparable", "network": definition, "stride": stride}}


QUARTER = {"positive_weights": "$[weight / 4 for weight in @base#positive_weights]"}
TVERSKY = {"loss": json.loads((CONFIGS_DIR / "tversky.json").read_text())["loss"]}
CHANGES = {
    BASE: Change("the shipped recipe"),
    "batch_4x": Change(
        "four times the batch, twice the learning rate, a quarter of the steps",
        {"batch_size": "$4 * @base#batch_size", "learning_rate": "$2 * @base#learning_rate"},
    ),
    "batch_quarter": Change(
        "a quarter of the batch, half the learning rate, four times the steps",
        {"batch_size": "$max(1, @base#batch_size // 4)", "learning_rate": "$@base#learning_rate / 2"},
    ),
    "lr_half": Change("half the learning rate", {"learning_rate": "$@base#learning_rate / 2"}),
    "lr_double": Change("twice the learning rate", {"learning_rate": "$2 * @base#learning_rate"}),
    "weight_decay": Change("weight decay 0.1", {"weight_decay": 0.1}),
    "loose_clipping": Change("gradients are clipped at a norm of 10", {"gradient_norm": 10.0}),
    "no_average": Change("the weights of the last step", {"averaging_momentum": 1.0}),
    "fast_average": Change("momentum 0.05 of the average", {"averaging_momentum": 0.05}),
    "slow_average": Change(
        "momentum 0.001 of the average, which differs from the shipped one after 2000 steps",
        {"averaging_momentum": 0.001},
    ),
    "radam": Change("RAdam with decoupled weight decay", _optimizer("RAdam", decoupled_weight_decay=True)),
    "nadam": Change("NAdam with decoupled weight decay", _optimizer("NAdam", decoupled_weight_decay=True)),
    "beta_099": Change("AdamW with 0.99 for its second average", {"optimizer#betas": [0.9, 0.99]}),
    "positive_quarter": Change("a quarter of the positive weights", QUARTER),
    "bce_tversky": Change("plus a Tversky loss in which a missed voxel counts twice as much as a wrong one", TVERSKY),
    "tversky_quarter": Change("that Tversky loss and a quarter of the positive weights", {**TVERSKY, **QUARTER}),
    "focal": Change(
        "focal loss, gamma 2; alpha weighs positive voxels as the mean of the positive weights does",
        {
            "loss": {
                "_target_": "FocalLoss",
                "gamma": 2.0,
                "alpha": "$1 - 1 / (1 + sum(@positive_weights) / len(@positive_weights))",
            }
        },
    ),
    "small_spheres": Change("0.8 times the target radii", _species(PAINT, "with_target_radii", factor=0.8)),
    "large_spheres": Change("1.25 times the target radii", _species(PAINT, "with_target_radii", factor=1.25)),
    "soft_targets": Change(
        "Gaussians of 30 Å as targets",
        {"painter": {"_target_": "scripts.training.heat_maps.HeatMaps", "sigma_angstrom": 30.0}},
    ),
    "few_particles": Change("a quarter of the windows around a particle", {"particle_share": 0.25}),
    "many_particles": Change("nine in ten windows around a particle", {"particle_share": 0.9}),
    "equal_species": Change("windows around every species alike", _species(CUT, "with_equal_weights")),
    "window_48": Change(
        "windows of 48 x 64 x 64 voxels: three times as many in as many steps",
        {
            "window_size": [48, 64, 64],
            "batch_size": "$3 * @base#batch_size",
            "windows_per_epoch": "$3 * @base#windows_per_epoch",
        },
    ),
    "contrast": Change(
        "contrast and brightness vary",
        after_painting=[
            {"_target_": "RandScaleIntensityd", "keys": "image", "factors": 0.2, "prob": 0.5},
            {"_target_": "RandShiftIntensityd", "keys": "image", "offsets": 0.1, "prob": 0.5},
        ],
    ),
    "gamma": Change(
        "grey values to a random power",
        after_painting=[{"_target_": "RandAdjustContrastd", "keys": "image", "gamma": [0.7, 1.5], "prob": 0.5}],
    ),
    "noise": Change(
        "noise is added, of half the tomograms' standard deviation at most",
        after_painting=[{"_target_": "RandGaussianNoised", "keys": "image", "std": 0.1, "prob": 0.5}],
    ),
    "blur": Change(
        "windows are blurred, by one voxel at most",
        after_painting=[
            {
                "_target_": "RandGaussianSmoothd",
                "keys": "image",
                **{f"sigma_{axis}": [0.25, 1.0] for axis in "xyz"},
                "prob": 0.5,
            }
        ],
    ),
    "cutout": Change(
        "boxes of 16 voxels are cut out",
        after_painting=[
            {
                "_target_": "RandCoarseDropoutd",
                "keys": "image",
                "holes": 2,
                "max_holes": 8,
                "spatial_size": 16,
                "fill_value": MIDDLE_GREY,
                "prob": 0.5,
            }
        ],
    ),
    "scale": Change(
        "windows are scaled by 3 % at most",
        before_painting=[{"_target_": "recipe.changes.RandTurnAndScaled", "scaling": 0.03}],
    ),
    "small_turns": Change(
        "windows are turned in xy by any angle",
        before_painting=[{"_target_": "recipe.changes.RandTurnAndScaled", "degrees": 45.0}],
    ),
    "no_flip_z": Change("windows are not mirrored in z", {f"{FLIP_Z}#prob": 0.0}),
    "heat_maps": Change(
        "Gaussians of 60 Å as targets, weighted squared error",
        {
            "painter": {"_target_": "scripts.training.heat_maps.HeatMaps", "sigma_angstrom": 60.0},
            "loss": {"_target_": "scripts.training.losses.WeightedSquaredError"},
        },
    ),
    "balanced_heat_maps": Change(
        "Gaussians of 60 Å as targets, balanced squared error",
        {
            "painter": {"_target_": "scripts.training.heat_maps.HeatMaps", "sigma_angstrom": 60.0},
            "loss": {"_target_": "scripts.training.losses.BalancedSquaredError"},
        },
    ),
    "group_norm": Change("group norm", {"network_def#norm": "group"}),
    "gelu": Change("GELU", {"network_def#activation": "gelu"}),
    "full_resolution": Change("one logit per voxel of the tomogram", {"network_def#output_stride": 1}),
    "full_widths": Change(
        "twice the channels everywhere", {"network_def#widths": "full", "network_def#depths": [3, 3, 3, 3]}
    ),
    "unet": Change("MONAI's UNet of the challenge", _network("unet")),
    "flexible_unet": Change("MONAI's FlexibleUNet", _network("flexible_unet")),
    "slice_encoder": Change(
        "the 2.5D network",
        {"window_size": [32, 128, 128], **_network("slice_encoder")},
    ),
}
