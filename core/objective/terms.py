"""What an explainer minimises, as data: the fields of `loss`, and a list of terms that training sums [P, eq. 1].

A new term is one function, one entry of `TERMS` and one field, its weight: it is then trained with, logged as `loss_<name>`, a
possible objective of a sweep, and has an ablation that takes it away. `docs/extending.md` shows it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from paraphrase.core.schema import RULES, Real, Whole

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(config=RULES)
class LossConfig:
    reconstruction: list[Annotated[Real, Field(ge=0)]] = Field(default_factory=lambda: [1.0, 1.0])
    """lambda_l: weights of the reconstruction loss of fc-dec-1 and fc-dec-2."""
    eta: Real = Field(default=0.5, ge=0.0)
    """Weight of -log p."""
    lambda_f: Real = Field(default=3.0, ge=0.0)
    """Weight of the filter loss."""
    lambda_r: Real = Field(default=12.0, ge=0.0)
    """Weight of the redundancy term: filters that fire in the same images at a constant offset say the same thing."""
    redundancy_width: Real = Field(default=0.05, gt=0.0)
    """Standard deviation of the offset of two filters, as a share of the crop's side, from which on they differ."""
    lambda_m: Real = Field(default=100.0, ge=0.0)
    """Weight of the mirror term: a filter sits at the mirrored place in the mirrored image. Needs `cache.mirror: true`."""
    lambda_g: Real = Field(default=1.0, ge=0.0)
    """Weight of the group-information term: filter groups look at different things, wherever they are."""
    groups: Whole = Field(default=16, ge=2)
    """K filter groups of the group-information term; where the last interpretable layer has fewer filters, as many as these."""
    group_temperature: Real = Field(default=0.1, gt=0.0)
    """Temperature of the group-information term."""
    kappa: Real = Field(default=10.0, gt=0.0)
    """Filter temperature: the score of a map with all its mass at a template's centre. Without the redundancy term, filters
    settle on different parts in different images above about 3."""
    template_beta: Real = Field(default=4.0, gt=0.0)
    """How fast a template falls off with the L1 distance from its centre, in map sizes."""
    filter_loss: Literal["exact", "category"] = "exact"
    """exact: all images of the batch are positives; category: a filter's own category against the others."""
    filter_layers: Literal["last", "all"] = "last"
    """Interpretable conv-layers that the filter loss acts on."""
    filter_maps: Literal["unmasked", "masked"] = "unmasked"
    """Whether the filter loss sees their maps before or after the masks; a mask hides from it what it should put out."""


@dataclasses.dataclass
class Step:
    """What a training step has seen, of R replicates and a batch of B images each."""

    outputs: Sequence[Tensor]
    """x_1, x_2: reconstructed targets, each (R, B, D_l)."""
    targets: Sequence[Tensor]
    """x*_1, x*_2, likewise."""
    energies: Sequence[float]
    """E|x*_l|^2 of the training split."""
    p: Tensor | None
    """(R,) share of the interpretable track; None where a track is absent."""
    unmasked_maps: Sequence[Tensor]
    """Maps of the interpretable conv-layers after ReLU, before the mask, each (B, R * W, n, n); empty without that track."""
    masked_maps: Sequence[Tensor]
    """The same after the mask."""
    feature: Tensor
    """(B, R * C, n, n) of the performer."""
    labels: Tensor
    """(R, B) int64 categories."""
    grid: Tensor
    """(n,) receptive-field centres of the cells along a side, as shares of the crop's side."""
    mirrored: int
    """How many images at the end of the batch are mirror images of as many at its beginning."""
    loss: LossConfig
    """Settings that all replicates share."""
    vector: Callable[[str], Tensor]
    """Field of `PER_REPLICATE` -> its (R,) or (R, 2) values."""

    @property
    def replicates(self) -> int:
        return len(self.labels)

    def by_filter(self, values: Tensor, maps: Tensor) -> Tensor:
        """(R,) values of the replicates as (R * W,), one for each filter of the maps."""
        return values.repeat_interleave(maps.shape[1] // self.replicates)

    def mean_over_filters(self, values: Tensor) -> Tensor:
        """(R,) means of (R * W,) values of filters."""
        return values.unflatten(0, (self.replicates, -1)).mean(1)

    def by_replicate(self, values: Tensor) -> Tensor:
        """(R, B, W, ...) of (B, R * W, ...)."""
        return values.unflatten(1, (self.replicates, -1)).movedim(1, 0)

    @functools.cached_property
    def top_maps(self) -> Tensor:
        """The top interpretable maps before the mask, (B, R * W, n, n) float32: one copy for all terms of places."""
        return self.unmasked_maps[-1].float()

    @functools.cached_property
    def top_peaks(self) -> Tensor:
        """Their largest values, (B, R * W) float32, detached."""
        return self.top_maps.detach().amax((2, 3))

    @functools.cached_property
    def places(self) -> tuple[Tensor, Tensor] | None:
        """Soft positions (R, B, W, 2) and strengths (R, B, W) of the top interpretable maps; None without that track."""
        from paraphrase.core.objective.places import soft_positions, strengths

        if not self.unmasked_maps:
            return None
        positions = soft_positions(self.top_maps, self.grid, self.top_peaks)
        return self.by_replicate(positions), strengths(self.by_replicate(self.top_peaks))


class Term(NamedTuple):
    """One term of the objective."""

    name: str
    """It is logged as `loss_<name>`, times its weight."""
    weight: str
    """Path of its weight in `LossConfig`, with an index where the field is a list: `reconstruction.0`."""
    value: Callable[[Step], Tensor | None]
    """(R,) float32 before the weight; None where the explainer has nothing that the term is about."""
    ablation: str | None = None
    """Name of the ablation that sets the weight to 0; None: it is no ingredient that could be taken away."""
    tracks: int = 1
    """Tracks that an explainer must have for the term to have a meaning."""


def _reconstruction(layer: int) -> Callable[[Step], Tensor | None]:
    def value(step: Step) -> Tensor:
        from paraphrase.core.objective.losses import reconstruction_loss

        return reconstruction_loss(step.outputs[layer], step.targets[layer], step.energies[layer])

    return value


def _p(step: Step) -> Tensor | None:
    """-log p."""
    return None if step.p is None else -step.p.log()


def _filter(step: Step) -> Tensor | None:
    """Mean filter loss [I] of the conv-layers that `filter_layers` names."""
    from paraphrase.core.objective.losses import filter_loss

    if not step.unmasked_maps:
        return None
    layers = step.masked_maps if step.loss.filter_maps == "masked" else step.unmasked_maps
    layers = layers if step.loss.filter_layers == "all" else layers[-1:]
    values = []
    for maps in layers:
        width = maps.shape[1] // step.replicates
        labels = step.labels.t().repeat_interleave(width, 1) if step.loss.filter_loss == "category" else None
        kappa, peaks = step.by_filter(step.vector("kappa"), maps), step.top_peaks if maps is step.unmasked_maps[-1] else None
        per_filter = filter_loss(maps, kappa, step.loss.template_beta, labels, peaks)
        values.append(step.mean_over_filters(per_filter) / len(layers))
    return sum(values[1:], values[0])


def _redundancy(step: Step) -> Tensor | None:
    """Mean redundancy of two of the top interpretable filters."""
    from paraphrase.core.objective.places import redundancy

    return step.places and redundancy(*step.places, step.loss.redundancy_width).mean((1, 2))


def _mirror(step: Step) -> Tensor | None:
    """Mean squared distance, in shares of the side, of a filter's place and the mirrored place in the mirrored image."""
    from paraphrase.core.objective.places import mirror_distance

    if step.places is None or not step.mirrored:
        return None
    (places, strength), m = step.places, step.mirrored
    return mirror_distance(places[:, :m], strength[:, :m], places[:, -m:], strength[:, -m:]).mean(1)


def _groups(step: Step) -> Tensor | None:
    """-log of the share with which what a filter group sees names the group."""
    from paraphrase.core.objective.places import group_information

    if not step.unmasked_maps:
        return None
    maps, feature = step.by_replicate(step.unmasked_maps[-1]), step.by_replicate(step.feature)
    return group_information(maps, feature, min(step.loss.groups, maps.shape[2]), step.loss.group_temperature)


TERMS = (
    Term("reconstruction_1", "reconstruction.0", _reconstruction(0)),
    Term("reconstruction_2", "reconstruction.1", _reconstruction(1)),
    Term("p", "eta", _p, "no_p_term", tracks=2),
    Term("filter", "lambda_f", _filter, "no_filter_loss"),
    Term("redundancy", "lambda_r", _redundancy, "no_redundancy_term"),
    Term("mirror", "lambda_m", _mirror, "no_mirror_term"),
    Term("groups", "lambda_g", _groups, "no_group_term"),
)
"""The objective: the sum of these, each times its weight."""

LOSS_KEYS = tuple(f"loss_{term.name}" for term in TERMS)
"""What training reports of each term."""

PER_REPLICATE = tuple(dict.fromkeys([*(term.weight.partition(".")[0] for term in TERMS), "kappa"]))
"""Fields of `LossConfig` that may differ between the replicates of one batch: the weights, and what a term takes by filter."""
