"""What handlers read from a postprocessed sample: its truth, its picture, what its page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from ignite.engine import Engine
from matplotlib.figure import Figure

from scripts.pages.figures import overlay_figure
from scripts.pages.run_page import Tomogram
from scripts.picking.image_picks import is_judged, true_picks
from scripts.picking.pick_transform import picks_of
from scripts.picks import Pick
from scripts.preparation.image_facts import ImageFacts, facts_of_image
from scripts.species import SpeciesSet


def samples_of(engine: Engine) -> list[dict[str, Any]]:
    """Return the postprocessed samples of a batch, together with the other keys that they were prepared with.

    MONAI keeps those, such as what is annotated and the region, in the engine's batch, not in its output.
    """
    output: Any = engine.state.output
    batch: Any = engine.state.batch
    before = batch if isinstance(batch, list) else [{}] * len(output)
    return [{**given, **made} for given, made in zip(before, output, strict=True)]


def image_facts_of(sample: Mapping[str, Any]) -> ImageFacts:
    """Return run, file and grid of a sample's tomogram."""
    return facts_of_image(sample["image"], sample["result"]["run"])


def true_picks_of(sample: Mapping[str, Any], species_set: SpeciesSet, voxel_offset: float = 0.0) -> list[Pick]:
    """Return the true particles of a sample, from its ``label`` ``(N, 4)``."""
    return true_picks(sample["label"], species_set, image_facts_of(sample), voxel_offset)


def judged_picks_of(sample: Mapping[str, Any], species_set: SpeciesSet) -> list[Pick]:
    """Return the picks of a sample that count as right or wrong, see `picking.image_picks.is_judged`."""
    picks, facts = picks_of(sample), image_facts_of(sample)
    places = facts.from_own_voxels(np.array([pick.zyx_voxel for pick in picks]).reshape(-1, 3))
    names, judged = np.array([pick.species for pick in picks]), np.ones(len(picks), dtype=bool)
    for species in species_set.picked:
        own = names == species.name
        judged[own] = is_judged(places[own], species, sample)
    return [pick for pick, counts in zip(picks, judged, strict=True) if counts]


def expected_of(sample: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
    """Return what is expected of every species' picks, see `PickParticlesd.choose`; None without a second look."""
    expected: dict[str, dict[str, Any]] | None = sample["result"].get("expected")
    return expected


def picture_of(sample: Mapping[str, Any], species_set: SpeciesSet, truth: Sequence[Pick] | None = None) -> Figure:
    """Return a picture of a sample's tomogram, as the network's input, with its picks."""
    facts = image_facts_of(sample)

    def drawn(pick: Pick) -> Pick:  # in voxels of the volume that is drawn, which may have been cut out and resampled
        z, y, x = facts.from_own_voxels(np.array(pick.zyx_voxel)).tolist()
        return replace(pick, x_voxel=x, y_voxel=y, z_voxel=z)

    picks = [drawn(pick) for pick in picks_of(sample)]
    truths = None if truth is None else [drawn(pick) for pick in truth]
    z, y, x = facts.start_zyx_voxel
    behind = f", behind padding of {x} x {y} x {z} voxels (x, y, z)" if x or y or z else ""
    title = f"{facts.run}: {len(picks)} picks{behind}"
    volume = sample["image"][0].cpu().numpy()
    return overlay_figure(volume, picks, species_set, facts.voxel_size_angstrom, title, truths)


def tomogram_of(sample: Mapping[str, Any]) -> Tomogram:
    """Return a sample's tomogram, as the network's input."""
    facts = image_facts_of(sample)
    volume = sample["image"][0].cpu().numpy()
    sizes = facts.voxel_size_angstrom, facts.own_voxel_size_angstrom
    return Tomogram(facts.run, volume, *sizes, facts.start_zyx_voxel)
