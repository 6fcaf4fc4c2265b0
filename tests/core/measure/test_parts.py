from __future__ import annotations

import math

import numpy as np
import pytest
import reference
import torch

from paraphrase.core.measure.filters import Peaks, random_peaks
from paraphrase.core.measure.parts import RIDGES, agreement, landmark_error, mean_landmark_error


def crowd(images: int, seed: int, filters: int = 3, parts: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Peaks that know something of the landmarks: (N, F, 2) and (N, P, 3)."""
    rng = np.random.default_rng(seed)
    landmarks = np.concatenate([rng.uniform(0, 100, (images, parts, 2)), rng.random((images, parts, 1)) > 0.2], 2)
    positions = rng.uniform(0, 100, (images, filters, 2))
    positions[:, 0] = 0.5 * landmarks[:, 0, :2] + 0.5 * positions[:, 0]
    return torch.tensor(positions), torch.tensor(landmarks)


def peaks(positions: torch.Tensor) -> Peaks:
    return Peaks(positions, torch.ones(positions.shape[:2]))


@pytest.mark.parametrize("filters", [3, 45])  # fewer numbers than images, and more
def test_landmark_error_is_the_reference(filters: int) -> None:
    (train, seen), (test, asked) = crowd(40, 0, filters), crowd(30, 1, filters)
    ours = landmark_error(peaks(train), seen, peaks(test), asked, 100.0)
    for part in range(2):
        arrays = train.numpy(), seen[:, part].numpy(), test.numpy(), asked[:, part].numpy()
        assert ours[part].item() == pytest.approx(reference.landmark_error(*arrays, RIDGES.tolist(), 100.0), rel=1e-6)


def test_peaks_that_follow_a_part_find_it_and_others_do_not() -> None:
    (_, seen), (_, asked) = crowd(300, 0, parts=3), crowd(200, 1, parts=3)
    # one filter at the first part, another at a mirrored and shrunk copy of the second
    follow = [peaks(torch.stack([true[:, 0, :2], 60 - 0.3 * true[:, 1, :2]], 1)) for true in (seen, asked)]
    error = landmark_error(follow[0], seen, follow[1], asked, 100.0)
    guess = mean_landmark_error(seen, asked, 100.0)
    assert (error[:2] < 1e-3).all() and error[2] == pytest.approx(guess[2].item(), rel=0.05)
    chance = [random_peaks(len(true), 40, 14, 3.5, 7, seed=s) for s, true in enumerate((seen, asked))]
    assert (landmark_error(chance[0], seen, chance[1], asked, 100.0) > 0.97 * guess).all()


def test_edges() -> None:
    (train, seen), (test, asked) = crowd(20, 0), crowd(10, 1)
    seen[:, 0, 2] = 0  # never visible in training
    error = landmark_error(peaks(train), seen, peaks(test), asked, 100.0)
    assert math.isnan(error[0]) and math.isfinite(error[1])
    asked[:, 1, 2] = 0  # never visible in the test
    assert landmark_error(peaks(train), seen, peaks(test), asked, 100.0).isnan().all()
    none = seen[:, :0], asked[:, :0]
    assert landmark_error(peaks(train), none[0], peaks(test), none[1], 100.0).shape == (0,)
    still = torch.full_like(train, 50.0), torch.full_like(test, 50.0)
    (_, seen), (_, asked) = crowd(20, 0), crowd(10, 1)
    fixed = landmark_error(peaks(still[0]), seen, peaks(still[1]), asked, 100.0)
    torch.testing.assert_close(fixed, mean_landmark_error(seen, asked, 100.0))
    one = landmark_error(peaks(train[:, :1]), seen, peaks(test[:, :1]), asked, 100.0)
    assert one[0] < fixed[0]


def test_agreement_is_the_reference() -> None:
    own, other = crowd(60, 0, filters=4)[0], crowd(60, 1, filters=5)[0]
    other[:, 2] = 0.6 * own[:, 1] + 0.4 * other[:, 2]
    rng = np.random.default_rng(2)
    values = torch.tensor(rng.uniform(0, 3, own.shape[:2]))
    values[:, 3] = 0  # never fires
    best = []
    for f in range(3):
        a = np.minimum(values[:, f].numpy() / values[:, f].numpy().mean(), 2)
        y = own[:, f].numpy()
        centre = (a[:, None] * y).sum(0) / a.sum()
        total = (a[:, None] * (y - centre) ** 2).sum()
        shares = []
        for g in range(5):
            x = np.c_[np.ones(60), other[:, g].numpy()] * np.sqrt(a)[:, None]
            residual = np.linalg.lstsq(x, y * np.sqrt(a)[:, None], rcond=None)[1].sum()
            shares.append(1 - residual / total)
        best.append(max(shares))
    assert float(agreement(Peaks(own, values), peaks(other))) == pytest.approx(np.mean(best), rel=1e-5)
    assert best[1] > 0.4


def test_networks_agree_whatever_the_order_offset_and_side_of_their_filters() -> None:
    own = crowd(80, 0, filters=4)[0]
    same = 7 - 0.5 * own[:, [2, 0, 3, 1]].flip(-1)
    assert float(agreement(peaks(own), peaks(same))) == pytest.approx(1)
    assert float(agreement(peaks(own), peaks(crowd(80, 9, filters=4)[0]))) < 0.2
    still = torch.full_like(own, 5.0)
    assert float(agreement(peaks(own), peaks(still))) == pytest.approx(0)
    assert agreement(peaks(still), peaks(own)).isnan()  # nothing moves that could be explained
