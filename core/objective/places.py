"""Where filters fire, softly, and what that says of several filters together [algorithm.md, 8]; functions of tensors.

Positions are (x, y) as shares of the crop's side. R replicates of W filters are (R, B, W, ...).
"""

from __future__ import annotations

import math

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
    sharpness = SHARPNESS / math.log(2) / peaks.clamp(min=SILENT)
    x, y = grid.repeat(len(grid)), grid.repeat_interleave(len(grid))
    moments = _Moments.apply(cells, sharpness, torch.stack([x, y, torch.ones_like(x)]))
    return (moments[:, :2] / moments[:, 2:]).mT


class _Moments(torch.autograd.Function):
    """Sums over the cells of 2^(sharpness * cell) times each row of `points`; at most e^8, so that no softmax is needed.

    Args of `apply`: (B, n * n, F) cells, (B, F) sharpness, (3, n * n) points. Written out: passes over maps are its cost.
    """

    @staticmethod
    def forward(ctx, cells: Tensor, sharpness: Tensor, points: Tensor) -> Tensor:
        mass = (cells * sharpness[:, None]).exp2_()
        ctx.save_for_backward(mass, sharpness, points)
        return points @ mass

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None, None]:
        mass, sharpness, points = ctx.saved_tensors
        return (points.mT @ (grad_output * (math.log(2) * sharpness)[:, None])).mul_(mass), None, None


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
    return _Redundancy.apply(positions.movedim(-1, -3), strength, width)


class _Redundancy(torch.autograd.Function):
    """(..., 2, B, W) positions, (..., B, W) strengths -> (..., W, W); its gradient is written out: its steps are many and small.

    With d the offset of two filters, o its mean and T the sum of a = strength_f * strength_g over images, the gradient of the
    variance of d by a place of f is 2 a (d - o) / T.
    """

    @staticmethod
    def forward(ctx, positions: Tensor, strength: Tensor, width: float) -> Tensor:
        tiny, a = torch.finfo(strength.dtype).tiny, strength.unsqueeze(-3)  # (..., 1, B, W)
        # about the mean place of all: products of small numbers lose fewer digits
        c = positions - positions.mean((-2, -1), keepdim=True)
        weighted = a * c
        sums = a.mT @ torch.cat([a, weighted, weighted * c], -3)  # (..., 5, W, W)
        together, first, second = sums[..., :1, :, :], sums[..., 1:3, :, :], sums[..., 3:, :, :]
        total = torch.where(together > 0, together, 1.0)
        offset = (first.mT - first) / total  # [..., f, g] mean of c_f - c_g
        variance = ((second.mT + second - 2 * (weighted.mT @ weighted)) / total - offset * offset).sum(-3)
        own = together.squeeze(-3).diagonal(dim1=-2, dim2=-1)
        overlap = together.squeeze(-3) / (own[..., :, None] * own[..., None, :]).sqrt().clamp(min=tiny)
        redundant = overlap * torch.exp(variance.clamp(min=0) / (-2 * width**2))
        if ctx.needs_input_grad[0]:
            slope = redundant * (variance >= 0) / (-2 * width**2) / total.squeeze(-3)
            ctx.save_for_backward(slope, a, c, weighted, offset)
        return redundant

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None, None]:
        slope, a, c, weighted, offset = ctx.saved_tensors
        slope = grad_output * slope
        slope = (slope + slope.mT).unsqueeze(-3)
        by_filter, by_place = (torch.cat([a, weighted], -3) @ slope).split([1, 2], -3)
        return 2 * a * (c * by_filter - by_place + a @ (slope * offset)), None, None


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
    weight = strength * mirrored_strength
    total = weight.sum(-2, keepdim=True)
    weight = (weight / torch.where(total > 0, total, 1.0)).unsqueeze(-1)  # a small number would make a gradient of 0 / 0
    back = mirrored * mirrored.new_tensor([-1.0, 1.0]) + mirrored.new_tensor([1.0, 0.0])
    return (weight * (positions - back).square()).sum((-3, -1))


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
    cells = feature.flatten(3).mT  # (R, B, n * n, C)
    if cells.dtype == torch.float16:  # whose range is too small; of bfloat16 a float32 copy would take longer than all the rest
        cells, maps = cells.float(), maps.float()
    norms = torch.linalg.vector_norm(cells, dim=-1).float().clamp(min=1e-12)
    seen = torch.nn.functional.normalize((_GroupAttention.apply(maps, groups, norms).to(cells.dtype) @ cells).float(), dim=-1)
    others = seen.sum(1, keepdim=True) - seen
    sizes = torch.linalg.vector_norm(others, dim=-1).clamp(min=1e-12) * temperature  # of logits, which are fewer
    logits = seen @ others.mT / sizes.unsqueeze(-2)
    return -logits.log_softmax(-1).diagonal(dim1=-2, dim2=-1).mean((1, 2))


class _GroupAttention(torch.autograd.Function):
    """(R, B, W, n, n) maps -> (R, B, K, n * n): the 4th power of each group's sum over its (detached) peak, over `norms`.

    Its sum over cells plays no part: what a group sees is a direction. `norms`: (R, B, n * n), of the performer's feature at
    each cell: dividing the attention by them normalises the feature, which is larger. Written out, as passes over the memory of
    maps are what it costs: they lie as channels last, where a sum over groups is fastest as a product.
    """

    @staticmethod
    def forward(ctx, maps: Tensor, groups: int, norms: Tensor) -> Tensor:
        member = torch.eye(groups, dtype=maps.dtype, device=maps.device)
        member = member.repeat(1, -(-maps.shape[2] // groups))[:, : maps.shape[2]]  # (K, W)
        share = (member @ maps.flatten(3)).float()
        peaks = share.amax(-1, keepdim=True).clamp(min=1e-12)
        share /= peaks
        cubed = (share * share).mul_(share).div_(norms.unsqueeze(-2))
        attention = share.mul_(cubed)
        ctx.shape = maps.shape
        ctx.save_for_backward(cubed.mul_(4 / peaks), member)
        return attention

    @staticmethod
    def backward(ctx, grad_output: Tensor) -> tuple[Tensor, None, None]:
        slope, member = ctx.saved_tensors
        grad = (grad_output * slope).to(member.dtype)
        return (grad.mT @ member).mT.reshape(ctx.shape), None, None
