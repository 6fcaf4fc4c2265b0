from __future__ import annotations

import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from paraphrase.core.measure.filters import Peaks, random_peaks
from paraphrase.core.measure.partition import adjusted_rand, groups_by_place, normalised_information, partition_scores, values_at

SIDE = 100.0


def labels(seed: int, classes: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Two partitions of 200 things that agree but for some noise."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(classes, (200,), generator=generator)
    other = torch.randint(classes + 1, (200,), generator=generator)
    return first, torch.where(torch.rand(200, generator=generator) < noise, other, first)


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_scores_of_a_table_are_those_of_scikit_learn(classes: int, noise: float) -> None:
    first, other = labels(classes, classes, noise)
    table = torch.zeros(classes + 1, classes + 2, dtype=torch.float64)
    table.index_put_((first, other), torch.ones(200, dtype=torch.float64), accumulate=True)
    assert float(normalised_information(table)) == pytest.approx(normalized_mutual_info_score(first, other), abs=1e-12)
    assert float(adjusted_rand(table)) == pytest.approx(adjusted_rand_score(first, other), abs=1e-12)


def scene(images: int = 150, parts: int = 3) -> torch.Tensor:
    """(N, P, 3) landmarks that move on their own, a few not visible."""
    generator = torch.Generator().manual_seed(0)
    visible = torch.rand(images, parts, 1, generator=generator) > 0.1
    return torch.cat([torch.rand(images, parts, 2, generator=generator) * SIDE, visible.float()], 2)


def test_filters_that_sit_on_the_landmarks_have_them_all_right() -> None:
    landmarks = scene()
    shift = torch.tensor([[3.0, 0], [-2, 1], [0, 2], [0, 0], [1, 1], [2, -3]])
    positions = landmarks[:, [0, 0, 1, 1, 2, 2], :2] + shift
    peaks = Peaks(positions, torch.ones(len(landmarks), 6))
    assert groups_by_place(peaks, SIDE, 3).unflatten(0, (3, 2)).unique(dim=1).shape[1] == 1  # equal within each pair
    at = torch.eye(3).repeat_interleave(2, 1).expand(len(landmarks), -1, -1) * torch.tensor([1, 2, 3.0, 1, 1, 9])
    assert [float(v) for v in partition_scores(peaks, at, landmarks, SIDE)] == pytest.approx([1, 1])
    # a filter that is as loud everywhere, and one that never fires, change nothing
    more = Peaks(torch.cat([positions, torch.rand(len(landmarks), 2, 2)], 1), torch.cat([peaks.values, peaks.values[:, :2]], 1))
    more.values[:, 7] = 0
    quiet = torch.cat([at, torch.full_like(at[..., :1], 0.1), torch.zeros_like(at[..., :1])], 2)
    assert groups_by_place(more, SIDE, 3)[7] == -1
    assert float(partition_scores(more, quiet, landmarks, SIDE)[1]) > 0.3


def test_filters_that_know_nothing_have_an_adjusted_index_of_0() -> None:
    landmarks = scene(400, 4)
    peaks = random_peaks(400, 40, 14, 3.5, 7)
    at = torch.rand(400, 4, 40, generator=torch.Generator().manual_seed(5))
    nmi, ari = partition_scores(peaks, at, landmarks, SIDE)
    assert abs(float(ari)) < 0.02 and float(nmi) < 0.03


def test_one_detector_many_times_over_has_next_to_nothing() -> None:
    landmarks = scene()
    positions = landmarks[:, :1, :2] + torch.rand(1, 12, 2, generator=torch.Generator().manual_seed(1))
    at = torch.tensor([1.0, 0.1, 0.1])[None, :, None].expand(len(landmarks), -1, 12) * torch.linspace(1, 2, 12)
    nmi, ari = partition_scores(Peaks(positions, torch.ones(len(landmarks), 12)), at, landmarks, SIDE)
    assert float(nmi) < 0.1 and float(ari) < 0.1


def test_edges() -> None:
    landmarks = scene(20)
    one = Peaks(torch.rand(20, 1, 2), torch.ones(20, 1))
    at = torch.ones(20, 3, 1)
    nmi, ari = partition_scores(one, at, landmarks, SIDE)
    assert float(nmi) == float(ari) == 0
    silent = Peaks(torch.rand(20, 2, 2), torch.zeros(20, 2))
    assert all(v.isnan() for v in partition_scores(silent, torch.zeros(20, 3, 2), landmarks, SIDE))
    hidden = landmarks.clone()
    hidden[..., 2] = 0
    assert all(v.isnan() for v in partition_scores(one, at, hidden, SIDE))


def test_values_are_those_of_the_cell_that_a_landmark_lies_in() -> None:
    maps = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    landmarks = torch.tensor([[[3.0, 9, 1], [39, 39, 1]], [[11, 0, 1], [-5, 100, 0]]])  # cells of 10 pixels
    found = values_at(maps, landmarks, 5, 10)
    assert found.shape == (2, 2, 3)
    assert found[0, 0].tolist() == maps[0, :, 0, 0].tolist() and found[0, 1].tolist() == maps[0, :, 3, 3].tolist()
    assert found[1, 0].tolist() == maps[1, :, 0, 1].tolist()
