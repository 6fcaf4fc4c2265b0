"""What a sweep computes besides its trials: in the driver's process, or on a cluster as Ray tasks with a trial's resources.

The head of a cluster needs no CPU of its own for it, and neither the data set's files nor the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paraphrase.core.config import Config, from_mapping, to_mapping
from paraphrase.core.errors import InputError, Interrupted
from paraphrase.core.features.cache import FeatureCache, caches, load_cache, read_meta
from paraphrase.core.features.obtain import built_cache, open_cache
from paraphrase.core.terminal.console import waiting
from paraphrase.sweep.patience import OutOfPatience, first_line
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


class Tasks:
    """What a sweep computes besides its trials.

    Args:
        sweep: its configuration.
        gpus: of a trial; None: computed in this process.
    """

    def __init__(self, sweep: SweepConfig, gpus: float | None = None) -> None:
        self.sweep, self.gpus = sweep, gpus
        self._cache: FeatureCache | None = None

    def _run(self, task: Callable[..., Any], doing: str, *arguments: Any) -> Any:
        """Run a task on the cluster.

        Raises:
            InputError, Interrupted: that the task raised.
            OutOfPatience: if its worker died again and again.
        """
        import ray

        settings = worker_settings(self.sweep.resources, self.sweep.store)
        remote = ray.remote(num_cpus=self.sweep.resources.cpus_per_trial, num_gpus=self.gpus or 0, max_retries=3)(task)
        with waiting(f"{doing} on the cluster"):
            try:
                return ray.get(remote.remote(settings, *arguments))
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, InputError | Interrupted):
                    raise type(error.cause)(str(error.cause)) from None
                raise
            except ray.exceptions.RayError as error:
                raise OutOfPatience(f"{doing} on the cluster failed four times: {first_line(error)}") from None

    def cache(self) -> dict[str, Any]:
        """Description of the base configuration's cache, which is there afterwards for all trials.

        One that this home has already is published from here; else it is built where the task runs, which needs the images.

        Raises:
            InputError: if it cannot be built.
        """
        config = self.sweep.base_config()
        if self.gpus is None:
            self._cache = open_cache(config)
            if self.sweep.store:
                publish_cache(Store(self.sweep.store), self._cache.folder)
            return self._cache.meta
        if self.sweep.store and (folder := built_cache(config)):
            with waiting("publishing the feature cache"):
                publish_cache(Store(self.sweep.store), folder)
            return read_meta(folder)
        return self._run(_build, "building the feature cache", to_mapping(config), self.sweep.store)

    def baseline(self, key: str) -> dict[str, dict[str, float]]:
        """The rows of the performer and the controls."""
        if self.gpus is None:
            from paraphrase.core.measure.evaluation import baseline

            with waiting("measuring the performer"):
                return baseline(self._opened(key))
        return self._run(_measure, "measuring the performer", key, self.sweep.store)

    def pages(self, key: str, config: Config, explainer: Path, stored: str | None, pages: Sequence[Path]) -> None:
        """Draw the filter page and the gallery of an explainer.

        Args:
            explainer: its folder in this home.
            stored: its key in the store.
            pages: the two files.
        """
        if self.gpus is None:
            _draw(config, self._opened(key), explainer, pages)
            return
        drawn = self._run(_draw_there, "drawing filters", key, self.sweep.store, to_mapping(config), str(explainer), stored)
        for page, data in zip(pages, drawn, strict=True):
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_bytes(data)

    def _opened(self, key: str) -> FeatureCache:
        if self._cache is None or self._cache.meta["key"] != key:
            self._cache = open_by_key(key, self.sweep.store)
        return self._cache


def _build(settings: Mapping[str, Any], config: dict[str, Any], store: str | None) -> dict[str, Any]:
    enter(settings)
    cache = open_cache(from_mapping(Config, config), progress=False)
    if store:
        publish_cache(Store(store), cache.folder)
    return cache.meta


def _measure(settings: Mapping[str, Any], key: str, store: str | None) -> dict[str, dict[str, float]]:
    from paraphrase.core.measure.evaluation import baseline

    enter(settings)
    return baseline(open_by_key(key, store))


def _draw_there(
    settings: Mapping[str, Any], key: str, store: str | None, config: dict[str, Any], explainer: str, stored: str | None
) -> list[bytes]:
    import tempfile

    enter(settings)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(explainer)
        if store and stored:
            place = Path(folder) / "explainer"
            Store(store).get(stored, place)
        pages = [Path(folder) / "filters.png", Path(folder) / "gallery.html"]
        _draw(from_mapping(Config, config), open_by_key(key, store), place, pages)
        return [page.read_bytes() for page in pages]


def _draw(config: Config, cache: FeatureCache, explainer: Path, pages: Sequence[Path]) -> None:
    from paraphrase.core.pictures.filters_page import draw_filters
    from paraphrase.core.pictures.gallery import draw_gallery

    for draw, page in zip((draw_filters, draw_gallery), pages, strict=True):
        draw(config, cache, explainer, page)
