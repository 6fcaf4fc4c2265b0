"""Where filters fire, softly, and what that says of several filters together [algorithm.md, 8]; functions of tensors.

Positions are (x, y) as shares of the crop's side. R replicates of W filters are (R, B, W, ...).
"""

from __future__ import annotations

import torch
from torch import Tensor

SHARPNESS = 8.0
"""Of the softmax over cells, in units of a map's peak."""
SILENT = 1e-6
"""Peak below which a map counts as silent, and share of a filter's mean peak below which an image counts for nothing."""
STRONGEST = 2.0
"""Most that an image counts for a filter, in units of the filter's mean peak."""


def soft_positions(maps: Tensor, grid: Tensor, peaks: Tensor | None = None) -> Tensor:
    """Mean position of each map under a softmax over its cells, of `SHARPNESS` times the map over its (detached) peak.

    Args:
        maps: (B, F, n, n), after ReLU.
        grid: (n,) centres of the cells along a side.
        peaks: (B, F) largest value of each map, where it is known.

    Returns:
        (B, F, 2) float32; differentiable.
    """
    cells = maps.flatten(2).mT.float()  # (B, n * n, F), as channels last lie in memory
    peaks = cells.detach().amax(1) if peaks is None else peaks
    # a map that is silent in an image has no place, and must not have a gradient of 1 / 0 either
    mass = (cells * (SHARPNESS / peaks.clamp(min=SILENT))[:, None]).exp_()  # at most e^8: no softmax is needed
    x, y = grid.repeat(len(grid)), grid.repeat_interleave(len(grid))
    moments = torch.stack([x, y, torch.ones_like(x)]) @ mass
    return (moments[:, :2] / moments[:, 2:]).mT


def strengths(values: Tensor) -> Tensor:
    """How much each image counts for each filter: min(peak / mean peak, 2), detached; 0 for a filter that never fires.

    Args:
        values: (..., B, W) peaks.
    """
    values = values.detach().float()
    share = values / values.mean(-2, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.where(share > SILENT, share, 0.0).clamp(max=STRONGEST)


def redundancy(positions: Tensor, strength: Tensor, width: float) -> Tensor:
    """R_fg: whether two filters fire in the same images, at a constant offset; 1 for a filter and itself.

    Args:
        positions: (..., B, W, 2).
        strength: (..., B, W), from `strengths`.
        width: sigma, the offset's standard deviation from which on two filters say different things.

    Returns:
        (..., W, W) in [0, 1]; a filter that never fires has 0.
    """
    tiny = torch.finfo(strength.dtype).tiny
    a = strength
    together = a.mT @ a
    own = together.diagonal(dim1=-2, dim2=-1)
    overlap = together / (own[..., :, None] * own[..., None, :]).sqrt().clamp(min=tiny)
    total = torch.where(together > 0, together, 1.0)  # a small number would make a gradient of 0 / 0
    # about the mean place of all: products of small numbers lose fewer digits
    c = positions.movedim(-1, 0)  # (2, ..., B, W)
    c = c - c.detach().mean((-2, -1), keepdim=True)
    weighted = a * c
    first, second, cross = weighted.mT @ a, (weighted * c).mT @ a, weighted.mT @ weighted
    offset = (first - first.mT) / total
    variance = ((second + second.mT - 2 * cross) / total - offset * offset).sum(0)
    return overlap * torch.exp(-variance.clamp(min=0) / (2 * width**2))


def distinct_filters(redundant: Tensor) -> Tensor:
    """D = 1 / mean R: how many different filters there are, from 1 to W (diversity of order 2, Leinster and Cobbold 2012).

    Args:
        redundant: (W, W) from `redundancy`; filters that never fire are left out.

    Returns:
        A scalar; NaN if no filter fires.
    """
    live = redundant.diagonal() > 0
    return 1 / redundant[live][:, live].mean()


def mirror_distance(positions: Tensor, strength: Tensor, mirrored: Tensor, mirrored_strength: Tensor) -> Tensor:
    """Mean squared distance of a filter's place and the mirrored place that it has in the mirrored image.

    Args:
        positions, mirrored: (..., B, W, 2) in images and in their mirror images.
        strength, mirrored_strength: (..., B, W); an image counts by their product.

    Returns:
        (..., W); 0 for a filter that never fires.
    """
    back = torch.stack([1 - mirrored[..., 0], mirrored[..., 1]], -1)
    weight = strength * mirrored_strength
    total = weight.sum(-2)
    total = torch.where(total > 0, total, 1.0)  # a small number would make a gradient of 0 / 0
    return (weight * (positions - back).square().sum(-1)).sum(-2) / total


def group_information(maps: Tensor, feature: Tensor, groups: int, temperature: float) -> Tensor:
    """-log of the share with which what a filter group sees names the group: K-way InfoNCE over places.

    Group f mod K looks where its filters fire: at the mean of the performer's (normalised) feature there, weighted by its maps
    to the power of 4. It is told apart from other groups by its prototype: what it sees in the batch's other images.

    Args:
        maps: (R, B, W, n, n), after ReLU.
        feature: (R, B, C, n, n) of the performer.
        groups: K, at most W.
        temperature: of the softmax over groups.

    Returns:
        (R,) float32, between 0 and about log K; 0 for a batch of one image, which has no others.
    """
    replicates, batch = maps.shape[:2]
    if batch < 2:
        return maps.new_zeros(replicates)
    attention = _GroupSums.apply(maps.float(), groups)
    attention = attention / attention.detach().amax(-1, keepdim=True).clamp(min=1e-12)
    attention = attention.square().square()
    cells = feature.flatten(3).mT  # (R, B, n * n, C); divided by their norms in the attention, which is smaller
    if cells.dtype == torch.float16:  # whose range is too small; of bfloat16 a float32 copy would take longer than all the rest
        cells = cells.float()
    norms = torch.linalg.vector_norm(cells, dim=-1).float()
    attention = attention / norms.clamp(min=1e-12).unsqueeze(-2)  # its sum plays no part: a direction is what counts
    seen = torch.nn.functional.normalize((attention.to(cells.dtype) @ cells).float(), dim=-1)
    others = torch.nn.functional.normalize(seen.sum(1, keepdim=True) - seen, dim=-1)
    logits = seen @ others.mT / temperature
    return -logits.log_softmax(-1).diagonal(dim1=-2, dim2=-1).mean((1, 2))


class _GroupSums(torch.autograd.Function):
    """(R, B, W, n, n) maps -> (R, B, K, n * n) sums over the filters f of group f mod K.

    What costs time are passes over the memory of the maps, which lie as channels last: as a sum its gradient takes six times as
    long, as a product the sum itself three times.
    """

    @staticmethod
    def forward(ctx, maps: Tensor, groups: int) -> Tensor:
        ctx.shape, width = maps.shape, maps.shape[2]
        ctx.member = torch.eye(groups, device=maps.device).repeat(1, -(-width // groups))[:, :width]  # (K, W)
        return ctx.member @ maps.flatten(3)

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None]:
        return (grad_output.mT @ ctx.member).mT.reshape(ctx.shape), None
