"""The filter loss, the reconstruction loss and the masks, as functions of tensors.

Every function treats channels independently of each other, so R replicates of W filters are just R * W channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@functools.lru_cache(maxsize=32)
def l1_distances(n: int, device: torch.device) -> Tensor:
    """(n*n, n*n) float32: |pos - mu|_1 / n between all positions of an n x n map, row-major."""
    cells = torch.arange(n, device=device, dtype=torch.float32)
    rows, columns = torch.meshgrid(cells, cells, indexing="ij")
    points = torch.stack([rows.flatten(), columns.flatten()], 1)
    return torch.cdist(points, points, p=1) / n


@functools.lru_cache(maxsize=32)
def templates(n: int, beta: float, device: torch.device) -> Tensor:
    """(n*n + 1, n*n) float32: the templates of the filter loss in units of tau; the last one is T_neg [I]."""
    return 1 - beta / n * _distances(n, beta, device)[0]


@functools.lru_cache(maxsize=32)
def _distances(n: int, beta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """(n*n + 1, n*n) float32: how far each position is from each template's peak, in cells, as far as the template falls; of
    T_neg as far everywhere. Whole numbers, but for the farthest, so that bfloat16 has them exactly. And the same transposed.
    """
    farthest = 2 * n / beta
    from_peak = (n * l1_distances(n, device)).round().clamp(max=farthest)
    table = torch.cat([from_peak, from_peak.new_full((1, n * n), farthest)])
    return table, table.t().contiguous()


class _Product(torch.autograd.Function):
    """(T, P) x (B, P, F) -> (B, T, F), all float32, and its gradient; the first factor is given transposed, too.

    Where `half`, the CPU multiplies in bfloat16 and adds in float32, in two fifths of the time: exact if both factors are
    numbers of bfloat16; the gradient, which then is rounded to it anyway, is rounded before.
    """

    @staticmethod
    def forward(ctx, table: Tensor, transposed: Tensor, positions: Tensor, half: bool) -> Tensor:
        ctx.save_for_backward(transposed)
        ctx.half = half
        with _multiplying(half):
            return torch.matmul(table, positions)

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[None, None, Tensor, None]:
        (transposed,) = ctx.saved_tensors
        with _multiplying(ctx.half):
            return None, None, torch.matmul(transposed, grad_output), None


@contextmanager
def _multiplying(half: bool) -> Iterator[None]:
    """Have the CPU multiply matrices of float32 in bfloat16 meanwhile, or not."""
    if not half:
        yield
        return
    how: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = how.fp32_precision
    how.fp32_precision = "bf16"
    try:
        yield
    finally:
        how.fp32_precision = before


def peak_index(maps: Tensor) -> Tensor:
    """Row-major index (B, F) of each map's largest value, the first one of equals. maps: (B, F, n, n)."""
    return maps.flatten(2).argmax(-1)


def mask_maps(maps: Tensor, centre: str, beta: float) -> Tensor:
    """Multiply each map by `max(1 - beta * |pos - mu|_1 / n, 0)`; the gradient does not pass through mu [I].

    Args:
        maps: (B, F, n, n), after ReLU.
        centre: `peak` (argmax of the map), `mean` (activation-weighted mean position) or `none` (maps as they are).
        beta: fall-off in map sizes.
    """
    if centre == "none":
        return maps
    n = maps.shape[-1]
    with torch.no_grad():
        if centre == "peak":
            table = (1 - beta * l1_distances(n, maps.device)).clamp(min=0).to(maps.dtype)
            mask = table[peak_index(maps)].unflatten(-1, (n, n))
        else:
            cells = torch.arange(n, device=maps.device, dtype=torch.float32)
            mass = maps.float()
            total = mass.sum((2, 3)).clamp(min=torch.finfo(torch.float32).tiny)
            row = (mass.sum(3) @ cells / total)[..., None, None]
            column = (mass.sum(2) @ cells / total)[..., None, None]
            distance = (cells[:, None] - row).abs() + (cells[None, :] - column).abs()
            mask = (1 - beta * distance / n).clamp(min=0).to(maps.dtype)
    return maps * mask


def filter_loss(
    maps: Tensor, kappa: Tensor | float, beta: float = 4.0, labels: Tensor | None = None, peaks: Tensor | None = None
) -> Tensor:
    """Minus the mutual information, in nats, between the maps of a batch and the part templates, for each filter [I].

    The maps are scaled by kappa / (tau * m_f), m_f the batch mean of the filter's peak (detached); tau cancels against
    the templates'. Computed in float32 and in log space, with its exact gradient.

    Args:
        maps: (B, F, n, n), after ReLU.
        kappa: filter temperature, a number or (F,).
        beta: fall-off of the templates.
        labels: (B,) or (B, F) category of each image; if given, an image's gradient passes only through the templates that
            fit it: the positive ones if it is of the category that the filter fires for most, else T_neg. The value of
            the loss is the same [I].
        peaks: (B, F) float32 largest value of each map, where it is known.

    Returns:
        (F,) float32, each in [-log min(B, n*n + 1), 0].
    """
    batch, filters, n, _ = maps.shape
    farthest = torch.tensor(2 * n / beta)
    half = maps.dtype == torch.bfloat16 and maps.device.type == "cpu" and bool(farthest.bfloat16() == farthest)
    peaks = maps.detach().amax((2, 3)).float() if peaks is None else peaks
    largest = peaks.amax(0).clamp(min=torch.finfo(torch.float32).tiny)
    # the mean of huge peaks would overflow: average them in units of the largest
    mean_peak = (peaks / largest).mean(0).clamp(min=1e-6)
    # by a power of two, which bfloat16 divides by exactly
    scale = torch.exp2(torch.frexp(largest).exponent.clamp(min=-120).float())
    # positions before filters: the layout of channels_last maps, so that no copy is made
    positions = maps.permute(0, 2, 3, 1).reshape(batch, n * n, filters).float() / scale
    falling = _Product.apply(*_distances(n, beta, maps.device), positions, half)
    # in bits: a power of 2 takes a third of the time of one of e
    score = (positions.sum(1, keepdim=True) - beta / n * falling) * (kappa / mean_peak / math.log(2) * (scale / largest))
    fits = None if labels is None else _of_own_category(peaks, labels)
    return -_MutualInformation.apply(score, fits)


LEAST = -115.0
"""Binary logarithm of the smallest share that is told from 0, 1e-35: below it Intel's exponential takes thirty times as long."""


class _MutualInformation(torch.autograd.Function):
    """(B, T, F) scores, in bits -> (F,) mutual information, in nats, of image and template; T_neg is the last template.

    With q the softmax over images, g = log p(x|T) - log p(x) and KL_T = sum_b q g, the exact gradient is
    p(T) q (g - KL_T). Written out because it halves the time of a training step's filter loss.
    """

    @staticmethod
    def forward(ctx, score: Tensor, fits: Tensor | None) -> Tensor:
        # p(T_mu) = a / n^2 and p(T_neg) = 1 - a with a = n^2 / (1 + n^2): all templates are equally likely
        prior = 1.0 / score.shape[1]
        gain = (score - score.amax(0)).clamp_(min=LEAST)
        given = gain.exp2()
        total = given.sum(0)
        given /= total  # p(x|T)
        gain -= total.log2_()  # log p(x|T)
        image = (given.sum(1, keepdim=True) * prior).clamp_(min=torch.finfo(torch.float32).tiny)
        gain -= image.log2_()
        divergence = (given * gain).sum(0)
        if ctx.needs_input_grad[0]:
            gradient = gain.sub_(divergence).mul_(given).mul_(prior * math.log(2) ** 2)
            if fits is not None:
                gradient[:, :-1] *= fits[:, None]
                gradient[:, -1] *= ~fits
            ctx.save_for_backward(gradient)
        return divergence.sum(0) * (prior * math.log(2))

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output, None


def _of_own_category(peaks: Tensor, labels: Tensor) -> Tensor:
    """(B, F) bool: whether the image is of the category that the filter fires for most, by the batch's mean peaks."""
    labels = labels if labels.dim() == 2 else labels[:, None].expand_as(peaks)
    is_category = torch.nn.functional.one_hot(labels).to(peaks.dtype)
    mean_peak = (peaks[..., None] * is_category).sum(0) / is_category.sum(0).clamp(min=1)
    return labels == mean_peak.argmax(-1)


def reconstruction_loss(output: Tensor, target: Tensor, energy: float) -> Tensor:
    """Mean over the batch of |x_l - x*_l|^2 / E|x*_l|^2 for each replicate [P, eq. 1].

    Args:
        output, target: (R, B, D).
        energy: E|x*_l|^2 of the training split.

    Returns:
        (R,) float32.
    """
    return (output.float() - target.float()).square().sum(-1).mean(-1) / energy
