from __future__ import annotations

import importlib
import math
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from paraphrase.core.terminal.console import say
from paraphrase.sweep.patience import OutOfPatience
from paraphrase.sweep.process import Process

OF_THE_USER = """
import os
import threading


class Stubborn(OSError):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
        self.lock = threading.Lock()


def raising():
    raise Stubborn("this", "that")


def noisy():
    print("for nobody")
    os.write(1, b"nor this")
    return "answer"
"""
PARENT = """
import time
from paraphrase.sweep.process import Process
process = Process("waits")
process.begin(time.sleep, 600)
print(process._process.pid, flush=True)
time.sleep(600)
"""


def ask(process: Process, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns there."""
    process.begin(function, *arguments)
    return process.answer()


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    with closing(Process("calculates")) as it:
        yield it


def test_it_calls_functions_in_turn_with_what_it_keeps(process: Process) -> None:
    assert ask(process, math.sqrt, 16.0) == 4.0
    assert ask(process, os.getpid) == ask(process, os.getpid) != os.getpid()
    process.keep(dict, [("a", 1)])
    assert process.call(dict.get, "a") == 1
    process.begin(math.sqrt, 25.0)
    assert process.answer() == 5.0


def test_what_is_raised_there_is_raised_here_with_its_cause_and_where(process: Process) -> None:
    with pytest.raises(urllib.error.URLError) as caught:
        ask(process, urllib.request.urlopen, "http://127.0.0.1:1")
    assert isinstance(caught.value.__cause__, ConnectionRefusedError) and "urlopen" in caught.value.__notes__[0]
    with pytest.raises(ValueError, match="math domain error"):
        ask(process, math.sqrt, -1.0)
    process.keep(dict, [("a", 2)])
    with pytest.raises(ValueError, match="invalid literal"):
        process.keep(int, "x")
    assert process.call(dict.get, "a") == 2


def test_what_cannot_be_brought_here_is_an_error_of_the_same_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_the_user.py").write_text(OF_THE_USER)
    monkeypatch.syspath_prepend(tmp_path)
    theirs = importlib.import_module("of_the_user")
    with closing(Process("calls others")) as process:
        with pytest.raises(ConnectionError, match="this and that"):
            ask(process, theirs.raising)
        assert ask(process, theirs.noisy) == "answer"


def test_lines_for_the_user_are_said_here(process: Process, capsys: pytest.CaptureFixture[str]) -> None:
    ask(process, say, "one\ntwo")
    assert capsys.readouterr().err == "one\ntwo\n"


def test_one_that_is_killed_is_named_and_it_heeds_no_signal_for_the_driver() -> None:
    with closing(Process("calculates")) as process:
        assert ask(process, math.sqrt, 4.0) == 2.0
        pid = ask(process, os.getpid)
        for ending in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, ending)
        assert ask(process, math.sqrt, 9.0) == 3.0
        process.begin(time.sleep, 600.0)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(OutOfPatience, match=r"^the process that calculates ended with -9$"):
            process.answer()
        with pytest.raises(OutOfPatience, match=r"^the process that calculates ended with -9$"):
            ask(process, math.sqrt, 9.0)


def test_it_ends_at_once_with_the_process_that_it_is_for() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        there = Path(f"/proc/{int(parent.stdout.readline())}")
        time.sleep(1.0)
        assert there.exists()
        parent.kill()
    end = time.monotonic() + 5.0
    while there.exists() and (there / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)
