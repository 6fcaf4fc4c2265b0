from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paraphrase.core.config import Config
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.measure.evaluation import filter_scores
from paraphrase.core.measure.filter_table import Filters
from paraphrase.core.measure.filters import Peaks
from paraphrase.core.pictures.filters_page import FILTERS, Viewed, draw_side_by_side, pair_up
from paraphrase.core.train.training import Training


def view(cache: FeatureCache, filters: int, seed: int) -> Viewed:
    """Filters with random maps."""
    generator = torch.Generator().manual_seed(seed)
    images = len(cache.test.labels)
    maps = torch.rand(images, filters, 14, 14, generator=generator)
    peaks = Peaks(torch.rand(images, filters, 2, generator=generator) * 112, maps.amax((2, 3)))
    return Viewed(Filters(peaks, filter_scores(cache, peaks), None), lambda chosen: maps[chosen])


def test_both_sides_show_the_same_filters_on_the_same_images(tiny_cache: FeatureCache) -> None:
    left, right = view(tiny_cache, 20, 0), view(tiny_cache, 20, 1)
    rows = pair_up(left, right, tiny_cache, same_start=True)
    assert len(rows[0]) == len(rows[1]) == FILTERS
    for mine, other in zip(*rows, strict=True):
        assert mine.images == other.images
        f = int(mine.title.split(":")[0])
        assert f == int(other.title.split(":")[0])
        assert mine.peaks == pytest.approx(left.peaks.positions[mine.images, f].numpy())
        assert other.peaks == pytest.approx(right.peaks.positions[mine.images, f].numpy())
        assert left.scores is not None
        assert set(tiny_cache.test.labels[mine.images].tolist()) == {int(left.scores.category[f])}


def test_images_are_those_that_fire_both_filters_most(tiny_cache: FeatureCache) -> None:
    left, right = view(tiny_cache, 3, 0), view(tiny_cache, 3, 1)
    shown = pair_up(left, right, tiny_cache, same_start=True)[0][0]
    f = int(shown.title.split(":")[0])
    assert left.scores is not None
    sums = {}
    for image, label in enumerate(tiny_cache.test.labels.tolist()):
        if label == int(left.scores.category[f]):
            values = [float(v.peaks.values[image, f] / v.peaks.values[:, f].max()) for v in (left, right)]
            sums[image] = sum(values)
    assert shown.images == sorted(sums, key=sums.__getitem__, reverse=True)[: len(shown.images)]


def test_explainers_of_different_widths_are_paired_in_order(tiny_cache: FeatureCache) -> None:
    rows = pair_up(view(tiny_cache, 20, 0), view(tiny_cache, 5, 1), tiny_cache, same_start=True)
    assert len(rows[0]) == len(rows[1]) == 5
    assert len({shown.title for shown in rows[1]}) == 5


def test_a_page_of_two_trained_explainers_is_drawn(tiny: Config, tiny_cache: FeatureCache, tmp_path: Path) -> None:
    for seed in (0, 1):
        tiny.train.seed = seed
        training = Training(tiny, tiny_cache)
        training.run_epoch()
        training.save_explainer(tmp_path / str(seed))
    page = draw_side_by_side(tiny, tiny_cache, {"one": tmp_path / "0", "two": tmp_path / "1"}, tmp_path / "page.png")
    assert page.stat().st_size > 50_000
