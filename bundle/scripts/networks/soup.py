"""Soups: the mean of the weights of several networks of one kind, in one file that costs no more than one of them.

From the folder ``bundle``: ``python -m scripts.networks.soup NEW.pt FIRST.pt SECOND.pt ...``
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from scripts.errors import InputError, run_tool
from scripts.networks.ensemble import check_members
from scripts.networks.model_card import BEHIND_KEYS, FIRST_SHA256, card_path, needed_card, network_of, sha256_of
from scripts.networks.recipe import recipe_of
from scripts.networks.weights import as_bytes, load_weights, save_model
from scripts.records import first_difference

AVERAGED_FROM = "averaged_from"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.networks.soup", description="Average the weights of networks of one kind."
    )
    parser.add_argument("new", metavar="NEW.pt", type=Path, help="the file to write, with its card")
    parser.add_argument("files", metavar="FILE.pt", type=Path, nargs="+", help="two weights files or more")
    options = parser.parse_args(arguments)
    return run_tool(lambda: write_soup(options.new, options.files))


def write_soup(new: Path, paths: Sequence[Path]) -> None:
    """Write the mean of the weights of several files, and its card: the first file's, without fits and scores.

    Args:
        new: the file to write.
        paths: the files, each with its card.

    Raises:
        InputError: there is one file only, one of them is missing, damaged or a second look, they are of unlike
            networks, species, voxel sizes or targets, or ``new`` is there already.
    """
    if len(paths) < 2:
        raise InputError(f"{paths[0]} alone is its own mean: name two weights files or more.")
    for there in (new, card_path(new)):
        if there.exists():
            raise InputError(f"{there} is there already: choose another name.")
    check_members(paths, "mean")
    cards = [needed_card(path, "another file") for path in paths]
    for path, card in zip(paths, cards, strict=True):
        if card.get(FIRST_SHA256):
            raise InputError(f"{path} is a second look, whose calibration holds for it alone: average first networks.")
    networks = [load_weights(network_of(path), path) for path in paths]
    for path, network in zip(paths, networks, strict=True):
        found = first_difference(recipe_of(networks[0]), recipe_of(network))
        if found:
            raise InputError(f"{path} is of another network than {paths[0]}, so their weights have no mean: {found}.")
    unknown = (
        *("thresholds_fitted_on", "thresholds_fitted_for", "thresholds_kept"),
        *("started_from", "species_at_start", "steps", "validation_score"),
    )
    facts = {
        **dict.fromkeys(unknown),
        **{key: sorted({run for card in cards for run in card.get(key) or ()}) for key in BEHIND_KEYS},
        AVERAGED_FROM: [sha256_of(path) for path in paths],
        "command": shlex.join(["python", "-m", "scripts.networks.soup", str(new), *map(str, paths)]),
    }
    save_model(new, as_bytes(mean_weights([network.state_dict() for network in networks])), {**cards[0], **facts})


def mean_weights(tables: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of tables of weights of one network, and of the statistics of its batch norms.

    Numbers that are no fractions, the batches that a norm has seen, are the first table's.
    """
    return {
        name: torch.stack([table[name] for table in tables]).double().mean(dim=0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in tables[0].items()
    }


if __name__ == "__main__":
    sys.exit(main())
