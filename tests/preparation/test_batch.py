import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.data.utils import list_data_collate
from scripts.preparation.batch import collate_one
from synthetic import image_of, noise


def sample():
    return {"image": image_of(noise()), "run": "one", "label": torch.rand(3, 4), "region": torch.ones(1, 4, 5, 6)}


def test_a_batch_of_one_is_what_monai_makes_of_it():
    item = sample()
    ours, theirs = (
        next(iter(DataLoader(Dataset([item]), batch_size=1, collate_fn=collate)))
        for collate in (collate_one, list_data_collate)
    )
    assert list(ours) == list(theirs)
    for key, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(ours[key], value)
            assert type(ours[key]) is type(value)
    assert ours["run"] == theirs["run"]
    assert str(ours["image"].meta) == str(theirs["image"].meta)
    assert ours["image"].is_batch


def test_the_voxels_are_not_copied_on_the_way_to_the_network_and_back():
    item = sample()
    batch = collate_one([item])
    back = decollate_batch(batch)[0]
    assert {one["image"].data_ptr() for one in (item, batch, back)} == {item["image"].data_ptr()}
    assert isinstance(back["image"], MetaTensor)
    assert torch.equal(back["image"].affine, item["image"].affine)
    assert back["image"].meta["filename_or_obj"] == item["image"].meta["filename_or_obj"]


def test_more_than_one_tomogram_at_a_time_is_refused():
    with pytest.raises(ValueError, match="one by one, set batch_size to 1; got 2"):
        collate_one([sample(), sample()])
