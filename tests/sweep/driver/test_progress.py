from __future__ import annotations

import io

import pytest

from paraphrase.sweep.driver import progress
from paraphrase.sweep.driver.progress import Progress


def test_rate_and_time_left_are_steady_when_epochs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress(10, {}, {"p": None}, {"p": "maximize"}, 50, io.StringIO())
    shown.started(0)
    for epoch in range(1, 41):
        now[0] += 4.0
        shown.epochs(0, 1)
        assert shown.rate() == pytest.approx(0.25)
        assert shown.left() == pytest.approx((10 * 50 - epoch) * 4.0)
