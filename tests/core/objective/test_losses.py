from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from paraphrase.core.objective.losses import filter_loss, mask_maps, peak_index, reconstruction_loss


def random_maps(batch: int = 4, filters: int = 3, n: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.relu(torch.randn(batch, filters, n, n, generator=generator))


def one_hot_maps(cells: list[tuple[int, int]], n: int = 4) -> Tensor:
    maps = torch.zeros(len(cells), 1, n, n)
    for image, (i, j) in enumerate(cells):
        maps[image, 0, i, j] = 1
    return maps


MAPS = {
    "random": random_maps(),
    "one image": random_maps(batch=1),
    "one filter fires in each image at another place": one_hot_maps([(0, 0), (1, 2), (3, 3), (2, 0)]),
    "same place in all images": one_hot_maps([(1, 1)] * 4),
    "ties": torch.ones(4, 2, 4, 4),
    "silent in most images": random_maps() * torch.tensor([1.0, 0, 0, 0])[:, None, None, None],
    "huge": random_maps() * 1e30,
    "tiny": random_maps() * 1e-30,
}


@pytest.mark.parametrize("kappa", [0.5, 5.0, 50.0])
@pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS.keys())
def test_filter_loss_is_the_reference(maps: Tensor, kappa: float) -> None:
    expected = [reference.filter_loss(maps[:, f].double().numpy(), kappa) for f in range(maps.shape[1])]
    assert filter_loss(maps, kappa).tolist() == pytest.approx(expected, rel=1e-4, abs=2e-6)


@pytest.mark.parametrize("name", ["random", "one filter fires in each image at another place", "silent in most images"])
def test_filter_loss_has_the_reference_gradient(name: str) -> None:
    maps = MAPS[name][:, :1].clone().requires_grad_()
    filter_loss(maps, 5.0).sum().backward()
    expected = reference.filter_loss_gradient(maps.detach()[:, 0].double().numpy(), 5.0)
    assert maps.grad is not None
    assert np.allclose(maps.grad[:, 0].numpy(), expected, atol=1e-4 * abs(expected).max() + 1e-7)


@pytest.mark.parametrize(("n", "beta"), [(14, 4.0), (7, 4.0), (7, 3.0)])
def test_filter_loss_of_maps_in_bfloat16_is_that_of_the_same_numbers_and_leaves_other_products_alone(n: int, beta: float) -> None:
    half = random_maps(16, 8, n).bfloat16().requires_grad_()
    whole = half.detach().float().requires_grad_()
    losses = [filter_loss(maps, 20.0, beta) for maps in (half, whole)]
    for loss in losses:
        loss.sum().backward()
    assert torch.allclose(*losses, rtol=1e-5, atol=1e-5)
    assert half.grad is not None and whole.grad is not None
    assert float((half.grad.float() - whole.grad).norm() / whole.grad.norm()) < 0.005
    a, b = torch.rand(200, 200), torch.rand(200, 200)
    assert float((a @ b - a.double() @ b.double()).abs().max()) < 1e-4


def test_filter_loss_of_silent_filters_is_zero_and_so_is_its_gradient() -> None:
    maps = torch.zeros(4, 3, 4, 4, requires_grad=True)
    loss = filter_loss(maps, 5.0)
    loss.sum().backward()
    assert torch.allclose(loss, torch.zeros(3), atol=1e-6)
    assert maps.grad is not None and torch.isfinite(maps.grad).all()


def test_filter_loss_stays_within_its_bounds() -> None:
    for seed in range(5):
        for batch in (2, 8, 30):
            loss = filter_loss(random_maps(batch, 6, 4, seed), 40.0)
            assert bool((loss <= 1e-6).all()) and bool((loss >= -math.log(min(batch, 17)) - 1e-5).all())


def test_filter_loss_is_invariant_to_scale_and_to_the_order_of_images_and_filters() -> None:
    maps = random_maps(8, 5, 5)
    loss = filter_loss(maps, 5.0)
    assert torch.allclose(filter_loss(maps * 7, 5.0), loss, atol=1e-5)
    assert torch.allclose(filter_loss(maps.flip(0), 5.0), loss, atol=1e-5)
    assert torch.allclose(filter_loss(maps.flip(1), 5.0).flip(0), loss, atol=1e-6)


def test_filter_loss_takes_a_temperature_for_each_filter() -> None:
    maps = random_maps(6, 3)
    together = filter_loss(maps, torch.tensor([1.0, 5.0, 20.0]))
    alone = [filter_loss(maps[:, [f]], k).item() for f, k in enumerate((1.0, 5.0, 20.0))]
    assert together.tolist() == pytest.approx(alone, rel=1e-5)


def test_category_option_keeps_the_value_and_sends_gradients_only_through_fitting_templates() -> None:
    maps = random_maps(6, 2, 4, seed=3)
    maps[:3] *= 5  # both filters fire for category 0
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    exact, assigned = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    value = filter_loss(exact, 5.0)
    value.sum().backward()
    other = filter_loss(assigned, 5.0, labels=labels)
    other.sum().backward()
    assert torch.allclose(value, other)
    assert exact.grad is not None and assigned.grad is not None
    assert not torch.allclose(exact.grad, assigned.grad)
    # T_neg weighs every position alike, so a negative image's gradient is the same everywhere
    negatives = assigned.grad[3:].flatten(2)
    assert torch.allclose(negatives, negatives[..., :1].expand_as(negatives), atol=1e-7)
    assert not torch.allclose(assigned.grad[:3].flatten(2), assigned.grad[:3].flatten(2)[..., :1])


@pytest.mark.parametrize("centre", ["peak", "mean"])
@pytest.mark.parametrize("maps", [*MAPS.values(), torch.zeros(2, 2, 4, 4)], ids=[*MAPS.keys(), "all zero"])
def test_mask_is_the_reference(maps: Tensor, centre: str) -> None:
    ours = mask_maps(maps, centre, 2.0)
    for image in range(maps.shape[0]):
        for f in range(maps.shape[1]):
            expected = reference.masked(maps[image, f].double().numpy(), centre, 2.0)
            assert np.allclose(ours[image, f].numpy(), expected, rtol=1e-4, atol=1e-5 * float(maps.max()) + 1e-38)


def test_gradient_does_not_pass_through_the_mask() -> None:
    maps = random_maps(2, 2, 4).requires_grad_()
    mask = (mask_maps(maps, "mean", 2.0) / maps.clamp(min=1e-12)).detach()
    mask_maps(maps, "mean", 2.0).sum().backward()
    fired = maps.detach() > 0
    assert maps.grad is not None
    assert torch.allclose(maps.grad[fired], mask[fired], atol=1e-5)


def test_peak_is_the_first_of_equal_values() -> None:
    assert peak_index(torch.ones(1, 1, 3, 3)).item() == 0
    maps = torch.zeros(1, 1, 3, 3)
    maps[0, 0, 1, 2] = maps[0, 0, 2, 0] = 4
    assert peak_index(maps).item() == 5


def test_reconstruction_loss_is_relative_to_the_energy() -> None:
    output, target = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    expected = [sum(float((o - t).square().sum()) for o, t in zip(output[r], target[r], strict=True)) / 5 / 3.0 for r in range(2)]
    assert reconstruction_loss(output, target, 3.0).tolist() == pytest.approx(expected, rel=1e-5)
