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
from collections.abc import Mapping
from pathlib import Path

import yaml
from check_files import LARGE_FILES, SMALL_BYTES, WEIGHTS_BYTES, files_in, sha256_of
from refusal import Refusal
from sbom import write_sbom

ROOT = Path(__file__).resolve().parents[1]
NAME = "cryoet_particle_segmentation"  # MONAI Label and monai.bundle.load identify a bundle by its folder's name
MODELS = tuple(f"models/{name}" for name in ("model.json", "model.pt", "second_look.json", "second_look.pt"))
PUBLISHED = ("LICENSE", "configs", "scripts", "docs", *MODELS)
URL_OPTIONS = {"models/model.pt": "weights_url", "models/second_look.pt": "second_look_url"}
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


def assemble(target: Path, source: Path = ROOT / "bundle", urls: Mapping[str, str] | None = None) -> Path:
    """Copy the published part of a bundle to a new folder, with its SBOM; an existing folder is deleted.

    Args:
        target: the folder, with the name of the bundle.
        source: the bundle under development.
        urls: where files can be downloaded, by their path in the bundle; they are then left out of the folder and
            listed with their SHA-256, as the model zoo requires for files of 1 MiB and more.

    Returns:
        ``target``.

    Raises:
        Refusal: a file is too large for the folder, or for the zoo if there are URLs, and no URL is given for it.
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
    entries, limit = [], SMALL_BYTES if urls else WEIGHTS_BYTES
    for name, option in URL_OPTIONS.items():
        file = target / name
        if urls and name in urls:
            entries.append({"path": name, "url": urls[name], "hash_val": sha256_of(file), "hash_type": "sha256"})
            file.unlink()
        elif file.stat().st_size >= limit:
            raise Refusal(f"{name} has {file.stat().st_size / 2**20:.0f} MiB: say where it is by --{option}.")
    if entries:
        (target / LARGE_FILES).write_text(yaml.safe_dump({"large_files": entries}, sort_keys=False))
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
    for name, option in URL_OPTIONS.items():
        parser.add_argument(f"--{option}", help=f"where {name} is, for the model zoo")
    given = parser.parse_args()
    folder, results = given.output_dir.resolve() / NAME, ROOT / "docs" / "reference" / "results.md"
    archive = folder.with_suffix(".zip")
    archive.unlink(missing_ok=True)  # an old one must not be mistaken for a bundle that was refused
    try:
        given_urls = {name: getattr(given, option) for name, option in URL_OPTIONS.items()}
        assemble(folder, urls={name: url for name, url in given_urls.items() if url})
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
