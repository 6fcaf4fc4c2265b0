from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import reference
import torch

from paraphrase.core.measure.filters import Peaks, centre_peaks, part_coverage, peaks_of, random_peaks, score_filters
from paraphrase.core.measure.metrics import Measured, measure


def crowd(images: int = 60, filters: int = 5, parts: int = 3, categories: int = 2, seed: int = 0):
    rng = np.random.default_rng(seed)
    landmarks = np.concatenate([rng.uniform(0, 100, (images, parts, 2)), rng.random((images, parts, 1)) > 0.2], 2)
    labels = np.arange(images) % categories
    positions = rng.integers(0, 14, (images, filters, 2)) * 8 + 3.5
    values = rng.random((images, filters)) * (1 + (labels[:, None] == 1))
    return positions, values, landmarks, labels


def scores_of(positions, values, landmarks, labels, **more):
    peaks = Peaks(torch.tensor(positions), torch.tensor(values))
    return score_filters(peaks, torch.tensor(landmarks), torch.tensor(labels), 140.0, **more)


def summarise(scores, replicates=1):
    """The metrics of filters with these scores."""
    fires = Peaks(torch.zeros(1, len(scores.dead), 2), (~scores.dead)[None].double())
    return measure(
        Measured(SimpleNamespace(meta={"input_size": 112, "landmarks": ["head", "torso", "tail"]}), replicates, fires, scores)
    )


@pytest.mark.parametrize("images", [14, 60, 450])
def test_scores_are_the_reference(images: int) -> None:
    positions, values, landmarks, labels = crowd(images)
    positions[:, 0] = landmarks[:, 1, :2] + 10  # one filter follows a part at a distance
    ours = scores_of(positions, values, landmarks, labels)
    for f in range(values.shape[1]):
        instability, explained, category = reference.filter_scores(positions[:, f], values[:, f], landmarks, labels, 140.0)
        assert ours.instability[f].item() == pytest.approx(instability, rel=1e-9)
        assert ours.category[f].item() == category
        assert ours.tracking[f].item() == pytest.approx(max(explained), abs=1e-6)
    assert ours.tracking[0].item() == pytest.approx(1.0)
    assert ours.part[0].item() == 1


def test_equal_strengths_keep_the_order_of_images() -> None:
    positions, values, landmarks, labels = crowd(450)
    values[:] = 1.0
    ours = scores_of(positions, values, landmarks, labels)
    expected = reference.filter_scores(positions[:, 0], values[:, 0], landmarks, labels, 140.0)
    assert ours.instability[0].item() == pytest.approx(expected[0], rel=1e-9)


def test_only_the_category_counts_in_the_single_category_protocol() -> None:
    positions, values, landmarks, labels = crowd()
    landmarks[labels == 0, :, 2] = 0
    ours = scores_of(positions, values, landmarks, labels, positive=1)
    assert (ours.category == 1).all() and torch.isfinite(ours.instability).all()


def test_filters_that_never_fire_are_left_out() -> None:
    positions, values, landmarks, labels = crowd()
    values[:, 2] = 0
    ours = scores_of(positions, values, landmarks, labels)
    summary = summarise(ours)
    assert ours.dead.tolist() == [False, False, True, False, False]
    assert math.isnan(ours.instability[2]) and ours.part[2] == -1
    assert summary["dead_filters"].item() == pytest.approx(0.2)
    others = [ours.instability[f].item() for f in (0, 1, 3, 4)]
    assert summary["location_instability"].item() == pytest.approx(sum(others) / 4)


def test_one_image_has_no_spread() -> None:
    positions, values, landmarks, labels = crowd(images=1, categories=1)
    landmarks[..., 2] = 1
    ours = scores_of(positions, values, landmarks, labels)
    assert ours.instability.isnan().all() and ours.tracking.isnan().all()


def test_filters_that_sit_still_or_fire_at_random_track_nothing() -> None:
    _, _, landmarks, labels = crowd(600, categories=6, seed=1)
    for peaks, most in ((centre_peaks(600, 40, 112), 0.0), (random_peaks(600, 40, 14, 3.5, 8), 0.05)):
        summary = summarise(score_filters(peaks, torch.tensor(landmarks), torch.tensor(labels), 158.0))
        assert summary["part_tracking"].item() <= most


def test_a_name_must_beat_chance_and_every_part_is_tracked_by_its_best_filter() -> None:
    positions, values, landmarks, labels = crowd(200)
    landmarks[..., 2] = 1
    positions[:, 0] = landmarks[:, 1, :2] + 10
    noise = np.random.default_rng(1).normal(0, 40, (200, 2))
    positions[:, 1] = landmarks[:, 2, :2] + noise
    free = scores_of(positions, values, landmarks, labels)
    assert free.explained.shape == (5, 3) and free.explained[0, 1] == pytest.approx(1.0) and free.part[:2].tolist() == [1, 2]
    assert 0.1 < free.explained[1, 2] < 0.7
    chance = torch.tensor([0.2, 0.2, 0.9], dtype=torch.float64)
    strict = scores_of(positions, values, landmarks, labels, chance=chance)
    assert strict.part[:2].tolist() == [1, -1] and torch.equal(strict.tracking, free.tracking)
    cache = SimpleNamespace(meta={"input_size": 112, "landmarks": ["head", "torso", "tail"]})
    seen = measure(Measured(cache, 1, Peaks(torch.tensor(positions), torch.tensor(values)), strict, chance=chance))
    assert [seen[f"tracking_{part}"].item() for part in cache.meta["landmarks"]] == pytest.approx(free.explained.amax(0).tolist())
    assert seen["parts_tracked"].item() == 1 and seen["part_coverage"].item() == 1


def test_part_coverage_is_the_perplexity_of_the_names() -> None:
    assert part_coverage(torch.tensor([0, 0, 0])).item() == pytest.approx(1)
    assert part_coverage(torch.tensor([0, 1, 2, 3])).item() == pytest.approx(4)
    assert part_coverage(torch.tensor([0, 0, 1, -1])).item() == pytest.approx(
        math.exp(-(2 / 3 * math.log(2 / 3) + math.log(1 / 3) / 3))
    )
    assert math.isnan(part_coverage(torch.tensor([-1])))


def test_peaks_lie_at_the_centres_of_receptive_fields() -> None:
    maps = torch.relu(torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    peaks = peaks_of(maps, 15.5, 16.0)
    for image in range(5):
        for f in range(3):
            row, column = reference.peak(maps[image, f].numpy())
            assert peaks.positions[image, f].tolist() == [15.5 + 16 * column, 15.5 + 16 * row]
            assert peaks.values[image, f] == maps[image, f].max()


def test_replicates_are_summarised_apart() -> None:
    positions, values, landmarks, labels = crowd(filters=6)
    both = summarise(scores_of(positions, values, landmarks, labels), replicates=2)
    second = summarise(scores_of(positions[:, 3:], values[:, 3:], landmarks, labels))
    assert both["location_instability"].shape == (2,)
    assert both["location_instability"][1].item() == pytest.approx(second["location_instability"].item())
