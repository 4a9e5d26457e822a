"""What is refused before a bundle is published; each case breaks one thing of a good one."""

import json
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from check_bundle import reading_checks, run_checks
from check_files import WEIGHTS_BYTES, sha256_of
from check_metadata import pins_of
from make_bundle import NAME, assemble, zip_folder
from refusal import Refusal
from sbom import write_sbom

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "reference" / "results.md"


@pytest.fixture
def bundle(tmp_path):
    """Return a good bundle whose weights are small."""
    folder = assemble(tmp_path / NAME)
    put_weights(folder, {"weight": torch.arange(1000.0)})
    return folder


def edit(bundle, name, change):
    """Replace a JSON file of the bundle by what ``change`` makes of it in place."""
    path = bundle / ("models" if name in ("model.json", "second_look.json") else "configs") / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def put_weights(bundle, content, save=torch.save):
    """Put other weights into the bundle, with their SHA-256 in the card."""
    path = bundle / "models" / "model.pt"
    save(content, path)
    edit(bundle, "model.json", lambda card: card["weights_sha256"].update({"model.pt": sha256_of(path)}))
    edit(bundle, "second_look.json", lambda card: card.update(first_network_sha256=sha256_of(path)))
    write_sbom(bundle, ROOT / "requirements" / "bundle.lock")


def refusal_of(bundle):
    with pytest.raises(Refusal) as caught:
        run_checks(bundle, reading_checks(RESULTS))
    return str(caught.value)


class RunsCode:
    def __reduce__(self):
        return print, ("run",)


def test_the_bundle_as_it_is_passes(tmp_path, capsys):
    run_checks(assemble(tmp_path / NAME), reading_checks(RESULTS))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(reading_checks())
    assert all(line.startswith("✓ ") for line in lines)


# Weights


def test_a_bare_pickle_as_weights_is_refused(bundle):
    put_weights(bundle, RunsCode(), lambda content, path: path.write_bytes(pickle.dumps(content)))
    assert "models/model.pt is no archive of torch; a bare pickle can run code" in refusal_of(bundle)


def test_weights_that_would_run_code_are_refused_without_running_it(bundle, capsys):
    put_weights(bundle, {"weight": torch.zeros(2), "more": RunsCode()})
    assert "models/model.pt holds more than tensors: loading it would call" in refusal_of(bundle)
    assert "run" not in capsys.readouterr().out.splitlines()


def test_a_strange_part_in_the_archive_is_refused(bundle):
    path = bundle / "models" / "model.pt"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/extra.pkl", b"")
    assert "models/model.pt holds model/extra.pkl" in refusal_of(bundle)


def test_a_flipped_byte_is_refused(bundle):
    path = bundle / "models" / "model.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert refusal_of(bundle) == "models/model.pt is damaged: a checksum is wrong."


def test_other_weights_than_those_of_the_metadata_are_refused(bundle):
    torch.save({"weight": torch.zeros(2)}, bundle / "models" / "model.pt")
    assert refusal_of(bundle) == "models/model.pt has not the SHA-256 that models/model.json lists."


def test_a_second_look_of_another_model_is_refused(bundle):
    edit(bundle, "second_look.json", lambda card: card.update(first_network_sha256="0" * 64))
    assert refusal_of(bundle) == "models/second_look.json is of another first network than models/model.pt."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"weight": torch.tensor([1.0, float("nan")])}, "weight holds NaN"),
        ([torch.zeros(2)], "not a table of tensors"),
        ({"model": {"weight": torch.zeros(2)}}, "not a table of tensors"),
    ],
)
def test_weights_are_a_table_of_finite_tensors(content, reason, bundle):
    put_weights(bundle, content)
    assert reason in refusal_of(bundle)


# Files


@pytest.mark.parametrize("name", ["LICENSE", "configs/train.json", "docs/data_license.txt", "scripts/__init__.py"])
def test_a_missing_file_is_named(name, bundle):
    (bundle / name).unlink()
    assert refusal_of(bundle) == f"{name} is missing."


@pytest.mark.parametrize("name", ["models/cache.pkl", "scripts/.env", "notes.txt", "configs/train.yaml", "docs/a.html"])
def test_a_file_of_another_kind_is_named(name, bundle):
    (bundle / name).write_bytes(b"")
    assert refusal_of(bundle) == f"{name} is not of a kind that belongs there."


def test_a_large_file_is_named(bundle):
    (bundle / "docs" / "figure.png").write_bytes(bytes(2**20))
    assert refusal_of(bundle) == "docs/figure.png has 1.0 MiB; from 1 on list it in large_files.yml."


@pytest.mark.parametrize("path", ["/home/someone/data", r"C:\\Users\\someone", "/scratch/group/maps"])
def test_a_personal_path_is_named(path, bundle):
    edit(bundle, "train.json", lambda config: config.update(dataset_dir=path))
    assert re.match("configs/train.json holds a path of somebody's machine: ", refusal_of(bundle))


# Metadata and scores


@pytest.mark.parametrize("key", ["changelog", "intended_use", "network_data_format"])
def test_a_missing_key_of_the_metadata_is_named(key, bundle):
    edit(bundle, "metadata.json", lambda metadata: metadata.pop(key))
    assert refusal_of(bundle) == f"configs/metadata.json, at the top: '{key}' is a required property."


def test_a_missing_part_of_a_tensor_is_named(bundle):
    edit(bundle, "metadata.json", lambda metadata: metadata["network_data_format"]["inputs"]["image"].pop("dtype"))
    assert "network_data_format#inputs#image: 'dtype' is a required property" in refusal_of(bundle)


def test_other_species_than_those_of_the_metadata_are_refused(bundle):
    for name in ("species.json", "model.json"):
        edit(bundle, name, lambda content: content["species"].pop("virus-like-particle"))
    assert "channel_def of pred: the species are background, apo-ferritin, beta-gal" in refusal_of(bundle)


def test_other_species_than_those_of_the_weights_are_refused(bundle):
    edit(bundle, "species.json", lambda content: content["species"]["ribosome"].update(radius_angstrom=140.0))
    assert refusal_of(bundle) == "models/model.json: its species are not those of configs/species.json."


def test_a_version_without_its_entry_is_refused(bundle):
    edit(bundle, "metadata.json", lambda metadata: metadata.update(version="9.9.9"))
    assert "changelog: 9.9.9 must have the first entry" in refusal_of(bundle)


def test_a_package_that_the_metadata_forget_is_named(bundle):
    edit(bundle, "metadata.json", lambda metadata: metadata["required_packages_version"].pop("mrcfile"))
    assert re.search(r"scripts/[\w/]+\.py imports mrcfile", refusal_of(bundle))


def test_the_sbom_lists_every_package_of_the_lock_and_the_weights(bundle):
    content = json.loads((bundle / "docs" / "sbom.cdx.json").read_text())
    assert (content["bomFormat"], content["specVersion"], content["version"]) == ("CycloneDX", "1.6", 1)
    assert (
        content["metadata"]["component"]["version"]
        == json.loads((bundle / "configs/metadata.json").read_text())["version"]
    )
    libraries = {f"{part['name']}=={part['version']}" for part in content["components"] if part["type"] == "library"}
    assert libraries == set((ROOT / "requirements/bundle.lock").read_text().split())
    assert "pkg:pypi/typing-extensions@" in " ".join(part.get("purl", "") for part in content["components"])
    models = {part["name"] for part in content["components"] if part["type"] == "machine-learning-model"}
    assert models == {"model.pt", "second_look.pt"}


@pytest.mark.parametrize("change", [{"version": "1.0"}, {"name": "numpyy"}])
def test_an_sbom_of_other_packages_is_refused(change, bundle):
    path = bundle / "docs" / "sbom.cdx.json"
    content = json.loads(path.read_text())
    next(part for part in content["components"] if part["name"] == "numpy").update(change)
    path.write_text(json.dumps(content))
    assert refusal_of(bundle).startswith("docs/sbom.cdx.json has numpy ")


def test_an_sbom_of_other_weights_is_refused(bundle):
    edit(bundle, "model.json", lambda card: card["weights_sha256"].update({"model.pt": "0" * 64}))
    assert refusal_of(bundle) == "docs/sbom.cdx.json lists other weights than the cards in models."


def test_the_versions_of_the_metadata_are_those_that_are_tested(bundle_dir):
    locked = dict(
        line.split("==") for line in (ROOT / "requirements/bundle.lock").read_text().splitlines() if "==" in line
    )
    assert {name: locked[name] for name in pins_of(bundle_dir)} == pins_of(bundle_dir)


def test_a_score_that_was_not_measured_is_refused(bundle):
    edit(bundle, "metadata.json", lambda metadata: metadata["eval_metrics"].update(f4_ribosome=0.5))
    assert refusal_of(bundle) == "docs/README.md, Performance: f4_ribosome is 0.998, metadata say 0.5."


def test_a_score_on_the_page_that_was_not_measured_is_refused(bundle):
    page = bundle / "docs" / "README.md"
    page.write_text(page.read_text().replace("is 0.938", "is 0.123"))
    assert refusal_of(bundle) == "docs/README.md, Performance: 0.123 is not in the table of results.md."


def test_metadata_and_page_must_both_follow_the_results(bundle):
    page, key = bundle / "docs" / "README.md", "f4_beta-galactosidase"
    measured = json.loads((bundle / "configs" / "metadata.json").read_text())["eval_metrics"][key]
    page.write_text(page.read_text().replace(f"| {measured:.3f} |", "| 0.123 |", 1))
    edit(bundle, "metadata.json", lambda metadata: metadata["eval_metrics"].update({key: 0.123}))
    assert "configs/metadata.json, eval_metrics: results.md has" in refusal_of(bundle)


def test_f1_and_precision_must_follow_the_results_too(bundle):
    edit(bundle, "metadata.json", lambda metadata: metadata["eval_metrics"].update(precision=0.5))
    assert "configs/metadata.json, eval_metrics: results.md has" in refusal_of(bundle)


# The folder, the zip and the command


def test_the_zip_has_the_same_bytes_again(bundle, tmp_path):
    once = zip_folder(bundle, tmp_path / "once.zip").read_bytes()
    for file in bundle.rglob("*.json"):
        file.chmod(0o600)
        file.touch()
    assert zip_folder(bundle, tmp_path / "twice.zip").read_bytes() == once
    with zipfile.ZipFile(tmp_path / "once.zip") as archive:
        assert archive.read(f"{NAME}/configs/train.json") == (ROOT / "bundle/configs/train.json").read_bytes()


def test_only_what_is_published_is_copied(bundle):
    tops = {path.name for path in bundle.iterdir()}
    assert tops == {"LICENSE", "configs", "scripts", "docs", "models"}
    assert not list(bundle.rglob("__pycache__"))
    assert [path.name for path in sorted((bundle / "models").iterdir())] == [
        "model.json", "model.pt", "second_look.json", "second_look.pt",
    ]  # fmt: skip


def test_weights_with_an_address_are_listed_and_left_out(tmp_path):
    urls = {f"models/{name}.pt": f"https://example.org/{name}.pt" for name in ("model", "second_look")}
    folder = assemble(tmp_path / NAME, urls=urls)
    run_checks(folder, reading_checks(RESULTS))
    listed = (folder / "large_files.yml").read_text()
    for name in urls:
        assert not (folder / name).exists()
        assert sha256_of(ROOT / "bundle" / name) in listed
    assert max(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 2**20  # the zoo's limit
    with pytest.raises(Refusal, match=r"models/second_look\.pt has \d MiB: say where it is by --second_look_url"):
        assemble(tmp_path / NAME, urls={"models/model.pt": urls["models/model.pt"]})
    assemble(tmp_path / NAME, urls=urls)
    (folder / "large_files.yml").write_text(listed.replace("hash_val: ", "hash_val: 0"))
    assert "models/model.pt is missing, and large_files.yml does not list it" in refusal_of(folder)


def test_large_weights_need_an_address(tmp_path, bundle):
    with open(bundle / "models" / "model.pt", "r+b") as file:
        file.truncate(WEIGHTS_BYTES)
    with pytest.raises(Refusal, match=r"models/model\.pt has 25 MiB: say where it is by --weights_url"):
        assemble(tmp_path / "copy", source=bundle)


def test_the_command_ends_on_a_broken_bundle_with_one_line_and_status_1(bundle):
    (bundle / "configs" / "inference.json").write_text('{"run": ["$os.remove(\'x\')"]}')
    command = [sys.executable, ROOT / "publish" / "check_bundle.py", bundle]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    name = "configs/inference.json, run#0: the expression 'os.remove('x')' is not on the list of allowed ones."
    assert (done.returncode, done.stderr) == (1, f"✗ {NAME}: {name}\n")
    assert "✓ personal paths: none" in done.stdout
