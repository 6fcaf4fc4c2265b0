from __future__ import annotations

import io
import re

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


class Screen(io.StringIO):
    """What a terminal of 80 columns is sent."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_of_80_columns_shows_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    screen = Screen()
    objectives = {
        "landmark_error": "minimize",
        "location_instability": "minimize",
        "p": "maximize",
        "reconstruction_error": "minimize",
    }
    shown = Progress(40, {"complete": 3, "pruned": 1}, dict.fromkeys(objectives, 0.0123456), objectives, 5, screen)
    shown.started(4)
    shown.epochs(4, 1)
    shown.draw(force=True)
    shown.close()
    drawn = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).strip() for line in screen.getvalue().splitlines()]
    for line in shown.lines():
        start = line[:12]  # what follows changes with the time
        assert any(start in row for row in drawn), (line, drawn)
    assert max(map(len, drawn)) <= 80 and any("4 of 40 trials" in row and "━" in row for row in drawn)
