"""A TCP proxy that breaks: for faults that no server shows by itself, such as a reply that is lost after a commit."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from typing import Literal

Mode = Literal["pass", "drop", "refuse", "cut", "swallow", "answer"]
CHUNK = 1 << 16
METHODS = (b"GET ", b"POST ", b"PATCH ", b"PUT ", b"DELETE ")


class Proxy:
    """Forwards connections to a target, and does what it is told to those that are open and to new ones.

    Args:
        target: host and port of the server.
        listen_port: 0 for a free one, which `port` tells.
    """

    def __init__(self, target: tuple[str, int], listen_port: int = 0) -> None:
        self.target, self.delay = target, 0.0
        self._mode: Mode = "pass"
        self._left = 0  # bytes to servers before the cut
        self._containing = b""  # of the request whose reply is lost
        self._every = 1  # how many requests one of which the proxy answers
        self._answers: list[bytes] = []
        self._requests, self.answered = 0, 0
        self._silenced: socket.socket | None = None  # the server whose next reply is lost
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", listen_port))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def pass_on(self, delay: float = 0.0) -> None:
        """Forward everything, also what waited, each piece after so many seconds."""
        self._mode, self.delay = "pass", delay

    def drop(self) -> None:
        """Accept and never answer, like a network that went silent: what is sent arrives once the mode is another."""
        self._mode = "drop"

    def refuse(self) -> None:
        """Close open connections, and new ones at once."""
        self._mode = "refuse"
        for end in list(self._open):
            self._end(end)

    def cut_after(self, count: int) -> None:
        """Forward so many more bytes to the server, then close everything and refuse."""
        self._left, self._mode = count, "cut"

    def swallow_reply(self, containing: bytes = b"") -> None:
        """Forward the next request, or the next with these bytes, and close instead of handing its reply on; then forward."""
        self._containing, self._mode = containing, "swallow"

    def answer_one_in(self, every: int, answers: Sequence[bytes]) -> None:
        """Answer every so many-th request of HTTP in the server's place, with these in turn, and close its connection."""
        self._every, self._answers, self._mode = every, list(answers), "answer"

    def close(self) -> None:
        """Stop listening, and close all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        self.refuse()

    def _end(self, *ends: socket.socket) -> None:
        for end in ends:
            self._open.discard(end)
            with contextlib.suppress(OSError):  # wakes the thread that reads from it
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            if self._mode == "refuse":
                raise ConnectionRefusedError
            server = socket.create_connection(self.target)
        except OSError:
            client.close()
            return
        self._open |= {client, server}
        threading.Thread(target=self._forward, args=(server, client, False), daemon=True).start()
        self._forward(client, server, True)

    def _forward(self, source: socket.socket, sink: socket.socket, upstream: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                time.sleep(self.delay)
                while self._mode == "drop":
                    time.sleep(0.01)
                if source is self._silenced:
                    self._silenced = None
                    break
                if upstream and self._mode == "answer" and data.startswith(METHODS):
                    self._requests += 1
                    if self._requests % self._every == 0:
                        source.sendall(self._answers[self.answered % len(self._answers)])
                        self.answered += 1
                        break
                if upstream and self._mode == "swallow" and self._containing in data:
                    self._silenced, self._mode = sink, "pass"
                if upstream and self._mode == "cut":
                    data, self._left = data[: self._left], max(0, self._left - len(data))
                sink.sendall(data)
                if upstream and self._mode == "cut" and not self._left:
                    self.refuse()
        self._end(source, sink)
