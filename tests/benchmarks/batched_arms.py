"""What it saves to train arms as one batch: `python tests/benchmarks/batched_arms.py [channels] [device]`.

An arm's step is forward, losses, backward and optimiser, at batches of 32 images. Each ratio is of one run, alternating
between both sides; below 1 the batch is faster than the same arms one after the other.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from paraphrase.core.config import ExplainerConfig
from paraphrase.core.explainer.network import Explainer, PerformerShape
from paraphrase.core.objective.losses import filter_loss, reconstruction_loss

BATCH, CELLS, TARGETS = 32, 14, (256, 256)


class Arms:
    """R arms with random data, stepped together."""

    def __init__(self, channels: int, replicates: int, device: str):
        shape = PerformerShape(channels, CELLS // 2, TARGETS, (True, True), torch.ones(channels), [None, None])
        config = ExplainerConfig(interp_widths=[0, 0], ordin_width=0)
        self.explainer = Explainer(config, shape, torch.nn.MaxPool2d(2), list(range(replicates))).to(device)
        self.optimizer = torch.optim.AdamW(self.explainer.parameters(), 1e-4, fused=True)
        feature = torch.rand(BATCH, replicates * channels, CELLS, CELLS, device=device)
        self.feature = feature.contiguous(memory_format=torch.channels_last)
        self.targets = [torch.rand(replicates, BATCH, size, device=device) for size in TARGETS]

    def step(self) -> None:
        """One step of all arms."""
        out = self.explainer(self.feature)
        loss = filter_loss(out.unmasked_maps[-1], 1.5).sum()
        for output, target in zip(out.outputs, self.targets, strict=True):
            loss = loss + reconstruction_loss(output, target, 1.0).sum()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def measure(channels: int, replicates: int, device: str, rounds: int = 9) -> tuple[float, float]:
    """Median seconds of a step of R arms, one after the other and as one batch."""
    alone, together = [Arms(channels, 1, device) for _ in range(replicates)], Arms(channels, replicates, device)
    taken: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds + 2):
        for side, arms in enumerate((alone, [together])):
            began = time.perf_counter()
            for arm in arms:
                arm.step()
            if device != "cpu":
                torch.cuda.synchronize()
            if i >= 2:
                taken[side].append(time.perf_counter() - began)
    return statistics.median(taken[0]), statistics.median(taken[1])


def main() -> None:
    channels = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    device = sys.argv[2] if len(sys.argv) > 2 else "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    print(f"{channels} channels, {device}")
    for replicates in (2, 4, 8):
        one_by_one, together = measure(channels, replicates, device)
        ratio = together / one_by_one
        print(f"{replicates} arms: {one_by_one * 1e3:7.1f} ms one by one, {together * 1e3:7.1f} ms as a batch, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
