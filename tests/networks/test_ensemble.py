"""Several networks in one."""

import json

import numpy as np
import pytest
import torch
from batches import CONFIGS, pick
from page_data import data_of
from scipy.ndimage import map_coordinates
from scripts.backends.choice import program_of, with_backend
from scripts.backends.onnx import OnnxNetwork, export_onnx
from scripts.backends.torchscript import export_torchscript, load_torchscript
from scripts.errors import InputError
from scripts.inference.inferers import TomogramInferer
from scripts.networks.ensemble import (
    Ensemble,
    load_files,
    match_ranks,
    network_of_files,
    refine_logits,
    sha256_of_files,
    species_of_files,
)
from scripts.networks.model_card import network_of, read_card, record_thresholds, sha256_of, write_card
from scripts.networks.recipe import foreign
from scripts.networks.weights import load_weights
from scripts.picking.blobs import find_candidates
from scripts.picking.second_look import find_second_look
from scripts.picks import read_csv
from scripts.records import record_of
from scripts.species import read_species
from scripts.training.spheres import Spheres
from scripts.volumes.labels import draw_spheres
from synthetic import SHAPE, make_species, noise, tiny_network, write_mrc, write_weights
from torch import nn

POINTS = [(6, 9, 11), (13, 20, 26)]
MEAN, RANK = "mean", "rank"


def unet(species=2, seed=0):
    """Return a network of MONAI, whose logits are as fine as the volume, and whose answer depends on the window."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return foreign(
            "monai.networks.nets.UNet", spatial_dims=3, in_channels=1, out_channels=species, channels=[4, 8],
            strides=[2],
        )  # fmt: skip


def coarse(species=2, seed=0, **settings):
    """Return a network with one logit for every 2 x 2 x 2 voxels, whose answer does not depend on the window."""
    settings = {"norm": "batch", "output_stride": 2, "align_corners": False, **settings}
    return tiny_network(seed, out_channels=species, **settings)


@pytest.fixture
def files(tmp_path):
    """Return two weights files of unlike networks of two species."""
    return [write_weights(tmp_path / "coarse.pt", coarse()), write_weights(tmp_path / "unet.pt", unet())]


class Scaled(nn.Module):
    """Answers with a function of the windows."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, windows):
        return self.function(windows)


# What an ensemble answers


def by_hand(member, windows):
    """Return a member's logits at every voxel, interpolated between the centres of its own."""
    with torch.no_grad():
        logits = member(windows)[0].numpy()
    stride = getattr(member, "output_stride", 1)
    places = np.meshgrid(*((np.arange(size) + 0.5) / stride - 0.5 for size in windows.shape[2:]), indexing="ij")
    return np.stack([map_coordinates(channel, places, order=1, mode="nearest") for channel in logits])


def test_logits_of_unlike_strides_are_interpolated_and_averaged():
    members, windows = [coarse().eval(), unet().eval(), tiny_network(seed=3).eval()], torch.rand(1, 1, 13, 16, 18)
    with torch.no_grad():
        found = Ensemble(members)(windows)[0].numpy()
    assert np.allclose(found, np.mean([by_hand(member, windows) for member in members], axis=0), atol=1e-5)


def test_logits_stay_coarse_where_all_are():
    members, windows = [coarse(seed=seed).eval() for seed in (1, 2)], torch.rand(1, 1, 13, 16, 18)
    with torch.no_grad():
        found, wanted = Ensemble(members)(windows), sum(member(windows) for member in members) / 2
    assert found.shape == (1, 2, 7, 8, 9)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_a_coarse_voxel_lies_between_the_fine_ones_that_it_covers():
    ramp = torch.arange(4.0).expand(1, 1, 4, 4, 4)
    assert refine_logits(ramp, 2, (8, 8, 7))[0, 0, 0, 0].tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75]


def test_inference_with_two_unlike_networks_gives_the_picks_of_their_mean(tmp_path):
    species_set = read_species(CONFIGS / "species.json")
    made = (coarse(5, prior=0.4), unet(5, seed=1))
    paths = [str(write_weights(tmp_path / f"{number}.pt", one, species_set)) for number, one in enumerate(made)]
    volume = noise(0) + 6 * draw_spheres(SHAPE, POINTS, radius_vox=3)
    write_mrc(tmp_path / "tomograms" / "TS_1.mrc", volume, species_set.voxel_size_angstrom)
    output, thresholds = tmp_path / "picks", dict.fromkeys(species_set.names, 0.45)
    workflow = pick(
        tmp_path / "tomograms", output, paths[0], checkpoint_path=paths, inference_window_size=list(SHAPE),
        backend="torch", probability_thresholds=thresholds, merge_distance_in_radii=0.0,
    )  # fmt: skip
    image = workflow.parser.get_parsed_content("preprocessing")({"image": str(tmp_path / "tomograms" / "TS_1.mrc")})
    windows = image["image"].as_tensor()[None]
    mean = np.mean([by_hand(network.eval(), windows) for network in made], axis=0)
    found = read_csv(output / "picks.csv")
    for species, logits in zip(species_set.picked, mean, strict=True):
        wanted = find_candidates(1 / (1 + np.exp(-logits)), 0.45, species.min_voxels)
        own = [one for one in found if one.species == species.name]
        places = np.array([one.zyx_voxel for one in own]).reshape(-1, 3)
        order, other = np.lexsort(places.T), np.lexsort(wanted.centres_zyx_vox.T)
        assert np.allclose(places[order], wanted.centres_zyx_vox[other], atol=0.01)
        assert np.allclose([own[one].score for one in order], wanted.scores[other], atol=1e-4)
    assert len(found) > 0
    record = json.loads((output / "TS_1" / "run.json").read_text())
    assert all(sha256_of(path) in json.dumps(record) for path in paths)
    assert data_of(output / "TS_1" / "report.html")["model"] == "+".join(sha256_of(path)[:8] for path in paths)


# Ranks


def test_ranks_give_the_values_of_the_other_network_in_the_own_order():
    generator = torch.Generator().manual_seed(0)
    logits, like = (torch.randn(2, 3, 4, 5, 6, generator=generator) for _ in range(2))
    found = match_ranks(logits, 7 * like - 3)
    for own, given, matched in zip(*(one.flatten(2).flatten(0, 1) for one in (logits, like, found)), strict=True):
        assert torch.equal(matched[own.argsort()], (7 * given - 3).sort().values)


def test_equal_logits_stay_equal():
    logits = torch.tensor([0.0, 1, 1, 1, 2]).reshape(1, 1, 1, 1, 5)
    like = torch.tensor([5.0, 4, 3, 2, 1]).reshape(1, 1, 1, 1, 5)
    assert match_ranks(logits, like).flatten().tolist() == [1, 3, 3, 3, 5]


def test_by_ranks_the_scale_of_another_member_does_not_matter():
    windows = torch.rand(1, 2, 4, 5, 6)
    first, other = Scaled(lambda x: 10 * x), Scaled(lambda x: (x - 0.3) ** 2)
    stretched = Scaled(lambda x: 1000 * (x - 0.3) ** 2 - 50)
    found, again = Ensemble([first, other], RANK)(windows), Ensemble([first, stretched], RANK)(windows)
    assert torch.allclose(found, again)
    assert not torch.allclose(found, first(windows), atol=1)


@pytest.mark.parametrize("combination", [MEAN, RANK])
def test_a_network_with_itself_answers_like_itself(combination):
    member, windows = tiny_network().eval(), torch.rand(2, 1, 13, 16, 18)
    with torch.no_grad():
        assert torch.equal(Ensemble([member, member], combination)(windows), member(windows))


def test_ranks_hide_no_damage():
    broken = Scaled(lambda x: x.masked_fill(x > 0.9, float("nan")))
    inferer = TomogramInferer(window_size=[8, 8, 8], precision="float32")
    with pytest.raises(InputError, match="NaN or infinity"):
        inferer(torch.rand(1, 1, 8, 8, 8), Ensemble([Scaled(lambda x: x), broken], RANK))


# What inference asks of it


def test_windows_are_cut_for_all_members():
    assert (coarse().stride, coarse(widths=(4, 8, 8), depths=(1, 1, 1)).stride) == (4, 8)
    found = Ensemble([coarse(), coarse(stem_stride=6, output_stride=6), coarse(widths=(4, 8, 8), depths=(1, 1, 1))])
    assert (found.output_stride, found.stride, found.depends_on_window) == (2, 24, False)
    assert (Ensemble([coarse(), unet()]).output_stride, Ensemble([coarse(), unet()]).depends_on_window) == (1, True)
    assert Ensemble([coarse()], RANK).depends_on_window


def test_another_grid_of_windows_gives_the_same_logits():
    deep = {"widths": (4, 8, 8), "depths": (1, 1, 1)}
    members = [coarse(prior=0.5).eval(), coarse(seed=1, prior=0.5, output_stride=1, **deep).eval()]
    volume, network = torch.rand(1, 1, 8, 16, 192), Ensemble(members)
    with torch.no_grad():
        whole = network(volume)
        cut = TomogramInferer([8, 16, 128], overlap_voxels=64, precision="float32")(volume, network)
    assert torch.allclose(cut, whole, atol=1e-4)


def test_memory_is_that_of_the_largest_member_and_the_sum_of_the_logits():
    small, large = coarse(), coarse(widths=(16, 16))
    held = Ensemble([small, large]).values_per_voxel
    assert large.values_per_voxel < held < large.values_per_voxel + small.values_per_voxel
    assert not hasattr(Ensemble([small, unet()]), "values_per_voxel")  # so that a large number is assumed


def test_a_member_gives_its_memory_back_before_the_next_one_runs():
    class Keeper(Scaled):
        def release_memory(self):
            events.append("released")

    events = []
    member = Keeper(lambda x: events.append("ran") or x)
    Ensemble([member, member])(torch.rand(1, 1, 2, 2, 2))
    assert events == ["ran", "released"] * 2


@pytest.mark.parametrize("backend", ["torch", "openvino", "auto"])
def test_every_member_is_run_by_the_program(backend):
    pytest.importorskip("openvino")
    plain, windows = Ensemble([coarse().eval(), unet().eval()]), torch.rand(1, 1, 16, 16, 16)
    network = with_backend(plain, backend)
    with torch.no_grad():
        assert torch.allclose(network(windows), plain(windows), atol=0.01)
    is_openvino = backend != "torch"
    assert (program_of(network) == "openvino", network.has_own_threads) == (is_openvino, is_openvino)


def test_the_member_that_another_program_runs_is_named():
    network = Ensemble([coarse(), unet()])
    assert network.fallback == ""
    network.members[1].fallback = "torch: OpenVINO failed."
    assert network.fallback == "member 2: torch: OpenVINO failed."


def test_every_member_is_compiled():
    network = with_backend(Ensemble([coarse(), unet()], RANK), "compile")
    assert (type(network), network.combination, program_of(network)) == (Ensemble, RANK, "compile")
    assert all(hasattr(member, "_orig_mod") for member in network.members)


def test_the_record_of_an_ensemble_has_the_recipes_of_its_members():
    found = record_of(Ensemble([coarse(), unet()], RANK))
    assert found["combination"] == RANK
    assert [one.get("output_stride", one.get("name")) for one in found["members"]] == [2, "monai.networks.nets.UNet"]


# Files


def test_a_list_of_files_is_an_ensemble_of_their_networks(files):
    species_set, windows = species_of_files(files), torch.rand(1, 1, 8, 8, 8)
    network = load_files(network_of_files(files, RANK), files, species_set)
    assert not network.training
    assert sha256_of_files(files) == [sha256_of(path) for path in files]
    with torch.no_grad():
        wanted = Ensemble([coarse().eval(), unet().eval()], RANK)(windows)
        assert torch.equal(network(windows), wanted)


def test_one_file_is_its_own_network(files):
    network = load_files(network_of_files(files[0]), files[0])
    assert type(network) is type(network_of(files[0]))
    assert sha256_of_files(files[0]) == sha256_of(files[0])


def test_the_thresholds_are_those_of_the_first_file(tmp_path):
    paths = [
        write_weights(tmp_path / f"{threshold}.pt", coarse(seed=seed), make_species(probability_threshold=threshold))
        for seed, threshold in enumerate((0.3, 0.7))
    ]
    assert [one.probability_threshold for one in species_of_files(paths).picked] == [0.3, 0.3]
    network_of_files(paths)


def edit(path, **changes):
    write_card(path, {**read_card(path), **changes})


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def other_painter(path):
    edit(path, painter={"class": "scripts.training.heat_maps.HeatMaps", "sigma_angstrom": 60})


REFUSALS = {
    "none": (lambda files: [], "checkpoint_path names no file"),
    "missing": (lambda files: [*files, files[0].with_name("no.pt")], "no.pt: no such file"),
    "bare": (lambda files: files[1].with_suffix(".json").unlink() or files, "has no unet.json beside it"),
    "damaged": (lambda files: cut(files[1]) or files, "unet.pt is not the file"),
    "twice": (lambda files: [*files, files[0]], "coarse.pt hold the same weights"),
    "copied": (
        lambda files: [*files, write_weights(files[0].with_name("copy.pt"), coarse())],
        "copy.pt hold the same weights",
    ),
    "species": (
        lambda files: [*files, write_weights(files[0].with_name("three.pt"), coarse(3))],
        "three.pt is of other species or voxels than",
    ),
    "voxels": (
        lambda files: edit(files[1], voxel_size_angstrom=8.0) or files,
        "voxel_size_angstrom was 10.0, now .* 8",
    ),
    "targets": (lambda files: other_painter(files[1]) or files, "unlike scales: painter .* Set ensemble to 'rank'"),
}


@pytest.mark.parametrize(("make", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_an_ensemble_is_refused_in_one_line(make, message, files):
    paths = make(files)
    with pytest.raises(InputError, match=message) as refusal:
        load_files(network_of_files(paths), paths, species_of_files(paths))
    assert "\n" not in str(refusal.value)


def test_members_with_unlike_targets_go_by_ranks(files):
    other_painter(files[1])
    network = network_of_files(files, RANK)
    load_files(network, files, painter=Spheres())
    other_painter(files[0])
    with pytest.raises(InputError, match=r"coarse.pt was trained on other targets than the settings say"):
        load_files(network, files, painter=Spheres())


def test_an_unknown_combination_is_refused(files):
    with pytest.raises(InputError, match="ensemble is mean or rank; got 'median'"):
        network_of_files(files, "median")
    with pytest.raises(InputError, match="ensemble is mean or rank; got 'median'"):
        network_of_files(files[0], "median")


def test_ranks_of_one_network_are_refused(files):
    for one in (files[0], files[:1]):
        with pytest.raises(
            InputError, match="ensemble rank needs several weights: name more in checkpoint_path, or leave"
        ):
            network_of_files(one, RANK)


def test_several_files_do_not_fit_a_network_that_was_named(files):
    with pytest.raises(InputError, match="leave network_def out"):
        load_files(coarse(), files)


@pytest.mark.filterwarnings("ignore:.*does not say how it was built")
def test_one_file_does_not_fit_an_ensemble(files):  # as MONAI Label loads weights
    with pytest.raises(InputError, match=r"coarse.pt is of another network"):
        load_weights(network_of_files(files), files[0])


@pytest.mark.parametrize(
    "use",
    [
        lambda paths: load_weights(coarse(), paths),
        lambda paths: export_torchscript(coarse(), paths, "x.ts"),
        lambda paths: export_onnx(coarse(), paths, "x.onnx", [8, 8, 8]),
        load_torchscript,
        OnnxNetwork,
        lambda paths: record_thresholds(paths, {}, []),
    ],
)
def test_what_takes_one_file_refuses_a_list(use, files):
    with pytest.raises(InputError, match=r"must be one file here; got .*coarse.pt, .*unet.pt. Only inference"):
        use(files)


@pytest.mark.parametrize("wanted", ["auto", False])
def test_an_ensemble_has_no_second_look(wanted, files, caplog):
    with caplog.at_level("INFO"):
        assert find_second_look(wanted, None, files, make_species(2)) is None
    assert ("no second look" in caplog.text) == (wanted == "auto")


def test_a_second_look_that_is_asked_for_is_refused_for_an_ensemble(files):
    with pytest.raises(InputError, match="checkpoint_path is a list: set second_look to false"):
        find_second_look(True, None, files, make_species(2))
