import numpy as np
import pytest
import torch
from scripts.picking.image_picks import true_picks
from scripts.picking.pick_transform import PickParticlesd
from scripts.scoring.threshold_sweep import SweepThresholdsd
from scripts.volumes.labels import draw_spheres
from synthetic import SHAPE, image_of, make_particles, noise

VOXEL_SIZE = 10.0
POINTS = np.array([[6, 9, 11], [13, 20, 30]])


@pytest.fixture
def particles():
    return make_particles(2)


def logits_of(particles, points=POINTS, shape=SHAPE):
    """Each species' spheres at one of the points."""
    masks = [draw_spheres(shape, points[row : row + 1], 3) for row in range(len(particles))]
    return torch.as_tensor(np.stack(masks).astype(np.float32) * 12 - 6)


def test_painting_and_picking_are_inverse(particles):
    sample = PickParticlesd("pred", particles)({"pred": logits_of(particles), "image": image_of(noise()), "run": "r"})
    places = [
        (pick["particle"], pick["x_angstrom"], pick["y_angstrom"], pick["z_angstrom"])
        for pick in sample["result"]["picks"]
    ]
    assert places == [
        ("a", pytest.approx(110), pytest.approx(90), pytest.approx(60)),
        ("b", pytest.approx(300), pytest.approx(200), pytest.approx(130)),
    ]  # fmt: skip
    rows = true_picks(torch.tensor([[1.0, 6, 9, 11], [2, 13, 20, 30]]), particles, "r", sample["image"])
    found = [(pick["x_voxel"], pick["y_voxel"], pick["z_voxel"]) for pick in sample["result"]["picks"]]
    assert np.allclose(found, [(pick.x_voxel, pick.y_voxel, pick.z_voxel) for pick in rows])


def test_the_label_map_shows_the_picks(particles):
    sample = PickParticlesd("pred", particles)({"pred": logits_of(particles), "image": image_of(noise())})
    labels = sample["pred"]
    assert labels.shape == (1, *SHAPE)
    assert labels[0, 6, 9, 11] == 1
    assert labels[0, 13, 20, 30] == 2
    assert np.array_equal(labels[0] == 1, draw_spheres(SHAPE, POINTS[:1], 3) == 1)


def test_a_shifted_answer_shifts_the_picks(particles):
    image = image_of(noise())
    plain = PickParticlesd("pred", particles)({"pred": logits_of(particles), "image": image})
    moved = PickParticlesd("pred", particles)(
        {"pred": logits_of(particles, np.add(POINTS, [2, -3, 1])), "image": image}
    )
    for one, two in zip(plain["result"]["picks"], moved["result"]["picks"], strict=True):
        assert two["z_voxel"] - one["z_voxel"] == pytest.approx(2)
        assert two["y_voxel"] - one["y_voxel"] == pytest.approx(-3)
        assert two["x_voxel"] - one["x_voxel"] == pytest.approx(1)


def test_the_voxel_offset_moves_angstroms_and_not_voxels(particles):
    image, logits = image_of(noise()), logits_of(particles)
    plain, shifted = (
        PickParticlesd("pred", particles, voxel_offset=offset)({"pred": logits, "image": image})["result"]["picks"]
        for offset in (0.0, 0.5)
    )
    assert shifted[0]["x_angstrom"] - plain[0]["x_angstrom"] == pytest.approx(5)
    assert shifted[0]["x_voxel"] == plain[0]["x_voxel"]


def test_picks_come_with_the_surest_first():
    one = make_particles(1)
    logits = torch.full((1, *SHAPE), -6.0)
    logits[0, 5, 6, 7], logits[0, 12, 20, 25] = 1.0, 3.0
    result = PickParticlesd("pred", one)({"pred": logits, "image": image_of(noise())})["result"]
    assert [pick["z_voxel"] for pick in result["picks"]] == [12, 5]
    assert result["picks"][0]["score"] == pytest.approx(torch.sigmoid(torch.tensor(3.0)).item())


def test_nothing_above_the_threshold_gives_an_empty_list(particles):
    sample = PickParticlesd("pred", particles)({"pred": torch.full((2, *SHAPE), -9.0), "image": image_of(noise())})
    assert sample["result"]["picks"] == []
    assert sample["pred"].sum() == 0


def test_picks_outside_the_region_are_dropped_and_those_at_its_rim_stay_where_they_are(particles):
    image, logits = image_of(noise()), logits_of(particles)
    region = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    region[:, :, :10] = 1  # holds the first point, 9, and not the second
    whole, limited = (
        PickParticlesd("pred", particles)({"pred": logits, "image": image, **more})["result"]["picks"]
        for more in ({}, {"region": region})
    )
    assert limited == whole[:1]
    sweep = SweepThresholdsd("pred", particles, [0.5])
    counts = sweep({"pred": logits, "image": image, "region": region, "label": torch.zeros(0, 4)})["sweep"]
    assert counts[:, 0, 1].tolist() == [1, 0]


def test_a_volume_without_contrast_has_no_picks(particles):
    flat = image_of(np.zeros(SHAPE))
    assert PickParticlesd("pred", particles)({"pred": logits_of(particles), "image": flat})["result"]["picks"] == []


@pytest.mark.parametrize("thresholds", [[], [0.5, 0.3], [0.5, 1.0]])
def test_thresholds_of_a_sweep_have_to_rise_below_1(thresholds, particles):
    with pytest.raises(ValueError, match="thresholds are rising probabilities"):
        SweepThresholdsd("pred", particles, thresholds)


def test_logits_of_another_number_of_species_are_refused(particles):
    with pytest.raises(ValueError, match="pred needs 2 channels, one per species; got 3"):
        PickParticlesd("pred", particles)({"pred": torch.zeros(3, *SHAPE), "image": image_of(noise())})


def test_the_sweep_counts_hits_picks_and_truths(particles):
    logits = logits_of(particles)
    logits[0, 2, 3, 30:33] = 0.4  # a second, weaker blob of species a: probability 0.6
    sample = {"pred": logits, "image": image_of(noise()), "label": torch.tensor([[1.0, 6, 9, 11], [2, 2, 2, 2]])}
    sweep = SweepThresholdsd("pred", particles, [0.5, 0.7])(sample)["sweep"]
    assert sweep.tolist() == [[[1, 2, 1], [1, 1, 1]], [[0, 1, 1], [0, 1, 1]]]
