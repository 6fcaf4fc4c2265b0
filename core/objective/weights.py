"""The loss weights of R replicates, and the sum of the terms that they weigh."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from paraphrase.core.objective.terms import PER_REPLICATE, TERMS, LossConfig, Step, Term


class LossWeights(nn.Module):
    """Fields of `LossConfig` as vectors over the replicates, so that an ablation's arms can share a batch.

    Args:
        config: the weights of all replicates.
        replicates: R.
        vectors: a field of `PER_REPLICATE` -> (R,) or (R, 2) values.
    """

    def __init__(self, config: LossConfig, replicates: int, vectors: Mapping[str, Tensor] | None = None):
        super().__init__()
        for name in PER_REPLICATE:
            value = torch.as_tensor(getattr(config, name), dtype=torch.float32)
            value = value.expand(replicates, *value.shape).clone()
            if vectors and name in vectors:
                value = torch.as_tensor(vectors[name], dtype=torch.float32).reshape(value.shape)
            self.register_buffer(name, value)
        self.wanted = [bool((self.of(term) > 0).any()) for term in TERMS]  # known once: it would wait for the device

    def vector(self, field: str) -> Tensor:
        """(R,) or (R, 2) values of a field."""
        return self.get_buffer(field)

    def of(self, term: Term) -> Tensor:
        """(R,) weights of a term."""
        field, _, index = term.weight.partition(".")
        return self.vector(field)[:, int(index)] if index else self.vector(field)


def weighted_terms(step: Step, weights: LossWeights) -> Tensor:
    """(terms, R) float32: each of `TERMS` times its weight; 0 where all weights are, or the explainer has no such term."""
    zero = torch.zeros(step.replicates, device=step.outputs[0].device)
    values = []
    for term, wanted in zip(TERMS, weights.wanted, strict=True):
        value = term.value(step) if wanted else None
        values.append(zero if value is None else weights.of(term) * value)
    return torch.stack(values)
