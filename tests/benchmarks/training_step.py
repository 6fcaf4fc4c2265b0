"""What a training step costs and what its ingredients save: `python tests/benchmarks/training_step.py [channels]`.

All ratios are taken in one run, alternating between the two sides, since machines differ and are noisy.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from paraphrase.core.config import ExplainerConfig
from paraphrase.core.explainer.network import Explainer, PerformerShape
from paraphrase.core.objective.losses import filter_loss, templates

BATCH, CELLS, TARGETS = 64, 14, (256, 256)


def alternate(*sides: Callable[[], object], rounds: int = 15) -> list[float]:
    """Median seconds of each side, measured in turn."""
    taken: list[list[float]] = [[] for _ in sides]
    for i in range(rounds + 2):
        for side, times in zip(sides, taken, strict=True):
            began = time.perf_counter()
            side()
            if i >= 2:
                times.append(time.perf_counter() - began)
    return [statistics.median(t) for t in taken]


def autograd_filter_loss(maps: Tensor, kappa: float) -> Tensor:
    """The filter loss as one would write it, differentiated by autograd."""
    n = maps.shape[-1]
    maps = maps.float()
    scale = kappa / maps.detach().amax((2, 3)).mean(0)
    score = torch.einsum("tp,bfp->btf", templates(n, 4.0, maps.device), maps.flatten(2)) * scale
    prior = -torch.tensor(float(n * n + 1)).log()
    given = score - score.logsumexp(0)
    image = (given + prior).logsumexp(1, keepdim=True)
    return -(prior.exp() * (given.exp() * (given - image)).sum(0)).sum(0)


def step_of(channels: int, replicates: int, dtype: torch.dtype, layout: torch.memory_format) -> Callable[[], None]:
    """A forward and backward pass of an explainer with random weights."""
    shape = PerformerShape(channels, CELLS // 2, TARGETS, (True, True), torch.ones(channels), [None, None])
    explainer = Explainer(ExplainerConfig(), shape, torch.nn.MaxPool2d(2), list(range(replicates)))
    explainer.to(memory_format=layout)
    feature = torch.relu(torch.randn(BATCH, replicates * channels, CELLS, CELLS)).to(dtype).to(memory_format=layout)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            explained = explainer(feature)
        loss = sum(F.mse_loss(o.float(), torch.zeros_like(o).float()) for o in explained.outputs)
        (loss + filter_loss(explained.interp_maps[-1], 5.0).mean()).backward()
        explainer.zero_grad()

    return step


def main() -> None:
    channels = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    torch.set_num_threads(2)
    torch.manual_seed(0)
    print(f"batch {BATCH}, {channels} channels, {CELLS} x {CELLS} cells, {torch.get_num_threads()} threads")
    maps = torch.relu(torch.randn(BATCH, channels, CELLS, CELLS)).to(memory_format=torch.channels_last).requires_grad_()
    ours, plain = alternate(
        lambda: filter_loss(maps, 5.0).sum().backward(), lambda: autograd_filter_loss(maps, 5.0).sum().backward()
    )
    print(f"filter loss with its own gradient {ours * 1e3:.1f} ms: {plain / ours:.2f} x faster than by autograd")
    nhwc, nchw, bf16 = torch.channels_last, torch.contiguous_format, torch.bfloat16
    fast, last, base = alternate(
        step_of(channels, 1, bf16, nhwc), step_of(channels, 1, torch.float32, nhwc), step_of(channels, 1, torch.float32, nchw)
    )
    print(f"step in float32, contiguous {base * 1e3:.1f} ms; channels_last {base / last:.2f} x, bfloat16 too {base / fast:.2f} x")
    four, one = alternate(step_of(channels, 4, bf16, nhwc), step_of(channels, 1, bf16, nhwc))
    print(f"four replicates in one batch {four * 1e3:.1f} ms: {4 * one / four:.2f} x faster than one after the other")


if __name__ == "__main__":
    main()
