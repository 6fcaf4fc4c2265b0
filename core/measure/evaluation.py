"""Measures an explainer, its performer and the control rows on the test split of a feature cache."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paraphrase.core.explainer.network import Explainer
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.measure.ceiling import ceiling_peaks, keep_ceiling, kept_ceiling
from paraphrase.core.measure.filters import FilterScores, Peaks, centre_peaks, peaks_of, random_peaks, score_filters
from paraphrase.core.measure.metrics import Measured, measure
from paraphrase.core.measure.partition import partition_scores, values_at
from paraphrase.core.measure.parts import mean_landmark_error
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


RANDOM_FILTERS = 2048
"""Random filters from which it is told what chance tracks."""


def filter_scores(cache: FeatureCache, peaks: Peaks, replicates: int = 1) -> FilterScores | None:
    """Scores of the filters of R networks with these peaks on the test split; None where the data has no landmarks."""
    if not cache.test.landmarks.shape[1]:
        return None
    positive = 1 if cache.meta["single_category"] else None
    return _scores(cache, peaks, positive, chance(cache, peaks.values.shape[1] // replicates))


def _scores(cache: FeatureCache, peaks: Peaks, positive: int | None, beats: Tensor | None = None) -> FilterScores:
    diagonal = cache.meta["input_size"] * math.sqrt(2)
    on_cpu = Peaks(*(t.cpu() for t in peaks))
    return score_filters(on_cpu, cache.test.landmarks, cache.test.labels, diagonal, positive, beats)


_CHANCE: dict[tuple[str, int], Tensor] = {}


def chance(cache: FeatureCache, width: int) -> Tensor:
    """(P,) tracking of each part that the best of `width` random filters beats once in a hundred times; known once a process."""
    key = (cache.meta["key"], width)
    if key not in _CHANCE:
        field, n = cache.meta["receptive_field"], cache.meta["map_size"]
        peaks = random_peaks(len(cache.test.labels), RANDOM_FILTERS, n, field["start"], field["stride"], seed=1)
        explained = _scores(cache, peaks, 1 if cache.meta["single_category"] else None).explained
        _CHANCE[key] = explained.nan_to_num(0).quantile(0.99 ** (1 / width), 0)
    return _CHANCE[key]


def _by_category(cache: FeatureCache, peaks: Peaks) -> list[FilterScores]:
    """All filters judged on each category in turn; empty in the single-category protocol and without landmarks."""
    if cache.meta["single_category"] or not cache.test.landmarks.shape[1]:
        return []
    return [_scores(cache, peaks, int(c)) for c in cache.test.labels.unique()]


def test_peaks(explainer: Explainer, cache: FeatureCache, autocast: torch.autocast) -> Peaks:
    """Peaks (N, R * W) of the explainer's filters: the interpretable ones, or conv-ordin's where it has none."""
    return _pass_over_test(explainer, cache, autocast).peaks


def evaluate(
    explainer: Explainer, cache: FeatureCache, autocast: torch.autocast, at_end: bool = False, same: bool = False
) -> dict[str, Tensor]:
    """Every metric of `METRICS` that is defined here, each (R,) float64 on the CPU.

    Args:
        at_end: also those that are measured after the last epoch only.
        same: the replicates differ in their seeds alone.
    """
    images, landmarks = len(cache.test.labels), cache.test.landmarks.shape[1]
    seen = _pass_over_test(explainer, cache, autocast, bool(at_end and landmarks))
    energy = torch.tensor([_test_energy(cache, layer) for layer in range(2)], dtype=torch.float64)
    return measure(
        Measured(
            cache,
            explainer.replicates,
            seen.peaks,
            filter_scores(cache, seen.peaks, explainer.replicates),
            by_category=_by_category(cache, seen.peaks),
            chance=chance(cache, explainer.width) if landmarks else None,
            train_peaks=train_peaks(explainer, cache, autocast) if at_end and landmarks else None,
            partition=_partition(cache, seen, explainer.replicates),
            same=same and at_end,
            information=seen.information,
            error=seen.error.cpu() / energy,
            p=explainer.p(),
            fidelity=seen.agree / images,
            accuracy=None if cache.truth() is None else seen.correct / images,
        )
    )


@torch.no_grad()
def train_peaks(explainer: Explainer, cache: FeatureCache, autocast: torch.autocast) -> Peaks:
    """Peaks (N, R * W) of the explainer's filters on the training images."""
    device, field, found = next(explainer.parameters()).device, cache.meta["receptive_field"], []
    was_training = explainer.training
    explainer.eval()
    for index in torch.arange(len(cache.train.labels), device=cache.train.features.device).split(EVAL_BATCH):
        feature = gather(cache.train.features, index.expand(explainer.replicates, -1), device, autocast)
        with autocast:
            _, interp_maps, ordin_maps = explainer.encode(feature)
        maps = interp_maps[-1] if interp_maps else ordin_maps
        assert maps is not None
        found.append(peaks_of(maps.float(), field["start"], field["stride"]))
    explainer.train(was_training)
    return joined(found)


def joined(blocks: list[Peaks]) -> Peaks:
    """Peaks of blocks of images as those of all images."""
    return Peaks(torch.cat([b.positions for b in blocks]), torch.cat([b.values for b in blocks]))


def _test_energy(cache: FeatureCache, layer: int) -> float:
    """`sum |x*_l|^2` over the test split."""
    return float(sum(block.double().square().sum() for block in cache.test.targets[layer].split(1024)))


class _Pass(NamedTuple):
    """What one pass over the test split has seen."""

    peaks: Peaks
    error: Tensor
    """(R, 2) float64 squared errors."""
    agree: Tensor
    """(R,) agreements with the performer."""
    correct: Tensor
    """(R,) right answers."""
    information: Tensor
    """(R * W,) nats."""
    at_landmarks: Tensor | None
    """(N, P, R * W) on the CPU."""


def _partition(cache: FeatureCache, seen: _Pass, replicates: int) -> Tensor | None:
    """(R, 2) NMI and ARI of each replicate's filter groups; None where it was not looked at the landmarks."""
    if seen.at_landmarks is None:
        return None
    each = zip(*(t.chunk(replicates, 1) for t in seen.peaks), seen.at_landmarks.chunk(replicates, 2), strict=True)
    side = cache.meta["input_size"]
    scores = [partition_scores(Peaks(xy, values), at, cache.test.landmarks, side) for xy, values, at in each]
    return torch.stack([torch.stack(own) for own in scores])


@torch.no_grad()
def _pass_over_test(explainer: Explainer, cache: FeatureCache, autocast: torch.autocast, at_landmarks: bool = False) -> _Pass:
    device = next(explainer.parameters()).device
    split, replicates, truth = cache.test, explainer.replicates, cache.truth()
    start, stride = cache.meta["receptive_field"]["start"], cache.meta["receptive_field"]["stride"]
    head = cache.head.to(device)
    peaks: list[Peaks] = []
    at: list[Tensor] = []
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
        if at_landmarks:
            at.append(values_at(maps.float().cpu(), split.landmarks[index.cpu()], start, stride))
        for layer, output in enumerate(explanation.outputs):
            target = split.targets[layer][index].to(device).float()
            error[:, layer] += (output.float() - target).square().sum((1, 2), dtype=torch.float64)
        answer = head(explanation.outputs[1].float()).argmax(-1)
        rows = index.to(split.labels.device)
        agree += (answer == split.performer_labels[rows].to(device)).sum(1)
        if truth is not None:
            correct += (answer == truth[rows].to(device)).sum(1)
        if len(index) == EVAL_BATCH or not blocks:  # a short last block would bound the information lower
            information, blocks = information - filter_loss(maps, 5.0), blocks + 1
    explainer.train(was_training)
    return _Pass(joined(peaks), error, agree, correct, information / blocks, torch.cat(at) if at else None)


def performer_peaks(cache: FeatureCache, split: str = "test") -> Peaks:
    """Peaks (N, C) of the performer's own filters on a split, `test` or `train`."""
    field, features = cache.meta["receptive_field"], getattr(cache, split).features
    blocks = [
        peaks_of(block.permute(0, 3, 1, 2).float(), field["start"], field["stride"]) for block in features.split(EVAL_BATCH)
    ]
    return Peaks(*(t.cpu() for t in joined(blocks)))


def baseline(cache: FeatureCache) -> dict[str, dict[str, float]]:
    """The rows that belong to every table: the performer's own filters; random peaks; a peak fixed at the centre; `mean`, the
    landmark error of always guessing the training mean; and `ceiling`, filters that were trained with the labels.
    """
    field, images, landmarks = cache.meta["receptive_field"], len(cache.test.labels), cache.test.landmarks.shape[1]
    n, filters = cache.test.features.shape[1], cache.test.features.shape[3]
    start, stride, size = field["start"], field["stride"], cache.meta["input_size"]
    trained = len(cache.train.labels)
    rows = {
        "performer": (performer_peaks(cache), performer_peaks(cache, "train")),
        "random": tuple(random_peaks(count, filters, n, start, stride, seed) for seed, count in ((0, images), (2, trained))),
        "centre": tuple(centre_peaks(count, filters, size) for count in (images, trained)),
    }
    blocks = [b.permute(0, 3, 1, 2) for b in cache.test.features.split(EVAL_BATCH)]
    whole = [b for b in blocks if len(b) == EVAL_BATCH] or blocks[:1]
    own = {
        "information": torch.stack([-filter_loss(b, 5.0) for b in whole]).mean(0),
        "accuracy": None if (accuracy := cache.accuracy()) is None else torch.tensor([accuracy], dtype=torch.float64),
    }
    table: dict[str, dict[str, float]] = {}
    for name, (test, train) in rows.items():
        more: dict[str, Any] = dict(own) if name == "performer" else {}
        if landmarks:
            more |= {"by_category": _by_category(cache, test), "chance": chance(cache, filters), "train_peaks": train}
        found = measure(Measured(cache, 1, test, filter_scores(cache, test), **more)) if more else {}
        table[name] = {k: float(v) for k, v in found.items() if not math.isnan(float(v))}
    if landmarks:
        errors = mean_landmark_error(cache.train.landmarks, cache.test.landmarks, size)
        each = {f"landmark_error_{part}": float(e) for part, e in zip(cache.meta["landmarks"], errors, strict=True)}
        table["mean"] = {"landmark_error": float(errors.nanmean()), **{k: v for k, v in each.items() if not math.isnan(v)}}
        table["ceiling"] = _ceiling(cache)
    return table


def _ceiling(cache: FeatureCache) -> dict[str, float]:
    """The metrics of filters that were trained with the labels; once a cache."""
    kept = kept_ceiling(cache)
    if kept is None:
        train, test = ceiling_peaks(cache)
        seen = Measured(
            cache,
            1,
            test,
            filter_scores(cache, test),
            by_category=_by_category(cache, test),
            chance=chance(cache, test.values.shape[1]),
            train_peaks=train,
        )
        kept = {k: float(v) for k, v in measure(seen).items() if not math.isnan(float(v))}
        keep_ceiling(cache, kept)
    return kept
