"""A weights file is used with the network and the species that its card names, or not at all."""

import json
import re
import runpy
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from monai.networks.nets import UNet
from scripts.errors import InputError, InputWarning
from scripts.networks.model_card import (
    card_path,
    check_model,
    check_species,
    checked_card,
    network_of,
    read_card,
    record_sha256,
    record_thresholds,
    sha256_of,
    species_of,
    write_card,
)
from scripts.networks.recipe import foreign, recipe_of
from scripts.networks.weights import as_bytes, load_weights, save_model, save_tensors
from scripts.training.spheres import Spheres
from synthetic import make_species, tiny_network, write_weights

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc", from the standard
PARTS = "class Shells:\n    def __init__(self, wall=1):\n        self.wall = wall\n"


@pytest.fixture
def model(tmp_path):
    return write_weights(tmp_path / "model.pt", tiny_network(seed=1))


def edit(model, **changes):
    write_card(model, {**read_card(model), **changes})


# What a card says


def test_a_card_says_what_the_weights_are_of(model):
    card = read_card(model)
    assert card["weights_sha256"] == {"model.pt": sha256_of(model)}
    assert card["network_def"] == {
        "_target_": "scripts.networks.convnext_unet.ConvNeXtUNet",
        "in_channels": 1,
        "out_channels": 2,
        "widths": [4, 8],
        "depths": [1, 1],
        "kernel_size": 3,
        "stem_stride": 2,
        "norm": "group",
        "activation": "gelu",
        "output_stride": 1,
        "align_corners": True,
    }
    assert list(card["species"]) == ["a", "b"]
    assert (card["voxel_size_angstrom"], card["contrast"]) == (10.0, "bright")
    assert card["painter"] == {"class": "scripts.training.spheres.Spheres"}


def test_the_shipped_card_fits_the_shipped_weights_and_species(bundle_dir, shipped_species):
    model = bundle_dir / "models" / "model.pt"
    assert species_of(model) == shipped_species
    assert not load_weights(network_of(model), model, shipped_species, Spheres()).training


@pytest.mark.parametrize("norm", ["group", "instance", "batch", "layer", "none"])
def test_the_network_comes_from_the_card(norm, tmp_path):
    wanted = tiny_network(seed=3, widths=(2, 4, 6), depths=(1, 2, 1), out_channels=3, norm=norm)
    model = write_weights(tmp_path / "mine.pt", wanted, make_species(3))
    found = load_weights(network_of(model), model)
    volume = torch.rand(1, 1, 16, 24, 24)
    with torch.no_grad():
        assert torch.equal(found(volume), wanted.eval()(volume))


def test_networks_of_monai_come_from_the_card_too(tmp_path):
    settings = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [2, 4], "strides": [2]}
    network = foreign("monai.networks.nets.UNet", **settings)
    model = write_weights(tmp_path / "unet.pt", network, make_species(2))
    assert isinstance(load_weights(network_of(model), model), UNet)


@pytest.mark.parametrize(
    "recipe",
    [
        {"_target_": "os.system", "command": "true"},
        {"_target_": "scripts.networks.weights.read_tensors", "path": "x"},
        {"_target_": "scripts.backends.onnx.OnnxNetwork", "path": "x"},
        {"_target_": "mine.Network"},
        {},
    ],
)
def test_a_card_builds_nothing_but_networks_of_the_bundle(recipe, model):
    edit(model, network_def=recipe)
    with pytest.raises(InputError, match=r"model\.json: its network .* is not part of this bundle: name it by --netw"):
        network_of(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "os.system", "command": "true"}, r"'os\.system' is not one of monai\.networks\.nets: Att"),
        ({"name": "monai.networks.nets.HoVerNet", "pretrained_url": "http://host/x"}, "is not one of monai"),
        ({"name": "monai.networks.nets.unet.UNet"}, "is not one of monai"),
        ({"name": "monai.networks.nets.FlexibleUNet", "pretrained": True}, "pretrained would download weights: leave"),
    ],
)
def test_a_foreign_network_is_one_of_monais_and_downloads_nothing(settings, message, model):
    edit(model, network_def={"_target_": "scripts.networks.recipe.foreign", **settings})
    with pytest.raises(InputError, match=message):
        network_of(model)


def test_a_network_that_cannot_be_built_is_named(model):
    edit(model, network_def={**read_card(model)["network_def"], "colour": "red"})
    with pytest.raises(InputError, match=r"model\.json: its network cannot be built: .*colour"):
        network_of(model)


def test_a_network_without_a_recipe_is_refused_with_both_remedies():
    with pytest.raises(InputError, match=r"network Identity does not say .*recorded\(\), or name it to .*foreign"):
        recipe_of(torch.nn.Identity())


# What is refused


SPECIES = make_species(2)


@pytest.mark.parametrize(
    ("species", "message"),
    [
        (make_species(3), r"was trained on 2 species, a, b; the species file has 3: a, b, c"),
        (make_species(1), r"was trained on 2 species, a, b; the species file has 1: a"),
        (
            replace(
                SPECIES, known=tuple(replace(one, name=name) for one, name in zip(SPECIES.known, "ba", strict=True))
            ),
            r"was trained on 2 species, a, b; the species file has 2: b, a",
        ),
        (make_species(2, voxel_size_angstrom=8.0), r"was trained on voxels of 10 Å, the species file has 8 Å"),
        (make_species(2, radius_angstrom=50.0), r"was trained with radius_angstrom 40 of 'a', the species file has 50"),
        (
            make_species(2, target_radius_angstrom=20.0),
            r"was trained .* 30 of 'a', the species file has 20",
        ),
    ],
)
def test_other_species_are_refused(species, message, model):
    with pytest.raises(InputError, match=rf"model\.pt {message}.*Leave species_path out to take the model's species"):
        check_model(model, species)


def test_thresholds_sizes_and_weights_of_the_same_species_may_differ(model):
    check_species(read_card(model), make_species(2, probability_threshold=0.9, min_voxels=7, weight=3.0), model)


def test_another_painter_is_refused(model, tmp_path, monkeypatch):
    (tmp_path / "parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    from parts import Shells

    message = r'model\.pt was trained on other targets .* painter class was "scripts\.training\.spheres\.Spheres", now'
    with pytest.raises(InputError, match=message):
        check_model(model, painter=Shells())


def test_a_missing_file_is_named_with_the_setting(tmp_path):
    for read in (checked_card, network_of, species_of):
        with pytest.raises(InputError, match=r"cannot read .*none\.pt: no such file\. Set checkpoint_path\."):
            read(tmp_path / "none.pt")


@pytest.mark.parametrize(("read", "setting"), [(network_of, "network_def"), (species_of, "species_path")])
def test_weights_without_a_card_need_the_setting(read, setting, model):
    card_path(model).unlink()
    with pytest.raises(InputError, match=rf"model\.pt has no model\.json beside it .* Copy it too, or set {setting}"):
        read(model)


def test_weights_without_a_card_take_the_species_of_a_file(model, bundle_dir, shipped_species):
    card_path(model).unlink()
    assert species_of(model, bundle_dir / "configs" / "species.json") == shipped_species


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"cannot read .*model\.json: .*Copy it again"),
        ("[]", r"model\.json does not describe weights: the key 'format' is missing"),
        ('{"format": 1}', r"model\.json does not describe weights: the key 'network_def' is missing"),
    ],
)
def test_a_damaged_card_is_refused(content, message, model):
    card_path(model).write_text(content)
    with pytest.raises(InputError, match=message):
        checked_card(model)


def test_a_card_of_a_newer_version_is_refused(model):
    edit(model, format=2)
    with pytest.raises(InputError, match=r"has the format 2; this version reads 1\. Update the bundle"):
        checked_card(model)


# SHA-256


def test_the_sha256_is_that_of_the_standard(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == ABC


@pytest.mark.parametrize("place", [0, 200, -1])
def test_a_file_that_differs_in_one_bit_is_refused(model, place):
    wanted, content = sha256_of(model), bytearray(model.read_bytes())
    content[place] ^= 1
    model.write_bytes(content)
    got = sha256_of(model)
    message = (
        rf"model\.pt is not the file that .*model\.json describes: SHA-256 {got[:12]}\.\.\., expected "
        rf"{wanted[:12]}\.\.\.\. Copy both again, or record .*: python -m scripts\.networks\.model_card .*model\.pt"
    )
    with pytest.raises(InputError, match=message):
        load_weights(tiny_network(), model)


def test_other_weights_are_taken_after_the_command_has_recorded_them(model, bundle_dir, monkeypatch, capsys):
    save_tensors(tiny_network(seed=2).state_dict(), model)
    monkeypatch.setattr(sys, "argv", ["model_card.py", str(model)])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(bundle_dir / "scripts" / "networks" / "model_card.py"), run_name="__main__")
    assert capsys.readouterr().out == sha256_of(model) + "\n"
    assert torch.equal(load_weights(tiny_network(), model).head.weight, tiny_network(seed=2).head.weight)


def test_the_command_refuses_weights_without_a_card_in_one_line(tmp_path, bundle_dir, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["model_card.py", str(tmp_path / "model.pt")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(bundle_dir / "scripts" / "networks" / "model_card.py"), run_name="__main__")
    assert end.value.code == 1
    assert re.fullmatch(r"error: .*model\.json is missing: a training, .* writes it\.\n", capsys.readouterr().err)


def test_a_file_that_the_card_does_not_list_is_used_with_a_warning(model):
    other = model.with_name("model.ts")
    other.write_bytes(b"exported")
    with pytest.warns(InputWarning, match=r"model\.ts is used unchecked: .*model\.json does not list it\. Record it"):
        assert checked_card(other)["network_def"]["norm"] == "group"


def test_a_file_that_was_renamed_with_its_card_is_used_without_a_word(model):
    other = shutil.copy(model, model.with_name("ribosomes.pt"))
    shutil.copy(card_path(model), card_path(other))
    assert checked_card(other)["weights_sha256"] == {"model.pt": sha256_of(other)}


def test_what_was_exported_from_weights_that_have_been_replaced_is_refused(model):
    exported = model.with_name("model.ts")
    exported.write_bytes(b"exported")
    record_sha256(exported)
    assert checked_card(exported)["network_def"]["norm"] == "group"
    save_model(model, as_bytes(tiny_network(seed=2).state_dict()), read_card(model))
    with pytest.raises(InputError, match=r"model\.ts was exported from weights that have been replaced .* Export it"):
        checked_card(exported)


@pytest.mark.parametrize("name", ["../x", "a/b", "=1", "$x", "@x", "", "a\nb"])
def test_a_species_name_that_is_no_plain_word_is_refused(name, model):
    card = read_card(model)
    write_card(model, {**card, "species": {name: {**card["species"]["b"]}}})
    with pytest.raises(InputError):
        species_of(model)


# Thresholds


def test_fitted_thresholds_stand_in_the_card_with_their_runs(model):
    record_thresholds(model, {"b": 0.75}, ["TS_1", "TS_2"])
    assert [one.probability_threshold for one in species_of(model).known] == [0.5, 0.75]
    assert json.loads(card_path(model).read_text())["thresholds_fitted_on"] == ["TS_1", "TS_2"]
    assert load_weights(tiny_network(), model).head.out_channels == 2
