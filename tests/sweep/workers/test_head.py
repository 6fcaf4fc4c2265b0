from __future__ import annotations

import socket
import threading
import time

import pytest

from paraphrase.sweep.workers.head import watched


def test_a_head_that_is_gone_ends_the_driver_and_one_that_is_back_in_time_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    ended = threading.Event()
    head = socket.create_server(("127.0.0.1", 0))
    port = head.getsockname()[1]
    with watched(f"127.0.0.1:{port}", ended.set, look=0.05, gone=1.0):
        assert not ended.wait(1.5)
        head.close()
        assert not ended.wait(0.4)
        head = socket.create_server(("127.0.0.1", port))
        assert not ended.wait(1.5)
        head.close()
        began = time.monotonic()
        assert ended.wait(10) and time.monotonic() - began > 0.9
    assert capsys.readouterr().err.startswith(f"the Ray cluster at 127.0.0.1:{port} has not answered for 1 s; the same")


def test_nothing_ends_after_the_sweep() -> None:
    ended = threading.Event()
    with watched("127.0.0.1:9", ended.set, look=0.05, gone=0.5):
        pass
    assert not ended.wait(1.0)
