"""Files for people and services around the code: they can be read, name targets that exist, and state one version."""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
YAML_FILES = [*sorted(ROOT.glob(".github/**/*.yml")), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def make_commands(lines):
    """Return the arguments of every line that calls make."""
    return [shlex.split(line)[1:] for line in lines if line.strip().startswith("make ")]


def commands_of_workflow():
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    return make_commands(line for job in jobs for step in job["steps"] for line in step.get("run", "").splitlines())


def commands_of_ci():
    return make_commands(read(".ci/run").splitlines())


def targets():
    return set(re.findall(r"^([\w-]+):(?!=)", read("Makefile"), flags=re.MULTILINE))


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_the_file_can_be_read(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


@pytest.mark.parametrize("commands", [commands_of_workflow, commands_of_ci])
def test_make_is_called_with_targets_that_exist(commands):
    called = {word for command in commands() for word in command if "=" not in word}
    assert called
    assert called <= targets()


def test_the_workflow_calls_what_every_change_has_to_pass():
    assert commands_of_workflow() == commands_of_ci()


def test_the_workflow_tests_the_oldest_python_that_is_supported():
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    oldest = tomllib.loads(read("pyproject.toml"))["project"]["requires-python"].removeprefix(">=")
    assert jobs["tests"]["strategy"]["matrix"]["python"][0] == oldest


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_the_fields_of_a_form_have_names_of_their_own(path):
    form = yaml.safe_load(path.read_text())
    fields = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert {"name", "description", "body"} <= set(form)
    assert "command" in fields
    assert len(set(fields)) == len(fields)


def test_wrong_picks_are_reported_with_their_record_and_their_picture():
    form = yaml.safe_load(read(".github/ISSUE_TEMPLATE/wrong_picks.yml"))
    required = {part["attributes"]["label"] for part in form["body"] if part.get("validations", {}).get("required")}
    assert required >= {"run.json", "overlay.png", "The command", "What is wrong"}


def test_the_hooks_before_a_commit_use_the_locked_ruff():
    (ruff,) = re.findall(r"^ruff==(\S+)$", read("requirements/bundle.lock"), flags=re.MULTILINE)
    hooks = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    assert [repo["rev"] for repo in hooks if repo["repo"].endswith("ruff-pre-commit")] == [f"v{ruff}"]


def test_the_version_is_the_same_everywhere():
    versions = {
        "pyproject.toml": tomllib.loads(read("pyproject.toml"))["project"]["version"],
        "metadata.json": json.loads(read("bundle/configs/metadata.json"))["version"],
        "CHANGELOG.md": re.findall(r"^## (\S+)", read("CHANGELOG.md"), flags=re.MULTILINE)[0],
        "CITATION.cff": yaml.safe_load(read("CITATION.cff"))["version"],
    }
    assert len(set(versions.values())) == 1, versions


def test_every_version_of_the_metadata_is_in_the_changelog():
    noted = re.findall(r"^## (\S+)", read("CHANGELOG.md"), flags=re.MULTILINE)
    assert noted == list(json.loads(read("bundle/configs/metadata.json"))["changelog"])
