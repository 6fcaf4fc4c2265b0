"""Progress of work whose steps can be counted: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from paraphrase.core.terminal.console import SILENCE, duration, say

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

LINE_SECONDS = 30.0
"""Between two lines about the same work where there is no terminal."""


class Bar:
    """Counts steps and shows them.

    Args:
        text: what is done.
        total: steps.
        unit: of a step, in the plural.
        done: steps that were done before.
    """

    def __init__(self, text: str, total: int, unit: str, done: int, progress: Progress | None) -> None:
        self.text, self.total, self.unit, self.done, self.progress = text, total, unit, done, progress
        self.began, self.first = time.monotonic(), done
        self.due, self.told = self.began + SILENCE, -1  # at which step the last line was
        self.about = ""
        self.task = progress.add_task(text, total=total, completed=done, about="") if progress else None

    @property
    def watched(self) -> bool:
        """Whether somebody sees a bar, so that figures for it alone are worth their time."""
        return self.progress is not None

    def advance(self, steps: int = 1, about: str | None = None) -> None:
        """So many more steps are done.

        Args:
            about: figures of the last one, shown beside the bar.
        """
        self.done += steps
        self.about = self.about if about is None else about
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=self.done, about=self.about)
        elif time.monotonic() > self.due:
            self._line()

    def _line(self) -> None:
        self.due, self.told = time.monotonic() + LINE_SECONDS, self.done
        rate = (self.done - self.first) / max(time.monotonic() - self.began, 1e-9)
        left = f", {duration((self.total - self.done) / rate)} left" if rate and self.done < self.total else ""
        say(f"{self.text}: {self.done} of {self.total} {self.unit}{left}" + (f"; {self.about}" if self.about else ""))

    def close(self) -> None:
        """Say how it ended where its beginning was said."""
        if 0 <= self.told < self.done == self.total:
            self._line()


@contextmanager
def bar(text: str, total: int, unit: str = "steps", done: int = 0, shown: bool = True) -> Iterator[Bar]:
    """A bar for the time of a block.

    Args:
        shown: False: nothing is shown, as in a worker.
    """
    if not shown or not sys.stderr.isatty():
        counter = Bar(text, total, unit, done, None)
        if not shown:
            counter.due = float("inf")
        yield counter
        counter.close()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[about]}"),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True) as progress:
        yield Bar(text, total, unit, done, progress)


def counted(items: Iterable[T], text: str, total: int, unit: str = "steps") -> Iterator[T]:
    """The items, with a bar that moves as they are taken."""
    with bar(text, total, unit) as shown:
        for item in items:
            yield item
            shown.advance()
