"""The record of an object holds all settings that matter, and no others."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.optimizers import WarmupCosineSchedule
from monai.transforms import Compose, LoadImaged, RandFlipd
from scripts.errors import InputError
from scripts.records import as_json, canonical, first_difference, record_of
from scripts.volumes.monai_reader import TomogramReader


@dataclass(frozen=True)
class Point:
    x: float
    name: str = "a"


class Part:
    unrecorded = ("progress",)

    def __init__(self, size, progress):
        self.size, self.progress = size, progress


class Summary:
    def __init__(self):
        self.secret = 1

    def record(self):
        return {"kept": (1, 2)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ((1, "b", True), [1, "b", True]),
        ({"a": Path("x/y"), 2: 0.5}, {"a": "x/y", "2": 0.5}),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.float64(0.25), 0.25),
        (torch.tensor([1.5]), [1.5]),
        ({3, 1}, [1, 3]),
        (torch.channels_last_3d, "torch.channels_last_3d"),
        (torch.nn.ReLU, "torch.nn.modules.activation.ReLU"),
        (Point(2.0), {"class": f"{__name__}.Point", "x": 2.0, "name": "a"}),
        (Part(3, progress=True), {"class": f"{__name__}.Part", "size": 3}),
        (Summary(), {"class": f"{__name__}.Summary", "kept": [1, 2]}),
    ],
)
def test_a_value_becomes_plain_json(value, expected):
    assert record_of(value) == expected
    assert as_json(record_of(value)) == expected


def test_transforms_say_what_they_do_and_not_what_they_drew():
    flip = RandFlipd("image", prob=0.5, spatial_axis=1)
    before = canonical(record_of(Compose([flip])))
    flip.set_random_state(seed=3)
    flip({"image": torch.rand(1, 4, 4)})
    assert canonical(record_of(Compose([flip]))) == before
    assert canonical(record_of(Compose([RandFlipd("image", prob=0.5, spatial_axis=2)]))) != before


def test_of_a_loader_our_reader_counts_alone():
    def readers(**settings):
        return record_of(LoadImaged("image", reader=TomogramReader(**settings)))["_loader"]["readers"]

    assert [reader["class"].rpartition(".")[2] for reader in readers()] == ["TomogramReader"]
    assert readers(voxel_size_angstrom=5.0) != readers()


def test_of_a_window_inferer_what_changes_no_answer_is_left_out():
    one, other = (SlidingWindowInferer(8, sw_batch_size=count, progress=count > 1) for count in (1, 4))
    assert record_of(one) == record_of(other)
    assert record_of(one) != record_of(SlidingWindowInferer(8, overlap=0.5))


def test_optimizers_schedules_and_losses_say_their_arguments_and_not_their_state():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=0.01)
    schedule = WarmupCosineSchedule(optimizer, warmup_steps=3, t_total=10)
    before = as_json(record_of([optimizer, schedule]))
    weight.sum().backward()
    optimizer.step()
    schedule.step()
    assert as_json(record_of([optimizer, schedule])) == before
    assert before[0]["lr"] == 0.01
    assert before[1]["end_lr"] == 0.0
    assert not {"t_total", "warmup_steps"} & set(before[1])  # a longer training may follow a shorter one
    assert record_of(torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([4.0])))["pos_weight"] == [4.0]


def scaled(value, factor=1.0):
    return factor * value


class Curve:
    def __init__(self, gamma):
        self.gamma = gamma

    def at(self, step):
        return self.gamma**step


class Knot:
    def __init__(self, size):
        self.size, self.itself = size, self


@pytest.mark.parametrize(
    "make",
    [
        lambda number: functools.partial(scaled, factor=number),
        lambda number: Curve(number).at,
        lambda number: lambda value: number * value,
        lambda number: Knot(number),
        lambda number: torch.optim.lr_scheduler.LambdaLR(
            torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), Curve(number).at
        ),
        lambda number: torch.optim.SGD([{"params": [torch.nn.Parameter(torch.ones(1))], "momentum": number}], lr=1.0),
    ],
)
def test_what_a_function_or_an_object_carries_counts(make):
    assert canonical(record_of(make(0.5))) == canonical(record_of(make(0.5)))
    assert canonical(record_of(make(0.5))) != canonical(record_of(make(0.25)))


def test_the_code_of_a_lambda_counts():
    one, same, other = (eval(f"lambda step: step {rest}") for rest in ("+ 1", "+ 1", "+ 2"))
    assert record_of(one) == record_of(same)
    assert record_of(one) != record_of(other)


def test_an_object_that_only_its_address_tells_apart_is_refused():
    with pytest.raises(InputError, match=r"builtins\.object does not say how it was built: .* method record\(\)"):
        record_of({"part": object()})


def test_not_a_number_equals_itself():
    assert first_difference({"a": float("nan")}, {"a": float("nan")}) is None


def test_equal_records_have_one_text():
    assert canonical({"b": 1, "a": [2, "ä"]}) == canonical({"a": [2, "ä"], "b": 1}) == '{"a":[2,"ä"],"b":1}'


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1}, {"a": 2}, "a was 1, now it is 2"),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "a b was [1, 2], now it is [1, 3]"),
        ({"a": 1}, {}, "a was 1, now it is null"),
        ({"p": [Part(1, 0), Part(2, 0)]}, {"p": [Part(1, 0), Part(5, 0)]}, "Part size was 2, now it is 5"),
        ({"p": Point(1.0)}, {"p": Point(2.0)}, "Point 'a' x was 1.0, now it is 2.0"),
        ({"p": Point(1.0)}, {"p": Summary()}, f'p class was "{__name__}.Point", now it is "{__name__}.Summary"'),
        ({"p": [Part(1, 0), Point(1.0)]}, {"p": [Point(1.0)]}, "p was Part, Point, now it is Point"),
        ({"long": "x" * 80}, {"long": 1}, f'long was "{"x" * 56}..., now it is 1'),
    ],
)
def test_the_first_difference_is_named(before, now, words):
    assert first_difference(json.loads(canonical(record_of(before))), as_json(record_of(now))) == words
