"""Has the record written, so that Ray Tune's loop never waits for MLflow; what fails is tried again in its turn.

It is no queue that must survive: a trial counts as ended only when its record is written, and until then its checkpoint is
kept, from which the next driver writes what is missing.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from paraphrase.sweep.patience import OutOfPatience, patiently
from paraphrase.sweep.process import Process
from paraphrase.sweep.record.client import passing
from paraphrase.sweep.record.tracking import FLUSH_SECONDS, Tracker, ids_of
from paraphrase.sweep.settings.folder import without_password


class Recorder:
    """A thread that has the tracker of a sweep write, in a process of its own.

    Args:
        process: that keeps the tracker; nothing else uses it while the thread lives.
        uri: where it writes.
        check: called before each operation; raises where nothing may be written any more.
    """

    def __init__(self, process: Process, uri: str, check: Callable[[], None] = lambda: None) -> None:
        self.process, self.uri, self.check = process, uri, check
        self.experiment, self.parent = process.call(ids_of)
        self.runs: dict[int, str] = {}
        """Number of a trial -> its run, once that is made."""
        self.written: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Numbers of trials whose end is in the record, with all that came before."""
        self.seconds = 0.0
        """That writing took."""
        self.failure: BaseException | None = None
        """Why nothing is written any more."""
        self.behind = False
        """Whether an operation has failed and is tried again."""
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=FLUSH_SECONDS)
            except queue.Empty:
                work = (lambda: self.process.call(Tracker.flush_if_due, FLUSH_SECONDS), Future())
            if work is None:
                return
            operation, answer = work
            try:
                if self.failure:
                    raise self.failure
                answer.set_result(self._patiently(operation))
            except BaseException as error:
                self.failure = self.failure or error
                answer.set_exception(error)

    def _patiently(self, operation: Callable[[], Any]) -> Any:
        def tried() -> Any:
            self.check()
            begin = time.perf_counter()
            try:
                return operation()
            finally:
                self.seconds += time.perf_counter() - begin

        def may_pass(error: BaseException) -> bool:
            self.behind = not isinstance(error, OutOfPatience) and passing(error)
            return self.behind

        done = patiently(tried, f"MLflow at {without_password(self.uri)}", may_pass)
        self.behind = False
        return done

    def later(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have a function of the tracker, and of arguments, called in its turn."""
        answer: Future[Any] = Future()
        self._work.put((lambda: self.process.call(function, *arguments), answer))
        return answer

    def now(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What a function of the tracker returns that is called in its turn; waits for it."""
        return self.later(function, *arguments).result()

    def start_trial(self, number: int, name: str, params: Mapping[str, Any], tags: Mapping[str, str], earlier: bool) -> None:
        """See `Tracker.start_trial`."""

        def note(answer: Future[Any]) -> None:
            if answer.exception() is None:
                self.runs[number] = answer.result()

        self.later(Tracker.start_trial, number, name, params, tags, earlier).add_done_callback(note)

    def log(self, number: int, history: Iterable[Mapping[str, Any]]) -> None:
        """See `Tracker.log`."""
        if entries := list(history):
            self.later(Tracker.log, number, entries)

    def end_trial(
        self, number: int, state: str, reason: str | None, artifacts: Sequence[Path], end: int | None, tags: Mapping[str, str]
    ) -> None:
        """See `Tracker.end_trial`; afterwards the number is among the `written`."""

        def note(answer: Future[Any]) -> None:
            if answer.exception() is None:
                self.written.put(number)

        self.later(Tracker.end_trial, number, state, reason, artifacts, end, tags).add_done_callback(note)

    def close(self) -> None:
        """Write what waits, and end the thread.

        Raises:
            OutOfPatience: if that could not be written.
        """
        try:
            self.now(Tracker.flush)
        finally:
            self._work.put(None)
            self._thread.join()
