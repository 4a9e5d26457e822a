import numpy as np
import pytest
import torch
from monai.data import Dataset
from scripts.errors import InputError
from scripts.preparation.crops import CropShape
from scripts.records import first_difference, record_of
from scripts.training.crop_dataset import CropDataset
from scripts.training.crops import NOTHING, CropMix, CropVariation
from synthetic import POINTS, SHAPE, image_of, make_species, noise

ROWS = torch.tensor([[1.0, *POINTS[0]], [2.0, *POINTS[1]]])
RUNS = [{"image": f"{name}.mrc", "run": name} for name in ("one", "two")]


class Prepared(Dataset):
    """Two prepared tomograms."""

    def __getitem__(self, number):
        return {**self.data[number], "image": image_of(noise(number)), "label": ROWS}


def places_of(number):
    return np.array([POINTS[0], [15, 5, 5]], dtype=float)


def crops(**changes):
    given = {
        "tomograms": Prepared(RUNS), "places_of": places_of, "species_set": make_species(2),
        "crop_shape": CropShape(8, 40.0, 10.0), "variation": CropVariation(), "mix": CropMix(), "seed": 0,
    }  # fmt: skip
    return CropDataset(**{**given, **changes})


def test_a_crop_of_a_number_is_always_the_same():
    first, second = crops(), crops()
    found = [second[number] for number in (7, 3, 5)]
    for number, crop in zip((7, 3, 5), found, strict=True):
        assert torch.equal(first[number]["image"], crop["image"])
        assert first[number]["label"] == crop["label"]
    assert not torch.equal(crops(seed=1)[7]["image"], found[0]["image"])


def test_crops_are_of_all_classes_in_their_shares():
    dataset = crops()
    labels = np.bincount([dataset[number]["label"] for number in range(400)], minlength=3) / 400
    assert np.allclose(labels, [0.45, 0.275, 0.275], atol=0.06)
    assert dataset[0]["image"].shape == (1, 8, 8, 8)
    assert dataset[0]["image"].dtype == torch.float32


def test_what_the_crops_depend_on_is_in_the_record():
    before = record_of(crops())
    for changes in (
        {"seed": 1}, {"mix": CropMix(hard=0.5)}, {"variation": CropVariation(noise=0.25)},
        {"crop_shape": CropShape(8, 30.0, 10.0)}, {"tomograms": Prepared(RUNS[:1])},
    ):  # fmt: skip
        assert first_difference(before, record_of(crops(**changes)))


class RarelyShown(Prepared):
    """Ten prepared tomograms; species b is in the last one alone, and c in none."""

    def __init__(self):
        super().__init__([{"image": f"{number}.mrc", "run": str(number)} for number in range(10)])

    def __getitem__(self, number):
        return super().__getitem__(number) | {"label": ROWS if number == 9 else ROWS[:1]}


def test_a_species_that_few_runs_show_has_its_share_of_the_crops():
    dataset = crops(tomograms=RarelyShown(), species_set=make_species(3))
    labels = np.bincount([dataset[number]["label"] for number in range(600)], minlength=4) / 600
    share = 0.55 / 3
    assert np.allclose(labels, [0.45 + share, share, share, 0], atol=0.05)


class PartlyAnnotated(Prepared):
    """Two prepared tomograms; in the first ``incomplete`` of them only species a is annotated."""

    def __init__(self, incomplete):
        super().__init__(RUNS)
        self.incomplete = incomplete

    def __getitem__(self, number):
        sample = super().__getitem__(number)
        return sample | ({"is_complete": torch.tensor([True, False])} if number < self.incomplete else {})


def test_crops_of_nothing_come_from_runs_in_which_all_species_are_annotated():
    part = crops(tomograms=PartlyAnnotated(1))
    first, second = part.runs
    assert (first.shows(NOTHING), second.shows(NOTHING)) == (False, True)
    first.draw_nothing = None  # not to be called
    assert {part[number]["label"] for number in range(60)} == {0, 1, 2}


def test_without_a_run_in_which_all_species_are_annotated_there_is_no_second_look():
    dataset = crops(tomograms=PartlyAnnotated(2))
    with pytest.raises(InputError, match="in none of its runs are all particles of all species annotated"):
        [dataset[number] for number in range(20)]


class Uncertain(Prepared):
    """Two prepared tomograms; the first ``uncertain`` of them may hold a particle anywhere."""

    def __init__(self, uncertain):
        super().__init__(RUNS)
        self.uncertain = uncertain

    def __getitem__(self, number):
        places = torch.cartesian_prod(*(torch.arange(0.0, size, 2) for size in SHAPE))
        rows = torch.nn.functional.pad(torch.nn.functional.pad(places, (1, 0), value=1.0), (0, 1), value=torch.nan)
        return super().__getitem__(number) | ({"doubtful": rows} if number < self.uncertain else {})


def test_a_run_without_an_empty_place_leaves_crops_of_nothing_to_another_one():
    part = crops(tomograms=Uncertain(1))
    first, second = part.runs
    assert first.draw_nothing(part.mix, 8, np.random.RandomState(0)) is None
    assert second.draw_nothing(part.mix, 8, np.random.RandomState(0)) is not None
    assert {part[number]["label"] for number in range(20)} == {0, 1, 2}
    none = crops(tomograms=Uncertain(2))
    with pytest.raises(InputError, match="none was found in its runs: annotate a larger region, or add a run"):
        [none[number] for number in range(20)]
