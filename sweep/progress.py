"""What a sweep shows on the screen while it runs: one line, rewritten on a terminal, repeated now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, TextIO

PLAIN_SECONDS = 30.0
SETTLE_SECONDS = 0.3  # between a trial's end and the line about it, so that the next trial is in it
WINDOW = 60.0


def duration(seconds: float) -> str:
    """`7 s`, `3:05 min` or `2:10 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


class Progress:
    """Counts what happens and draws the line.

    Args:
        budget: trials that must end.
        states: trials that ended already, by state.
        best: objective -> best value so far, or None.
        objectives: metric -> minimize or maximize.
        epochs_of_trial: most epochs of a trial, for the time that is left.
    """

    def __init__(
        self,
        budget: int,
        states: Mapping[str, int],
        best: Mapping[str, float | None],
        objectives: Mapping[str, str],
        epochs_of_trial: int,
        stream: TextIO | None = None,
    ) -> None:
        self.budget, self.objectives, self.epochs_of_trial = budget, objectives, epochs_of_trial
        self.states = {"complete": 0, "pruned": 0, "failed": 0} | dict(states)
        self.best = dict(best)
        self.running: dict[int, int] = {}
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.begin = time.monotonic()
        self.total_epochs = 0
        self._recent: deque[tuple[float, int]] = deque()
        self._since = self.begin  # of the recent epochs: the end of the one before them
        self._drawn = 0.0
        self._width = 0

    def started(self, number: int) -> None:
        """A trial runs now."""
        self.running[number] = 0

    def waits(self, number: int) -> None:
        """A trial that ran waits for its turn again."""
        self.running.pop(number, None)

    def epochs(self, number: int, count: int) -> None:
        """A trial has reported so many more epochs; what a resumed trial brings with it is no speed of ours."""
        if number in self.running:
            self.running[number] += count
        if count == 1:
            self.total_epochs += 1
            self._recent.append((time.monotonic(), 1))

    def say(self, text: str) -> None:
        """A line of its own, above the progress line."""
        self.stream.write(("\r" + text.ljust(self._width) if self.terminal else text) + "\n")
        self.stream.flush()
        self._drawn = 0.0

    def ended(self, number: int, state: str, metrics: Mapping[str, Any]) -> None:
        """A trial ended as complete, pruned or failed."""
        self.running.pop(number, None)
        self.states[state] += 1
        if state == "complete":
            for metric, direction in self.objectives.items():
                value, best = metrics[metric], self.best.get(metric)
                if best is None or (value < best if direction == "minimize" else value > best):
                    self.best[metric] = value
        self._drawn = min(self._drawn, time.monotonic() - PLAIN_SECONDS + SETTLE_SECONDS)

    def rate(self) -> float:
        """Epochs a second, over the last minutes."""
        now = time.monotonic()
        while len(self._recent) > 20 and now - self._recent[0][0] > WINDOW:
            self._since = self._recent.popleft()[0]
        return len(self._recent) / max(now - self._since, 1e-9)

    def left(self) -> float | None:
        """Seconds until the budget is spent; None while nothing is known."""
        rate = self.rate()
        if rate <= 0:
            return None
        trials = self.budget - sum(self.states.values())
        epochs = trials * self.epochs_of_trial - sum(self.running.values())
        return max(0, epochs) / rate

    def line(self) -> str:
        """The progress line."""
        left = self.left()
        parts = [
            f"{sum(self.states.values())}/{self.budget} trials",
            f"{len(self.running)} running",
            f"{self.states['pruned']} pruned",
            f"{self.states['failed']} failed",
            f"{self.rate():.2f} epochs/s",
            f"{duration(left)} left" if left is not None else "time left unknown",
        ]
        best = [f"{metric} {value:.4g}" for metric, value in self.best.items() if value is not None]
        return ", ".join(parts) + (" | best " + ", ".join(best) if best else "")

    def draw(self, force: bool = False) -> None:
        """Show the line if it is time to."""
        now = time.monotonic()
        if not force and now - self._drawn < (0.5 if self.terminal else PLAIN_SECONDS):
            return
        self._drawn = now
        line = self.line()
        if self.terminal:
            import shutil

            line = line[: shutil.get_terminal_size().columns - 1]
            self.stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self.stream.write(line + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Leave the line as it is and go on below it."""
        if self.terminal and self._width:
            self.stream.write("\n")
            self.stream.flush()
