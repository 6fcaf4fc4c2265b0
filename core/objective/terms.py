"""What an explainer minimises, as data: the fields of `loss`, and a list of terms that training sums [P, eq. 1].

A new term is one function, one entry of `TERMS` and one field, its weight: it is then trained with, logged as `loss_<name>`, a
possible objective of a sweep, and has an ablation that takes it away. `docs/extending.md` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from paraphrase.core.schema import RULES, Real

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(config=RULES)
class LossConfig:
    reconstruction: list[Annotated[Real, Field(ge=0)]] = Field(default_factory=lambda: [1.0, 1.0])
    """lambda_l: weights of the reconstruction loss of fc-dec-1 and fc-dec-2."""
    eta: Real = Field(default=1.4, ge=0.0)
    """Weight of -log p."""
    lambda_f: Real = Field(default=3.0, ge=0.0)
    """Weight of the filter loss."""
    kappa: Real = Field(default=1.5, gt=0.0)
    """Filter temperature: the score of a map with all its mass at a template's centre. Above about 3, filters settle on
    different parts in different images."""
    template_beta: Real = Field(default=4.0, gt=0.0)
    """How fast a template falls off with the L1 distance from its centre, in map sizes."""
    filter_loss: Literal["exact", "category"] = "exact"
    """exact: all images of the batch are positives; category: a filter's own category against the others."""
    filter_layers: Literal["last", "all"] = "last"
    """Interpretable conv-layers that the filter loss acts on."""
    filter_maps: Literal["unmasked", "masked"] = "unmasked"
    """Whether the filter loss sees their maps before or after the masks; a mask hides from it what it should put out."""


class Step(NamedTuple):
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
    labels: Tensor
    """(R, B) int64 categories."""
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

    layers = step.masked_maps if step.loss.filter_maps == "masked" else step.unmasked_maps
    layers = layers if step.loss.filter_layers == "all" else layers[-1:]
    if not layers:
        return None
    values = []
    for maps in layers:
        width = maps.shape[1] // step.replicates
        labels = step.labels.t().repeat_interleave(width, 1) if step.loss.filter_loss == "category" else None
        per_filter = filter_loss(maps, step.by_filter(step.vector("kappa"), maps), step.loss.template_beta, labels)
        values.append(step.mean_over_filters(per_filter) / len(layers))
    return sum(values[1:], values[0])


TERMS = (
    Term("reconstruction_1", "reconstruction.0", _reconstruction(0)),
    Term("reconstruction_2", "reconstruction.1", _reconstruction(1)),
    Term("p", "eta", _p, "no_p_term", tracks=2),
    Term("filter", "lambda_f", _filter, "no_filter_loss"),
)
"""The objective: the sum of these, each times its weight."""

LOSS_KEYS = tuple(f"loss_{term.name}" for term in TERMS)
"""What training reports of each term."""

PER_REPLICATE = tuple(dict.fromkeys([*(term.weight.partition(".")[0] for term in TERMS), "kappa"]))
"""Fields of `LossConfig` that may differ between the replicates of one batch: the weights, and what a term takes by filter."""
