"""Measures an explainer, its performer and the control rows on the test split of a feature cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from paraphrase.core.explainer.network import Explainer
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.measure.filters import FilterScores, Peaks, centre_peaks, peaks_of, random_peaks, score_filters
from paraphrase.core.measure.metrics import Measured, measure
from paraphrase.core.objective.losses import filter_loss

EVAL_BATCH = 128
"""Test images in one forward pass; also the most that one mutual information is taken over."""


def gather(features: Tensor, index: Tensor, device: torch.device, autocast: torch.autocast) -> Tensor:
    """Batches of features for R replicates.

    Args:
        features: (N, n, n, C) of a cache, on any device.
        index: (R, B) image of each replicate's batch, on the features' device.

    Returns:
        (B, R * C, n, n) in channels_last layout on `device`, float32 or what `autocast` computes in.
    """
    dtype = autocast.fast_dtype if autocast._enabled else torch.float32
    if len(index) == 1:
        return features[index[0]].to(device, dtype, non_blocking=True).permute(0, 3, 1, 2)
    batch = features[index.t()].to(device, dtype, non_blocking=True)  # (B, R, n, n, C)
    return batch.permute(0, 2, 3, 1, 4).flatten(3).permute(0, 3, 1, 2)


def filter_scores(cache: FeatureCache, peaks: Peaks) -> FilterScores | None:
    """Scores of filters with these peaks on the test split; None where the data has no landmarks."""
    landmarks = cache.test.landmarks
    if not landmarks.shape[1]:
        return None
    positive = 1 if cache.meta["single_category"] else None
    diagonal = cache.meta["input_size"] * math.sqrt(2)
    return score_filters(Peaks(*(t.cpu() for t in peaks)), landmarks, cache.test.labels, diagonal, positive)


def test_peaks(explainer: Explainer, cache: FeatureCache, autocast: torch.autocast) -> Peaks:
    """Peaks (N, R * W) of the explainer's filters: the interpretable ones, or conv-ordin's where it has none."""
    return _pass_over_test(explainer, cache, autocast)[0]


def evaluate(explainer: Explainer, cache: FeatureCache, autocast: torch.autocast) -> dict[str, Tensor]:
    """Every metric of `METRICS` that is defined here, each (R,) float64 on the CPU."""
    peaks, error, agree, correct, information = _pass_over_test(explainer, cache, autocast)
    images = len(cache.test.labels)
    energy = torch.tensor([_test_energy(cache, layer) for layer in range(2)], dtype=torch.float64)
    return measure(
        Measured(
            cache,
            explainer.replicates,
            peaks,
            filter_scores(cache, peaks),
            information=information,
            error=error.cpu() / energy,
            p=explainer.p(),
            fidelity=agree / images,
            accuracy=correct / images,
        )
    )


def _test_energy(cache: FeatureCache, layer: int) -> float:
    """`sum |x*_l|^2` over the test split."""
    return float(sum(block.double().square().sum() for block in cache.test.targets[layer].split(1024)))


@torch.no_grad()
def _pass_over_test(
    explainer: Explainer, cache: FeatureCache, autocast: torch.autocast
) -> tuple[Peaks, Tensor, Tensor, Tensor, Tensor]:
    """One pass: peaks, squared errors (R, 2), agreements and right answers (R,), mutual information (R * W,)."""
    device = next(explainer.parameters()).device
    split, replicates = cache.test, explainer.replicates
    start, stride = cache.meta["receptive_field"]["start"], cache.meta["receptive_field"]["stride"]
    head = cache.head.to(device)
    peaks: list[Peaks] = []
    error = torch.zeros(replicates, 2, dtype=torch.float64, device=device)
    agree, correct = (torch.zeros(replicates, dtype=torch.float64, device=device) for _ in range(2))
    information, blocks = torch.zeros((), device=device), 0
    was_training = explainer.training
    explainer.eval()
    for index in torch.arange(len(split.labels), device=split.features.device).split(EVAL_BATCH):
        feature = gather(split.features, index.expand(replicates, -1), device, autocast)
        with autocast:
            explanation = explainer(feature)
        maps = explanation.interp_maps[-1] if explanation.interp_maps else explanation.ordin_maps
        assert maps is not None
        peaks.append(peaks_of(maps.float(), start, stride))
        for layer, output in enumerate(explanation.outputs):
            target = split.targets[layer][index].to(device).float()
            error[:, layer] += (output.float() - target).square().sum((1, 2), dtype=torch.float64)
        answer = head(explanation.outputs[1].float()).argmax(-1)
        rows = index.to(split.labels.device)
        agree += (answer == split.performer_labels[rows].to(device)).sum(1)
        correct += (answer == split.labels[rows].to(device)).sum(1)
        if len(index) == EVAL_BATCH or not blocks:  # a short last block would bound the information lower
            information, blocks = information - filter_loss(maps, 5.0), blocks + 1
    explainer.train(was_training)
    joined = Peaks(torch.cat([p.positions for p in peaks]), torch.cat([p.values for p in peaks]))
    return joined, error, agree, correct, information / blocks


def performer_peaks(cache: FeatureCache) -> Peaks:
    """Peaks (N, C) of the performer's own filters on the test split."""
    field = cache.meta["receptive_field"]
    blocks = [
        peaks_of(block.permute(0, 3, 1, 2).float(), field["start"], field["stride"])
        for block in cache.test.features.split(EVAL_BATCH)
    ]
    return Peaks(torch.cat([b.positions for b in blocks]).cpu(), torch.cat([b.values for b in blocks]).cpu())


def baseline(cache: FeatureCache) -> dict[str, dict[str, float]]:
    """The rows that belong to every table: the performer's own filters, random peaks and a peak fixed at the centre."""
    field, images = cache.meta["receptive_field"], len(cache.test.labels)
    n, filters = cache.test.features.shape[1], cache.test.features.shape[3]
    rows = {
        "performer": performer_peaks(cache),
        "random": random_peaks(images, filters, n, field["start"], field["stride"]),
        "centre": centre_peaks(images, filters, cache.meta["input_size"]),
    }
    blocks = [b.permute(0, 3, 1, 2) for b in cache.test.features.split(EVAL_BATCH)]
    whole = [b for b in blocks if len(b) == EVAL_BATCH] or blocks[:1]
    own = {
        "information": torch.stack([-filter_loss(b, 5.0) for b in whole]).mean(0),
        "accuracy": (cache.test.performer_labels == cache.test.labels).double().mean()[None],
    }
    table: dict[str, dict[str, float]] = {}
    for name, peaks in rows.items():
        scores, more = filter_scores(cache, peaks), own if name == "performer" else {}
        found = measure(Measured(cache, 1, peaks, scores, **more)) if more or scores else {}
        table[name] = {k: float(v) for k, v in found.items() if not math.isnan(float(v))}
    return table
