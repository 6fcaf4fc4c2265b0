from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch

from paraphrase.core.objective.places import (
    distinct_filters,
    group_information,
    mirror_distance,
    redundancy,
    soft_positions,
    strengths,
)

GRID = torch.tensor([0.1, 0.35, 0.6, 0.85])


def random_maps(batch: int = 4, filters: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, filters, 4, 4, generator=torch.Generator().manual_seed(seed)) + 0.01


def redundant(maps: torch.Tensor, width: float) -> torch.Tensor:
    return redundancy(soft_positions(maps, GRID), strengths(maps.amax((2, 3))), width)


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1])
def test_redundancy_and_its_gradient_are_the_reference(width: float) -> None:
    maps = random_maps().requires_grad_()
    ours = redundant(maps, width)
    theirs = reference.redundancy(maps.detach().double().numpy(), GRID.double().numpy(), width)
    np.testing.assert_allclose(ours.detach(), theirs, rtol=1e-4, atol=1e-5)
    ours.mean().backward()
    expected = reference.numeric_gradient(
        lambda m, held: reference.redundancy(m, GRID.double().numpy(), width, held).mean(), maps.detach().double().numpy()
    )
    np.testing.assert_allclose(maps.grad, expected, rtol=2e-3, atol=2e-5)


def test_equal_filters_are_one_and_a_constant_offset_says_nothing_new() -> None:
    rng = np.random.default_rng(0)
    places = torch.tensor(rng.uniform(0.2, 0.6, (50, 1, 2)), dtype=torch.float64)
    equal = places.expand(-1, 8, -1)
    a = torch.ones(50, 8, dtype=torch.float64)
    assert distinct_filters(redundancy(equal, a, 0.1)).item() == pytest.approx(1)
    beside = equal + torch.tensor(rng.uniform(-0.2, 0.2, (1, 8, 2)))
    assert distinct_filters(redundancy(beside, a, 0.1)).item() == pytest.approx(1)


def test_filters_that_fire_in_different_images_or_move_apart_are_distinct() -> None:
    a = torch.eye(8, dtype=torch.float64).repeat(6, 1)
    nowhere = torch.zeros(48, 8, 2, dtype=torch.float64)
    assert distinct_filters(redundancy(nowhere, a, 0.1)).item() == pytest.approx(8)
    far = torch.tensor(np.random.default_rng(0).choice([0.0, 1.0], (400, 8, 2)))
    assert distinct_filters(redundancy(far, torch.ones(400, 8, dtype=torch.float64), 0.05)).item() == pytest.approx(8, rel=1e-3)


def test_dead_filters_are_left_out_and_harm_nothing() -> None:
    maps = random_maps(6, 4)
    maps[:, 1] = 0
    maps[2, 0] = 0  # silent in one image only
    maps[3, 2] = 1e-40
    maps.requires_grad_()
    found = redundant(maps, 0.05)
    assert (found[1] == 0).all() and torch.isfinite(found).all()
    alive = [0, 2, 3]
    assert distinct_filters(found).item() == pytest.approx(1 / found[alive][:, alive].mean().item())
    (1e4 * found).mean().backward()
    assert torch.isfinite(maps.grad).all()
    maps.grad = None
    other = random_maps(6, 4, seed=1)
    a, b = strengths(maps.amax((2, 3))), strengths(other.amax((2, 3)))
    b[:, 3] = 0  # fires in images, but in none of their mirror images
    (1e4 * mirror_distance(soft_positions(maps, GRID), a, soft_positions(other, GRID), b)).mean().backward()
    assert torch.isfinite(maps.grad).all() and (maps.grad[:, 1] == 0).all()
    maps.grad = None
    group_information(maps[None], torch.rand(1, 6, 5, 4, 4), 4, 0.1).mean().backward()
    assert torch.isfinite(maps.grad).all()
    assert math.isnan(distinct_filters(torch.zeros(3, 3)).item())


def test_replicates_are_kept_apart() -> None:
    maps = [random_maps(seed=s) for s in (1, 2)]
    places = torch.stack([soft_positions(m, GRID) for m in maps])
    strong = torch.stack([strengths(m.amax((2, 3))) for m in maps])
    both = redundancy(places, strong, 0.05)
    for r, m in enumerate(maps):
        torch.testing.assert_close(both[r], redundant(m, 0.05))


def test_scale_does_not_matter() -> None:
    maps = random_maps()
    factors = torch.tensor([1e-3, 1.0, 1e4])[None, :, None, None]
    torch.testing.assert_close(redundant(maps * factors, 0.05), redundant(maps, 0.05), rtol=1e-4, atol=1e-6)


def test_mirror_distance_and_its_gradient_are_the_reference() -> None:
    maps, other = random_maps(seed=3).requires_grad_(), random_maps(seed=4)
    places, mirrored = soft_positions(maps, GRID), soft_positions(other, GRID)
    ours = mirror_distance(places, strengths(maps.amax((2, 3))), mirrored, strengths(other.amax((2, 3))))
    arrays = maps.detach().double().numpy(), other.double().numpy(), GRID.double().numpy()
    np.testing.assert_allclose(ours.detach(), reference.mirror_distance(*arrays), rtol=1e-4)
    ours.mean().backward()
    expected = reference.numeric_gradient(
        lambda m, held: reference.mirror_distance(m, arrays[1], arrays[2], held).mean(), arrays[0]
    )
    np.testing.assert_allclose(maps.grad, expected, rtol=2e-3, atol=1e-5)


def test_a_filter_at_the_mirrored_place_has_no_distance() -> None:
    grid = torch.tensor([0.125, 0.375, 0.625, 0.875])  # symmetric in the crop
    maps = random_maps()
    places, mirrored = soft_positions(maps, grid), soft_positions(maps.flip(-1), grid)
    a = strengths(maps.amax((2, 3)))
    torch.testing.assert_close(mirror_distance(places, a, mirrored, a), torch.zeros(3), atol=1e-6, rtol=0)
    assert (mirror_distance(places, a, places, a) > 1e-4).all()


@pytest.mark.parametrize("groups", [2, 3, 4])  # 6 filters: 4 groups are of 2 and of 1
def test_group_information_is_the_reference(groups: int) -> None:
    generator = torch.Generator().manual_seed(5)
    maps, feature = random_maps(5, 6, seed=6), torch.randn(5, 7, 4, 4, generator=generator)
    ours = group_information(maps[None], feature[None], groups, 0.1)
    theirs = reference.group_information(maps.double().numpy(), feature.double().numpy(), groups, 0.1)
    assert ours.item() == pytest.approx(theirs, rel=1e-4)
    assert group_information(maps[None, :1], feature[None, :1], groups, 0.1).item() == 0


@pytest.mark.parametrize("groups", [3, 4])
def test_the_gradient_of_group_information_is_the_references(groups: int) -> None:
    generator = torch.Generator().manual_seed(5)
    maps, feature = random_maps(5, 6, seed=6).requires_grad_(), torch.randn(5, 7, 4, 4, generator=generator)
    group_information(maps[None], feature[None], groups, 0.1).sum().backward()
    exact, seen = maps.detach().double().numpy(), feature.double().numpy()
    # the gradient does not pass through the largest of a group's cells, by which it is scaled: a direction is what counts
    for place in [(0, 0, 1, 2), (3, 5, 0, 0), (4, 2, 3, 3)]:
        ends = []
        for change in (1e-5, -1e-5):
            moved = exact.copy()
            moved[place] += change
            ends.append(reference.group_information(moved, seen, groups, 0.1))
        assert maps.grad[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-6)


def test_group_information_is_finite_whatever_the_features_dtype() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        feature = torch.zeros(1, 5, 7, 4, 4, dtype=dtype)
        feature[..., 0] = 1e-7  # the smallest that float16 knows: its inverse is no number of it
        maps = random_maps(5, 6, seed=6)[None].requires_grad_()
        value = group_information(maps, feature, 3, 0.1)
        value.sum().backward()
        assert value.isfinite().all() and maps.grad.isfinite().all()


def test_groups_that_see_different_things_are_told_apart() -> None:
    feature = torch.zeros(1, 6, 2, 4, 4)
    feature[:, :, 0, :2], feature[:, :, 1, 2:] = 1.0, 1.0  # two kinds of things: above and below
    apart, alike = torch.zeros(1, 6, 2, 4, 4), torch.zeros(1, 6, 2, 4, 4)
    apart[:, :, 0, 0, 0], apart[:, :, 1, 3, 3] = 1.0, 1.0
    alike[:, :, :, 0, 0] = 1.0
    assert group_information(apart, feature, 2, 0.1).item() < 1e-3
    assert group_information(alike, feature, 2, 0.1).item() == pytest.approx(math.log(2), rel=1e-3)
