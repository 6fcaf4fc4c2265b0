"""Feature caches in a store: published once, brought to each node once, held while they are used."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import IO

from paraphrase.core.errors import InputError
from paraphrase.core.features.cache import META, caches, locked
from paraphrase.core.home import folder_named_by
from paraphrase.sweep.store.objects import Damaged, Store

SPARE = 0.1
"""Share of a disk that caches leave free, as long as there are others that can be removed: those that were used longest ago."""

_held: dict[str, IO[str]] = {}


def open_scratch() -> Path:
    """The folder of this machine for what is in the store as well, made for this user alone: $PARAPHRASE_SCRATCH, else one in the
    temporary folder.

    Raises:
        InputError: if it cannot be used.
    """
    folder = folder_named_by("PARAPHRASE_SCRATCH") or Path(tempfile.gettempdir()) / f"paraphrase-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"PARAPHRASE_SCRATCH: {folder} cannot be made ({error.strerror})") from None
    if folder.stat().st_uid != os.getuid():  # anyone may make folders in /tmp
        raise InputError(f"PARAPHRASE_SCRATCH: {folder} is another user's; name a folder of your own")
    return folder


def publish_cache(store: Store, folder: Path) -> None:
    """Write a finished cache to the store, if it is not there; two who do so at once write the same."""
    if not store.whole(f"caches/{folder.name}"):
        store.put(folder, f"caches/{folder.name}")


def fetch_cache(store: Store, key: str) -> Path:
    """The folder of a cache, brought here from the store by the first who asks; the others of this machine wait for it.

    This process holds it until it ends, so that nobody removes it to make room.

    Raises:
        InputError: if it is not in the store or not whole, or this machine has no room for it.
    """
    folder = caches() / key
    with locked(caches() / f".{key}.lock"):
        if not (folder / META).exists():
            try:
                needed = sum(about["bytes"] for about in store.manifest(f"caches/{key}").values())
                _make_room(needed, key)
                store.get(f"caches/{key}", folder)
            except Damaged as error:
                raise InputError(f"store: {error}; remove it and resume the sweep") from None
            except OSError as error:
                raise InputError(f"{caches()}: the cache cannot be brought here ({error.strerror or error})") from None
        hold(key)
    os.utime(folder / META)  # when it was used last
    return folder


def hold(key: str) -> None:
    """Keep a cache from being removed while this process lives."""
    if key not in _held:
        file = (caches() / f".{key}.held").open("a")
        fcntl.flock(file, fcntl.LOCK_SH)
        _held[key] = file


def _make_room(needed: int, key: str) -> None:
    """Remove what a killed process left of this cache, and caches that nobody holds, until one of this size fits.

    Raises:
        InputError: if it does not fit even then.
    """
    for left in caches().glob(f".{key}.[0-9]*"):
        shutil.rmtree(left, ignore_errors=True)
    others = sorted((p.parent for p in caches().glob(f"*/{META}")), key=lambda folder: (folder / META).stat().st_mtime)
    while shutil.disk_usage(caches()).free - needed < SPARE * shutil.disk_usage(caches()).total and others:
        _remove_if_free(others.pop(0))
    if needed > (free := shutil.disk_usage(caches()).free):
        raise InputError(
            f"{caches()}: cache {key} needs {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free; "
            "PARAPHRASE_SCRATCH names a larger disk"
        )


def _remove_if_free(folder: Path) -> None:
    with (folder.parent / f".{folder.name}.held").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        shutil.rmtree(folder, ignore_errors=True)
