"""Tables that fit the screen, on stdout; on stderr, lines for the user and signs of life."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from paraphrase.core.terminal.tables import blocks

SILENCE = 2.0
"""Seconds after which a command that is not watched on a terminal says what it is doing."""


def say(text: str) -> None:
    """A line for the user, on stderr."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show that something is being done which has no steps to count: a spinner on a terminal, else a line if it takes long."""
    if sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status(text):
            yield
        return
    timer = threading.Timer(SILENCE, say, [f"{text} ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def show_table(rows: Sequence[Sequence[str]], title: str = "", wide: bool = False, keys: int = 1) -> None:
    """Print a table to stdout, the first row its heading; columns that do not fit beside the others follow in a block below.

    Args:
        rows: cells.
        title: a line above it.
        wide: print all columns side by side, however wide.
        keys: first columns, which name the rows and stand in each block; set left.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(width=10_000 if wide else None, soft_wrap=wide)
    for i, block in enumerate(blocks(rows, console.width, keys)):
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold", highlight=False)
        for c, cell in enumerate(block[0]):
            table.add_column(cell, justify="left" if c < keys else "right", no_wrap=True)
        for row in block[1:]:
            table.add_row(*row)
        if title and not i:
            console.print(title, markup=False, highlight=False)
        elif i:
            console.print()
        console.print(table)


def show_fields(sections: Mapping[str, Sequence[tuple[str, str, str]]]) -> None:
    """Print described names: a heading, then of each a line of its name and kind, and its text indented below.

    Args:
        sections: heading -> (name, kind, text) of each.
    """
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    for i, (heading, entries) in enumerate(sections.items()):
        console.print(Text(("\n" if i else "") + heading, style="bold underline"))
        for name, kind, text in entries:
            console.print(Text.assemble((name, "bold"), "  ", kind))
            console.print(Padding(Text(text, style="dim"), (0, 0, 0, 4), expand=False))


def duration(seconds: float) -> str:
    """`7 s`, `3:05 min` or `2:10 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
