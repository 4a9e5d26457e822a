"""Assemble the bundle as it is published, check it, and zip it: ``python publish/make_bundle.py``, or ``make bundle``.

The zip is reproducible, byte for byte: order, times and permissions are fixed, and nothing is compressed, because
compressed bytes depend on the version of zlib (and weights hardly compress).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import yaml
from check_files import LARGE_FILES, WEIGHTS_BYTES, files_in, sha256_of
from refusal import Refusal
from sbom import write_sbom

ROOT = Path(__file__).resolve().parents[1]
NAME = "cryoet_particle_segmentation"  # MONAI Label and monai.bundle.load identify a bundle by its folder's name
MODELS = tuple(f"models/{name}" for name in ("model.json", "model.pt", "second_look.json", "second_look.pt"))
PUBLISHED = ("LICENSE", "configs", "scripts", "docs", *MODELS)
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def assemble(target: Path, source: Path = ROOT / "bundle", weights_url: str | None = None) -> Path:
    """Copy the published part of a bundle to a new folder, with its SBOM; an existing folder is deleted.

    Args:
        target: the folder, with the name of the bundle.
        source: the bundle under development.
        weights_url: where the weights can be downloaded; they are then left out of the folder and listed with their
            SHA-256, as the model zoo requires for files of 1 MiB and more.

    Returns:
        ``target``.

    Raises:
        Refusal: the weights are too large for the folder, and no URL is given.
    """
    shutil.rmtree(target, ignore_errors=True)
    skip = shutil.ignore_patterns("__pycache__", ".*", "*.tmp")
    for name in PUBLISHED:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=skip)
        else:
            shutil.copyfile(source / name, target / name)
    write_sbom(target, ROOT / "requirements" / "bundle.lock")
    weights = target / "models" / "model.pt"
    if weights_url is not None:
        entry = {"path": "models/model.pt", "url": weights_url, "hash_val": sha256_of(weights), "hash_type": "sha256"}
        (target / LARGE_FILES).write_text(yaml.safe_dump({"large_files": [entry]}, sort_keys=False))
        weights.unlink()
    elif weights.stat().st_size >= WEIGHTS_BYTES:
        raise Refusal(
            f"models/model.pt has {weights.stat().st_size / 2**20:.0f} MiB: say where it is by --weights_url."
        )
    return target


def zip_folder(folder: Path, path: Path) -> Path:
    """Write a folder to a zip under its own name, atomically, and return the path of the zip."""
    unfinished = path.with_name(f".{path.name}.tmp")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
        for file in files_in(folder):
            entry = zipfile.ZipInfo(f"{folder.name}/{file.as_posix()}", ZIP_TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, (folder / file).read_bytes())
    return unfinished.replace(path)


def main() -> int:
    """Assemble, check in a separate process, zip; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "dist", help="where the folder and the zip go")
    parser.add_argument("--weights_url", help="where the weights are, for the model zoo")
    given = parser.parse_args()
    folder, results = given.output_dir.resolve() / NAME, ROOT / "docs" / "reference" / "results.md"
    archive = folder.with_suffix(".zip")
    archive.unlink(missing_ok=True)  # an old one must not be mistaken for a bundle that was refused
    try:
        assemble(folder, weights_url=given.weights_url)
    except Refusal as reason:
        print(f"✗ {NAME}: {reason}", file=sys.stderr)
        return 1
    command = [sys.executable, "-B", Path(__file__).with_name("check_bundle.py"), folder, "--results", results]
    if checked := subprocess.run(command, check=False).returncode:
        return checked
    zip_folder(folder, archive)
    print(f"{archive}: {archive.stat().st_size / 2**20:.1f} MiB, SHA-256 {sha256_of(archive)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
