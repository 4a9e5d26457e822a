"""Check the files of a bundle: the required ones, of known kinds, small, and weights that hold only numbers.

Nothing of the bundle is imported or run.
"""

from __future__ import annotations

import hashlib
import pickle
import pickletools
import re
import zipfile
from pathlib import Path

import torch
import yaml
from check_configs import read_json
from refusal import Refusal

REQUIRED = (
    "LICENSE", "configs/metadata.json", "configs/inference.json", "configs/train.json", "scripts/__init__.py",
    "docs/README.md", "docs/data_license.txt", "docs/sbom.cdx.json", "models/model.json",
)  # fmt: skip
KINDS = {
    "": ("LICENSE", "large_files.yml"),
    "configs": (".json", "logging.conf"),
    "scripts": (".py", ".html", ".js", ".css"),
    "docs": (".md", ".txt", ".png", "sbom.cdx.json"),
    "models": (".json", ".pt", ".ts", ".onnx"),
}
LARGE_FILES = "large_files.yml"
SMALL_BYTES = 2**20  # size limit in the model zoo's repository
MODELS = ("model", "second_look")  # each a weights file and its card
WEIGHTS_BYTES = 25 * 2**20  # size limit of weights that we keep in the folder
PERSONAL = re.compile(rb"(?<![\w.])/(?:home|Users|root|mnt|media|scratch|tmp|work)/[\w.-]+|[A-Za-z]:\\+Users\\+\w+")
ARCHIVE_PARTS = re.compile(
    r"[^/]+/(data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id)"
)
PICKLED_NAMES = re.compile(r"collections OrderedDict|torch\._utils _rebuild_tensor_v2|torch \w+Storage")


def files_in(bundle: Path) -> list[Path]:
    """Return every file of the folder, relative to it, sorted."""
    return sorted(path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file() or path.is_symlink())


def check_layout(bundle: Path) -> str:
    """Check that no required file is missing, and that no file is of an unknown kind.

    Raises:
        Refusal: names the file.
    """
    missing = [name for name in REQUIRED if not (bundle / name).is_file()]
    if missing:
        raise Refusal(f"{missing[0]} is missing.")
    files = files_in(bundle)
    for file in files:
        top = file.parts[0] if len(file.parts) > 1 else ""
        if (bundle / file).is_symlink():
            raise Refusal(f"{file} is a link; put the file itself there.")
        if not file.name.endswith(KINDS.get(top, ())) or file.name.startswith("."):
            raise Refusal(f"{file} is not of a kind that belongs there.")
    return f"{len(files)} files"


def listed_files(bundle: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in ``large_files.yml``, by path; empty if there is no such list.

    Raises:
        Refusal: an entry lacks its path, its URL or its SHA-256, or the path leads out of the folder.
    """
    if not (bundle / LARGE_FILES).exists():
        return {}
    try:
        entries = yaml.safe_load((bundle / LARGE_FILES).read_text())["large_files"]
        for entry in entries:
            if entry["hash_type"] != "sha256" or not entry["url"].startswith("https://"):
                raise ValueError(f"{entry['path']} needs hash_type sha256 and an https address")
            if Path(entry["path"]).is_absolute() or ".." in Path(entry["path"]).parts:
                raise ValueError(f"{entry['path']} leads out of the bundle")
        return {entry["path"]: entry["hash_val"] for entry in entries}
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise Refusal(f"{LARGE_FILES}: {str(error).splitlines()[0]}.") from None


def check_sizes(bundle: Path) -> str:
    """Check that files of 1 MiB and more are listed in ``large_files.yml``; without it, weights of 25 MiB and more.

    Raises:
        Refusal: names the file.
    """
    listed = listed_files(bundle)
    sizes = {file: (bundle / file).stat().st_size for file in files_in(bundle)}
    for file, size in sizes.items():
        limit = WEIGHTS_BYTES if file.parts[0] == "models" and not listed else SMALL_BYTES
        if size >= limit and file.as_posix() not in listed:
            raise Refusal(f"{file} has {size / 2**20:.1f} MiB; from {limit // 2**20} on list it in {LARGE_FILES}.")
    return f"{sum(sizes.values()) / 2**20:.1f} MiB in all"


def check_personal_paths(bundle: Path) -> str:
    """Check that no file, text or not, contains a path of somebody's machine.

    Raises:
        Refusal: names the file and the path.
    """
    for file in files_in(bundle):
        if found := PERSONAL.search((bundle / file).read_bytes()):
            raise Refusal(f"{file} holds a path of somebody's machine: {found[0].decode()}.")
    return "none"


def check_weights(bundle: Path) -> str:
    """Check that weights hold only tensors, are not damaged, and have the SHA-256 on the card beside them.

    A second look must be that of the model.

    Raises:
        Refusal: names the file.
    """
    cards = {name: read_json(bundle / "models" / f"{name}.json") for name in MODELS}
    recorded = {file: sha256 for card in cards.values() for file, sha256 in card.get("weights_sha256", {}).items()}
    if cards["second_look"].get("first_network_sha256") != recorded.get("model.pt"):
        raise Refusal("models/second_look.json is of another first network than models/model.pt.")
    listed = listed_files(bundle)
    present = {
        file.name: bundle / file for file in files_in(bundle) if file.parts[0] == "models" and file.suffix != ".json"
    }
    for name in sorted({*(f"{model}.pt" for model in MODELS), *recorded, *present}):
        if name not in present:
            if listed.get(f"models/{name}") != recorded.get(name) or name not in recorded:
                raise Refusal(f"models/{name} is missing, and {LARGE_FILES} does not list it with its SHA-256.")
            continue
        if name.endswith(".pt"):
            check_only_tensors(present[name])
        if recorded.get(name) != sha256_of(present[name]):
            raise Refusal(f"models/{name} has not the SHA-256 that models/{Path(name).stem}.json lists.")
    return ", ".join(sorted(present)) or f"to be fetched as {LARGE_FILES} says"


def check_only_tensors(file: Path) -> None:
    """Check that a file is a torch archive with a table of finite tensors.

    Raises:
        Refusal: names the file.
    """
    name = f"models/{file.name}"
    if not zipfile.is_zipfile(file):
        raise Refusal(f"{name} is no archive of torch; a bare pickle can run code when it is loaded.")
    with zipfile.ZipFile(file) as archive:
        strange = [part for part in archive.namelist() if not ARCHIVE_PARTS.fullmatch(part)]
        if strange:
            raise Refusal(f"{name} holds {strange[0]}, which is no part of a table of tensors.")
        try:
            if archive.testzip() is not None:
                raise Refusal(f"{name} is damaged: a checksum is wrong.")
            pickled = next(archive.read(part) for part in archive.namelist() if part.endswith("/data.pkl"))
        except (zipfile.BadZipFile, StopIteration):
            raise Refusal(f"{name} is damaged.") from None
    if name_of_code := next((found for found in names_in(pickled) if not PICKLED_NAMES.fullmatch(found)), None):
        raise Refusal(f"{name} holds more than tensors: loading it would call {name_of_code.replace(' ', '.')}.")
    try:
        weights = torch.load(file, weights_only=True, map_location="cpu")
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise Refusal(f"{name} cannot be loaded: {str(error).splitlines()[0]}") from None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise Refusal(f"{name} is not a table of tensors.")
    if bad := [key for key, value in weights.items() if not torch.isfinite(value).all()]:
        raise Refusal(f"{name}: {bad[0]} holds NaN or infinity.")


def names_in(pickled: bytes) -> list[str]:
    """Return every ``module name`` that unpickling would import, without unpickling.

    Torch imports only with the opcode GLOBAL; for any other opcode that imports, the opcode is returned.
    """
    codes = [(code.name, argument) for code, argument, _ in pickletools.genops(pickled)]
    found = [str(argument) for name, argument in codes if name == "GLOBAL"]
    return found + [name for name, _ in codes if name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")]


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal text."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
