"""What a sweep computes besides its trials: in the driver's process, or on a cluster as Ray tasks with a trial's resources.

The head of a cluster needs no CPU of its own for it, and neither the data set's files nor the cache.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paraphrase.core.config import Config, DataConfig, from_mapping, to_mapping
from paraphrase.core.data import load_dataset
from paraphrase.core.data.records import Record
from paraphrase.core.errors import InputError, Interrupted, first_line
from paraphrase.core.features.cache import FeatureCache, caches, load_cache
from paraphrase.core.features.obtain import built_cache, open_cache
from paraphrase.core.files import replace_file
from paraphrase.core.terminal.console import waiting
from paraphrase.sweep.patience import OutOfPatience
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.store.caches import fetch_cache, publish_cache
from paraphrase.sweep.store.objects import Store
from paraphrase.sweep.workers.cluster import enter, worker_settings


def open_by_key(key: str, store: str | None) -> FeatureCache:
    """A finished cache, without a look at what it was built from: from this node's folder, or brought here from the store.

    Raises:
        InputError: if it is not there.
    """
    return load_cache(fetch_cache(Store(store), key) if store else caches() / key)


def open_published(config: Config, store: str | None, progress: bool = False) -> FeatureCache:
    """The cache of a configuration, built on first use, and in the store afterwards where there is one."""
    cache = open_cache(config, progress)
    if store:
        publish_cache(Store(store), cache.folder)
    return cache


class Tasks:
    """What a sweep computes besides its trials.

    Args:
        sweep: its configuration.
        gpus: of a trial; None: computed in this process.
    """

    def __init__(self, sweep: SweepConfig, gpus: float | None = None) -> None:
        self.sweep, self.gpus = sweep, gpus
        self.meta: dict[str, Any] = {}
        """Description of the base configuration's cache, once that is there."""

    @functools.cached_property
    def _cache(self) -> FeatureCache:
        return open_by_key(self.meta["key"], self.sweep.store)

    def _run(self, task: Callable[..., Any], doing: str, *arguments: Any) -> Any:
        """Run a task on the cluster.

        Raises:
            InputError, Interrupted: that the task raised.
            OutOfPatience: if its worker died again and again.
        """
        import ray

        remote = ray.remote(num_cpus=self.sweep.resources.cpus_per_trial, num_gpus=self.gpus or 0, max_retries=3)(task)
        with waiting(f"{doing} on the cluster"):
            try:
                return ray.get(remote.remote(worker_settings(self.sweep), *arguments))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InputError | Interrupted):
                    raise type(error.cause)(str(error.cause)) from None
                raise
            except ray.exceptions.RayError as error:
                raise OutOfPatience(f"{doing} on the cluster failed four times: {first_line(error)}") from None

    def make_cache(self) -> None:
        """Have the base configuration's cache where all trials find it.

        One that this home has already is published from here; else it is built where the task runs, which needs the images.

        Raises:
            InputError: if it cannot be built.
        """
        config, store = self.sweep.base_config(), self.sweep.store
        if self.gpus is None or (store and built_cache(config)):
            self._cache = open_published(config, store, progress=True)
            self.meta = self._cache.meta
        else:
            self.meta = self._run(_build, "building the feature cache", to_mapping(config))

    def baseline(self) -> dict[str, dict[str, float]]:
        """The rows of the performer and the controls."""
        if self.gpus is None:
            from paraphrase.core.measure.evaluation import baseline

            with waiting("measuring the performer"):
                return baseline(self._cache)
        return self._run(_measure, "measuring the performer", self.meta["key"])

    def pages(self, config: Config, explainer: Path, stored: str | None, pages: Sequence[Path]) -> None:
        """Draw the filter page and the gallery of an explainer.

        Args:
            explainer: its folder in this home.
            stored: its key in the store.
            pages: the two files.
        """
        if self.gpus is None:
            _draw(config, self._cache, explainer, stored, self.sweep.store, pages)
            return
        drawn = self._run(_draw_there, "drawing filters", self.meta["key"], to_mapping(config), str(explainer), stored)
        for page, data in zip(pages, drawn, strict=True):
            replace_file(page, data)


def _build(settings: Mapping[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    enter(settings)
    return open_published(from_mapping(Config, config), settings["store"]).meta


def _measure(settings: Mapping[str, Any], key: str) -> dict[str, dict[str, float]]:
    from paraphrase.core.measure.evaluation import baseline

    enter(settings)
    return baseline(open_by_key(key, settings["store"]))


def _draw_there(settings: Mapping[str, Any], key: str, config: dict[str, Any], explainer: str, stored: str | None) -> list[bytes]:
    enter(settings)
    with tempfile.TemporaryDirectory() as folder:
        pages = [Path(folder) / "filters.png", Path(folder) / "gallery.html"]
        cache = open_by_key(key, settings["store"])
        _draw(from_mapping(Config, config), cache, Path(explainer), stored, settings["store"], pages)
        return [page.read_bytes() for page in pages]


_RECORDS: dict[str, list[Record]] = {}


def _test_records(config: DataConfig) -> list[Record]:
    """Of a data set's test images; looked at once a process, since all pages of a sweep are of them."""
    key = json.dumps(to_mapping(config), sort_keys=True)
    if key not in _RECORDS:
        _RECORDS[key] = load_dataset(config).test
    return _RECORDS[key]


def _draw(
    config: Config, cache: FeatureCache, explainer: Path, stored: str | None, store: str | None, pages: Sequence[Path]
) -> None:
    from paraphrase.core.pictures.filters_page import draw_filters, view_explainer
    from paraphrase.core.pictures.gallery import draw_gallery

    with tempfile.TemporaryDirectory() as folder:
        if store and stored:
            explainer = Path(folder) / "explainer"
            Store(store).get(stored, explainer)
        seen = view_explainer(explainer, cache), _test_records(config.data), cache
        for draw, page in zip((draw_filters, draw_gallery), pages, strict=True):
            draw(*seen, page)
