"""A 2.5D network: a 2D backbone of timm on every slice, a 3D decoder, and pixel shuffle up to the logits."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.errors import InputError, blame, reason_of
from scripts.networks.convnext_unet import ACTIVATIONS, GREY_SPREAD, MIDDLE_GREY, conv_then_norm, make_norm
from scripts.networks.cpu_layers import WithFlatKernels, activate
from scripts.networks.recipe import recorded
from scripts.networks.weights import read_bytes, read_tensors
from scripts.rules import POSITIVE_NUMBERS, a_number, one_of

STAGE_STRIDES = (4, 8, 16, 32)  # of a backbone's last four stages, along y and x
STAGE_STEPS = (1, 2, 4, 8)  # the same along z
DEPTH_POOLINGS = {"mean": nn.AvgPool3d, "max": nn.MaxPool3d}
# Families whose answer depends on a limited surrounding only: they have no squeeze and excitation, no attention and no
# norm over whole slices. The windows of all others have a fixed size.
LOCAL_BACKBONES = re.compile(r"convnext_.*|regnetx_\d+|resnet\d+[cdst]?")


class PooledPairs(nn.Module):
    """Pool every two neighbouring slices into one.

    Args:
        depth_pooling: ``mean`` or ``max``.

    Shape:
        ``(slices, ., ., .)``, an even number of slices of every window -> ``(slices / 2, ., ., .)``.
    """

    def __init__(self, depth_pooling: str) -> None:
        super().__init__()
        self.pool = DEPTH_POOLINGS[depth_pooling]((2, 1, 1))

    def forward(self, slices: Tensor) -> Tensor:
        """Return half as many slices."""
        answer: Tensor = self.pool(slices.transpose(0, 1)[None])[0].transpose(0, 1)
        return answer


class SliceEncoder(WithFlatKernels):
    """A 2D backbone that sees every slice alone; between its stages, pairs of slices become one.

    Args:
        backbone: name of one of timm's convolutional networks.
        depth_pooling: how pairs are pooled, ``mean`` or ``max``.
        weights_path: file of weights that the backbone starts from; None for new ones.

    Shape:
        ``(B, 1, Z, Y, X)``, Z a multiple of 8, Y and X of 32 -> for each stage ``i``, from fine to coarse,
        ``(B, channels[i], Z / STAGE_STEPS[i], Y / STAGE_STRIDES[i], X / STAGE_STRIDES[i])``.

    Raises:
        InputError: timm is missing, has no such network or one of another form; the weights are of another network.
    """

    def __init__(self, backbone: str, depth_pooling: str, weights_path: str | Path | None = None) -> None:
        super().__init__()
        self.stages = create_backbone(backbone, weights_path)
        self.channels: list[int] = self.stages.feature_info.channels()  # type: ignore[union-attr,operator]
        for container, key in first_layers_after_stages(self.stages):
            container.add_module(key, nn.Sequential(PooledPairs(depth_pooling), container.get_submodule(key)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of the stages."""
        batch, depth = x.shape[0], x.shape[2]
        slices: list[Tensor] = self.stages(x.transpose(1, 2).flatten(0, 1))
        features: list[Tensor] = []
        for of_stage in slices:
            features.append(of_stage.unflatten(0, [batch, depth]).transpose(1, 2))
            depth = depth // 2
        return features


class ConvNormActivation(nn.Module):
    """A convolution of 3 x 3 x 3 voxels, a norm and an activation.

    Shape:
        ``(B, in_channels, Z, Y, X)`` -> ``(B, out_channels, Z / step, Y, X)``.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str, activation: str, step: int = 1) -> None:
        super().__init__()
        self.activation = activation
        self.conv = nn.Conv3d(in_channels, out_channels, 3, (step, 1, 1), padding=1, bias=norm == "none")
        self.norm = make_norm(norm, out_channels)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of the next layer."""
        x = self.norm(self.conv(x)) if torch.jit.is_scripting() else conv_then_norm(x, self.conv, self.norm)
        return activate(x, self.activation)


class Join(nn.Module):
    """A level of the decoder: features of the level below, upsampled to those of the encoder and joined with them.

    Shape:
        ``(B, below, ., ., .)`` and ``(B, skipped, Z, Y, X)`` -> ``(B, out_channels, Z / step, Y, X)``.
    """

    def __init__(self, below: int, skipped: int, out_channels: int, norm: str, activation: str, step: int) -> None:
        super().__init__()
        self.skip = ConvNormActivation(skipped, out_channels, norm, activation, step)
        self.join = ConvNormActivation(below + out_channels, out_channels, norm, activation)

    def forward(self, x: Tensor, skipped: Tensor) -> Tensor:
        """Return the features of this level."""
        skipped = self.skip(skipped)
        size = [skipped.shape[2], skipped.shape[3], skipped.shape[4]]
        x = F.interpolate(x, size=size, mode="trilinear", align_corners=False)
        answer: Tensor = self.join(torch.cat([x, skipped], dim=1))
        return answer


@recorded(without=["prior", "backbone_weights_path"])
class SliceEncoderUNet(nn.Module):
    """2D encoder that sees the slices along z one by one, 3D decoder, and pixel shuffle up to the logits.

    Windows may have any size: each axis is padded with zeros at its far end to a multiple of what the network needs,
    and the output is cropped back. Output voxel ``i`` covers the ``output_stride`` input voxels from
    ``output_stride * i``.

    Args:
        out_channels: one logit per species.
        backbone: name of one of timm's convolutional networks with stages of stride 4, 8, 16 and 32.
        decoder_widths: channels of the decoder at these four stages, from fine to coarse.
        depth_pooling: how pairs of slices become one between the stages, ``mean`` or ``max``.
        finest_stage: stage that the decoder ends at: 0 is that of stride 4; from a later one, pixel shuffle goes
            further up.
        output_stride: 1 or 2, voxels per logit along each axis.
        norm: of the decoder, see `convnext_unet.make_norm`.
        activation: of the decoder, ``gelu`` or ``relu``.
        backbone_weights_path: file that the untrained network takes the backbone's weights from (``.safetensors``, or
            ``.pt`` of `torch.save`), trained with any number of channels; None for new weights.
        prior: probability that the untrained network predicts for every voxel; sets the head's bias.

    Shape:
        ``(B, 1, Z, Y, X)`` -> ``(B, out_channels, Z, Y, X)``, logits; the three axes divided by ``output_stride`` and
        rounded up.

    Raises:
        InputError: a setting is wrong, or a case of `SliceEncoder`.

    Source:
        The fourth-placed solution of the CZII CryoET Object Identification challenge, as far as it is published.
    """

    def __init__(
        self,
        out_channels: int = 5,
        backbone: str = "convnext_atto",
        decoder_widths: Sequence[int] = (32, 64, 128, 256),
        depth_pooling: str = "mean",
        finest_stage: int = 0,
        output_stride: int = 2,
        norm: str = "batch",
        activation: str = "relu",
        backbone_weights_path: str | Path | None = None,
        prior: float = 1e-3,
    ) -> None:
        super().__init__()
        _check_choices(decoder_widths, depth_pooling, finest_stage, output_stride, activation, prior)
        self.output_stride, self.stride, self.stride_z = output_stride, STAGE_STRIDES[-1], STAGE_STEPS[-1]
        self.middle_grey, self.grey_spread = MIDDLE_GREY, GREY_SPREAD  # which TorchScript takes from attributes only
        is_local = LOCAL_BACKBONES.fullmatch(backbone.partition(".")[0]) is not None
        self.depends_on_window = not is_local or norm in ("group", "instance")
        self.encoder = SliceEncoder(backbone, depth_pooling, backbone_weights_path)
        channels = self.encoder.channels
        self.coarsest = ConvNormActivation(channels[-1], decoder_widths[-1], norm, activation)
        self.grow = nn.ModuleList(
            Join(
                decoder_widths[stage + 1],
                channels[stage],
                decoder_widths[stage],
                norm,
                activation,
                step=max(output_stride // STAGE_STEPS[stage], 1),
            )
            for stage in reversed(range(finest_stage, len(channels) - 1))
        )
        up_z = max(STAGE_STEPS[finest_stage] // output_stride, 1)
        up_yx = STAGE_STRIDES[finest_stage] // output_stride
        self.up = (up_z, up_yx, up_yx)
        self.head = nn.Conv3d(decoder_widths[finest_stage], out_channels * math.prod(self.up), 1)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias, math.log(prior / (1 - prior)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every voxel."""
        step, depth, height, width = self.output_stride, x.shape[2], x.shape[3], x.shape[4]
        x = F.pad(x, [0, -width % self.stride, 0, -height % self.stride, 0, -depth % self.stride_z])
        features = self.encoder((x - self.middle_grey) / self.grey_spread)
        x = self.coarsest(features.pop())
        for level in self.grow:
            x = level(x, features.pop())
        x = shuffled_up(self.head(x), self.up)
        return x[:, :, : (depth + step - 1) // step, : (height + step - 1) // step, : (width + step - 1) // step]


def shuffled_up(x: Tensor, up: tuple[int, int, int]) -> Tensor:
    """Rearrange channels into voxels, `torch.nn.functional.pixel_shuffle` for volumes.

    Args:
        x: ``(B, channels * up[0] * up[1] * up[2], Z, Y, X)``.
        up: voxels along each axis that come from one.

    Returns:
        ``(B, channels, Z * up[0], Y * up[1], X * up[2])``.
    """
    x = x.unflatten(1, [-1, up[0], up[1], up[2]])
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _check_choices(
    decoder_widths: Sequence[int],
    depth_pooling: str,
    finest_stage: int,
    output_stride: int,
    activation: str,
    prior: float,
) -> None:
    stages = len(STAGE_STRIDES)
    POSITIVE_NUMBERS.require("decoder_widths", decoder_widths)
    if len(decoder_widths) != stages:
        raise InputError(f"decoder_widths needs one entry per stage, {stages}; got {decoder_widths}.")
    one_of(*DEPTH_POOLINGS).require("depth_pooling", depth_pooling)
    a_number(0, stages - 1, whole=True).require("finest_stage", finest_stage)
    one_of(1, 2).require("output_stride", output_stride)
    one_of(*ACTIVATIONS).require("activation", activation)
    a_number(above=0, below=1).require("prior", prior)


def create_backbone(name: str, weights_path: str | Path | None = None) -> nn.Module:
    """Return the last four stages of one of timm's networks, for one channel; nothing is downloaded.

    Args:
        name: for example ``convnext_nano``.
        weights_path: file of its weights, for any number of channels; None for new ones.

    Raises:
        InputError: see `SliceEncoder`.
    """
    timm = import_timm()
    if not timm.is_model(name):  # the name of a model on a server, too
        raise InputError(f"timm {timm.__version__} has no backbone '{name}': choose one of timm.list_models().")
    refusal = f"timm's '{name}' cannot be a backbone: needed are convolutions of any size with strides {STAGE_STRIDES}"
    settings: dict[str, Any] = {"in_chans": 1, "features_only": True, "out_indices": (-4, -3, -2, -1)}
    if weights_path is not None:
        weights = read_backbone_weights(weights_path, name)
        settings |= {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": weights, "source": ""}}
    try:
        stages: nn.Module = timm.create_model(name, **settings)
    except (RuntimeError, AssertionError, IndexError) as error:
        raise InputError(f"{refusal} ({reason_of(error)}).") from error
    strides = tuple(stages.feature_info.reduction())  # type: ignore[union-attr,operator]
    is_chain = len(first_layers_after_stages(stages)) == len(STAGE_STRIDES) - 1
    if strides != STAGE_STRIDES or not is_chain or timm.get_pretrained_cfg(name).fixed_input_size:
        raise InputError(f"{refusal}.")
    stages.pretrained_cfg = None  # type: ignore[assignment]  # holds the weights
    return stages


def import_timm() -> Any:
    """Return the module ``timm``.

    Raises:
        InputError: it is not installed, or does not fit the torch that is installed.
    """
    try:
        import timm
    except ImportError as error:
        raise InputError(f"network_def SliceEncoderUNet needs {error.name}: pip install {error.name}") from error
    except RuntimeError as error:  # as torchvision for another torch says it
        raise InputError(
            f"network_def SliceEncoderUNet needs timm, which cannot be imported ({reason_of(error)}): install the "
            f"torchvision that was built for torch {torch.__version__}."
        ) from error
    return timm


def read_backbone_weights(path: str | Path, name: str) -> dict[str, Any]:
    """Read the weights of one of timm's networks.

    Args:
        path: ``.safetensors``, or a file of `torch.save`.
        name: of the network.

    Raises:
        InputError: the file is missing or damaged, holds more than tensors, or is of another network.
    """
    weights = _read_safetensors(path) if Path(path).suffix == ".safetensors" else read_tensors(path)
    timm = import_timm()
    first = timm.get_pretrained_cfg(name).first_conv
    kernel = weights.get(f"{first if isinstance(first, str) else first[0]}.weight")
    channels = kernel.shape[1] if isinstance(kernel, Tensor) and kernel.dim() > 1 else 1
    with torch.device("meta"):  # nothing is computed
        wanted = timm.create_model(name, num_classes=0, in_chans=channels).state_dict()
    wrong = [key for key, value in wanted.items() if getattr(weights.get(key), "shape", None) != value.shape]
    wrong = [key for key in wrong if not key.endswith("num_batches_tracked")]
    if wrong:
        raise InputError(f"{path} does not hold the weights of '{name}': {wrong[0]} is missing or has another shape.")
    return weights


def _read_safetensors(path: str | Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise InputError(f"{path} needs safetensors to be read: pip install safetensors") from error
    with blame(path, "safetensors file", (SafetensorError,)):
        weights: dict[str, Tensor] = load(read_bytes(path))
    return weights


def first_layers_after_stages(stages: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return what follows each stage of a backbone but the last: the container it is in, and its name there.

    Args:
        stages: a network of timm's with ``feature_info``, which calls the parts of a container one after the other.
    """
    found: list[tuple[nn.Module, str]] = []
    for stage in stages.feature_info.module_name()[:-1]:  # type: ignore[union-attr,operator]
        is_flat = isinstance(stages, nn.ModuleDict)
        path, _, name = ("", "", stage.replace(".", "_")) if is_flat else stage.rpartition(".")
        container = stages.get_submodule(path)
        names = [child for child, _ in container.named_children()]
        if isinstance(container, nn.ModuleDict | nn.Sequential) and name in names[:-1]:
            found.append((container, names[names.index(name) + 1]))
    return found
