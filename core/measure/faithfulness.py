"""Does a prediction lean on the parts that are said to make it? A part's filters are taken away, their maps set to 0.

The deletion test of attribution methods [Samek et al. 2017; Petsiuk et al. 2018], of parts in place of pixels: in each image
the parts go in the order of their shares, and the logit must fall further than when as many random filters go.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from paraphrase.core.measure.attribution import ExplainerPath, Groups, PerformerPath

DRAWS = 5
"""Random orders that the control is averaged over."""


class Faithfulness(NamedTuple):
    """What is left of the answer's logit, mean over images: 1 with all filters, 0 without any; NaN where none is needed."""

    parts: Tensor
    """(G + 1,) when no, one, ... all groups are gone, in each image the one with the largest share first."""
    control: Tensor
    """(G + 1,) when as many random filters are gone."""
    filters: Tensor
    """(G + 1,) filters that are gone, mean over images."""
    alone: Tensor
    """(G,) what a group takes with it when it goes alone: the share of the logit that is lost."""
    alone_control: Tensor
    """(G,) what as many random filters take."""

    @property
    def drop(self) -> float:
        """Share of the logit that is lost, mean over the steps: how far the parts carry the answer."""
        return float(1 - self.parts[1:].mean())

    @property
    def drop_control(self) -> float:
        """The same of random filters."""
        return float(1 - self.control[1:].mean())


@torch.no_grad()
def faithfulness(
    path: ExplainerPath | PerformerPath, features: Tensor, answers: Tensor, groups: Groups, shares: Tensor, seed: int = 0
) -> Faithfulness:
    """Take groups of filters away, one after the other and each alone.

    Args:
        path: from the feature to the logits.
        features: (N, n, n, C) of a cache.
        answers: (N,) int64 categories whose logits are asked.
        groups: G of them, of F filters; a group of the rest goes last.
        shares: (N, G) of each group in the answer.
        seed: of the random filters.
    """
    feature = features.permute(0, 3, 1, 2).float()
    named = len(groups.names) - (1 if groups.rest else 0)
    order = shares.nan_to_num(0)[:, :named].argsort(dim=1, descending=True, stable=True)
    order = torch.cat([order, torch.arange(named, len(groups.names)).expand(len(order), -1)], 1)
    step_of_group = order.argsort(1) + 1  # (N, G): the step in which a group goes
    step = step_of_group[:, groups.member]  # (N, F)
    generator = torch.Generator().manual_seed(seed)
    count = torch.bincount(groups.member, minlength=len(groups.names))

    values, behind = path.split(feature)

    def logit(gone: Tensor) -> Tensor:
        kept = values * (~gone)[..., None, None]
        return behind(kept).gather(1, answers[:, None]).squeeze(1).double().mean()

    whole, nothing = logit(torch.zeros_like(step, dtype=torch.bool)), logit(torch.ones_like(step, dtype=torch.bool))

    def left(gone: Tensor) -> Tensor:
        return (logit(gone) - nothing) / (whole - nothing) if whole > nothing else torch.full_like(whole, torch.nan)

    ranks = [torch.rand(step.shape, generator=generator).argsort(1).argsort(1) for _ in range(DRAWS)]
    steps = range(len(groups.names) + 1)
    gone = torch.stack([(step <= k).sum(1) for k in steps])  # (G + 1, N)
    parts = torch.stack([left(step <= k) for k in steps])
    control = torch.stack([torch.stack([left(rank < gone[k][:, None]) for rank in ranks]).mean() for k in steps])
    alone = torch.stack([1 - left((groups.member == g).expand_as(step)) for g in range(len(groups.names))])
    by_chance = torch.stack([1 - torch.stack([left(rank < n) for rank in ranks]).mean() for n in count.tolist()])
    return Faithfulness(parts, control, gone.double().mean(1), alone, by_chance)
