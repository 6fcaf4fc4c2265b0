"""What all filters together know of the parts: landmark error and its ceiling; functions of arrays [algorithm.md, 8]."""

from __future__ import annotations

import torch
from torch import Tensor

from paraphrase.core.measure.filters import Peaks
from paraphrase.core.objective.places import strengths

RIDGES = torch.logspace(-3, 5, 17, dtype=torch.float64)
"""Ridges that are tried, in units of one standardised column's variance."""


def landmark_error(train: Peaks, train_landmarks: Tensor, test: Peaks, test_landmarks: Tensor, side: float) -> Tensor:
    """Mean distance between a landmark and where the peaks of all filters say that it is, as a share of the crop's side.

    A ridge regression from the peaks of all filters in an image (2 F standardised numbers) to each landmark's (x, y), fitted on
    the training images in which it is visible, the ridge chosen by the leave-one-out error there [Huang and Li 2020].

    Args:
        train, test: peaks of N and M images and F filters.
        train_landmarks, test_landmarks: (N, P, 3) and (M, P, 3) x, y in pixels of the crop and 1 where visible.
        side: of the crop, in pixels.

    Returns:
        (P,) float64; NaN for a landmark that is visible in fewer than two training images or in no test image.
    """
    x, scale = _standardised(train.positions)
    x_test, _ = _standardised(test.positions, scale)
    errors = []
    for part in range(train_landmarks.shape[1]):
        seen, asked = train_landmarks[:, part, 2] > 0, test_landmarks[:, part, 2] > 0
        if seen.sum() < 2 or not asked.any():
            errors.append(torch.tensor(torch.nan, dtype=torch.float64))
            continue
        predicted = _ridge(x[seen], train_landmarks[seen, part, :2].double(), x_test[asked])
        errors.append((predicted - test_landmarks[asked, part, :2].double()).norm(dim=1).mean() / side)
    return torch.stack(errors) if errors else torch.empty(0, dtype=torch.float64)


def mean_landmark_error(train_landmarks: Tensor, test_landmarks: Tensor, side: float) -> Tensor:
    """(P,) landmark error of always guessing the training mean: what peaks that know nothing have."""
    nothing = [
        Peaks(torch.zeros(len(t), 1, 2, dtype=torch.float64), torch.zeros(len(t), 1)) for t in (train_landmarks, test_landmarks)
    ]
    return landmark_error(nothing[0], train_landmarks, nothing[1], test_landmarks, side)


def agreement(own: Peaks, other: Peaks) -> Tensor:
    """Do two networks find the same parts? For each filter the largest share of its movement that a filter of the other explains.

    R^2 of a linear map from the other filter's place to the own one's, over the images, each counted by the own strength.

    Args:
        own, other: peaks of the same N images and F and G filters; not the same filters.

    Returns:
        A float64 scalar in [0, 1], the mean over the own filters that fire and move; NaN if there is none.
    """
    strength = strengths(own.values).double()  # (N, F)
    share = strength / strength.sum(0).clamp(min=torch.finfo(torch.float64).tiny)
    x, y = other.positions.double(), own.positions.double()
    mean_x, mean_y = torch.einsum("nf,ngi->fgi", share, x), torch.einsum("nf,nfi->fi", share, y)
    xx = torch.einsum("nf,ngi,ngj->fgij", share, x, x) - mean_x[..., :, None] * mean_x[..., None, :]
    xy = torch.einsum("nf,ngi,nfj->fgij", share, x, y) - mean_x[..., :, None] * mean_y[:, None, None, :]
    yy = torch.einsum("nf,nfi->f", share, y.square()) - mean_y.square().sum(-1)
    explained = (xy * (torch.linalg.pinv(xx, hermitian=True, rtol=1e-9) @ xy)).sum((2, 3)) / yy[:, None]
    moves = (strength.sum(0) > 0) & (yy > 1e-9 * y.square().amax())
    return explained[moves].amax(1).clamp(0, 1).mean() if bool(moves.any()) else torch.tensor(torch.nan, dtype=torch.float64)


def _standardised(positions: Tensor, scale: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """(N, 2 F) columns with mean 0 and variance 1, by their own scale or a given one; a column that never changes is 0."""
    x = positions.double().flatten(1)
    if scale is None:
        deviation = x.std(0, unbiased=False)
        scale = x.mean(0), torch.where(deviation > 1e-9, deviation, torch.inf)
    return (x - scale[0]) / scale[1], scale


def _ridge(x: Tensor, y: Tensor, asked: Tensor) -> Tensor:
    """Predictions (M, 2) for rows (M, D) of a ridge regression of y (N, 2) on x (N, D) with an intercept."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    if len(x) < x.shape[1]:  # the same directions, but those in which nothing varies
        _, singular, rows = torch.linalg.svd(x - x_mean, full_matrices=False)
        values, vectors = singular.square(), rows.mT
    else:
        values, vectors = torch.linalg.eigh((x - x_mean).mT @ (x - x_mean))
        values = values.clamp(min=0)
    z, target = (x - x_mean) @ vectors, y - y_mean
    moments = z.mT @ target
    best, least = torch.zeros_like(moments), torch.inf
    for ridge in RIDGES:
        coefficients = moments / (values + ridge)[:, None]
        leverage = (z.square() / (values + ridge)).sum(1) + 1 / len(x)
        left_out = (target - z @ coefficients) / (1 - leverage).clamp(min=1e-9)[:, None]
        error = float(left_out.norm(dim=1).mean())
        if error < least:
            best, least = coefficients, error
    return (asked - x_mean) @ vectors @ best + y_mean
