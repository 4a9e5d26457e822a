"""A training starts from weights of other species: a new head on the old layers."""

from dataclasses import replace

import pytest
import torch
from scripts.errors import InputError
from scripts.networks.recipe import foreign
from scripts.networks.slice_encoder_unet import SliceEncoderUNet
from scripts.networks.transfer import freeze, head_of, parameter_groups, species_taken_over, start_from
from scripts.networks.weights import load_weights
from scripts.species import SpeciesSet
from synthetic import make_species, tiny_network, write_weights

BASIC, UNET = "monai.networks.nets.BasicUNet", "monai.networks.nets.UNet"
FEATURES = (4, 4, 4, 4, 4, 4)


@pytest.fixture
def old(tmp_path):
    """Weights of the species a and b."""
    return write_weights(tmp_path / "old.pt", tiny_network(seed=1, norm="batch"))


def species_of(*names, **values):
    """Return species of these names, in this order."""
    known = make_species(len(names), **values).known
    return SpeciesSet(10.0, tuple(replace(one, name=name) for one, name in zip(known, names, strict=True)))


def started(old, species_set, **settings):
    """Return a network that starts from the weights, and another one as it was before."""
    built = {"norm": "batch", "out_channels": len(species_set.names)}
    network = start_from(
        tiny_network(seed=2, **built), old, species_set, taken_over=species_taken_over(old, species_set), **settings
    )
    return network, tiny_network(seed=2, **built)


@pytest.mark.parametrize("names", ["bxa", "b", "x", "xb", "abcdefgh"])
def test_known_species_keep_their_rows_and_new_ones_begin_with_their_own(names, old):
    network, untrained = started(old, species_of(*names))
    known = tiny_network(seed=1, norm="batch")
    for row, name in enumerate(names):
        source = known.head.weight["ab".index(name)] if name in "ab" else untrained.head.weight[row]
        assert torch.equal(network.head.weight[row], source)
    weights = network.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in known.state_dict().items() if "head" not in key)


def test_a_species_of_another_radius_is_new(old):
    assert species_taken_over(old, species_of("a", "b", target_radius_angstrom=20.0)) == []


def test_the_log_says_which_species_are_known(old, caplog):
    caplog.set_level("INFO")
    started(old, species_of("p97", "b"))
    assert f"{old}: species taken over: b; new: p97" in caplog.messages


def test_other_species_are_refused_unless_asked_for(old):
    with pytest.raises(InputError, match=r"species, a, b; the species file has 1: x.*start_from_other_species"):
        start_from(tiny_network(norm="batch", out_channels=1), old, species_of("x"))


def test_other_voxels_are_refused(old):
    with pytest.raises(InputError, match="voxels of 10 Å, the species file has 8 Å"):
        species_taken_over(old, make_species(1, 8.0), voxel_size_tolerance=0.02)
    with pytest.raises(InputError, match=r"voxels of 10 Å, the species file has 10\.01 Å"):
        species_taken_over(old, make_species(1, 10.01))


def test_a_start_from_nearly_the_same_voxels_is_taken(old):
    assert species_taken_over(old, make_species(1, 10.01), voxel_size_tolerance=0.02) == ["a"]


def test_weights_to_start_from_are_needed():
    with pytest.raises(InputError, match=r"start_from_other_species needs the weights.*checkpoint_path"):
        species_taken_over(None, make_species())
    with pytest.raises(InputError, match=r"rate_of_old_layers is for layers.*checkpoint_path"):
        parameter_groups(tiny_network(), 0.1, 0.5)


def test_another_network_is_refused(old):
    species_set = species_of("x")
    with pytest.raises(InputError, match=r"depths was \[1, 1\], now it is \[1, 2\]"):
        start_from(tiny_network(norm="batch", out_channels=1, depths=(1, 2)), old, species_set, taken_over=[])


# The head


@pytest.mark.parametrize("species", [1, 2, 4, 8])
def test_the_head_is_what_grows_with_the_species(species):
    assert head_of(tiny_network(out_channels=species)) == ["head.weight", "head.bias"]  # as wide as a stage, too


def test_the_head_of_the_25d_network_is_found():
    pytest.importorskip("timm")
    assert all(name.startswith("head") for name in head_of(SliceEncoderUNet(out_channels=3)))


def test_the_head_of_one_of_monais_networks_is_found():
    network = foreign(BASIC, spatial_dims=3, in_channels=1, out_channels=4, features=FEATURES)
    assert head_of(network) == ["final_conv.weight", "final_conv.bias"]


def test_a_network_without_a_plain_head_is_refused():
    settings = {"spatial_dims": 3, "in_channels": 1, "channels": (4, 8), "strides": (2,)}
    with pytest.raises(InputError, match="head of the network UNet cannot be told from its rest: model"):
        head_of(foreign(UNET, out_channels=2, **settings))


# Slow and frozen layers


def step(network, groups):
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    network.train()
    network(torch.ones(1, 1, 16, 16, 16)).square().sum().backward()
    optimizer.step()


def test_old_layers_learn_as_slowly_as_asked_for(old):
    network, _ = started(old, species_of("x", "b"))
    head, rest = parameter_groups(network, 0.5, 0.1, old)
    assert [id(value) for value in head["params"]] == [id(network.head.weight), id(network.head.bias)]
    assert rest["lr"] == pytest.approx(0.05)
    assert len(rest["params"]) == len(list(network.parameters())) - 2
    assert all(value.requires_grad for value in rest["params"])


def test_what_learns_beside_the_network_is_as_fast_as_its_head(old):
    network, _ = started(old, species_of("x", "b"))
    beside = torch.nn.Conv3d(4, 2, 1)
    head, rest = parameter_groups(network, 0.5, 0.1, old, more=beside)
    assert [id(value) for value in head["params"][2:]] == [id(value) for value in beside.parameters()]
    assert len(rest["params"]) == len(list(network.parameters())) - 2
    assert len(parameter_groups(network, 0.5, more=beside)) == len(list(network.parameters())) + 2


def test_at_the_full_rate_all_weights_are_one_group():
    network = tiny_network()
    assert [id(one) for one in parameter_groups(network, 0.5)] == [id(one) for one in network.parameters()]


def test_frozen_layers_and_their_statistics_stay_while_the_head_learns(old):
    network, _ = started(old, species_of("x", "b"), rate_of_old_layers=0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    step(network, parameter_groups(network, 0.1, 0, old))
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["head.weight", "head.bias"]


def test_frozen_batch_norms_answer_as_in_evaluation(old):
    network = load_weights(tiny_network(norm="batch"), old)
    window = torch.rand(1, 1, 16, 16, 16)
    evaluated = network(window)
    freeze(network)
    assert torch.allclose(network.train()(window), evaluated, atol=1e-5)


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_rate_that_is_no_share_is_refused(rate, old):
    with pytest.raises(InputError, match="rate_of_old_layers is a number from 0 to 1"):
        parameter_groups(tiny_network(), 0.1, rate, old)
