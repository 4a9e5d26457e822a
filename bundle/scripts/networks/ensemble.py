"""Ensembles: several networks answer each window, one after the other, and their logits are averaged.

A list of weights files in place of one makes an ensemble. Each member is built by the card beside its weights, so that
networks of unlike families can be members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scripts.errors import InputError
from scripts.networks.model_card import IDENTITY, Card, needed_card, network_of, sha256_of, species_of
from scripts.networks.recipe import output_stride
from scripts.networks.weights import load_weights
from scripts.records import first_difference
from scripts.settings import check_setting
from scripts.species import SpeciesSet

COMBINATIONS = ("mean", "rank")
HELD_VALUES = 24  # per voxel of the logits, beside a member's: twice those of six species, in float32 for bfloat16

WeightsFiles = str | Path | Sequence[str | Path]


class Ensemble(nn.Module):
    """Several networks whose logits are averaged, with equal weights.

    Logits of a coarser output stride are interpolated, trilinearly, to the largest stride that divides all of them,
    which is the finest one where it divides the others. The members run one after the other, so that the memory is
    that of the largest one, and the logits' sum.

    Args:
        members: at least one; all answer with logits of the same species.
        combination: ``mean`` averages the logits as they are, for members of one family; ``rank`` first replaces those
            of every member by the first member's at equal rank, see `match_ranks`, for members with unlike scales. The
            ranks are those within one window, so the answer depends on the window, whose size is therefore fixed.

    Attributes:
        output_stride: voxels per logit along each axis, see above.
        stride: windows that start at its multiples do so for every member.
        depends_on_window: whether the answer to a voxel depends on which window it is in.
        values_per_voxel: numbers that are held per voxel of a window; missing where a member does not state it.

    Shape:
        ``(B, in_channels, Z, Y, X)`` -> ``(B, out_channels, Z, Y, X)``, logits in float32; the three axes divided by
        ``output_stride`` and rounded up.

    Source:
        Ranks: top solutions of Kaggle's protein challenges. Differs: within windows in place of a whole volume.
    """

    def __init__(self, members: Sequence[nn.Module], combination: str = "mean") -> None:
        super().__init__()
        check_setting("ensemble", combination)
        self.members, self.combination = nn.ModuleList(members), combination
        self.output_stride = math.gcd(*map(output_stride, members))
        self.stride = math.lcm(*(int(getattr(member, "stride", output_stride(member))) for member in members))
        self.depends_on_window = combination == "rank" or any(
            getattr(member, "depends_on_window", True) for member in members
        )
        if all(hasattr(member, "values_per_voxel") for member in members):
            largest = max(float(member.values_per_voxel) for member in members)  # type: ignore[arg-type]
            self.values_per_voxel = largest + HELD_VALUES / self.output_stride**3

    @property
    def has_own_threads(self) -> bool:
        """Whether several windows at a time would gain nothing, see `backends.openvino.OpenVinoNetwork`."""
        return any(getattr(member, "has_own_threads", False) for member in self.members)

    @property
    def fallback(self) -> str:
        """Which members another program runs than was chosen, and why, see `backends.choice.CheckedNetwork`."""
        found = [(number, getattr(member, "fallback", "")) for number, member in enumerate(self.members, 1)]
        return " ".join(f"member {number}: {reason}" for number, reason in found if reason)

    def record(self) -> dict[str, Any]:
        """Return the settings that the picks depend on."""
        return {"combination": self.combination, "members": list(self.members)}

    def forward(self, windows: Tensor) -> Tensor:
        """Return the mean logits of the windows."""
        size = [-(-side // self.output_stride) for side in windows.shape[2:]]
        first, *others = self.members
        like = total = self._answer_of(first, windows, size)
        for member in others:
            answer = self._answer_of(member, windows, size)
            total = total + (answer if self.combination == "mean" else match_ranks(answer, like))
        return total / len(self.members)

    def _answer_of(self, member: nn.Module, windows: Tensor, size: Sequence[int]) -> Tensor:
        """Return a member's logits with the ensemble's output stride, ``size`` along the three axes."""
        logits = refine_logits(member(windows).float(), output_stride(member) // self.output_stride, size)
        release = getattr(member, "release_memory", None)
        if release is not None:  # the next member needs it
            release()
        return logits


def refine_logits(logits: Tensor, factor: int, size: Sequence[int]) -> Tensor:
    """Interpolate logits to a finer grid.

    Args:
        logits: ``(B, C, Z, Y, X)``.
        factor: voxels of the finer grid per voxel along each axis; voxel ``i`` covers those from ``factor * i``.
        size: of the finer grid ``(z, y, x)``; what lies beyond is cut off.
    """
    if factor > 1:
        logits = F.interpolate(logits, scale_factor=factor, mode="trilinear", align_corners=False)
    return logits[:, :, : size[0], : size[1], : size[2]]


def match_ranks(logits: Tensor, like: Tensor) -> Tensor:
    """Replace logits by those of another network at equal rank, for each window and species alone.

    The order of the voxels stays, and equal ones stay equal; the scale becomes the other network's. NaN and infinity
    stay, so that they are noticed.

    Args:
        logits: ``(B, C, Z, Y, X)``.
        like: the other network's, of the same shape.
    """
    flat, scale = logits.flatten(2).contiguous(), like.flatten(2).sort(dim=-1).values
    ordered = flat.sort(dim=-1).values
    below = torch.searchsorted(ordered, flat)
    not_above = torch.searchsorted(ordered, flat, right=True)
    rank = (below + not_above - 1).div(2, rounding_mode="floor").clamp(min=0)  # the middle of equal ones
    return torch.where(flat.isfinite(), scale.gather(-1, rank), flat).view_as(logits)


def network_of_files(checkpoint_path: WeightsFiles, ensemble: str = "mean") -> nn.Module:
    """Build the network of a weights file, or the ensemble of a list of them; the weights are not loaded.

    Args:
        checkpoint_path: the file or the files, each with its card.
        ensemble: see `Ensemble`.

    Raises:
        InputError: see `model_card.network_of`; there is no such combination; the list is empty, two files are the
            same, or their networks pick other species, take other voxels or, with ``mean``, learned other targets.
    """
    check_setting("ensemble", ensemble)
    paths = [Path(checkpoint_path)] if isinstance(checkpoint_path, str | Path) else files_of(checkpoint_path)
    if len(paths) == 1 and ensemble != COMBINATIONS[0]:
        raise InputError(
            f"ensemble {ensemble} needs several weights: name more in checkpoint_path, or leave ensemble out."
        )
    if isinstance(checkpoint_path, str | Path):
        return network_of(checkpoint_path)
    check_members(paths, ensemble)
    return Ensemble([network_of(path) for path in paths], ensemble)


def load_files(
    network: nn.Module,
    path: WeightsFiles,
    species_set: SpeciesSet | None = None,
    painter: Any = None,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Load a weights file into a network, or a list of them into an ensemble, see `weights.load_weights`.

    Args:
        network: from `network_of_files`.
        path: the file or the files.
        species_set: the species to pick; None skips this check.
        painter: what painted the targets of the network, or of the first member; None skips this check.
        device: where the network is.

    Returns:
        The network, in evaluation mode.

    Raises:
        InputError: see `weights.load_weights`; or there are several files, and the network is no ensemble.
    """
    if isinstance(path, str | Path):
        return load_weights(network, path, species_set, painter, device)
    if not isinstance(network, Ensemble):
        raise InputError(
            f"checkpoint_path is a list, and network_def one network, {type(network).__name__}: leave network_def out, "
            "so that each file's card gives its network; or give one file."
        )
    for member, file in zip(network.members, files_of(path), strict=True):
        load_weights(member, file, species_set, painter if member is network.members[0] else None, device)
    return network.eval()


def species_of_files(
    checkpoint_path: WeightsFiles, species_path: str | Path | None = None, probability_thresholds: Any = None
) -> SpeciesSet:
    """Return the species that a model picks, see `model_card.species_of`; of a list, with the first file's thresholds.

    Raises:
        InputError: see `model_card.species_of`; or the list is empty.
    """
    first = checkpoint_path if isinstance(checkpoint_path, str | Path) else files_of(checkpoint_path)[0]
    return species_of(first, species_path, probability_thresholds)


def sha256_of_files(path: WeightsFiles) -> str | list[str]:
    """Return the SHA-256 of a file; of a list of files, a list."""
    return sha256_of(path) if isinstance(path, str | Path) else [sha256_of(file) for file in files_of(path)]


def files_of(checkpoint_path: Sequence[str | Path]) -> list[Path]:
    """Return the files of a list.

    Raises:
        InputError: there are none.
    """
    if not checkpoint_path:
        raise InputError("checkpoint_path names no file: give one weights file, or several for an ensemble.")
    return [Path(path) for path in checkpoint_path]


def check_members(paths: Sequence[Path], ensemble: str) -> None:
    """Check that the networks of some files answer the same question.

    Args:
        paths: the files, each with its card.
        ensemble: see `Ensemble`.

    Raises:
        InputError: two files are the same, or their networks pick other species, take other voxels or, with ``mean``,
            learned other targets.
    """
    cards = [needed_card(path, "another checkpoint_path") for path in paths]
    for path, other in combinations(paths, 2):
        if sha256_of(path) == sha256_of(other):
            raise InputError(f"{path} and {other} hold the same weights: name each member of an ensemble once.")
    first, wanted = paths[0], cards[0]
    for path, card in zip(paths[1:], cards[1:], strict=True):
        found = first_difference(_answers_of(wanted), _answers_of(card))
        if found:
            raise InputError(f"{path} is of other species or voxels than {first}: {found}. Leave one of them out.")
        found = first_difference(wanted["painter"], card["painter"])
        if found and ensemble == "mean":
            raise InputError(
                f"{path} learned other targets than {first}, so that their logits have unlike scales: painter {found}. "
                "Set ensemble to 'rank', or leave one of them out."
            )


def _answers_of(card: Card) -> dict[str, Any]:
    """Return what a network's channels mean, and the size of its voxels."""
    rows = {name: {key: row[key] for key in ("label", *IDENTITY)} for name, row in card["species"].items()}
    return {"voxel_size_angstrom": card["voxel_size_angstrom"], "names": list(rows), "species": rows}
