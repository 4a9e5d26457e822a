import numpy as np
import pytest
import torch
from scripts.picking.blobs import Blobs
from scripts.picking.image_picks import true_picks
from scripts.picking.pick_transform import PickParticlesd
from scripts.preparation.image_facts import facts_of_image
from scripts.scoring.threshold_sweep import SweepThresholdsd
from scripts.volumes.labels import draw_spheres
from synthetic import POINTS, SHAPE, image_of, logits_of, make_species, noise


def picking(species_set, **settings):
    return PickParticlesd("pred", species_set, Blobs(), **settings)


def test_painting_and_picking_are_inverse(species_set):
    sample = picking(species_set)({"pred": logits_of(species_set), "image": image_of(noise()), "run": "r"})
    places = [
        (pick["species"], pick["x_angstrom"], pick["y_angstrom"], pick["z_angstrom"])
        for pick in sample["result"]["picks"]
    ]
    assert places == [
        ("a", pytest.approx(110), pytest.approx(90), pytest.approx(60)),
        ("b", pytest.approx(300), pytest.approx(200), pytest.approx(130)),
    ]  # fmt: skip
    facts = facts_of_image(sample["image"], "r")
    rows = true_picks(torch.tensor([[1.0, 6, 9, 11], [2, 13, 20, 30]]), species_set, facts)
    found = [(pick["x_voxel"], pick["y_voxel"], pick["z_voxel"]) for pick in sample["result"]["picks"]]
    assert np.allclose(found, [(pick.x_voxel, pick.y_voxel, pick.z_voxel) for pick in rows])


def test_the_label_map_shows_the_picks(species_set):
    sample = picking(species_set)({"pred": logits_of(species_set), "image": image_of(noise())})
    labels = sample["pred"]
    assert labels.shape == (1, *SHAPE)
    assert labels[0, 6, 9, 11] == 1
    assert labels[0, 13, 20, 30] == 2
    assert np.array_equal(labels[0] == 1, draw_spheres(SHAPE, POINTS[:1], 3) == 1)


def test_a_shifted_answer_shifts_the_picks(species_set):
    image = image_of(noise())
    plain = picking(species_set)({"pred": logits_of(species_set), "image": image})
    moved = picking(species_set)({"pred": logits_of(species_set, np.add(POINTS, [2, -3, 1])), "image": image})
    for one, two in zip(plain["result"]["picks"], moved["result"]["picks"], strict=True):
        assert two["z_voxel"] - one["z_voxel"] == pytest.approx(2)
        assert two["y_voxel"] - one["y_voxel"] == pytest.approx(-3)
        assert two["x_voxel"] - one["x_voxel"] == pytest.approx(1)


def test_the_voxel_offset_moves_angstroms_and_not_voxels(species_set):
    image, logits = image_of(noise()), logits_of(species_set)
    plain, shifted = (
        picking(species_set, voxel_offset=offset)({"pred": logits, "image": image})["result"]["picks"]
        for offset in (0.0, 0.5)
    )
    assert shifted[0]["x_angstrom"] - plain[0]["x_angstrom"] == pytest.approx(5)
    assert shifted[0]["x_voxel"] == plain[0]["x_voxel"]


def test_picks_come_with_the_surest_first():
    one = make_species(1)
    logits = torch.full((1, *SHAPE), -6.0)
    logits[0, 5, 6, 7], logits[0, 12, 20, 25] = 1.0, 3.0
    result = picking(one)({"pred": logits, "image": image_of(noise())})["result"]
    assert [pick["z_voxel"] for pick in result["picks"]] == [12, 5]
    assert result["picks"][0]["score"] == pytest.approx(torch.sigmoid(torch.tensor(3.0)).item())


def test_nothing_above_the_threshold_gives_an_empty_list(species_set):
    sample = picking(species_set)({"pred": torch.full((2, *SHAPE), -9.0), "image": image_of(noise())})
    assert sample["result"]["picks"] == []
    assert sample["pred"].sum() == 0


def test_picks_outside_the_region_are_dropped_and_those_at_its_rim_stay_where_they_are(species_set):
    image, logits = image_of(noise()), logits_of(species_set)
    region = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    region[:, :, :10] = 1  # holds the first point, 9, and not the second
    whole, limited = (
        picking(species_set)({"pred": logits, "image": image, **more})["result"]["picks"]
        for more in ({}, {"region": region})
    )
    assert limited == whole[:1]
    sweep = SweepThresholdsd("pred", species_set, Blobs(), [0.5])
    counts = sweep({"pred": logits, "image": image, "region": region, "label": torch.zeros(0, 4)})["sweep"]
    assert counts[:, 0, 1].tolist() == [1, 0]


def test_a_volume_without_contrast_has_no_picks(species_set):
    flat = image_of(np.zeros(SHAPE))
    assert picking(species_set)({"pred": logits_of(species_set), "image": flat})["result"]["picks"] == []


def test_logits_of_another_number_of_species_are_refused(species_set):
    with pytest.raises(ValueError, match="pred needs 2 channels, one per species; got 3"):
        picking(species_set)({"pred": torch.zeros(3, *SHAPE), "image": image_of(noise())})
