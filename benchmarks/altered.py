"""Which score to give in a tomogram unlike those that the calibration was fitted on.

    python benchmarks/altered.py SIMULATED [--kind wbp]

Picks annotated tomograms as they are, blurred, band-passed, binned to 15.7 Å, and with blotches that were not in the
training, at the F1 point of three scores: the product of both networks' probabilities, the calibrated one, and half-way
between them, see `picking.calibration.half_trusted`. The last column has the tomograms that are flagged as unlike.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "bundle"), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from monai.bundle import ConfigParser  # noqa: E402
from recipe.training import Judged  # noqa: E402
from scipy import ndimage  # noqa: E402
from scripts.datasets.runs import require_runs  # noqa: E402
from scripts.datasets.truth import list_labelled_runs  # noqa: E402
from scripts.errors import run_tool  # noqa: E402
from scripts.inference.precision import number_format  # noqa: E402
from scripts.markdown import markdown_table  # noqa: E402
from scripts.picking.calibration import half_trusted, joint_probabilities  # noqa: E402
from scripts.picking.familiarity import VISIBILITY, statistics_of  # noqa: E402
from scripts.picking.image_picks import logits_stride_of  # noqa: E402
from scripts.picking.operating_point import OperatingPoint  # noqa: E402
from scripts.picking.proposals import propose  # noqa: E402
from scripts.picking.second_look import load_second_look  # noqa: E402
from scripts.preparation.scaling import scale_percentiles  # noqa: E402
from scripts.scoring.calibration import judge_candidates  # noqa: E402
from scripts.scoring.metrics import Counts, mean_f1, score_species  # noqa: E402

MODELS = ROOT / "bundle" / "models"
BINNED = 1.57  # voxels along the side of one: 15.7 Å
SCORES = ("product", "calibrated", "half-way")
Volume = NDArray[np.float32]


def alterations(volume: Volume) -> Iterator[tuple[str, Volume]]:
    """Yield the name and the result of every alteration of a volume ``(Z, Y, X)``."""
    yield "as it is", volume
    yield "blurred by 1.5 voxels", ndimage.gaussian_filter(volume, 1.5)
    yield "band-passed", ndimage.gaussian_filter(volume, 0.7) - ndimage.gaussian_filter(volume, 6)
    coarse = ndimage.zoom(volume, 1 / BINNED, order=1)
    yield "binned to 15.7 Å and back", ndimage.zoom(coarse, np.array(volume.shape) / coarse.shape, order=1)
    random = np.random.default_rng(0).normal(size=volume.shape).astype(np.float32)
    blotches = ndimage.gaussian_filter(random, 3)
    yield "with blotches of 30 Å", volume + 1.2 * volume.std() / blotches.std() * blotches


class Picker:
    """Both shipped networks, and what belongs to them."""

    def __init__(self) -> None:
        parser = ConfigParser()
        parser.read_config(str(ROOT / "bundle" / "configs" / "train.json"))
        parser["bundle_root"], parser["checkpoint_path"] = str(ROOT / "bundle"), str(MODELS / "model.pt")
        parser["cache_dir"], parser["validation_names"] = None, []
        parser.get_parsed_content("initialize")
        self.network, self.inferer, self.species_set, self.preparation = map(
            parser.get_parsed_content, ("averaged", "validate#inferer", "species", "validate#preprocessing")
        )
        self.network.eval()
        self.second_look = load_second_look(
            MODELS / "second_look.pt",
            MODELS / "model.pt",
            self.species_set,
            dtype=number_format("auto", torch.device("cpu")),
        )

    @torch.inference_mode()
    def judge(self, volume: Volume, particles: NDArray[np.float64]) -> tuple[dict[str, list[Counts]], bool]:
        """Return hits, picks and truths of every species by score, and whether the volume is flagged as unlike."""
        size, second = self.species_set.voxel_size_angstrom, self.second_look
        image = torch.from_numpy(np.ascontiguousarray(volume))[None]
        logits = self.inferer(image[None], self.network)[0]
        found = propose(logits, size, logits_stride_of(logits.shape[1:], image.shape[1:]))
        log_odds = second.log_odds(volume, found.centres_zyx_vox)
        statistics = statistics_of(volume, size, found.logits, log_odds)
        assert second.calibration is not None
        assert second.familiarity is not None
        visibility = max(float(statistics[VISIBILITY]), second.familiarity.least_visibility)
        product = joint_probabilities(found.logits, log_odds)
        calibrated = second.calibration.probabilities(found.logits, log_odds, visibility)
        half_way = half_trusted(calibrated, found.logits, log_odds)
        counts = {}
        for name, scores in zip(SCORES, (product, calibrated, half_way), strict=True):
            kept, right = judge_candidates(found.centres_zyx_vox, scores, particles, self.species_set, size)
            counts[name] = [
                counts_of(Judged(scores[mine, column], right[mine, column], int((particles[:, 0] == one.label).sum())))
                for column, one in enumerate(self.species_set.picked)
                for mine in [kept[:, column]]
            ]
        return counts, second.familiarity.why_unfamiliar(statistics) is not None


def counts_of(candidates: Judged) -> Counts:
    """Return hits, picks and truths of a species in one tomogram at the F1 point; the scores are probabilities."""
    return candidates.counts_above(OperatingPoint("f", 1.0).lowest_probability(candidates.scores))


def row_of(names: Sequence[str], by_tomogram: Sequence[Sequence[Counts]]) -> list[str]:
    """Return mean F1 and wrong picks of several tomograms together."""
    sums = [sum(counts, Counts()) for counts in zip(*by_tomogram, strict=True)]
    picks, wrong = sum(one.predicted for one in sums), sum(one.fp for one in sums)
    f1 = mean_f1([score_species(name, one) for name, one in zip(names, sums, strict=True)])
    return [f"{f1:.3f}", f"{wrong} of {picks}"]


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulated", type=Path, help="annotated tomograms")
    parser.add_argument("--kind", help="of tomogram, such as wbp")
    options = parser.parse_args()
    return run_tool(lambda: print_table(options.simulated, options.kind))


def print_table(folder: Path, kind: str | None) -> None:
    """Pick all tomograms of a folder in every alteration, and print the table.

    Raises:
        InputError: there are none.
    """
    items = list_labelled_runs(folder, tomogram_kind=kind)
    require_runs(items, folder)
    picker = Picker()
    names = picker.species_set.names
    counts: dict[str, dict[str, list[list[Counts]]]] = {}
    flagged: dict[str, int] = {}
    for item in items:
        sample: Any = picker.preparation(item)
        particles = np.asarray(sample["label"], dtype=np.float64).reshape(-1, 4)
        for alteration, volume in alterations(sample["image"].numpy()[0].astype(np.float32)):
            found, is_unlike = picker.judge(scale_percentiles(volume), particles)
            flagged[alteration] = flagged.get(alteration, 0) + is_unlike
            for score, of_species in found.items():
                counts.setdefault(alteration, {}).setdefault(score, []).append(of_species)
        print(item["run"], file=sys.stderr, flush=True)
    rows = [
        [
            alteration if score == SCORES[0] else "",
            score,
            *row_of(names, lists),
            f"{flagged[alteration]} of {len(items)}",
        ]
        for alteration, of_scores in counts.items()
        for score, lists in of_scores.items()
    ]
    print(markdown_table(["tomograms", "score", "mean F1", "wrong picks", "flagged"], rows))


if __name__ == "__main__":
    sys.exit(main())
