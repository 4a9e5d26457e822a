import itertools
import math
import sys
import threading

import mrcfile
import pytest
import torch
import torch.nn.functional as F
from file_memory import mapped_mib
from monai.data import MetaTensor
from scripts.errors import InputError
from scripts.file_pages import FilePages, new_volume, release_file_pages
from scripts.inference.inferers import TomogramInferer, WindowInferer, plain
from scripts.networks.model_card import network_of
from scripts.networks.weights import load_weights
from scripts.preparation.scaling import scale_percentiles
from synthetic import SHAPE, tiny_network

WINDOW = (8, 12, 16)


def noise(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def slide(volume, network, window_size=WINDOW, precision="float32", **settings):
    settings = {"overlap_voxels": min(window_size) // 4, **settings}
    return TomogramInferer(window_size, precision=precision, **settings)(volume, network)


def identity(windows):
    return windows


def with_place(windows):
    """Answer with the volume times a number that depends on the voxel's place: no symmetry left."""
    z, y, x = (torch.arange(1.0, size + 1) for size in windows.shape[2:])
    return windows * (z[:, None, None] ** 2 + 3 * y[:, None] + 0.1 * x**3)


def box_mean(windows):
    """Answer with the mean over 5 x 5 x 5 voxels, of which those outside the window count as 0."""
    return F.avg_pool3d(windows, 5, stride=1, padding=2)


# Windows


@pytest.mark.parametrize("size", [SHAPE, WINDOW, (3, 5, 7), (1, 30, 9), (9, 13, 17)])
@pytest.mark.parametrize("overlap", [0, 1, 4, 7])
def test_a_network_that_changes_nothing_gives_the_volume_back(size, overlap):
    volume = noise(1, 1, *size)
    torch.testing.assert_close(slide(volume, identity, overlap_voxels=overlap), volume, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(101, 63, 20), (129, 65, 33)])
@pytest.mark.parametrize("flips", [(), ("x",)])
def test_windows_of_odd_sides_leave_no_logit_out(size, flips):
    def halved(windows):
        return F.avg_pool3d(windows, 2, ceil_mode=True)

    halved.output_stride = 2
    volume = noise(1, 1, *size)
    found = slide(volume, halved, (65, 63, 15), flips=flips, overlap_voxels=6)
    even = slide(volume, halved, (66, 64, 16), flips=flips, overlap_voxels=6)
    assert torch.equal(found, even)
    assert found.min() > 0


@pytest.mark.parametrize("side", [4, 12])
def test_windows_smaller_than_the_networks_stride_leave_no_gap(side):
    def strided(windows):
        return F.avg_pool3d(windows, 2)

    strided.output_stride, strided.stride, strided.depends_on_window = 2, 16, False
    volume = 1 + noise(1, 1, 48, 48, 48)
    torch.testing.assert_close(slide(volume, strided, (side, 48, 48)), strided(volume), atol=1e-5, rtol=0)


def test_every_tomogram_of_a_batch_comes_back():
    volumes = noise(2, 1, *SHAPE)
    torch.testing.assert_close(slide(volumes, identity), volumes, atol=1e-5, rtol=0)


def test_a_network_may_answer_with_more_channels():
    volume = noise(1, 1, *SHAPE)
    answer = slide(volume, lambda windows: torch.cat([windows, -windows, 2 * windows], dim=1))
    torch.testing.assert_close(answer, torch.cat([volume, -volume, 2 * volume], dim=1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("settings", "sizes"), [({}, {WINDOW}), ({"window_size": (6, 10, 14)}, {(6, 10, 14)})])
def test_the_network_sees_windows_of_the_size_asked_for(settings, sizes):
    seen = set()
    slide(noise(1, 1, *SHAPE), lambda windows: seen.add(tuple(windows.shape[2:])) or windows, **settings)
    assert seen == sizes


def test_more_overlap_needs_more_windows():
    seen = []
    volume = noise(1, 1, 16, 24, 32)
    counts = []
    for overlap in (0, 4):
        seen.clear()
        slide(volume, lambda windows: seen.append(1) or windows, overlap_voxels=overlap)
        counts.append(len(seen))
    assert counts == [2 * 2 * 2, 3 * 3 * 3]


def test_extra_arguments_reach_the_network():
    inferer = TomogramInferer(WINDOW, overlap_voxels=4, precision="float32")
    volume = noise(1, 1, *SHAPE)
    answer = inferer(volume, lambda windows, factor, plus: factor * windows + plus, 3.0, plus=1.0)
    torch.testing.assert_close(answer, 3 * volume + 1)


def test_the_volume_is_left_as_it_was():
    volume = noise(1, 1, *SHAPE)
    before = volume.clone()
    slide(volume, identity, rotations=4, flips=("z",))
    assert torch.equal(volume, before)


def test_an_answer_that_the_network_keeps_is_left_as_it_was():
    kept = noise(1, 1, *WINDOW, seed=2)
    before = kept.clone()
    answers = [slide(noise(1, 1, *WINDOW), lambda windows: kept) for _ in range(2)]
    assert torch.equal(kept, before)
    for answer in answers:
        torch.testing.assert_close(answer, before, atol=1e-5, rtol=0)


def test_a_progress_bar_shows_only_when_asked_for(capsys):
    slide(noise(1, 1, *SHAPE), identity)
    assert capsys.readouterr().err == ""
    slide(noise(1, 1, *SHAPE), identity, progress=True)
    assert "windows" in capsys.readouterr().err


# Seams


def test_blending_hides_the_rims_of_the_windows():
    volume = torch.ones(1, 1, 32, 48, 64)
    inside = (..., slice(8, -8), slice(12, -12), slice(16, -16))  # half a window from the volume's own rim
    apart = slide(volume, box_mean, window_size=(16, 24, 32), overlap_voxels=0)[inside]
    blended = slide(volume, box_mean, window_size=(16, 24, 32), overlap_voxels=8)[inside]
    assert (1 - apart).max() > 0.7  # at a corner of windows 1 - 0.6³ = 0.78 is missing
    assert (1 - blended).max() < 0.05


def test_other_windows_give_nearly_the_same_answer(bundle_dir):
    weights = bundle_dir / "models" / "model.pt"
    network = load_weights(network_of(weights), weights)
    whole = mrcfile.read(bundle_dir.parent / "sample" / "sample.mrc").astype("float32")
    volume = torch.from_numpy(scale_percentiles(whole, 1, 99, "sample")[None, None, 16:56, 60:188, 60:188].copy())
    with torch.no_grad():
        answers = [slide(volume, network, (32, 64, 64), overlap_voxels=overlap).sigmoid() for overlap in (8, 16)]
    inside = [answer[..., 4:-4, 8:-8, 8:-8].flatten() for answer in answers]
    assert 0.95 < torch.corrcoef(torch.stack(inside))[0, 1] < 1


def test_the_network_is_brought_to_the_memory_format_and_answers_the_same():
    network, volume = tiny_network().eval(), noise(1, 1, *SHAPE)
    with torch.no_grad():
        wanted = slide(volume, network)
        answer = slide(volume, network, memory_format=torch.channels_last_3d)
    wide = [weight for weight in network.parameters() if weight.ndim == 5 and weight.shape[1] > 1]
    assert all(weight.is_contiguous(memory_format=torch.channels_last_3d) for weight in wide)
    assert torch.allclose(answer, wanted, atol=1e-4)


# Views


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({}, 1),
        ({"rotations": 2}, 2),
        ({"rotations": 4}, 4),
        ({"flips": ("z",)}, 2),
        ({"flips": ("z", "y", "x")}, 8),
        ({"rotations": 3, "flips": ["y", "x"]}, 12),
    ],
)
def test_every_combination_of_turns_and_flips_is_one_view(settings, count):
    views = [(turns, tuple(axes)) for turns, axes in TomogramInferer(WINDOW, 2, **settings).views()]
    assert len(set(views)) == len(views) == count


@pytest.mark.parametrize("settings", [{"rotations": 4}, {"flips": ("z", "y", "x")}, {"rotations": 2, "flips": ("x",)}])
def test_views_change_nothing_for_a_network_that_turns_with_its_volume(settings):
    volume = noise(1, 1, *SHAPE)
    seen_whole = {"window_size": (40, 40, 40), "overlap_voxels": 0}
    once = slide(volume, box_mean, **seen_whole)
    torch.testing.assert_close(slide(volume, box_mean, **seen_whole, **settings), once, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rotations", [2, 3, 4])
def test_rotations_give_the_mean_over_quarter_turns_in_xy(rotations):
    volume = noise(1, 1, 8, 12, 12)
    turned = [with_place(torch.rot90(volume, turns, (3, 4))) for turns in range(rotations)]
    mean = sum(torch.rot90(answer, -turns, (3, 4)) for turns, answer in enumerate(turned)) / rotations
    answer = slide(volume, with_place, window_size=(8, 12, 12), rotations=rotations)
    torch.testing.assert_close(answer, mean, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("flips", [*itertools.combinations("zyx", 1), *itertools.combinations("zyx", 2), tuple("zyx")])
def test_flips_give_the_mean_over_every_combination_of_mirrors(flips):
    volume = noise(1, 1, *WINDOW)
    axes = [{"z": 2, "y": 3, "x": 4}[axis] for axis in flips]
    choices = [list(itertools.compress(axes, chosen)) for chosen in itertools.product((0, 1), repeat=len(axes))]
    mean = sum(with_place(volume.flip(choice)).flip(choice) for choice in choices) / len(choices)
    torch.testing.assert_close(slide(volume, with_place, flips=flips), mean, atol=1e-3, rtol=1e-5)


def test_turns_and_flips_together_give_the_mean_over_both():
    volume = noise(1, 1, 8, 12, 12)
    views = []
    for turns, axes in itertools.product((0, 1), ([], [4])):
        answer = with_place(torch.rot90(volume, turns, (3, 4)).flip(axes))
        views.append(torch.rot90(answer.flip(axes), -turns, (3, 4)))
    answer = slide(volume, with_place, window_size=(8, 12, 12), rotations=2, flips=("x",))
    torch.testing.assert_close(answer, sum(views) / 4, atol=1e-3, rtol=1e-5)


def test_a_volume_of_unequal_sides_comes_back_from_every_view():
    volume = noise(1, 1, *SHAPE)
    answer = slide(volume, identity, rotations=4, flips=("z", "y", "x"))
    torch.testing.assert_close(answer, volume, atol=1e-5, rtol=0)


# Number formats


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_network_that_breaks_down_is_reported(value):
    def breaks_down(windows):
        answer = windows.clone()
        answer[0, 0, 3, 4, 5] = value
        return answer

    line = r"volume: the window at voxel \[0, 0, 0\] \(z, y, x\) gives NaN or infinity in float32: the weights are d"
    for precision in ("float32", "bfloat16"):
        with pytest.raises(InputError, match=line):
            slide(noise(1, 1, *SHAPE), breaks_down, precision=precision)


def test_a_window_that_breaks_down_is_named_with_its_file_and_its_place_in_the_whole_volume():
    region = torch.zeros(1, 1, *SHAPE)
    region[..., 8:16, 12:24, 16:32] = 1
    volume = MetaTensor(noise(1, 1, *SHAPE), meta={"filename_or_obj": ["a.mrc"]})
    with pytest.raises(InputError, match=r"^a.mrc: the window at voxel \[8, 12, 16\] \(z, y, x\) gives NaN"):
        TomogramInferer(WINDOW, overlap_voxels=0)(volume, lambda windows: windows / 0, region=region)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_window_that_overflows_is_computed_again_in_float32(precision, caplog):
    seen = []

    def overflows(windows):
        seen.append(torch.is_autocast_enabled("cpu"))
        return windows + torch.inf if seen == [True] * 2 else windows

    volume = noise(1, 1, *SHAPE)
    answer = TomogramInferer(WINDOW, 0, precision=precision)(volume, one_at_a_time(overflows))
    torch.testing.assert_close(answer, volume, atol=1e-5, rtol=0)
    assert seen.count(False) == 1
    (line,) = (record.message for record in caplog.records)
    assert line == (
        "volume: the window at voxel [0, 0, 10] (z, y, x) gives NaN or infinity in "
        f"torch.{precision}: it is computed again in float32"
    )


# Memory


CANNOT = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
)
ON_A_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB")


def one_at_a_time(network):
    """Let the network ask for one window at a time."""
    network.has_own_threads = True
    return network


class Point(torch.nn.Module):
    """A network that looks at one voxel at a time, and whose memory holds so many."""

    depends_on_window, stride = False, 4

    def __init__(self, most=math.inf, error=CANNOT):
        super().__init__()
        self.most, self.error, self.asked = most, error, []

    def forward(self, windows):
        self.asked.append(windows.numel())
        if windows.numel() > self.most:
            raise self.error
        return windows.sin()


def test_where_two_windows_do_not_fit_one_at_a_time_gives_the_same_logits(caplog):
    def in_a_thread_of_its_own(windows):
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError
        return windows.sin()

    volume, threads = noise(1, 1, *SHAPE), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        answer = slide(volume, in_a_thread_of_its_own)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(answer, slide(volume, torch.sin))
    assert caplog.messages == [
        "volume: memory ran out in windows of 8 x 12 x 16 voxels, 2 at a time: again in windows of 8 x 12 x 16 voxels, "
        "1 at a time"
    ]


@pytest.mark.parametrize("error", [CANNOT, ON_A_GPU], ids=["CPU", "GPU"])
def test_where_a_window_does_not_fit_smaller_ones_give_the_same_logits(error, caplog):
    volume, small = noise(1, 1, 72, 136, 136), Point(500_000, error)
    inferer = TomogramInferer(overlap_voxels=8, precision="float32")
    torch.testing.assert_close(inferer(volume, small), inferer(volume, Point()), atol=1e-6, rtol=0)
    assert max(small.asked) == 72 * 72 * 136
    assert min(small.asked) == 72**3
    assert "memory ran out in windows of 72 x 72 x 136 voxels, 1 at a time: again in windows of" in caplog.messages[-1]


@pytest.mark.parametrize(("most", "settings"), [(10, {}), (100, {"window_size": WINDOW})])
def test_where_no_window_fits_the_settings_to_change_are_named(most, settings):
    with pytest.raises(InputError, match=r"volume: memory ran out in windows of .* 1 at a time: give a smaller --inf"):
        TomogramInferer(overlap_voxels=2, precision="float32", **settings)(noise(1, 1, *SHAPE), Point(most))


def test_another_fault_is_not_taken_for_a_lack_of_memory():
    def breaks(windows):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        slide(noise(1, 1, *SHAPE), breaks)


def test_a_volume_whose_logits_do_not_fit_is_refused_with_figures_before_the_network_is_asked(monkeypatch):
    monkeypatch.setattr("scripts.memory.available_bytes", lambda: 2 * 2**30)
    volume = torch.zeros(1).expand(1, 1, 1024, 1440, 2048)
    line = r"volume \(1024 x 1440 x 2048 voxels\) needs about 2.9 GiB of memory, 2.0 GiB are free: give a sm"
    with pytest.raises(InputError, match=line):
        slide(volume, lambda windows: pytest.fail("asked"))


@pytest.mark.parametrize("inferer", [TomogramInferer(SHAPE, 0, precision="bfloat16"), WindowInferer("bfloat16")])
def test_bfloat16_differs_a_little_from_float32(inferer):
    network, volume = tiny_network().eval(), noise(1, 1, *SHAPE)
    with torch.no_grad():
        exact, rounded = network(volume), inferer(volume, network)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.1


@pytest.mark.parametrize("inferer", [TomogramInferer(SHAPE, 0, precision="float32"), WindowInferer("float32")])
def test_float32_is_the_network_itself(inferer):
    network, volume = tiny_network().eval(), noise(1, 1, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(inferer(volume, network), network(volume))


@pytest.mark.parametrize("inferer", [TomogramInferer(WINDOW, 2), WindowInferer()])
def test_the_network_sees_no_record_of_transforms_and_the_answer_has_none(inferer):
    seen = []
    answer = inferer(MetaTensor(noise(1, 1, *WINDOW)), lambda windows: seen.append(type(windows)) or windows)
    assert (set(seen), type(answer)) == ({torch.Tensor}, torch.Tensor)


def test_plain_keeps_the_values():
    volume = noise(1, 1, *SHAPE)
    assert torch.equal(plain(MetaTensor(volume)), volume)
    assert plain(volume) is volume


def test_memory_that_a_network_keeps_for_the_next_window_is_given_back_after_a_tomogram():
    class Keeping(torch.nn.Module):
        released, windows = 0, 0

        def forward(self, windows):
            assert not self.released
            self.windows += 1
            return windows

        def release_memory(self):
            self.released += 1

    network = Keeping()
    slide(noise(1, 1, *SHAPE), network)
    assert network.windows > 1
    assert network.released == 1


class Smaller(torch.nn.Module):
    """A network that holds little, or much with another program beside it."""

    depends_on_window, stride, output_stride, has_own_threads = False, 16, 1, True

    def __init__(self, values_per_voxel, other=None):
        super().__init__()
        self.values_per_voxel, self.other, self.asked = values_per_voxel, other, []

    def program_for(self, computed_by):
        self.fallback = "the other"
        self.asked = [computed_by(self), computed_by(self.other)]
        return self.other if self.asked[1] < self.asked[0] else self

    def forward(self, windows):
        self.asked.append(windows.shape)
        return windows


def test_the_form_of_a_network_that_computes_fewer_voxels_answers_a_volume(caplog):
    other = Smaller(10)
    other.program_for = None
    network = Smaller(10_000, other)
    volume = noise(1, 1, 96, 256, 256)
    with caplog.at_level("INFO"):
        answer = TomogramInferer(None, 16, memory_gib=2.0, precision="float32")(volume, network)
    assert torch.allclose(answer, volume)
    assert network.asked[1] < network.asked[0]
    assert len(network.asked) == 2
    assert network.asked[1] == sum(math.prod(shape) for shape in other.asked)
    assert "volume is computed by the other" in caplog.text


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux gives pages back")
def test_a_window_of_a_files_volume_brings_only_some_of_it_into_memory(monkeypatch):
    volume = torch.from_numpy(new_volume((64, 512, 512), memory_gib=0.01))  # 64 MiB
    volume[:] = torch.rand(64, 1, 512, generator=torch.Generator().manual_seed(0))
    release_file_pages(volume)

    before, seen, release = mapped_mib(), [], FilePages.release
    of_volume = FilePages(volume).stretches

    def release_and_note(pages):
        if pages.stretches == of_volume:
            seen.append(mapped_mib() - before)
        release(pages)

    monkeypatch.setattr(FilePages, "release", release_and_note)
    settings = {"memory_gib": 0.01, "precision": "float32"}
    answer = TomogramInferer((64, 512, 256), overlap_voxels=0, **settings)(volume[None, None], identity)
    assert torch.equal(answer[0, 0].float(), volume.half().float())
    assert len(seen) >= 2
    assert max(seen) < 24  # MiB; 16 layers have 16


# Wrong settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rotations": 0}, "rotations is a whole number from 1 to 4; got 0"),
        ({"rotations": 5}, "rotations is a whole number from 1 to 4; got 5"),
        ({"flips": ("z", "w")}, r"flips is a list of axes out of z, y and x, each once; got \('z', 'w'\)"),
        ({"flips": ("x", "x")}, r"flips is a list of axes out of z, y and x, each once; got \('x', 'x'\)"),
        ({"overlap_voxels": -1}, "inference_overlap_voxels is a whole number, 0 or more; got -1"),
        (
            {"window_size": (8, 12)},
            r"inference_window_size is null or three whole numbers \(z, y, x\), each 1 or more; got \(8, 12\)",
        ),
        (
            {"window_size": (8, 0, 12)},
            r"inference_window_size is null or three whole numbers \(z, y, x\), each 1 or more; got \(8, 0, 12\)",
        ),
        ({"memory_gib": 0}, "memory_gib is a number above 0; got 0"),
        ({"memory_gib": None}, "memory_gib is a number above 0; got None"),
        ({"memory_gib": float("nan")}, "memory_gib is a number above 0; got nan"),
        ({"overlap_voxels": None}, "inference_overlap_voxels is a whole number, 0 or more; got None"),
        (
            {"window_size": 64},
            r"inference_window_size is null or three whole numbers \(z, y, x\), each 1 or more; got 64",
        ),
        (
            {"window_size": "64"},
            r"inference_window_size is null or three whole numbers \(z, y, x\), each 1 or more; got '64'",
        ),
        (
            {"window_size": (8, 8, float("nan"))},
            r"inference_window_size is null or three whole numbers \(z, y, x\), each 1 or more",
        ),
        ({"flips": None}, "flips is a list of axes out of z, y and x, each once; got None"),
        ({"flips": [["z"]]}, r"flips is a list of axes out of z, y and x, each once; got \[\['z'\]\]"),
        ({"precision": "bfloat"}, r"precision is auto, float32, bfloat16 or float16; got 'bfloat'"),
        ({"precision": "half"}, r"precision is auto, float32, bfloat16 or float16; got 'half'"),
    ],
)
def test_wrong_settings_are_refused_when_the_inferer_is_built(settings, message):
    with pytest.raises(ValueError, match=message):
        TomogramInferer(**{"window_size": WINDOW, "overlap_voxels": 2, **settings})


def test_a_wrong_precision_of_training_windows_is_refused_when_the_inferer_is_built():
    with pytest.raises(ValueError, match="precision is auto, float32"):
        WindowInferer("half")
