"""How much there was to find: two conv-layers trained with the part labels on the same features, the `ceiling` row of tables."""

from __future__ import annotations

import json
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paraphrase.core.features.cache import FeatureCache, ReadAhead, Split
from paraphrase.core.files import read_text, write_atomically
from paraphrase.core.measure.filters import Peaks, peaks_of

HIDDEN, EPOCHS, BATCH, RATE = 64, 12, 64, 3e-3
KEPT = "ceiling.json"
"""In a cache's folder: what was measured, since it is the same for all explainers."""


def ceiling_peaks(cache: FeatureCache, seed: int = 0) -> tuple[Peaks, Peaks]:
    """Peaks (N, P) and (M, P) on the training and test images of one filter a landmark, trained to sit on it.

    The loss is the squared distance between a landmark and the mean position under a softmax over the filter's map.
    """
    field, size, landmarks = cache.meta["receptive_field"], cache.meta["input_size"], cache.train.landmarks
    grid = (field["start"] + field["stride"] * torch.arange(cache.meta["map_size"], dtype=torch.float32)) / size
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(cache.meta["channels"], HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(HIDDEN, landmarks.shape[1], 3, padding=1)
    )
    for layer in (network[0], network[2]):
        assert isinstance(layer, nn.Conv2d)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    scale = cache.train.features[:BATCH].float().amax().clamp(min=1e-6)
    images = len(cache.train.labels)
    steps = max(1, images // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.01)
    with ReadAhead(cache, "train") as ahead:
        for step in range(EPOCHS * steps):
            if step % steps == 0:
                order = torch.randperm(images, generator=generator)
            index = order[(step % steps) * BATCH : (step % steps + 1) * BATCH]
            ahead(index)
            optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / (EPOCHS * steps))) / 2
            truth = landmarks[index]
            weight = _maps(network, cache.train, index, scale).flatten(2).softmax(-1).unflatten(-1, (len(grid), len(grid)))
            place = torch.stack([weight.sum(2) @ grid, weight.sum(3) @ grid], -1)
            distance = (place - truth[..., :2] / size).square().sum(-1)
            loss = (distance * truth[..., 2]).sum() / truth[..., 2].sum().clamp(min=1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return _peaks(network, cache.train, scale, cache), _peaks(network, cache.test, scale, cache)


def _maps(network: nn.Module, split: Split, index: Tensor, scale: Tensor) -> Tensor:
    return network(split.features[index].float().permute(0, 3, 1, 2) / scale)


@torch.no_grad()
def _peaks(network: nn.Module, split: Split, scale: Tensor, cache: FeatureCache) -> Peaks:
    field, found = cache.meta["receptive_field"], []
    for index in torch.arange(len(split.labels)).split(256):
        maps = F.softplus(_maps(network, split, index, scale))  # above 0: every filter fires
        found.append(peaks_of(maps, field["start"], field["stride"]))
    return Peaks(torch.cat([p.positions for p in found]), torch.cat([p.values for p in found]))


def kept_ceiling(cache: FeatureCache) -> dict[str, float] | None:
    """What was measured of this cache before; None if nothing was, or it cannot be read."""
    try:
        return json.loads(read_text(cache.folder / KEPT))
    except (OSError, ValueError):
        return None


def keep_ceiling(cache: FeatureCache, metrics: dict[str, float]) -> None:
    """Keep it with the cache."""
    write_atomically(cache.folder / KEPT, json.dumps(metrics, indent=1) + "\n")
