import contextlib
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.atomic_files import write_atomically
from scripts.errors import InputError, InputWarning
from scripts.networks import model_card, weights
from scripts.networks.model_card import checked_card, read_card, sha256_of, write_card
from scripts.networks.weights import install_weights, load_weights, read_tensors, save_tensors
from synthetic import tiny_network, write_weights

TENSORS = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([7, 8])}


BARE = pytest.mark.filterwarnings("ignore:.*beside it")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a model: weights and their card."""
    write_weights(tmp_path / "model.pt", tiny_network(seed=1))
    return tmp_path


def load(folder, name="model.pt", **settings):
    return load_weights(tiny_network(**settings), folder / name)


def save_bare(path, seed=2, **settings):
    """Write weights without a card."""
    save_tensors(tiny_network(seed, **settings).state_dict(), path)
    return path


# Round trip


def test_tensors_come_back(tmp_path):
    save_tensors({**TENSORS, "epoch": 3, "nested": {"names": ["x", None]}}, tmp_path / "new" / "model.pt")
    content = read_tensors(tmp_path / "new" / "model.pt")
    assert (content["epoch"], content["nested"]) == (3, {"names": ["x", None]})
    assert all(torch.equal(content[name], TENSORS[name]) for name in TENSORS)


def test_a_network_gets_its_weights_back_in_evaluation_mode(folder):
    network, wanted = load(folder), tiny_network(seed=1)
    assert not network.training
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in wanted.state_dict().items())


def test_the_network_that_is_given_is_the_one_that_comes_back(folder):
    network = tiny_network()
    assert load_weights(network, folder / "model.pt") is network


def test_weights_go_to_the_device_asked_for(folder):
    assert read_tensors(folder / "model.pt", device="meta")["head.bias"].device.type == "meta"


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    save_tensors(TENSORS, tmp_path / "model.pt")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_tensors({"a": lambda: None}, tmp_path / "model.pt")
    assert torch.equal(read_tensors(tmp_path / "model.pt")["a"], TENSORS["a"])
    assert os.listdir(tmp_path) == ["model.pt"]


# Installing


def test_installed_weights_get_their_card_and_the_bundles_own_stay_beside_them(folder):
    path, shipped = folder / "model.pt", sha256_of(folder / "model.pt")
    for seed in (2, 3):
        write_weights(folder / "new.pt", tiny_network(seed=seed), steps=seed)
        kept = install_weights(folder / "new.pt", path)
        assert torch.equal(load(folder).head.weight, tiny_network(seed=seed).head.weight)
        assert checked_card(path)["steps"] == seed
        assert kept == folder / "model_shipped.pt"
        assert sha256_of(kept) == checked_card(kept)["weights_sha256"]["model_shipped.pt"] == shipped


@pytest.mark.parametrize("call", range(1, 8))
def test_weights_fit_their_card_after_every_step_of_an_installation(call, folder, monkeypatch):
    write_weights(folder / "new.pt", tiny_network(seed=2, norm="instance"))
    calls = []

    @contextlib.contextmanager
    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        with write_atomically(*arguments) as file:
            yield file

    monkeypatch.setattr(weights, "write_atomically", stop)
    monkeypatch.setattr(model_card, "write_atomically", stop)
    with pytest.raises(KeyboardInterrupt) if call < 7 else contextlib.nullcontext():
        install_weights(folder / "new.pt", folder / "model.pt")
    assert len(calls) == min(call, 6)
    norm = "group" if call < 6 else "instance"
    found = load(folder, norm=norm).head.weight
    assert torch.equal(found, tiny_network(seed=1 if call < 6 else 2).head.weight)


@pytest.mark.parametrize("seed", [2, 3])
def test_a_card_that_waited_for_its_weights_is_replaced_by_the_next(seed, folder):
    before = read_card(folder / "model.pt")
    write_card(folder / "model.pt", {**before, "weights_sha256": {"model.pt": "0" * 64}, "previous": before})
    assert checked_card(folder / "model.pt") == before
    write_weights(folder / "model.pt", tiny_network(seed=seed))
    assert torch.equal(load(folder).head.weight, tiny_network(seed=seed).head.weight)


def test_weights_that_are_not_finite_are_not_installed(folder):
    before = sha256_of(folder / "model.pt")
    network = tiny_network()
    network.head.bias.data[1] = torch.nan
    write_weights(folder / "new.pt", network)
    with pytest.raises(InputError, match=r"new\.pt is not put to use: head\.bias is not finite"):
        install_weights(folder / "new.pt", folder / "model.pt")
    assert sha256_of(folder / "model.pt") == before


def test_weights_without_a_card_are_not_installed(folder):
    with pytest.raises(InputError, match=r"bare\.pt is not put to use: bare\.json is missing beside it"):
        install_weights(save_bare(folder / "bare.pt"), folder / "model.pt")


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


@pytest.mark.parametrize("name", ["archive/data/0", "archive/data/1"])
def test_a_tensor_that_is_marked_as_a_folder_is_noticed(name, whole):
    content = bytearray(whole.read_bytes())
    entry = content.rindex(name.encode()) - 46  # in the directory at the end of the file
    assert content[entry : entry + 4] == b"PK\x01\x02"
    content[entry + 38] ^= 0x10
    path = whole.with_name("marked.pt")
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"marked\.pt is no checkpoint, or it is damaged"):
        read_tensors(path)


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


def test_a_missing_file_is_named_with_the_setting(folder):
    with pytest.raises(InputError, match=r"cannot read .*none\.pt: no such file\. Set checkpoint_path\."):
        load(folder, "none.pt")


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none\.pt: no such file\."):
        read_tensors(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "instance"}, 'norm was "group", now it is "instance"'),
        ({"widths": (4, 16)}, r"widths was \[4, 8\], now it is \[4, 16\]"),
        ({"depths": (1, 2)}, r"depths was \[1, 1\], now it is \[1, 2\]"),
        ({"out_channels": 3}, "out_channels was 2, now it is 3"),
    ],
)
def test_weights_of_another_network_are_refused_although_they_may_fit(settings, message, folder):
    message = rf"model\.pt is of another network than the settings say: {message}\. Leave network_def out to take"
    with pytest.raises(InputError, match=message):
        load(folder, **settings)


def test_what_matters_before_the_first_step_alone_may_differ(folder):
    assert load(folder, prior=0.5).head.out_channels == 2


def test_weights_without_a_card_are_used_with_a_warning(folder):
    save_bare(folder / "bare.pt")
    with pytest.warns(InputWarning, match=r"bare\.pt has no bare\.json beside it: nothing says which network"):
        assert load(folder, "bare.pt").head.out_channels == 2


@BARE
def test_weights_of_another_shape_are_refused(folder):
    message = r"of another network: head\.weight has shape \(2, 2, 1, 1, 1\), the network wants \(3, 2, 1, 1, 1\)"
    save_bare(folder / "bare.pt")
    with pytest.raises(InputError, match=message):
        load(folder, "bare.pt", out_channels=3)


@BARE
def test_weights_that_are_missing_or_unknown_are_counted_and_the_first_named(folder):
    state = tiny_network().state_dict()
    del state["head.bias"], state["head.weight"]
    save_tensors({**state, "tail": torch.zeros(1)}, folder / "other.pt")
    message = r"other\.pt is of another network: 2 weights missing \(first: head\.bias\), 1 unknown \(first: tail\)\."
    with pytest.raises(InputError, match=message):
        load(folder, "other.pt")


@BARE
def test_weights_that_are_only_missing_are_refused(folder):
    save_tensors({}, folder / "other.pt")
    with pytest.raises(InputError, match=r"weights missing \(first: .*\), 0 unknown\. Check network_def\."):
        load(folder, "other.pt")


@BARE
def test_a_weight_that_is_no_tensor_is_refused(folder):
    save_tensors({**tiny_network().state_dict(), "head.bias": 1.5}, folder / "other.pt")
    with pytest.raises(InputError, match=r"head\.bias has shape float, the network wants \(2,\)"):
        load(folder, "other.pt")
