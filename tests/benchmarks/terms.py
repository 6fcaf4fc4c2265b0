"""What each term of the objective adds to a training step: `python tests/benchmarks/terms.py [channels] [batch]`.

Ratios to a step without the terms of `algorithm.md`, section 8, taken in one run, alternating, since machines are noisy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor
from training_step import alternate

from paraphrase.core.config import ExplainerConfig
from paraphrase.core.device import autocast_for, keep_memory, without_denormals
from paraphrase.core.explainer.network import Explainer, PerformerShape
from paraphrase.core.objective.terms import LossConfig, Step
from paraphrase.core.objective.weights import LossWeights, weighted_terms

CPU = torch.device("cpu")
CELLS, TARGETS = 14, (256, 256)
PLAIN = {"lambda_r": 0.0, "lambda_m": 0.0, "lambda_g": 0.0}
WITH = {
    "redundancy term": PLAIN | {"lambda_r": 12.0},
    "mirror term": PLAIN | {"lambda_m": 100.0},
    "group-information term": PLAIN | {"lambda_g": 1.0},
    "all three": {"lambda_r": 12.0, "lambda_m": 100.0, "lambda_g": 1.0},
}


def explainer_of(channels: int, device: torch.device) -> Explainer:
    """The default explainer, with random weights, of a performer whose top feature has so many channels."""
    shape = PerformerShape(channels, CELLS // 2, TARGETS, (True, True), torch.ones(channels), [None, None])
    return Explainer(ExplainerConfig(), shape, torch.nn.MaxPool2d(2), [0]).to(device, memory_format=torch.channels_last)


def feature_of(channels: int, batch: int, device: torch.device) -> Tensor:
    """A batch of random features, in what is computed in."""
    feature = torch.relu(torch.randn(batch, channels, CELLS, CELLS, generator=torch.Generator().manual_seed(0)))
    autocast = autocast_for("auto", device)
    dtype = autocast.fast_dtype if autocast._enabled else torch.float32
    return feature.to(device, dtype).to(memory_format=torch.channels_last)


def step_of(channels: int, batch: int, weights: dict[str, float], device: torch.device = CPU) -> Callable[[], None]:
    """A whole step of an explainer on a batch that is half mirror images."""
    explainer, feature, autocast = (
        explainer_of(channels, device),
        feature_of(channels, batch, device),
        autocast_for("auto", device),
    )
    targets = [torch.rand(1, batch, size, generator=torch.Generator().manual_seed(1)).to(device) for size in TARGETS]
    loss = LossConfig(**weights)
    vectors = LossWeights(loss, 1)
    optimizer = torch.optim.AdamW(explainer.parameters(), 1e-5, betas=(0.9, 0.99), fused=True)

    def step() -> None:
        with autocast:
            seen = explainer(feature)
        weighted_terms(
            Step(
                outputs=seen.outputs,
                targets=targets,
                energies=[1.0, 1.0],
                p=explainer.p(),
                unmasked_maps=seen.unmasked_maps,
                masked_maps=seen.interp_maps,
                feature=feature,
                labels=torch.zeros(1, batch, dtype=torch.int64, device=device),
                grid=torch.linspace(0, 1, CELLS, device=device),
                mirrored=batch // 2,
                loss=loss,
                vector=vectors.vector,
            ),
            vectors,
        ).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


@without_denormals()
def main() -> None:
    channels, batch = (int(a) for a in [*sys.argv[1:3], *("64", "32")[len(sys.argv) - 1 :]])
    torch.set_num_threads(1)
    keep_memory()  # as training does
    names = list(WITH)
    plain, *others = alternate(
        step_of(channels, batch, PLAIN), *(step_of(channels, batch, WITH[name]) for name in names), rounds=40
    )
    print(f"{channels} channels, batch {batch}, 1 thread: {plain * 1e3:.1f} ms a step without them")
    for name, seconds in zip(names, others, strict=True):
        print(f"  with the {name}: {seconds / plain:.2f} x")


if __name__ == "__main__":
    main()
