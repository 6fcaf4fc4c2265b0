"""Standard output and error that cannot be written: progress that nobody can read ends nothing, a result that is lost is told."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast


class _Watched:
    """A stream that remembers why it could not be written, as on a full disk or when its reader has gone.

    Args:
        carefree: drop what cannot be written, where it is only for the eye.
    """

    def __init__(self, stream: TextIO, carefree: bool) -> None:
        self._stream, self._carefree = stream, carefree
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            self.error = error
            if not self._carefree:
                raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def safe_streams() -> Iterator[Callable[[], OSError | None]]:
    """Within, standard error takes what it can and never fails, and streams that the parent has closed lead nowhere.

    Yields:
        a function: why standard output could not be written, if so.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers, which open() gives
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, it stays open
    out, err = _Watched(sys.stdout, carefree=False), _Watched(sys.stderr, carefree=True)

    def unwritten() -> OSError | None:
        if not out.error:
            _settle(out)
        return out.error

    try:
        with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
            yield unwritten
    finally:
        for stream in (out, err):
            _settle(stream)


def _settle(stream: _Watched) -> None:
    """Write what waits; where that cannot be, lead the stream nowhere, since Python would try again at its end."""
    with suppress(OSError):
        stream.flush()
    if stream.error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
