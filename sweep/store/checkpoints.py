"""The saved states of a trial: immutable folders EPOCH-ATTEMPT, on this machine and, beside the training, in the store.

An attempt is one process that trains the trial. Each has a number of its own in the keys that it writes, so a worker that was
cut off and lives on cannot overwrite what the next one saved.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from paraphrase.core.files import write_atomically
from paraphrase.core.terminal.console import say
from paraphrase.sweep.store.objects import MANIFEST, Damaged, Store, check_files, describe_files

KEPT = 2
"""Checkpoints that are kept: the newest, and the one before it, should the newest be damaged."""
UPLOAD_SECONDS = 30.0
"""Least seconds between two uploads, so that short epochs do not spend their time on them."""
NAME = re.compile(r"(\d{6})-(\d{4})")


class Checkpoints:
    """The checkpoints of one trial, or of the batch that it is the first of.

    Args:
        folder: for them on this machine.
        store: for them beyond it; None: the folder is all there is.
        key: of them in the store.
    """

    def __init__(self, folder: Path, store: Store | None = None, key: str = "") -> None:
        self.folder, self.store, self.key = folder, store, key
        self.attempt = 0
        self._uploads: queue.Queue[Path | None] = queue.Queue(1)
        self._uploaded = -UPLOAD_SECONDS
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None

    def _here(self) -> list[str]:
        return [p.name for p in self.folder.glob("*") if NAME.fullmatch(p.name)]

    def _there(self) -> list[str]:
        found = self.store.keys(self.key) if self.store else []
        return [key.split("/")[-2] for key in found if key.endswith(f"/{MANIFEST}")]

    def any(self) -> bool:
        """Whether there is one, here or in the store."""
        return bool(self._here() or self._there())

    def open(self) -> Path | None:
        """The newest checkpoint that is whole, on this machine; None if there is none. Begins a new attempt."""
        here, there = set(self._here()), set(self._there())
        self.attempt = 1 + max((int(name[7:]) for name in here | there), default=0)
        for name in sorted(here | there, reverse=True):
            place = self.folder / name
            if name in here:
                try:
                    check_files(place)
                    return place
                except Damaged as error:
                    say(f"a checkpoint is damaged: {error}")
                    shutil.rmtree(place, ignore_errors=True)
            if name in there:
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    self.store.get(f"{self.key}/{name}", place)  # type: ignore[union-attr]
                    return place
                except Damaged as error:
                    say(f"a checkpoint is damaged: {error}")
        return None

    def save(self, epoch: int, write: Callable[[Path], None], urgent: bool = False) -> None:
        """Keep the state after an epoch: on this machine at once, and in the store beside what follows, not too often.

        Args:
            write: writes it into a folder.
            urgent: to the store in any case.

        Raises:
            InputError: if the store refused the one before.
        """
        name = f"{epoch:06d}-{self.attempt:04d}"
        part = self.folder / f".{name}.{os.getpid()}"
        shutil.rmtree(part, ignore_errors=True)
        write(part)
        write_atomically(part / MANIFEST, json.dumps(describe_files(part, sorted(part.iterdir()))))
        shutil.rmtree(self.folder / name, ignore_errors=True)
        part.rename(self.folder / name)
        for old in sorted(self._here(), reverse=True)[KEPT:]:
            shutil.rmtree(self.folder / old, ignore_errors=True)
        if self._failure:
            raise self._failure
        if self.store and (urgent or time.monotonic() - self._uploaded > UPLOAD_SECONDS):
            self._upload(self.folder / name)

    def _upload(self, place: Path) -> None:
        """Hand a checkpoint to the thread; while one is under way, the next waits for its turn, and then training for it."""
        self._uploaded = time.monotonic()
        copy = self.folder / f".upload-{place.name}"  # links, since the checkpoint itself may be removed meanwhile
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(place, copy, copy_function=os.link)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        self._uploads.put(copy)

    def _run(self) -> None:
        while copy := self._uploads.get():
            try:
                self._send(copy)
            except Exception as error:  # raised at the next save
                self._failure = error
            finally:
                shutil.rmtree(copy, ignore_errors=True)

    def _send(self, copy: Path) -> None:
        assert self.store
        self.store.put(copy, f"{self.key}/{copy.name.removeprefix('.upload-')}")
        for old in sorted(self._there(), reverse=True)[KEPT:]:
            self.store.delete(f"{self.key}/{old}")

    def close(self) -> None:
        """End the thread, once what waits is in the store: nothing may come there after the trial has ended."""
        if self._thread:
            self._uploads.put(None)
            self._thread.join()
            self._thread = None

    def delete(self) -> None:
        """Remove all of them, here and in the store."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.store:
            self.store.delete(self.key)
