"""Filters as a partition of the object, judged as the part-discovery papers do it: NMI and ARI against the landmarks.

In those papers a network has K part maps; each visible landmark of a test image is given to the map that is strongest where it
lies, and the partition of all landmarks so made is compared with that by name [Choudhury et al. 2021; PDiscoNet, PDiscoFormer].
Here the K maps are groups of filters that say the same thing, K the number of landmarks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paraphrase.core.measure.alike import redundancy_of
from paraphrase.core.measure.filters import Peaks


def values_at(maps: Tensor, landmarks: Tensor, start: float, stride: float) -> Tensor:
    """(B, P, F) activations of (B, F, n, n) maps in the cells where landmarks lie.

    Args:
        landmarks: (B, P, 3) x, y in pixels of the crop; what is asked of one that is not visible is of no use.
        start, stride: `start + i * stride` is the centre of cell i in pixels.
    """
    n = maps.shape[-1]
    cell = ((landmarks[..., :2] - start) / stride).round().long().clamp(0, n - 1)
    index = cell[..., 1] * n + cell[..., 0]
    return maps.flatten(2).gather(2, index[:, None].expand(-1, maps.shape[1], -1)).mT


def groups_by_place(peaks: Peaks, side: float, count: int) -> Tensor:
    """(F,) int64 group of each filter, in at most `count` groups by average linkage of 1 - R; -1 for one that never fires.

    Args:
        peaks: of test images and F filters.
        side: of the crop, in pixels.
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    redundant = redundancy_of(peaks, side)
    live = redundant.diagonal() > 0
    member = torch.full(live.shape, -1)
    if int(live.sum()) < 2:
        member[live] = 0
        return member
    distance = (1 - redundant[live][:, live]).clamp(min=0).numpy()
    tree = linkage(squareform(distance, checks=False), "average")
    member[live] = torch.from_numpy(fcluster(tree, count, "maxclust").astype("int64")) - 1
    return member


def partition_scores(peaks: Peaks, at_landmarks: Tensor, landmarks: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """NMI and ARI, float64 scalars, of the groups that fire most at landmarks and the landmarks' names; NaN without either.

    A group fires as much as its filters do on average, each in units of its own mean peak; where none fires, the landmark
    belongs to the background, one group more.

    Args:
        peaks: of N test images and F filters.
        at_landmarks: (N, P, F), from `values_at`.
        landmarks: (N, P, 3) x, y in pixels of the crop and 1 where visible.
        side: of the crop, in pixels.
    """
    visible = landmarks[..., 2] > 0
    member = groups_by_place(Peaks(*(t.cpu() for t in peaks)), side, landmarks.shape[1])
    if not bool(visible.any()) or not bool((member >= 0).any()):
        nothing = torch.tensor(torch.nan, dtype=torch.float64)
        return nothing, nothing
    live, groups = member >= 0, int(member.max()) + 1
    share = at_landmarks.cpu().double()[..., live] / peaks.values.cpu().double().mean(0)[live]
    belongs = torch.nn.functional.one_hot(member[live], groups).double()
    fires = share @ (belongs / belongs.sum(0))
    strongest = torch.where(fires.amax(-1) > 0, fires.argmax(-1), groups)[visible]
    names = torch.arange(landmarks.shape[1]).expand(visible.shape)[visible]
    table = torch.zeros(groups + 1, landmarks.shape[1], dtype=torch.float64)
    table.index_put_((strongest, names), torch.ones(len(names), dtype=torch.float64), accumulate=True)
    return normalised_information(table), adjusted_rand(table)


def normalised_information(table: Tensor) -> Tensor:
    """NMI of a table of counts (K, P): mutual information over the mean of both entropies; 1 where both have one class."""
    joint = table / table.sum()
    rows, columns = joint.sum(1), joint.sum(0)
    entropies = [-(m[m > 0] * m[m > 0].log()).sum() for m in (rows, columns)]
    seen = joint > 0
    information = (joint[seen] * (joint[seen] / (rows[:, None] * columns)[seen]).log()).sum()
    mean = (entropies[0] + entropies[1]) / 2
    return information / mean if mean > 0 else torch.ones_like(mean)


def adjusted_rand(table: Tensor) -> Tensor:
    """ARI of a table of counts (K, P): agreeing pairs beyond chance, over the most there could be; 1 where both are the same."""

    def pairs(counts: Tensor) -> Tensor:
        return (counts * (counts - 1) / 2).sum()

    together, rows, columns, every = pairs(table), pairs(table.sum(1)), pairs(table.sum(0)), pairs(table.sum())
    chance, most = rows * columns / every.clamp(min=1), (rows + columns) / 2
    return (together - chance) / (most - chance) if most != chance else torch.ones_like(most)
