"""The mean of several networks' weights in one file."""

import pytest
import torch
from scripts.networks.model_card import checked_card, network_of, read_card, sha256_of, species_of
from scripts.networks.soup import main, mean_weights
from scripts.networks.weights import load_weights
from synthetic import make_species, tiny_classifier, tiny_network, write_second_look, write_weights


@pytest.fixture
def files(tmp_path):
    """Return two weights files of one kind of network."""
    return [
        write_weights(
            tmp_path / f"{name}.pt",
            tiny_network(seed, norm="batch"),
            trained_on=[name],
            selected_on=[name.upper()],
            steps=7,
        )
        for seed, name in enumerate("ab")
    ]


def soup(*paths):
    return main([str(path) for path in paths])


def test_weights_and_the_statistics_of_batch_norms_are_averaged():
    first, other = tiny_network(0, norm="batch"), tiny_network(1, norm="batch")
    for value, network in ((1.0, first), (4.0, other)):
        network.stem[1].running_var.fill_(value)
        network.stem[1].num_batches_tracked.fill_(int(value))
    found = mean_weights([first.state_dict(), other.state_dict()])
    assert torch.allclose(found["head.weight"], (first.head.weight + other.head.weight) / 2)
    norm = next(name for name in found if name.endswith("running_var"))
    assert found[norm].unique().tolist() == [2.5]
    assert found[norm.replace("running_var", "num_batches_tracked")] == 1
    assert {name: value.dtype for name, value in found.items()} == {
        name: value.dtype for name, value in first.state_dict().items()
    }


def test_a_soup_is_a_model_with_a_card(files, tmp_path):
    new = tmp_path / "new" / "soup.pt"
    assert soup(new, *files) == 0
    card = checked_card(new)
    assert card["averaged_from"] == [sha256_of(path) for path in files]
    assert (card["trained_on"], card["selected_on"], card["steps"]) == (["a", "b"], ["A", "B"], None)
    assert card["command"].endswith(f"soup {new} {files[0]} {files[1]}")
    found = load_weights(network_of(new), new, species_of(new))
    wanted = sum(tiny_network(seed, norm="batch").head.weight for seed in (0, 1)) / 2
    assert torch.allclose(found.head.weight, wanted)


REFUSALS = {
    "one": (lambda files: files[:1], "alone is its own mean"),
    "twice": (lambda files: [files[0], files[0]], "hold the same weights"),
    "missing": (lambda files: [*files, files[0].with_name("no.pt")], "no.pt: no such file"),
    "damaged": (lambda files: files[1].write_bytes(b"") or files, "b.pt is not the file"),
    "network": (
        lambda files: [files[0], write_weights(files[0].with_name("c.pt"), tiny_network(norm="layer"))],
        "c.pt is of another network than",
    ),
    "species": (
        lambda files: [
            files[0],
            write_weights(
                files[0].with_name("c.pt"), tiny_network(5, norm="batch"), make_species(voxel_size_angstrom=8)
            ),
        ],
        "c.pt is of other species or voxels",
    ),
    "second look": (
        lambda files: [
            write_second_look(files[0].with_name(f"{seed}.pt"), files[0], make_species(2), tiny_classifier(seed))
            for seed in (0, 1)
        ],
        "0.pt is a second look, whose calibration holds for it alone: average first networks",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_has_no_mean_is_refused_in_one_line(make, message, files, tmp_path, capsys):
    assert soup(tmp_path / "soup.pt", *make(files)) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "soup.pt").exists()
    assert not (tmp_path / "soup.json").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.bin"])  # the second one would have the first one's card
def test_a_soup_replaces_nothing(name, files, tmp_path, capsys):
    before = read_card(files[0])
    assert soup(tmp_path / name, *files) == 1
    assert "is there already: choose another name" in capsys.readouterr().err
    assert read_card(files[0]) == before
