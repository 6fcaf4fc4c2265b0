"""How well filters sit on object parts, and how much of the performer an explainer keeps; functions of arrays.

Positions are (x, y) in pixels of the crop. Ranks and categories follow `algorithm.md`, section 5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BEST_IMAGES = 100
"""Test images that a filter is judged on: those that fire it most [I]."""


class Peaks(NamedTuple):
    """Where and how strongly filters fire."""

    positions: Tensor
    """(N, F, 2) float: receptive-field centre of each map's peak, x and y in pixels of the crop."""
    values: Tensor
    """(N, F) float: the peak's activation."""


class FilterScores(NamedTuple):
    """What is measured of each filter; NaN where it is not defined (dead filters, too few images)."""

    instability: Tensor
    """(F,) location instability as a share of the crop's diagonal."""
    tracking: Tensor
    """(F,) part tracking of the filter's best part, in [0, 1]."""
    explained: Tensor
    """(F, P) part tracking of every part."""
    part: Tensor
    """(F,) int64 part that names the filter: its best-tracked one, where that beats chance; else -1."""
    category: Tensor
    """(F,) int64 category in which the filter's mean peak is highest."""
    dead: Tensor
    """(F,) bool: fires on no test image."""


def peaks_of(maps: Tensor, start: float, stride: float) -> Peaks:
    """Peaks of (N, F, n, n) maps; the first of equal values. `start + i * stride` is the centre of cell i in pixels."""
    n = maps.shape[-1]
    values, index = maps.flatten(2).max(-1)
    rows, columns = index // n, index % n
    return Peaks(start + stride * torch.stack([columns, rows], -1).double(), values)


def assign_category(values: Tensor, labels: Tensor, positive: int | None = None) -> Tensor:
    """(F,) category of each filter: where its mean peak is highest, or `positive` (single-category protocol)."""
    if positive is not None:
        return torch.full((values.shape[1],), positive, dtype=torch.int64, device=values.device)
    categories = labels.unique()
    means = torch.stack([values[labels == c].double().mean(0) for c in categories])
    return categories[means.argmax(0)]


def score_filters(
    peaks: Peaks,
    landmarks: Tensor,
    labels: Tensor,
    diagonal: float,
    positive: int | None = None,
    chance: Tensor | None = None,
) -> FilterScores:
    """Location instability [I] and part tracking of every filter.

    Args:
        peaks: of N test images and F filters.
        landmarks: (N, P, 3) x, y in pixels of the crop and 1 where visible.
        labels: (N,) categories.
        diagonal: of the crop, in pixels.
        positive: the category all filters are judged on; None: each on the one that it fires for most.
        chance: (P,) tracking that a filter's best part must beat to name it; None: 0.
    """
    filters, parts = peaks.values.shape[1], landmarks.shape[1]
    category = assign_category(peaks.values, labels, positive)
    dead = ~(peaks.values > 0).any(0)
    spread = torch.full((filters, parts), torch.nan, dtype=torch.float64, device=labels.device)
    explained = spread.clone()
    for c in category.unique():
        chosen = (category == c).nonzero().squeeze(1)
        for part in range(parts):
            images = ((labels == c) & (landmarks[:, part, 2] > 0)).nonzero().squeeze(1)
            values = peaks.values[images][:, chosen]
            rank = values.argsort(dim=0, descending=True, stable=True)[:BEST_IMAGES]
            positions = peaks.positions[images][:, chosen].double()
            positions = positions.gather(0, rank[..., None].expand(-1, -1, 2))
            truth = landmarks[images][:, part, :2].double()[rank]
            spread[chosen, part] = _spread_of_distances(positions, truth)
            explained[chosen, part] = _explained_variance(positions, truth)
    spread[dead], explained[dead] = torch.nan, torch.nan
    tracking, part_index = explained.nan_to_num(-1).max(1) if parts else (dead * -1.0, dead * -1)
    return FilterScores(
        instability=spread.nanmean(1) / diagonal,
        tracking=torch.where(tracking < 0, torch.nan, tracking),
        explained=explained,
        part=torch.where(tracking > (0 if chance is None else chance[part_index]), part_index, -1),
        category=category,
        dead=dead,
    )


def _spread_of_distances(positions: Tensor, truth: Tensor) -> Tensor:
    """(F,) sample standard deviation of the distances between (K, F, 2) points; NaN for fewer than two."""
    if len(positions) < 2:
        return torch.full(positions.shape[1:2], torch.nan, dtype=torch.float64, device=positions.device)
    return (positions - truth).square().sum(-1).sqrt().std(0)


def _explained_variance(positions: Tensor, truth: Tensor) -> Tensor:
    """(F,) R^2, clipped at 0, of a linear map from peak to part: fitted on the even ranks, scored on the odd ones."""
    if len(positions) < 6:  # fewer than three points a half fit any line
        return torch.full(positions.shape[1:2], torch.nan, dtype=torch.float64, device=positions.device)
    x, y = positions[0::2], truth[0::2]
    x_mean, y_mean = x.mean(0), y.mean(0)
    a, b = x - x_mean, y - y_mean
    covariance = torch.einsum("kfi,kfj->fij", a, a)
    slope = torch.linalg.pinv(covariance, hermitian=True, rtol=1e-9) @ torch.einsum("kfi,kfj->fij", a, b)
    x, y = positions[1::2], truth[1::2]
    residual = y - (torch.einsum("kfi,fij->kfj", x - x_mean, slope) + y_mean)
    total = (y - y.mean(0)).square().sum((0, 2))
    explained = 1 - residual.square().sum((0, 2)) / total
    return torch.where(total > 0, explained, 0.0).clamp(min=0)


def part_coverage(part: Tensor) -> Tensor:
    """Perplexity of the filters' names: exp of the entropy of how many filters each part names. part: (F,), -1 unnamed."""
    counts = torch.bincount(part[part >= 0]).double()
    if not counts.numel():
        return torch.tensor(torch.nan, dtype=torch.float64)
    shares = counts[counts > 0] / counts.sum()
    return torch.exp(-(shares * shares.log()).sum())


def random_peaks(images: int, filters: int, n: int, start: float, stride: float, seed: int = 0) -> Peaks:
    """Control row: peaks at uniformly random cells, of random strength."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(n, (images, filters, 2), generator=generator)
    return Peaks(start + stride * cells.double(), torch.rand(images, filters, generator=generator) + 1e-3)


def centre_peaks(images: int, filters: int, size: float, seed: int = 0) -> Peaks:
    """Control row: a peak that always sits at the crop's centre, of random strength."""
    generator = torch.Generator().manual_seed(seed)
    strength = torch.rand(images, filters, generator=generator) + 1e-3
    return Peaks(torch.full((images, filters, 2), size / 2, dtype=torch.float64), strength)
