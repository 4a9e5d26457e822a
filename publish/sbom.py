"""The list of what a bundle is made of and runs with (SBOM), in the form of CycloneDX 1.6.

It has no date and no random number, so that the same bundle has the same list.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from check_configs import read_json
from check_metadata import pins_of
from refusal import Refusal

SBOM = "docs/sbom.cdx.json"


def write_sbom(bundle: Path, lock: Path) -> None:
    """Write the list of a bundle: its weights with their SHA-256, and the packages that it was tested with.

    Args:
        bundle: the bundle's folder.
        lock: file with a line ``package==version`` for every package of the environment.
    """
    metadata = read_json(bundle / "configs" / "metadata.json")
    about = {
        "type": "application",
        "name": bundle.name,
        "version": metadata["version"],
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    content = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": about},
        "components": [*weights_in(bundle), *packages_in(lock)],
    }
    (bundle / SBOM).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def weights_in(bundle: Path) -> list[dict[str, Any]]:
    """Return the weights that the cards list, as components with their SHA-256."""
    cards = [read_json(path) for path in sorted((bundle / "models").glob("*.json"))]
    return [
        {"type": "machine-learning-model", "name": name, "hashes": [{"alg": "SHA-256", "content": sha256}]}
        for card in cards
        for name, sha256 in card["weights_sha256"].items()
    ]


def packages_in(lock: Path) -> list[dict[str, Any]]:
    """Return the packages of a lock as components with their package URLs."""
    lines = [line.split("#")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines()]
    pinned = [line.split("==") for line in lines if line]
    return [
        {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{purl_name(name)}@{quote(version)}"}
        for name, version in pinned
    ]


def purl_name(package: str) -> str:
    """Return a package's name as package URLs have it."""
    return package.lower().replace("_", "-")


def check_sbom(bundle: Path) -> str:
    """Check that the list has the versions of the metadata and the weights of the cards.

    Raises:
        Refusal: names the package or the file.
    """
    components = read_json(bundle / SBOM)["components"]
    listed = {purl_name(part["name"]): part["version"] for part in components if part["type"] == "library"}
    for package, version in pins_of(bundle).items():
        if listed.get(purl_name(package)) != version:
            raise Refusal(f"{SBOM} has {package} {listed.get(purl_name(package))}, configs/metadata.json {version}.")
    weights = [part for part in components if part["type"] == "machine-learning-model"]
    if weights != weights_in(bundle):
        raise Refusal(f"{SBOM} lists other weights than the cards in models.")
    return f"{len(listed)} packages, {len(weights)} files of weights"
