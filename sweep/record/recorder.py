"""Writes the record on a thread, so that Ray Tune's loop never waits for MLflow; what fails is tried again in its turn.

It is no queue that must survive: a trial counts as ended only when its record is written, and until then its checkpoint is
kept, from which the next driver writes what is missing.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from paraphrase.sweep.patience import OutOfPatience, patiently
from paraphrase.sweep.record.client import passing
from paraphrase.sweep.record.tracking import FLUSH_SECONDS, Tracker
from paraphrase.sweep.settings.folder import without_password


class Recorder:
    """The tracker of a sweep, on a thread.

    Args:
        tracker: what it is done with; nothing else uses it while the thread lives.
        check: called before each operation; raises where nothing may be written any more.
    """

    def __init__(self, tracker: Tracker, check: Callable[[], None] = lambda: None) -> None:
        self.tracker, self.check = tracker, check
        self.written: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Numbers of trials whose end is in the record, with all that came before."""
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
                work = (lambda: self.tracker.flush_if_due(FLUSH_SECONDS), Future())
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
            return operation()

        def may_pass(error: BaseException) -> bool:
            self.behind = not isinstance(error, OutOfPatience) and passing(error)
            return self.behind

        done = patiently(tried, f"MLflow at {without_password(self.tracker.uri)}", may_pass)
        self.behind = False
        return done

    def later(self, operation: Callable[[], Any]) -> Future[Any]:
        """Have something done in its turn."""
        answer: Future[Any] = Future()
        self._work.put((operation, answer))
        return answer

    def now(self, operation: Callable[[], Any]) -> Any:
        """What something returns that is done in its turn; waits for it."""
        return self.later(operation).result()

    def start_trial(self, number: int, name: str, params: Mapping[str, Any], tags: Mapping[str, str], earlier: bool) -> None:
        """See `Tracker.start_trial`."""
        self.later(lambda: self.tracker.start_trial(number, name, params, tags, earlier))

    def log(self, number: int, history: Iterable[Mapping[str, Any]]) -> None:
        """See `Tracker.log`."""
        entries = list(history)
        self.later(lambda: self.tracker.log(number, entries))

    def end_trial(
        self, number: int, state: str, reason: str | None, artifacts: Sequence[Path], end: int | None, tags: Mapping[str, str]
    ) -> None:
        """See `Tracker.end_trial`; afterwards the number is among the `written`."""

        def note(answer: Future[Any]) -> None:
            if answer.exception() is None:
                self.written.put(number)

        self.later(lambda: self.tracker.end_trial(number, state, reason, artifacts, end, tags)).add_done_callback(note)

    def close(self) -> None:
        """Write what waits, and end the thread.

        Raises:
            OutOfPatience: if that could not be written.
        """
        try:
            self.now(self.tracker.flush)
        finally:
            self._work.put(None)
            self._thread.join()
