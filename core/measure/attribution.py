"""Which filters, and so which object parts, a prediction came from: Grad-CAM on the explainer and on its performer [P, fig. 4].

A filter's contribution to a category's logit is the sum over positions of its Grad-CAM weight (the spatial mean of the
logit's gradient) times its activation; of the contributions above 0, those of a part's filters are the part's share.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paraphrase.core.config import Config, from_mapping
from paraphrase.core.data import Dataset, load_dataset
from paraphrase.core.device import autocast_for
from paraphrase.core.errors import InputError, first_line
from paraphrase.core.explainer.checkpoint import ABOUT, load_explainer
from paraphrase.core.explainer.network import Explainer
from paraphrase.core.features.cache import META, FeatureCache, caches, load_cache
from paraphrase.core.files import read_text
from paraphrase.core.measure.alike import groups_alike
from paraphrase.core.measure.evaluation import filter_scores, performer_peaks, test_peaks
from paraphrase.core.measure.filters import Peaks
from paraphrase.core.pooling import ChannelNorm

SIDES = ("explainer", "performer")
"""Whose filters are asked: the explainer's interpretable ones and the performer's own."""
NO_PART, OTHERS = "no part", "other filters"
"""Names of the rest: filters that name no part, and those that are not among the strongest."""
CHECKED, TOLERANCE = 8, 0.05
"""Images on which the performer's tail is compared with the cached targets, and the relative error that is rounding."""


Behind = Callable[[Tensor], Tensor]
"""From the values of filters (B, F, m, m) to logits (B, K)."""


class ExplainerPath(nn.Module):
    """From the performer's feature (B, C, n, n) through the first replicate of an explainer to logits (B, K).

    Args:
        explainer: of R replicates.
        head: the performer's last layer, x_2 (B, D2) -> (B, K).

    Raises:
        InputError: if the explainer has no interpretable track.
    """

    def __init__(self, explainer: Explainer, head: nn.Module):
        super().__init__()
        if not explainer.interp_widths:
            raise InputError("explainer.interp_widths: the explainer has no interpretable track, so no filters that name parts")
        self.explainer, self.head = explainer.replicate(0).requires_grad_(False), head
        self.maps: nn.Module = self.explainer.top_maps
        self.filters = explainer.width

    def forward(self, feature: Tensor) -> Tensor:
        return self.head(self.explainer(feature).outputs[1][0])

    def split(self, feature: Tensor) -> tuple[Tensor, Behind]:
        """The filters' values (B, F, m, m) for a feature, and what makes logits of them: the ordinary track goes on as it is.

        Where the pooling leaves each filter to itself, they are taken behind it, where one that is 0 is as good as gone, too.
        """
        explainer = self.explainer
        values, ordinary = explainer.interpret(feature)[-1], explainer.ordinary(feature)[1]
        pool, later = _pool_first(explainer.pool)

        def behind(values: Tensor) -> Tensor:
            return self.head(explainer.decode(explainer.mixed(later(values), ordinary))[1][0])

        return pool(values), behind


class PerformerPath(nn.Module):
    """From the performer's feature (B, C, n, n) through its own layers to logits (B, K).

    Args:
        cache: of the performer.

    Raises:
        InputError: if the cache does not know the performer's layers, or they do not give its targets.
    """

    def __init__(self, cache: FeatureCache):
        super().__init__()
        self.maps: nn.Module = nn.Identity()
        self.pool, self.head, self.rest, self.relu = cache.pool, cache.head, cache.rest, cache.meta["target_relu"]
        self.filters = cache.meta["channels"]
        layers: list[nn.Module] = []
        for i, layer in enumerate(cache.decoder_layers if self.rest is None else []):
            if layer is None:
                raise InputError(f"performer.decoder_init.{i}: is no linear layer, so the performer's own filters have no path")
            layers.append(nn.Identity() if layer == "identity" else _linear(*layer))
        self.layers = nn.ModuleList(layers)
        self._check(cache)

    def targets(self, feature: Tensor) -> Tensor:
        """x*_2 (B, D2)."""
        return self._second_target(self.maps(feature), self.pool)

    def _second_target(self, maps: Tensor, pool: nn.Module) -> Tensor:
        if self.rest is not None:
            return self.rest(maps)[1]
        x = pool(maps).flatten(1)
        for layer, relu in zip(self.layers, self.relu, strict=True):
            x = F.relu(layer(x)) if relu else layer(x)
        return x

    def forward(self, feature: Tensor) -> Tensor:
        return self.head(self.targets(feature))

    def split(self, feature: Tensor) -> tuple[Tensor, Behind]:
        """The filters' values (B, F, m, m) for a feature, and what makes logits of them; see `ExplainerPath.split`."""
        pool, later = _pool_first(self.pool)
        return pool(feature), lambda values: self.head(self._second_target(values, later))

    @torch.no_grad()
    def _check(self, cache: FeatureCache) -> None:
        feature = cache.test.features[:CHECKED].permute(0, 3, 1, 2).float()
        wanted = cache.test.targets[1][:CHECKED].float()
        try:
            error = float((self.targets(feature) - wanted).norm() / wanted.norm().clamp(min=1e-12))
        except RuntimeError:  # shapes that do not follow one another
            error = float("inf")
        if not error <= TOLERANCE:
            raise InputError("performer.decoder_init: these layers do not turn the pooled feature into performer.targets.1")


def _pool_first(pool: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A pooling, done before filters are taken away, and nothing after; or the other way round where it mixes channels."""
    mixes = any(isinstance(module, ChannelNorm) for module in pool.modules())
    return (nn.Identity(), pool) if mixes else (pool, nn.Identity())


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return layer.requires_grad_(False)


def grad_cam(path: ExplainerPath | PerformerPath, feature: Tensor, categories: Tensor) -> Tensor:
    """Grad-CAM weight times activation of every filter, before any ReLU.

    Args:
        path: to the logits.
        feature: (B, C, n, n) of the performer.
        categories: (B,) int64, whose logits are explained.

    Returns:
        (B, F, n, n); its sum over positions is each filter's contribution to the logit.
    """
    from captum.attr import LayerGradCam

    method = LayerGradCam(path, path.maps)
    attributions = method.attribute(feature, categories, relu_attributions=False, attr_dim_summation=False)
    assert isinstance(attributions, Tensor)
    return attributions[:, : path.filters].detach()


def contributions(path: ExplainerPath | PerformerPath, features: Tensor, categories: Tensor, batch: int = 64) -> Tensor:
    """(N, F) contribution of each filter to the logit of `categories` (N,), for features (N, n, n, C) of a cache."""
    blocks = [
        grad_cam(path, block.permute(0, 3, 1, 2).float(), wanted).sum((2, 3))
        for block, wanted in zip(features.split(batch), categories.split(batch), strict=True)
    ]
    return torch.cat(blocks)


class Groups(NamedTuple):
    """The filters of a network by name."""

    names: list[str]
    """Of the G groups: the parts, or single filters where the data has no landmarks; last that of the rest, if there is one."""
    member: Tensor
    """(F,) int64 group of each filter."""

    @property
    def rest(self) -> bool:
        """Whether the last group is the rest."""
        return self.names[-1] in (NO_PART, OTHERS)

    def sums(self, values: Tensor) -> Tensor:
        """(B, G, ...) sums of (B, F, ...) over each group's filters."""
        out = values.new_zeros(len(values), len(self.names), *values.shape[2:])
        return out.index_add_(1, self.member, values)


def group(names: list[str], index: Tensor, rest: str = NO_PART) -> Groups:
    """Groups of filters; those whose index (F,) is -1 are the rest."""
    if bool((index >= 0).all()):
        return Groups(list(names), index)
    return Groups([*names, rest], torch.where(index < 0, len(names), index))


class Seen(NamedTuple):
    """A side's filters on the test split; for data without landmarks, where groups of filters stand for parts."""

    peaks: Peaks
    """Of F filters."""
    alike: list[list[int]]
    """Filters in groups that say the same thing."""


def strongest_groups(given: Tensor, alike: list[list[int]], name: str, count: int = 5) -> Groups:
    """The groups of filters that contribute most; for data without landmarks.

    Args:
        given: (N, F) contributions.
        alike: filters in groups, the first of each standing for it.
        name: of the network, before the first filter's number.
        count: of groups.
    """
    mean = given.clamp(min=0).mean(0)
    best = sorted(alike, key=lambda group: -float(mean[group].sum()))[:count]
    best = [members for members in best if float(mean[members].sum()) > 0]
    index = torch.full_like(mean, -1, dtype=torch.int64)
    for i, members in enumerate(best):
        index[members] = i
    more = [f" + {len(members) - 1}" if len(members) > 1 else "" for members in best]
    return group([f"{name} {members[0]}{others}" for members, others in zip(best, more, strict=True)], index, OTHERS)


def shares(given: Tensor, groups: Groups) -> Tensor:
    """(N, G) share of each group in a prediction, summing to 1; NaN where no filter contributes.

    Args:
        given: (N, F) contributions; those below 0 count as 0.
        groups: of the filters.
    """
    positive = given.clamp(min=0)
    return groups.sums(positive) / positive.sum(1, keepdim=True)


class Average(NamedTuple):
    """Shares averaged over images."""

    mean: Tensor
    """(G,)"""
    error: Tensor
    """(G,) standard errors; NaN for a single image."""
    images: int
    """Images in which any filter contributes."""


def average(values: Tensor) -> Average:
    """Mean and standard error of (N, G) shares over the images where they are defined."""
    defined = values[~values.isnan().any(1)]
    error = defined.std(0) / len(defined) ** 0.5 if len(defined) > 1 else torch.full_like(values[0], torch.nan)
    return Average(defined.mean(0), error, len(defined))


class Subject(NamedTuple):
    """An explainer, opened with all that its explanations need."""

    config: Config
    """That it was trained with."""
    dataset: Dataset
    """Whose test images name its filters."""
    cache: FeatureCache
    """That it was trained on."""
    paths: dict[str, ExplainerPath | PerformerPath]
    """Side -> path from the feature to the logits."""
    parts: dict[str, Groups]
    """Side -> its filters by part; empty where the data has no landmarks."""
    seen: dict[str, Seen]
    """Side -> its filters on the test split."""
    p: float | None
    """Share of the interpretable track, of the first replicate; None without an ordinary track."""

    def group(self, side: str, given: Tensor) -> Groups:
        """A side's filters by part; where the data has no landmarks, those that contribute most. given: (N, F)."""
        return self.parts[side] if self.parts else strongest_groups(given, self.seen[side].alike, side)


def open_subject(folder: Path) -> Subject:
    """Open a saved explainer, its data and its feature cache; the cache is not built again.

    Raises:
        InputError: if a file is missing or damaged, the data is not what it was, or the networks cannot be explained.
    """
    explainer, file = load_explainer(folder).replicate(0).requires_grad_(False), folder / ABOUT
    try:
        about = json.loads(read_text(file))
        config, place = from_mapping(Config, about["config"]), caches() / about["performer"]["key"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file}: does not say what the explainer was trained on ({first_line(error)}); train it again"
        ) from None
    if not (place / META).exists():
        raise InputError(
            f"{file}: was trained on the cache {place.name}, which {place.parent} lacks; set PARAPHRASE_HOME to its home"
        )
    cache, dataset = load_cache(place), load_dataset(config.data)
    if dataset.fingerprint != cache.meta["dataset_fingerprint"]:
        raise InputError(f"{file}: was trained on the cache {place.name}, but its data, {dataset.name}, has changed since")
    paths: dict[str, ExplainerPath | PerformerPath]
    paths = {"explainer": ExplainerPath(explainer, cache.head), "performer": PerformerPath(cache)}
    first = test_peaks(explainer, cache, autocast_for("float32", torch.device("cpu")))
    parts, seen = {}, {}
    for side, peaks in zip(SIDES, (first, performer_peaks(cache)), strict=True):
        by_strength = peaks.values.float().mean(0).argsort(descending=True, stable=True).tolist()
        seen[side] = Seen(peaks, groups_alike(peaks, cache.meta["input_size"], by_strength))
        if dataset.landmarks:
            scores = filter_scores(cache, peaks)
            assert scores is not None
            parts[side] = group(dataset.landmarks, scores.part)
    p = explainer.p()
    return Subject(config, dataset, cache, paths, parts, seen, None if p is None else float(p[0]))
