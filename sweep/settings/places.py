"""Paths that a sweep is described with, such that they mean the same wherever it goes on."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from paraphrase.core.config import flatten, set_path
from paraphrase.sweep.settings.config import SweepConfig

PATHS: dict[str, tuple[str, ...]] = {"data.path": (), "performer.weights": ("fit", "torchvision", "timm")}
"""Fields of the base that are paths -> the words that they take in a path's place."""


def absolute(sweep: SweepConfig) -> SweepConfig:
    """The sweep with absolute paths and addresses of sqlite files, since it may be resumed in another folder.

    In a Ray job, whose folder is a copy that goes with it, they stay as they are.
    """
    if "working_dir_files" in Path.cwd().parts:
        return sweep
    sweep = copy.deepcopy(sweep)
    presets = [preset for dimension in sweep.space.values() for preset in dimension.presets.values()]
    for path, words in PATHS.items():
        if (place := _of(flatten(sweep.base).get(path), words)) is not None:
            set_path(sweep.base, path, place)
        for preset in presets:
            if (place := _of(preset.get(path), words)) is not None:
                preset[path] = place
    return replace(
        sweep,
        store=sweep.store and _absolute(sweep.store),
        storage=sweep.storage and _absolute(sweep.storage),
        tracking_uri=sweep.tracking_uri and _absolute(sweep.tracking_uri),
    )


def tracked(sweep: SweepConfig) -> SweepConfig:
    """The sweep with the tracking store that MLFLOW_TRACKING_URI names, as all that uses MLflow has it, where it names none."""
    return replace(sweep, tracking_uri=sweep.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None)


def _of(value: Any, words: tuple[str, ...]) -> str | None:
    """A field's path, absolute; None: it has none."""
    return _absolute(value) if isinstance(value, str) and value not in words else None


def _absolute(place: str) -> str:
    """A path, or the address of a sqlite file, that does not depend on the working folder; other addresses as they are."""
    head, sign, file = place.partition(":///")
    if sign and head.startswith("sqlite") and not file.startswith(("/", ":memory:")):
        return f"{head}:///{Path(file).absolute()}"
    return place if "://" in place or place.startswith("databricks") else str(Path(place).absolute())
