import json
import os
import pickle
import runpy
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.errors import InputError, InputWarning
from scripts.networks import weights
from scripts.networks.weights import (
    install_weights,
    load_weights,
    read_tensors,
    record_sha256,
    recorded_sha256,
    save_tensors,
    sha256_of,
)
from synthetic import tiny_network

TENSORS = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([7, 8])}
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc", from the standard


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def bundle(tmp_path):
    """Return a small bundle folder: weights in models/, their SHA-256 in configs/metadata.json."""
    save_tensors(tiny_network(seed=1).state_dict(), tmp_path / "models" / "model.pt")
    metadata = tmp_path / "configs" / "metadata.json"
    metadata.parent.mkdir()
    metadata.write_text('{"version": "0.1.0"}')
    record_sha256(tmp_path / "models" / "model.pt", metadata)
    return tmp_path


def load(bundle, name="models/model.pt", **settings):
    return load_weights(tiny_network(**settings), bundle / name, bundle / "configs" / "metadata.json")


def flip_a_bit(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


# Round trip


def test_tensors_come_back(tmp_path):
    save_tensors({**TENSORS, "epoch": 3, "nested": {"names": ["x", None]}}, tmp_path / "new" / "model.pt")
    content = read_tensors(tmp_path / "new" / "model.pt")
    assert (content["epoch"], content["nested"]) == (3, {"names": ["x", None]})
    assert all(torch.equal(content[name], TENSORS[name]) for name in TENSORS)


def test_a_network_gets_its_weights_back_in_evaluation_mode(bundle):
    network, wanted = load(bundle), tiny_network(seed=1)
    assert not network.training
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in wanted.state_dict().items())


def test_the_network_that_is_given_is_the_one_that_comes_back(bundle):
    network = tiny_network()
    assert load_weights(network, bundle / "models" / "model.pt") is network


def test_weights_go_to_the_device_asked_for(bundle):
    assert read_tensors(bundle / "models" / "model.pt", device="meta")["head.bias"].device.type == "meta"


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    save_tensors(TENSORS, tmp_path / "model.pt")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_tensors({"a": lambda: None}, tmp_path / "model.pt")
    assert torch.equal(read_tensors(tmp_path / "model.pt")["a"], TENSORS["a"])
    assert os.listdir(tmp_path) == ["model.pt"]


# SHA-256


def test_the_sha256_is_that_of_the_standard(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == ABC


def test_recording_adds_to_the_metadata_and_keeps_the_rest(bundle):
    (bundle / "models" / "abc.pt").write_bytes(b"abc")
    first = sha256_of(bundle / "models" / "model.pt")
    assert record_sha256(bundle / "models" / "abc.pt", bundle / "configs" / "metadata.json") == ABC
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata == {"version": "0.1.0", "weights_sha256": {"model.pt": first, "abc.pt": ABC}}


def test_the_recorded_sha256_comes_back(bundle):
    path = bundle / "models" / "model.pt"
    assert recorded_sha256(path, bundle / "configs" / "metadata.json") == sha256_of(path)


def test_a_file_beside_the_shipped_weights_that_is_not_listed_is_used_with_a_warning(bundle):
    shutil.copy(bundle / "models" / "model.pt", bundle / "models" / "mine.pt")
    with pytest.warns(InputWarning, match=r"mine.pt is used unchecked: .*metadata.json does not list it"):
        assert load(bundle, "models/mine.pt").head.out_channels == 2


@pytest.mark.parametrize("name", ["other/model.pt", "model.pt"])
def test_only_files_in_the_folder_of_the_weights_have_a_recorded_sha256(bundle, name):
    (bundle / name).parent.mkdir(exist_ok=True)
    shutil.copy(bundle / "models" / "model.pt", bundle / name)
    flip_a_bit(bundle / "models" / "model.pt", 0)
    assert recorded_sha256(bundle / name, bundle / "configs" / "metadata.json") is None
    assert load(bundle, name).head.out_channels == 2


def test_without_a_metadata_file_nothing_is_compared(bundle):
    (bundle / "configs" / "metadata.json").unlink()
    assert load(bundle).head.out_channels == 2


@pytest.mark.parametrize("place", [0, 200, -1])
def test_a_file_that_differs_in_one_bit_is_refused(bundle, place):
    wanted = sha256_of(bundle / "models" / "model.pt")
    flip_a_bit(bundle / "models" / "model.pt", place)
    got = sha256_of(bundle / "models" / "model.pt")
    message = (
        rf"model\.pt is not the file that .*metadata\.json describes: SHA-256 {got[:12]}\.\.\., "
        rf"expected {wanted[:12]}\.\.\.\. Fetch it again, or record .*: python -m scripts\.networks\.weights .*model\.pt"
    )
    with pytest.raises(InputError, match=message):
        load(bundle)


def test_other_weights_are_taken_after_the_command_has_recorded_them(bundle, bundle_dir, monkeypatch, capsys):
    path = bundle / "models" / "model.pt"
    save_tensors(tiny_network(seed=2).state_dict(), path)
    monkeypatch.setattr(sys, "argv", ["weights.py", str(path)])
    runpy.run_path(str(bundle_dir / "scripts" / "networks" / "weights.py"), run_name="__main__")
    assert capsys.readouterr().out == sha256_of(path) + "\n"
    assert torch.equal(load(bundle).head.weight, tiny_network(seed=2).head.weight)


# Installing


def test_installed_weights_are_recorded_and_the_bundles_own_stay_beside_them(bundle):
    path, metadata = bundle / "models" / "model.pt", bundle / "configs" / "metadata.json"
    shipped = sha256_of(path)
    for seed in (2, 3):
        save_tensors(tiny_network(seed=seed).state_dict(), bundle / "new.pt")
        kept = install_weights(bundle / "new.pt", path, metadata)
        assert torch.equal(load(bundle).head.weight, tiny_network(seed=seed).head.weight)
        assert kept == bundle / "models" / "model_shipped.pt"
        assert sha256_of(kept) == recorded_sha256(kept, metadata) == shipped


@pytest.mark.parametrize("step", ["_copy", "_write_record"])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.filterwarnings("ignore:.*used unchecked")
def test_weights_are_usable_after_every_step_of_an_installation(step, call, bundle, monkeypatch):
    save_tensors(tiny_network(seed=2).state_dict(), bundle / "new.pt")
    real, calls = getattr(weights, step), []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(weights, step, stop)
    with pytest.raises(KeyboardInterrupt):
        install_weights(bundle / "new.pt", bundle / "models" / "model.pt", bundle / "configs" / "metadata.json")
    found = load(bundle).head.weight
    assert any(torch.equal(found, tiny_network(seed=seed).head.weight) for seed in (1, 2))


def test_weights_that_are_not_finite_are_not_installed(bundle):
    before = sha256_of(bundle / "models" / "model.pt")
    save_tensors({"head.bias": torch.tensor([0.0, torch.nan])}, bundle / "new.pt")
    with pytest.raises(InputError, match=r"new\.pt is not put to use: head\.bias is not finite"):
        install_weights(bundle / "new.pt", bundle / "models" / "model.pt", bundle / "configs" / "metadata.json")
    assert sha256_of(bundle / "models" / "model.pt") == before


# Damaged files


@pytest.mark.parametrize("kept", [0, 1, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_refused(tmp_path, kept):
    save_tensors(TENSORS, tmp_path / "model.pt")
    content = (tmp_path / "model.pt").read_bytes()
    size = kept if kept in (0, 1) else int(kept * len(content))
    (tmp_path / "model.pt").write_bytes(content[:size])
    with pytest.raises(InputError, match=rf"model\.pt is no checkpoint, or it is damaged or cut short \({size} bytes"):
        read_tensors(tmp_path / "model.pt")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    save_tensors(TENSORS, path)
    return path


@pytest.mark.filterwarnings("ignore")  # zipfile's and torch's about what a flipped bit made of the file
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_noticed_or_changes_nothing(whole, data):
    content = bytearray(whole.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = whole.with_name("flipped.pt")
    path.write_bytes(content)
    try:
        found = read_tensors(path)
    except InputError:
        return
    assert set(found) == set(TENSORS)
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"<!doctype html>", b"{}"])
def test_a_text_is_no_checkpoint(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.pt is no checkpoint, or it is damaged or cut short"):
        read_tensors(tmp_path / "model.pt")


def test_a_zip_file_of_something_else_is_no_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(InputError, match=r"model\.pt is no checkpoint"):
        read_tensors(tmp_path / "model.pt")


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="is no checkpoint"):
        read_tensors(tmp_path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda bomb, path: torch.save(bomb, path), "holds more than tensors; it is refused: loading it could run"),
        (lambda bomb, path: torch.save(bomb, path, _use_new_zipfile_serialization=False), "is no checkpoint"),
        (lambda bomb, path: path.write_bytes(pickle.dumps(bomb)), "is no checkpoint"),
    ],
    ids=["zip", "legacy", "bare"],
)
def test_code_in_a_file_is_refused_and_not_run(tmp_path, write, message):
    write({"a": Bomb(tmp_path / "ran")}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=rf"model\.pt {message}"):
        read_tensors(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


def test_the_bomb_of_this_test_goes_off_where_code_is_allowed(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_a_list_is_no_table_of_weights(tmp_path):
    torch.save([1, 2], tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt holds a list, not a table of weights\."):
        read_tensors(tmp_path / "model.pt")


# Missing files and other networks


def test_a_missing_file_is_named_with_the_setting(bundle):
    with pytest.raises(InputError, match=r"cannot read .*none\.pt: no such file\. Set checkpoint_path\."):
        load(bundle, "models/none.pt")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none\.pt: no such file\."):
        read_tensors(tmp_path / "none.pt")


def test_weights_of_another_shape_are_refused(bundle):
    message = r"of another network: head\.weight has shape \(2, 2, 1, 1, 1\), the network wants \(3, 2, 1, 1, 1\)"
    with pytest.raises(InputError, match=message):
        load(bundle, out_channels=3)


def test_weights_that_are_missing_or_unknown_are_counted_and_the_first_named(bundle):
    weights = tiny_network().state_dict()
    del weights["head.bias"], weights["head.weight"]
    save_tensors({**weights, "tail": torch.zeros(1)}, bundle / "other.pt")
    message = r"other\.pt is of another network: 2 weights missing \(first: head\.bias\), 1 unknown \(first: tail\)\."
    with pytest.raises(InputError, match=message):
        load(bundle, "other.pt")


def test_weights_that_are_only_missing_are_refused(bundle):
    save_tensors({}, bundle / "other.pt")
    with pytest.raises(InputError, match=r"weights missing \(first: .*\), 0 unknown\. Check network_def\."):
        load(bundle, "other.pt")


def test_a_weight_that_is_no_tensor_is_refused(bundle):
    save_tensors({**tiny_network().state_dict(), "head.bias": 1.5}, bundle / "other.pt")
    with pytest.raises(InputError, match=r"head\.bias has shape float, the network wants \(2,\)"):
        load(bundle, "other.pt")
