"""The losses of heat maps, by hand and at work."""

import pytest
import torch
from device_audit import META, audit, pretend
from devices import GPU, NEEDS_GPU
from scripts.training.losses import BalancedSquaredError, KnownVoxels, NonNegativeRisk, WeightedSquaredError
from scripts.training.windows import UNLABELLED

BCE_PLAIN = torch.nn.BCEWithLogitsLoss()
BCE = torch.nn.BCEWithLogitsLoss(pos_weight=torch.tensor([16.0, 32.0]).reshape(-1, 1, 1, 1))
LOSSES = [WeightedSquaredError(), BalancedSquaredError()]
NAMES = ["weighted", "balanced"]


def volume(*values):
    return torch.tensor(values).reshape(1, 1, 1, 1, -1)


def test_the_weighted_error_is_as_by_hand():
    logits, target = volume(0.0, 0.0, -100.0), volume(1.0, 0.0, 0.25)
    wanted = (1.1 * 0.25 + 0.1 * 0.25 + 0.35 * 0.0625) / 3
    assert WeightedSquaredError()(logits, target).item() == pytest.approx(wanted)
    assert WeightedSquaredError(1.0)(logits, target).item() == pytest.approx((0.5 + 0.25 + 1.25 * 0.0625) / 3)


def test_the_balanced_error_is_as_by_hand():
    logits, target = volume(0.0, 0.0, -100.0), volume(1.0, 0.0, 0.25)
    particles, background = (0.25 + 0.25 * 0.0625) / 1.25, (0.25 + 0.75 * 0.0625) / 1.75
    assert BalancedSquaredError()(logits, target).item() == pytest.approx(particles + background)


def test_more_background_does_not_change_the_share_of_the_particles_in_the_balanced_error():
    few, many = ((volume(*[2.0] * 4, *[-1.0] * count), volume(*[1.0] * 4, *[0.0] * count)) for count in (4, 400))
    assert BalancedSquaredError()(*few).item() == pytest.approx(BalancedSquaredError()(*many).item())


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_without_a_particle_and_with_coarse_logits_the_loss_is_a_number(loss):
    logits = torch.full((1, 2, 3, 4, 5), 100.0, dtype=torch.bfloat16)
    answer = loss(logits, torch.zeros(1, 2, 3, 4, 5))
    assert answer.dtype == torch.float32
    assert 0 < answer.item() < 2


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_probabilities_become_the_heat_map_from_where_an_untrained_network_starts(loss):
    x = torch.arange(-20.0, 21.0)
    target = torch.exp(-(x**2) / 18).reshape(1, 1, 1, 1, -1)
    logits = torch.full_like(target, -6.9, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss(logits, target).backward()
        optimizer.step()
    assert (torch.sigmoid(logits) - target).abs().max() < 0.05


def test_a_background_without_weight_is_refused():
    with pytest.raises(ValueError, match="background_weight is a number above 0; got 0"):
        WeightedSquaredError(0)


@pytest.mark.parametrize("device", [pytest.param(META, id="meta"), pytest.param(torch.device(GPU), marks=NEEDS_GPU)])
@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_the_loss_stays_on_its_device_and_waits_for_nothing(loss, device):
    with pretend(device):
        logits = torch.rand(1, 2, 3, 4, 5, device=device, requires_grad=True)
        assert audit(lambda: loss(logits, torch.zeros_like(logits)).backward(), device) == []


def logits_and_target(seed=0):
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 2, 3, 4, 5, generator=random).requires_grad_()
    return logits, (torch.rand(2, 2, 3, 4, 5, generator=random) > 0.8).float()


@pytest.mark.parametrize("loss", [BCE, *LOSSES], ids=["cross entropy", *NAMES])
def test_with_every_voxel_known_the_loss_is_the_same_to_the_bit(loss):
    logits, target = logits_and_target()
    assert torch.equal(KnownVoxels(loss)(logits, target), loss(logits, target))


@pytest.mark.parametrize("loss", [BCE, *LOSSES], ids=["cross entropy", *NAMES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unknown_voxels_have_no_error_and_no_gradient(loss, dtype):
    logits, target = logits_and_target()
    known = target.clone()
    target[0, 1], target[1, :, 1] = float("nan"), float("nan")
    answer = KnownVoxels(loss)(logits.to(dtype), target)
    answer.backward()
    assert answer.isfinite()
    assert not logits.grad[target.isnan()].any()
    assert logits.grad[~target.isnan()].abs().min() > 0
    if loss is BCE:  # a known voxel weighs as in a window that is known everywhere
        (wanted,) = torch.autograd.grad(BCE(again := logits_and_target()[0].to(dtype), known), again)
        assert torch.equal(logits.grad[~target.isnan()], wanted.float()[~target.isnan()])


def test_a_window_of_which_nothing_is_known_has_no_loss():
    logits, target = logits_and_target()
    assert KnownVoxels(BCE)(logits, torch.full_like(target, float("nan"))).item() == 0.0


def test_the_risk_of_points_alone_is_as_by_hand():
    logits = volume(1.0, -1.0, 2.0, 0.0)
    one, zero = (torch.nn.functional.softplus(sign * logits).flatten().tolist() for sign in (-1, 1))
    target = volume(1.0, UNLABELLED, UNLABELLED, 0.0)  # a labelled voxel, two unlabelled ones, and known background
    wanted = 0.1 * 16 * one[0] * 3 + (sum(zero[:3]) - 0.1 * 3 * zero[0]) + zero[3]
    assert NonNegativeRisk([0.1], [16.0])(logits, target).item() == pytest.approx(wanted / 4)
    wanted = 0.9 * 16 * one[0] * 3 + zero[3]  # the rest would be negative
    logits[..., 1:3] = -100.0
    assert NonNegativeRisk([0.9], [16.0])(logits, target).item() == pytest.approx(wanted / 4)


def test_without_unlabelled_voxels_the_risk_is_the_cross_entropy_and_without_particles_a_number():
    logits, target = logits_and_target()
    risk = NonNegativeRisk([0.01, 0.02], [16.0, 32.0])
    assert risk(logits, target).item() == pytest.approx(BCE(logits, target).item())
    risk(logits, torch.full_like(target, UNLABELLED)).backward()
    assert (logits.grad > 0).all()


def test_what_is_unknown_does_not_make_a_labelled_window_unlabelled():
    logits, target = logits_and_target()
    risk, unknown = NonNegativeRisk([1e-6, 1e-6], [16.0, 32.0]), torch.zeros_like(target, dtype=torch.bool)
    unknown[:, :, :, :, :2] = True  # as at the edge of an annotated region
    target[unknown] = float("nan")
    wanted = KnownVoxels(BCE)(logits, target).item()
    assert risk(logits, target).item() == pytest.approx(wanted)
    beside = torch.full_like(target, UNLABELLED)  # another window of the batch, without a particle
    both = risk(torch.cat([logits, logits]), torch.cat([target, beside])).item()
    assert both == pytest.approx((wanted + torch.nn.functional.softplus(logits).mean().item()) / 2)


def test_points_alone_teach_how_many_unlabelled_ones_there_are():
    random = torch.Generator().manual_seed(0)
    centres = torch.where(torch.rand(4000, generator=random) < 0.3, 1.5, -1.5)
    x = centres + torch.randn(4000, generator=random)
    target = torch.full_like(x, UNLABELLED)
    target[(centres > 0).nonzero()[:100]] = 1.0
    found = {}
    for name, loss in (("naive", BCE_PLAIN), ("points alone", NonNegativeRisk([0.3], [1.0]))):
        scale, shift = torch.ones(1, requires_grad=True), torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.Adam([scale, shift], lr=0.1)
        for _ in range(150):
            optimizer.zero_grad()
            given = target.nan_to_num(neginf=0.0) if name == "naive" else target
            loss((scale * x + shift).reshape(1, 1, 1, 1, -1), given.reshape(1, 1, 1, 1, -1)).backward()
            optimizer.step()
        found[name] = (torch.sigmoid(scale * x + shift) > 0.5).float().mean().item()
    assert found["naive"] < 0.05
    assert found["points alone"] == pytest.approx(0.3, abs=0.04)
