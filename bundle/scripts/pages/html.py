"""Self-contained HTML pages, made from templates."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.atomic_files import write_atomically
from scripts.pages.figures import colour_of
from scripts.picking.operating_point import LEAST_F, LEAST_PROBABILITY
from scripts.picking.score_valley import HIGHEST, Valley, suggest_threshold
from scripts.picks import Pick, by_species
from scripts.settings import check_setting
from scripts.species import SpeciesSet

TEMPLATES = Path(__file__).resolve().parent / "templates"
PAGE_NAME = "report.html"


def check_megabytes(page_megabytes: float) -> float:
    """Return the size limit of a page if it is valid: 0 (no pages) or at least 1.

    Raises:
        InputError: it is not.
    """
    check_setting("page_megabytes", page_megabytes)
    return page_megabytes


def valleys_of(picks: Sequence[Pick], species_set: SpeciesSet) -> dict[str, Valley]:
    """Return the valley of every species' scores."""
    own = by_species(picks)
    return {name: suggest_threshold([pick.score for pick in own[name]]) for name in species_set.names}


def species_data(
    species_set: SpeciesSet,
    picks: Sequence[Pick],
    valleys: Mapping[str, Valley],
    expected: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return what the pages show of the species: colours, thresholds, operating points, valleys.

    After a second look the threshold of a species is the lowest score of its picks, and the sliders go down to
    `LEAST_PROBABILITY`. Without one, too, no pick is below the threshold that the page starts with.

    Args:
        species_set: the species.
        picks: that the page shows at first.
        valleys: of their scores.
        expected: of the picks of a second look, by species, see `PickParticlesd.choose`; None without one.
    """
    is_judged, own = expected is not None, by_species(picks)
    species = []
    for one in species_set.picked:
        known = (expected or {}).get(one.name, {})
        threshold = one.probability_threshold
        lowest = min((pick.score for pick in own[one.name]), default=HIGHEST)
        if is_judged or lowest < threshold:
            threshold = rounded_down(lowest, 5)
        valley = None if valleys[one.name].threshold is None else asdict(valleys[one.name])
        species.append(
            {
                "name": one.name,
                "colour": colour_of(one.label),
                "radius": one.radius_angstrom,
                "threshold": threshold,
                "operatingPoint": known.get("operating_point", "f1") if is_judged else None,
                "spread": known.get("spread", 0.0),
                "networkThreshold": one.probability_threshold,
                "lowest": LEAST_PROBABILITY if is_judged else threshold,
                "valley": valley,
            }
        )
    return {"species": species, "highestScore": HIGHEST, "leastF": LEAST_F, "judged": is_judged}


def rounded_down(score: float, digits: int) -> float:
    """Return a score with so many digits, never higher than it is: as a threshold it still keeps its pick."""
    whole = 10.0**digits
    return math.floor(score * whole + 1e-9) / whole


def write_page(path: str | Path, template: str, title: str, scripts: Sequence[str], data: Mapping[str, Any]) -> None:
    """Write a page from the template of its body, with style, scripts and data embedded.

    Args:
        path: the file.
        template: name of the template.
        title: of the page.
        scripts: names of the JavaScript files, in the order in which they run.
        data: what the scripts show, ready for JSON.
    """
    fillings = {
        "title": html.escape(title),
        "style": read_template("page.css"),
        "data": as_script_json(data),
        "script": "\n".join(map(read_template, scripts)),
    }
    frame = read_template("page.html").replace("{{body}}", read_template(template))
    text = re.sub(r"\{\{(\w+)\}\}", lambda match: fillings[match[1]], frame)
    with write_atomically(path) as file:
        file.write(text)


def as_script_json(value: Any) -> str:
    """Return JSON for the inside of an HTML script element: no text in it can end the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def read_template(name: str) -> str:
    """Return the text of a template file."""
    return (TEMPLATES / name).read_text(encoding="utf-8")
