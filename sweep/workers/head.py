"""A cluster that is gone with its head: the driver says so and can be started again.

Ray itself would end the process a minute later, inside any call and with the exit code of a sweep that has failed.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from paraphrase.core.terminal.console import duration, say

LOOK, GONE = 3.0, 45.0
"""Seconds between two looks, and without an answer after which a head is gone: Ray's own patience is 60."""
GOES_ON = 130


def _end() -> None:
    os._exit(GOES_ON)  # the main thread may be in a call of Ray that does not return; what is not written, the next driver writes


@contextmanager
def watched(address: str, end: Callable[[], None] = _end, look: float = LOOK, gone: float = GONE) -> Iterator[None]:
    """End the process with 130 if nobody answers at the head's address for a while.

    Args:
        address: host:port of the head.
        end: what ends the process.
        look: seconds between two looks.
        gone: seconds without an answer.
    """
    over = threading.Event()

    def watch() -> None:
        silent = 0.0
        while not over.wait(look):
            try:
                knock(address, look)
                silent = 0.0
            except OSError:
                silent += look
            if silent >= gone:
                say(f"the Ray cluster at {address} has not answered for {duration(gone)}; the same command goes on later")
                return end()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def knock(address: str, patience: float) -> None:
    """
    Args:
        address: host:port of a head.
        patience: seconds.

    Raises:
        OSError: if nobody answers there.
    """
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), patience).close()
