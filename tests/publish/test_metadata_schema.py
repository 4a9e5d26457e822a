"""Our schema of the metadata refuses whatever MONAI's own refuses."""

import copy
import json
from pathlib import Path

import pytest
from check_metadata import SCHEMA
from hypothesis import given
from hypothesis import strategies as st
from jsonschema.validators import validator_for

ROOT = Path(__file__).resolve().parents[2]
MONAI_SCHEMA = ROOT.parent / "shared" / "data" / "schema" / "meta_schema_20240725.json"  # may be absent
METADATA = json.loads((ROOT / "bundle" / "configs" / "metadata.json").read_text())
DELETED = object()
TEXTS = ["schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors",
         "copyright", "data_source", "data_type", "image_classes", "label_classes", "pred_classes",
         "intended_use"]  # fmt: skip
REQUIRED = ["schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version",
            "task", "description", "authors", "copyright", "network_data_format"]  # fmt: skip
IMAGE, PRED = ("network_data_format", "inputs", "image"), ("network_data_format", "outputs", "pred")
DAMAGES = [
    *(((key,), DELETED) for key in REQUIRED),
    *(((key,), value) for key in TEXTS for value in (1, None, ["text"])),
    *(((key,), "text") for key in ("changelog", "required_packages_version", "eval_metrics", "supported_apps")),
    (("references",), "text"),
    (("references",), ["text", 1]),
    (("network_data_format",), []),
    *((("network_data_format", part), DELETED) for part in ("inputs", "outputs")),
    *((("network_data_format", part), "text") for part in ("inputs", "outputs")),
    (("network_data_format", "inputs", "more"), None),
    (("network_data_format", "outputs", "more"), ["text"]),
    (("network_data_format", "post_processed_outputs"), "text"),
    (("network_data_format", "post_processed_outputs"), {"pred": {"type": "image"}}),
    *(((*IMAGE, key), DELETED) for key in ("type", "format", "num_channels", "spatial_shape", "dtype", "value_range")),
    *(((*PRED, key), 1) for key in ("type", "format", "dtype")),
    *(((*PRED, "num_channels"), value) for value in ("5", 5.5, True)),
    *(((*IMAGE, "spatial_shape"), value) for value in ("64", [64, 128.5, 128], [64, None, 128], 64)),
    *(((*IMAGE, "value_range"), value) for value in ("0 to 1", [0, "1"], [False, True], {"from": 0, "to": 1})),
    ((*IMAGE, "is_patch_data"), "true"),
    ((*IMAGE, "channel_def"), ["tomogram"]),
    (("train_data_format",), "text"),
    (("Data_2_data_format",), {"inputs": {}}),
    (("train_data_format",), {"inputs": {"image": {"type": "image"}}, "outputs": {}}),
    ((), []),
    ((), "text"),
]


def changed(path, value):
    """Return the shipped metadata with another value at a place, or without it."""
    if not path:
        return value
    metadata = copy.deepcopy(METADATA)
    place = metadata
    for key in path[:-1]:
        place = place[key]
    if value is DELETED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return metadata


def places(value, path=()):
    """Yield the path of every value in the metadata."""
    yield path
    if isinstance(value, dict):
        for key, part in value.items():
            yield from places(part, (*path, key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from places(part, (*path, number))


def validator_of(path):
    schema = json.loads(path.read_text())
    return validator_for(schema)(schema)


@pytest.fixture(scope="module")
def ours():
    return validator_of(SCHEMA)


@pytest.fixture(scope="module")
def theirs():
    if not MONAI_SCHEMA.exists():
        pytest.skip("MONAI's schema is not part of the repository")
    return validator_of(MONAI_SCHEMA)


def test_the_shipped_metadata_pass(ours):
    assert list(ours.iter_errors(METADATA)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    DAMAGES,
    ids=[f"{'#'.join(path)} {'deleted' if value is DELETED else json.dumps(value)}" for path, value in DAMAGES],
)
def test_ours_refuses_what_is_damaged(path, value, ours):
    assert not ours.is_valid(changed(path, value))


def test_monais_own_takes_the_shipped_metadata_and_refuses_every_damage(theirs):
    assert theirs.is_valid(METADATA)
    assert [(path, value) for path, value in DAMAGES if theirs.is_valid(changed(path, value))] == []


@given(
    path=st.sampled_from(list(places(METADATA))),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "inputs", "a"]), inner),
        max_leaves=4,
    ),
)
def test_ours_refuses_whatever_monais_refuses(path, value, ours, theirs):
    metadata = changed(path, value)
    assert theirs.is_valid(metadata) or not ours.is_valid(metadata)
