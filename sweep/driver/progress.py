"""What a sweep shows while it runs: a bar and a few lines, drawn again on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from paraphrase.core.measure.metrics import short_name
from paraphrase.core.terminal.console import duration

if TYPE_CHECKING:
    from rich.live import Live

PLAIN_SECONDS = 30.0
SETTLE_SECONDS = 0.3  # between a trial's end and the line about it, so that the next trial is in it
WINDOW = 60.0
BAR = 30  # columns


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
        self._live: Live | None = None

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
        """A line of its own, above the progress."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            self.stream.write(text + "\n")
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

    def lines(self) -> list[str]:
        """What there is to say, in lines that fit 80 columns: how far it is, what runs, the best of each objective."""
        left = self.left()
        done = f"{sum(self.states.values())} of {self.budget} trials"
        lines = [
            f"{done}, {duration(left)} left" if left is not None else f"{done}, time left unknown",
            f"{len(self.running)} running, {self.states['pruned']} pruned, {self.states['failed']} failed, "
            f"{self.rate():.2f} epochs/s",
        ]
        best = [f"{short_name(metric)} {value:.4g}" for metric, value in self.best.items() if value is not None]
        return [*lines, "best: " + ", ".join(best)] if best else lines

    def draw(self, force: bool = False) -> None:
        """Show it if it is time to."""
        now = time.monotonic()
        if not force and now - self._drawn < (0.5 if self.terminal else PLAIN_SECONDS):
            return
        self._drawn = now
        if self.terminal:
            self._draw_live()
        else:
            self.stream.write("; ".join(self.lines()) + "\n")
            self.stream.flush()

    def _draw_live(self) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        whole = self.budget * self.epochs_of_trial
        done = sum(self.states.values()) * self.epochs_of_trial + sum(self.running.values())
        first, *others = self.lines()
        top = Table.grid(padding=(0, 1))  # a bar by itself ends no line
        top.add_row(ProgressBar(total=max(whole, 1), completed=done, width=BAR), Text(first))
        shown = Group(top, *map(Text, others))
        if self._live is None:
            self._live = Live(shown, console=Console(file=self.stream), auto_refresh=False)
            self._live.start()
        self._live.update(shown, refresh=True)

    def close(self) -> None:
        """Leave it as it is and go on below."""
        if self._live is not None:
            self._live.stop()
            self._live = None
