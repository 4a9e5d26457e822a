"""What a tomogram's sample holds once the postprocessing is done: its truth, its picture, what its page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ignite.engine import Engine
from matplotlib.figure import Figure
from monai.data import MetaTensor

from scripts.coordinates import voxel_size_of
from scripts.pages.figures import overlay_figure
from scripts.pages.run_page import Tomogram
from scripts.picking.image_picks import true_picks
from scripts.picking.pick_transform import picks_of
from scripts.picks import Pick
from scripts.preparation.image_facts import original_affine_of
from scripts.species import SpeciesSet


def samples_of(engine: Engine) -> list[dict[str, Any]]:
    """Return the samples of a batch as the postprocessing left them."""
    output: Any = engine.state.output
    return list(output)


def true_picks_of(sample: Mapping[str, Any], species_set: SpeciesSet, voxel_offset: float = 0.0) -> list[Pick]:
    """Return the true particles of a sample, from its ``label`` ``(N, 4)``."""
    return true_picks(sample["label"], species_set, sample["result"]["run"], sample["image"], voxel_offset)


def picture_of(sample: Mapping[str, Any], species_set: SpeciesSet, truth: Sequence[Pick] | None = None) -> Figure:
    """Return the picture of a sample's tomogram, as the network saw it, with its picks."""
    image: MetaTensor = sample["image"]
    here, own = voxel_size_of(image.affine), voxel_size_of(original_affine_of(image))

    def drawn(pick: Pick) -> Pick:  # where the volume was resampled, its voxels are not the tomogram's
        x, y, z = (value * own / here for value in (pick.x_voxel, pick.y_voxel, pick.z_voxel))
        return replace(pick, x_voxel=x, y_voxel=y, z_voxel=z)

    picks = [drawn(pick) for pick in picks_of(sample)]
    truths = None if truth is None else [drawn(pick) for pick in truth]
    title = f"{sample['result']['run']}: {len(picks)} picks"
    return overlay_figure(image[0].cpu().numpy(), picks, species_set, here, title, truths)


def tomogram_of(sample: Mapping[str, Any]) -> Tomogram:
    """Return a sample's tomogram, as the network saw it."""
    image: MetaTensor = sample["image"]
    own = voxel_size_of(original_affine_of(image))
    return Tomogram(sample["result"]["run"], image[0].cpu().numpy(), voxel_size_of(image.affine), own)
