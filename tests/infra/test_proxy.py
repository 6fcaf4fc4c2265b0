"""The proxy that breaks, before a server that says everything twice."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from proxy import Proxy

SILENCE = 0.3
"""Seconds without an answer."""


class Echo:
    """Answers each piece with itself, and remembers what came."""

    def __init__(self) -> None:
        self.heard = b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(1 << 16):
                self.heard += data
                connection.sendall(data)

    def has_heard(self, what: bytes) -> bool:
        end = time.monotonic() + 5
        while self.heard != what and time.monotonic() < end:
            time.sleep(0.01)
        return self.heard == what


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    made = Proxy(echo.address)
    yield made
    made.close()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), 5)


def ask(connection: socket.socket, text: bytes) -> bytes:
    """The answer; empty if the connection was closed."""
    try:
        connection.sendall(text)
        return connection.recv(1 << 16)
    except ConnectionError:
        return b""


def test_all_passes_at_first_and_late_if_asked(proxy: Proxy) -> None:
    with connect(proxy) as one, connect(proxy) as other:
        assert ask(one, b"a") == b"a" and ask(other, b"b") == b"b"
        proxy.pass_on(delay=0.1)
        begin = time.monotonic()
        assert ask(one, b"c") == b"c"
        assert time.monotonic() - begin >= 0.2  # there and back


def test_a_silent_network_answers_when_it_is_back(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as one:
        proxy.drop()
        with connect(proxy) as other:
            for connection in (one, other):
                connection.settimeout(SILENCE)
                with pytest.raises(TimeoutError):
                    ask(connection, b"a")
            assert echo.heard == b""
            proxy.pass_on()
            assert one.recv(1) == other.recv(1) == b"a"


def test_refusing_closes_what_is_open_and_what_comes(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as one:
        assert ask(one, b"a") == b"a"
        proxy.refuse()
        assert ask(one, b"b") == b""
    with connect(proxy) as other:
        assert ask(other, b"c") == b""
    assert echo.heard == b"a"
    proxy.pass_on()
    with connect(proxy) as again:
        assert ask(again, b"d") == b"d"


def test_an_upload_is_cut_at_a_byte(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as one:
        proxy.cut_after(4)
        assert ask(one, b"abc") == b"abc"
        one.sendall(b"def")
        assert echo.has_heard(b"abcd")
        while one.recv(10):  # what came back before the cut
            pass
    with connect(proxy) as other:
        assert ask(other, b"g") == b""


@pytest.mark.parametrize("containing", [b"", b"COMMIT"])
def test_a_reply_is_lost_although_the_request_arrived(proxy: Proxy, echo: Echo, containing: bytes) -> None:
    with connect(proxy) as one, connect(proxy) as other:
        assert ask(one, b"a") == ask(other, b"a") == b"a"
        proxy.swallow_reply(containing)
        if containing:
            assert ask(other, b"INSERT;") == b"INSERT;"
        assert ask(one, b"COMMIT;") == b""
        assert echo.has_heard(b"aa" + (b"INSERT;" if containing else b"") + b"COMMIT;")
        assert ask(other, b"b") == b"b"  # nothing else is
    with connect(proxy) as again:
        assert ask(again, b"c") == b"c"


def test_a_server_that_is_away_closes_the_connection(proxy: Proxy, echo: Echo) -> None:
    echo.listener.shutdown(socket.SHUT_RDWR)
    echo.listener.close()
    with connect(proxy) as one:
        assert ask(one, b"a") == b""
