"""The feature cache of a configuration: found again without reading an image, or built on first use."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from paraphrase.core.config import Config, to_mapping
from paraphrase.core.data.folders import walk
from paraphrase.core.errors import InputError
from paraphrase.core.features.cache import META, VERSION, FeatureCache, caches, load_cache, read_meta, remove_cache, verify_cache
from paraphrase.core.files import read_text, write_atomically
from paraphrase.core.home import hide_home
from paraphrase.core.terminal.console import say

QUICKLY = 2**30
"""Bytes of the largest file that is compared with its checksum whenever a process opens a cache first; of larger ones
`paraphrase cache verify` does it."""

_verified: set[Path] = set()


def open_cache(config: Config, progress: bool = True) -> FeatureCache:
    """The cache of a configuration; built on first use.

    What the configuration resolved to is remembered together with the sizes and times of the files that it read, so that
    opening a cache again reads no image.

    Raises:
        InputError: names the damaged image, file or field, or says how much space is lacking.
    """
    if built := built_cache(config):
        try:
            if built not in _verified:
                verify_cache(built, QUICKLY)
                _verified.add(built)
            return load_cache(built)
        except InputError as error:
            say(f"{error}; that is done now")
            remove_cache(built.name)
    from paraphrase.core.features.build import build_cache  # brings torchvision, which takes seconds to import

    note = _note(config)
    folder, files = build_cache(config, progress)
    remembered = {"key": folder.name, "files": files, "stamp": _stamp(config, files)}
    write_atomically(note, json.dumps(remembered))
    hide_home()
    return load_cache(folder)


def built_cache(config: Config) -> Path | None:
    """The folder of a configuration's cache if it is there and what it was built from has not changed."""
    try:
        remembered = json.loads(read_text(_note(config)))
        folder, fresh = caches() / remembered["key"], remembered["stamp"] == _stamp(config, remembered["files"])
    except (OSError, ValueError, TypeError, KeyError):  # not there, or damaged: it is found out again
        return None
    return folder if fresh and (folder / META).exists() else None


def channels_of(config: Config) -> int:
    """Channels of the maps that explainers of a configuration see; nothing is fitted or built for it.

    Raises:
        InputError: what `open_cache` would say of the configuration, the data's folders and the performer.
    """
    if folder := built_cache(config):
        return int(read_meta(folder)["channels"])
    from paraphrase.core.data import outline
    from paraphrase.core.performer.obtain import check_performer

    return check_performer(config, outline(config.data)).feature_shape[0]


def _note(config: Config) -> Path:
    """Where it is remembered which cache a configuration resolved to."""
    return caches() / "index" / f"{request_of(config)}.json"


def request_of(config: Config) -> str:
    """Hash of the part of a configuration that a cache depends on."""
    parts = [to_mapping(c) for c in (config.data, config.performer, config.cache)]
    return hashlib.sha256(json.dumps([VERSION, *parts], sort_keys=True).encode()).hexdigest()[:24]


def _stamp(config: Config, files: list[str]) -> str:
    """Hash of the sizes and times of what the configuration reads: the data set's files and the performer's."""
    digest = hashlib.sha256()
    for name in files:
        path = Path(name)
        below = [os.path.join(root, file) for root, names in walk(path) for file in names] if path.is_dir() else [name]
        for file in sorted(below):
            status = os.stat(file) if os.path.exists(file) else None
            digest.update(os.fsencode(f"{file}:{status and (status.st_size, status.st_mtime_ns)}"))
    return digest.hexdigest()
