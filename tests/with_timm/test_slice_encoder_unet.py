"""The network with backbones of timm, and its overlay from training to the picks of exported files."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from scripts.backends.onnx import OnnxNetwork
from scripts.backends.openvino import OpenVinoNetwork, is_installed
from scripts.backends.torchscript import load_torchscript
from scripts.errors import InputError
from scripts.networks.model_card import network_of, species_of
from scripts.networks.recipe import ON_WINDOWS
from scripts.networks.weights import load_weights
from scripts.picks import read_csv
from synthetic import write_weights
from torch import nn
from two_tomograms import run_configs, write_two_tomograms

timm = pytest.importorskip("timm", reason="make test-timm installs it")

from scripts.networks.slice_encoder_unet import SliceEncoderUNet, create_backbone  # noqa: E402

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
VOXEL_SIZE = 10.012
TINY = ["test_convnext", "test_resnet", "test_efficientnet"]  # timm's own, for tests
WIDTHS = (4, 6, 8, 10)
SIZES = [(16, 64, 96), (17, 33, 70), (3, 50, 31), (1, 1, 1)]


def tiny(backbone=TINY[0], seed=0, **settings):
    torch.manual_seed(seed)
    network = SliceEncoderUNet(backbone=backbone, decoder_widths=WIDTHS, **{"out_channels": 2, **settings}).eval()
    nn.init.normal_(network.head.weight)  # as far apart as after a training
    return network


def random_windows(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def answer_of(network, windows):
    return network(windows)


# Shapes


@pytest.mark.parametrize("backbone", TINY)
@pytest.mark.parametrize("size", SIZES)
def test_a_window_of_any_size_has_a_logit_for_every_two_voxels(backbone, size):
    wanted = (2, 2, *(-(-side // 2) for side in size))
    assert answer_of(tiny(backbone), random_windows(2, 1, *size)).shape == wanted


@pytest.mark.parametrize("output_stride", [1, 2])
@pytest.mark.parametrize("finest_stage", [0, 1, 2, 3])
def test_every_finest_stage_answers_at_the_output_stride(finest_stage, output_stride):
    network = tiny(finest_stage=finest_stage, output_stride=output_stride)
    answer = answer_of(network, random_windows(1, 1, 9, 40, 35))
    assert answer.shape[2:] == tuple(-(-side // output_stride) for side in (9, 40, 35))
    assert len(network.grow) == 3 - finest_stage


def test_deeper_stages_see_fewer_slices():
    features = answer_of(tiny().encoder, random_windows(2, 1, 16, 64, 96))
    assert [tuple(one.shape[2:]) for one in features] == [(16, 16, 24), (8, 8, 12), (4, 4, 6), (2, 2, 3)]


@pytest.mark.parametrize(("depth_pooling", "pool"), [("mean", torch.mean), ("max", torch.amax)])
def test_only_neighbouring_slices_of_one_window_are_pooled(depth_pooling, pool):
    encoder = tiny(depth_pooling=depth_pooling).encoder
    windows = random_windows(2, 1, 8, 32, 32)
    plain = create_backbone(TINY[0]).eval()
    plain.load_state_dict(
        {name.replace(".1.", ".", 1) if "stages_" in name and "stages_0" not in name else name: value
         for name, value in encoder.stages.state_dict().items()}
    )  # fmt: skip
    first = plain.stages_0(plain.stem_1(plain.stem_0(windows.transpose(1, 2).flatten(0, 1))))
    pooled = pool(first.unflatten(0, (2, 4, 2)), 2).flatten(0, 1)
    wanted = plain.stages_1(pooled).unflatten(0, (2, 4)).transpose(1, 2)
    torch.testing.assert_close(answer_of(encoder, windows)[1], wanted)


# Places


@pytest.mark.parametrize("backbone", ["test_convnext", "test_resnet"])
@pytest.mark.parametrize("output_stride", [1, 2])
@pytest.mark.parametrize(("axis", "size", "stride"), [(2, 160, 8), (3, 640, 32), (4, 640, 32)])
def test_a_shift_by_the_stride_shifts_the_logits(backbone, output_stride, axis, size, stride):
    network = tiny(backbone, output_stride=output_stride)
    sides = {2: 8, 3: 32, 4: 32, axis: size}
    volume = random_windows(1, 1, *sides.values())
    wanted = answer_of(network, volume).roll(stride // output_stride, axis)
    found = answer_of(network, volume.roll(stride, axis))
    middle = (size // 2 // output_stride, stride)  # which the rims do not reach
    torch.testing.assert_close(found.narrow(axis, *middle), wanted.narrow(axis, *middle), atol=1e-4, rtol=1e-4)
    assert wanted.narrow(axis, *middle).std() > 0.1
    assert (found - wanted).abs().max() > 1e-3  # at the rims


def test_a_padded_window_gives_the_same_answer_as_zeros_at_its_far_end():
    network, window = tiny(), random_windows(1, 1, 7, 40, 50)
    padded = torch.zeros(1, 1, 8, 64, 64)
    padded[..., :7, :40, :50] = window
    torch.testing.assert_close(answer_of(network, padded)[..., :4, :20, :25], answer_of(network, window))


@pytest.mark.parametrize("backbone", ["convnext_atto", "resnet10t", "regnetx_002"])
def test_the_answer_of_a_local_backbone_does_not_depend_on_what_is_far_away(backbone):
    network = SliceEncoderUNet(backbone=backbone).eval()
    assert not network.depends_on_window
    strip = random_windows(1, 1, 8, 32, 1536)
    other = strip.clone()
    other[..., -32:] += 1
    for one, two in zip(answer_of(network.encoder, strip), answer_of(network.encoder, other), strict=True):
        torch.testing.assert_close(one[..., 0], two[..., 0], atol=0, rtol=0)
        assert not torch.equal(one[..., -1], two[..., -1])


@pytest.mark.parametrize("backbone", ["test_efficientnet", "convnextv2_atto", "resnetrs50", "resnet33ts"])
def test_windows_of_any_other_backbone_have_a_fixed_size(backbone):
    with torch.device("meta"):
        assert SliceEncoderUNet(backbone=backbone).depends_on_window


# Refusals, and weights to start from


@pytest.mark.parametrize("name", ["none", "hf-hub:timm/convnext_atto.d2_in1k"])
def test_a_backbone_that_timm_does_not_have_is_refused(name):
    with pytest.raises(InputError, match=f"has no backbone '{name}': choose one of"):
        SliceEncoderUNet(backbone=name)


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224", "hrnet_w18_small"])
def test_a_backbone_of_another_form_is_refused(name):
    with torch.device("meta"), pytest.raises(InputError, match=f"timm's '{name}' cannot be a backbone: needed are"):
        SliceEncoderUNet(backbone=name)


def published(backbone, in_chans):
    """Return a whole network of timm's, as its weights are published."""
    torch.manual_seed(1)
    return timm.create_model(backbone, in_chans=in_chans).eval()


@pytest.mark.parametrize("backbone", TINY)
@pytest.mark.parametrize(("suffix", "in_chans"), [(".pt", 3), (".pt", 1), (".safetensors", 3)])
def test_a_network_starts_from_weights_in_a_file(backbone, suffix, in_chans, tmp_path):
    whole, path = published(backbone, in_chans), tmp_path / f"backbone{suffix}"
    save = torch.save if suffix == ".pt" else pytest.importorskip("safetensors.torch").save_file
    save(whole.state_dict(), path)
    network = tiny(backbone, backbone_weights_path=path)
    grey = random_windows(1, 1, 64, 96)
    with torch.no_grad():
        wanted = whole.forward_intermediates(grey.expand(-1, in_chans, -1, -1), intermediates_only=True)[-4:]
    found = answer_of(network.encoder, grey[:, :, None].expand(-1, -1, 8, -1, -1))  # equal slices, equal means
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one[:, :, 0], two, atol=1e-4, rtol=1e-4)
    assert "backbone_weights_path" not in network.recipe


def test_weights_that_are_missing_or_of_another_backbone_are_refused(tmp_path):
    for name in ("none.pt", "none.safetensors"):
        with pytest.raises(InputError, match=f"cannot read .*{name}: "):
            tiny(backbone_weights_path=tmp_path / name)
    torch.save(published("test_resnet", 3).state_dict(), tmp_path / "resnet.pt")
    with pytest.raises(InputError, match=r"does not hold the weights of 'test_convnext': stem\.0\.weight is missing"):
        tiny(backbone_weights_path=tmp_path / "resnet.pt")
    (tmp_path / "damaged.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="is a damaged safetensors file"):
        tiny(backbone_weights_path=tmp_path / "damaged.safetensors")


# Forms of the network


@pytest.mark.parametrize("backbone", TINY)
@pytest.mark.parametrize("training", [True, False])
def test_channels_last_gives_the_same_logits_and_reaches_the_2d_kernels(backbone, training):
    plain, last = (tiny(backbone).train(training) for _ in range(2))
    last = last.to(memory_format=torch.channels_last_3d)
    kernel = next(one for one in last.encoder.parameters() if one.dim() == 4 and min(one.shape) > 1)
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    windows = random_windows(2, 1, 9, 64, 40)
    torch.manual_seed(0)
    wanted = plain(windows)
    torch.manual_seed(0)
    torch.testing.assert_close(last(windows.to(memory_format=torch.channels_last_3d)), wanted, rtol=0.01, atol=0.02)


@pytest.mark.parametrize("backbone", TINY)
def test_mixed_precision_trains_every_parameter(backbone):
    network = tiny(backbone).train()
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(random_windows(2, 1, 8, 64, 64))
    assert logits.dtype == torch.bfloat16
    logits.float().square().mean().backward()
    assert [name for name, one in network.named_parameters() if one.grad is None] == []


def test_the_untrained_network_finds_every_voxel_improbable():
    torch.manual_seed(0)
    network = SliceEncoderUNet(backbone=TINY[0], prior=0.01).eval()
    assert answer_of(network, random_windows(1, 1, 16, 64, 64)).sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)


@pytest.mark.skipif(not is_installed(), reason="needs OpenVINO")
def test_openvino_gives_the_same_logits():
    network = tiny()
    windows = random_windows(1, 1, 16, 64, 64)
    found = answer_of(OpenVinoNetwork(network), windows)
    torch.testing.assert_close(found, answer_of(network, windows), atol=0.05, rtol=0.01)


# The overlay


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_two_tomograms(tmp_path_factory.mktemp("data"))


def train(data, output, epochs, **settings):
    return run_configs(
        ["train.json", "slice_encoder.json"], "train", data, output, epochs=epochs, windows_per_epoch=2, batch_size=1,
        window_size=[16, 64, 64], validation_runs=["two"], val_interval=1, warmup_steps=1,
        **{"network_def#backbone": TINY[0], "network_def#decoder_widths": WIDTHS, **settings},
    )  # fmt: skip


@pytest.fixture(scope="module")
def weights(data, tmp_path_factory):
    """Return weights that were trained by the overlay from weights of a backbone, which are gone since."""
    folder = tmp_path_factory.mktemp("trained")
    torch.save(published(TINY[0], 3).state_dict(), folder / "backbone.pt")
    train(data, folder, 1, **{"network_def#backbone_weights_path": str(folder / "backbone.pt")})
    (folder / "backbone.pt").unlink()
    return folder / "model.pt"


def picks_of(data, output, file, thresholds, *overlays):
    run_configs(
        ["inference.json", *overlays], "infer", data, output, checkpoint_path=str(file), backend="torch",
        probability_thresholds=thresholds,
    )  # fmt: skip
    return read_csv(output / "picks.csv")


def test_a_training_is_resumed_without_the_backbones_file(weights, data, tmp_path):
    output = shutil.copytree(weights.parent, tmp_path / "more")
    train(data, output, 2)
    rows = csv.DictReader((output / "metrics.csv").read_text().splitlines())
    assert [row["epoch"] for row in rows] == ["1", "2"]


def test_the_card_alone_tells_how_to_build_the_network(weights):
    card = json.loads(weights.with_suffix(".json").read_text())["network_def"]
    assert card == {
        "_target_": "scripts.networks.slice_encoder_unet.SliceEncoderUNet",
        "out_channels": 5, "backbone": TINY[0], "decoder_widths": list(WIDTHS), "depth_pooling": "mean",
        "finest_stage": 0, "output_stride": 2, "norm": "batch", "activation": "relu",
    }  # fmt: skip
    network = load_weights(network_of(weights), weights)
    assert answer_of(network, random_windows(1, 1, 8, 32, 32)).shape == (1, 5, 4, 16, 16)


@pytest.mark.filterwarnings("ignore:.*keeps the threshold")
def test_weights_are_evaluated_from_their_card(weights, data, tmp_path):
    run_configs(
        ["train.json", "evaluate.json"], "train", data, tmp_path, checkpoint_path=str(weights), second_look=False,
        sweep_thresholds=[0.1, 0.5], backend="torch", validation_runs=["two"],
    )  # fmt: skip
    assert (tmp_path / "scores.csv").exists()


def test_exported_files_give_the_same_picks(weights, data, tmp_path):
    network = load_weights(network_of(weights), weights)
    highest = answer_of(network, random_windows(1, 1, 24, 40, 48)).sigmoid().flatten(2).quantile(0.98, 2)[0].tolist()
    thresholds = dict(zip(species_of(weights).names, highest, strict=True))
    wanted = picks_of(data, tmp_path / "torch", weights, thresholds)
    assert wanted
    for name, overlay, load in (
        ("torchscript", "inference_ts.json", load_torchscript),
        ("onnx", "inference_onnx.json", OnnxNetwork),
    ):
        file = tmp_path / ("model.ts" if name == "torchscript" else "model.onnx")
        run_configs(
            ["inference.json", "export.json"], "infer", data, tmp_path / "none", run_id=name,
            checkpoint_path=str(weights), export_path=str(file),
        )  # fmt: skip
        found = picks_of(data, tmp_path / name, file, thresholds, overlay)
        assert [(pick.run, pick.species) for pick in found] == [(pick.run, pick.species) for pick in wanted]
        for one, two in zip(found, wanted, strict=True):
            assert one.xyz_angstrom == pytest.approx(two.xyz_angstrom, abs=0.1)
        for attribute in ON_WINDOWS:
            assert getattr(load(file), attribute) == getattr(network, attribute)


def test_weights_of_other_settings_are_refused(tmp_path):
    path = write_weights(tmp_path / "weights.pt", tiny())
    with pytest.raises(InputError, match=r"is of another network than the settings say: .*depth_pooling"):
        load_weights(tiny(depth_pooling="max"), path)
