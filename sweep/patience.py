"""Servers come back: an operation is tried again for a while before a sweep gives up."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

from paraphrase.core.errors import Interrupted, first_line
from paraphrase.core.terminal.console import duration, say

PATIENCE = 15 * 60.0
"""Seconds that a server may be away before a sweep stops, to go on later."""
OPENING = 20.0
"""Seconds that a server may be away when a sweep begins: for longer, its address may be wrong."""
FIRST, LONGEST = 1.0, 30.0
"""Seconds before the first further try, and before later ones at most; each wait is twice the one before."""

Value = TypeVar("Value")


class OutOfPatience(Interrupted):
    """A server was away for too long, or the sweep may not write any more: it ends, and can go on later."""


def patiently(
    operation: Callable[[], Value],
    what: str,
    passing: Callable[[BaseException], bool],
    again: Callable[[], Value] | None = None,
    patience: float | None = None,
) -> Value:
    """What an operation returns, as soon as it succeeds.

    Args:
        operation: that is tried.
        what: the server, for messages.
        passing: whether an error may pass; others are raised at once, and those for want of memory, threads or files.
        again: what is tried from the second time on, where the first may have been done although it failed.
        patience: seconds from the first failure on; None: `PATIENCE`.

    Raises:
        OutOfPatience: if it still fails after that time.
    """
    patience, wait, began = PATIENCE if patience is None else patience, FIRST, 0.0
    while True:
        try:
            value = operation()
        except Exception as error:
            if _is_our_own(error) or not passing(error):
                raise
            now = time.monotonic()
            if not began:
                began = now
                say(f"{what} does not answer ({cause_of(error)}); trying for {duration(patience)}")
            if now - began + wait > patience:
                raise OutOfPatience(f"{what} did not answer for {duration(patience)}: {cause_of(error)}") from None
            time.sleep(wait)
            wait, operation = min(2 * wait, LONGEST), again or operation
        else:
            if began:
                say(f"{what} answers again")
            return value


def _is_our_own(error: BaseException | None) -> bool:
    """Whether this process lacks memory, threads or files, whatever the library says that it was doing: the server is well."""
    while error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in (errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            return True
        if "can't start new thread" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def cause_of(error: BaseException) -> str:
    """What lies behind an error, in a line: Optuna's own words, and SQLAlchemy's, are the same for every one of the database."""
    inner: BaseException | None = error
    while inner:
        if isinstance(orig := getattr(inner, "orig", None), BaseException):
            return first_line(orig)
        inner = inner.__cause__ or inner.__context__
    return first_line(error.__cause__ or error)
