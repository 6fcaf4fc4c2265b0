from __future__ import annotations

from pathlib import Path

import pytest

from paraphrase.core.config import Config, load_config
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.features.obtain import open_cache

TINY = [
    "data.train_images=48",
    "data.test_images=60",
    "performer.fit.epochs=1",
    "performer.fit.batch_size=16",
    "train.batch_size=16",
    "train.epochs=4",
    "train.device=cpu",
    "cache.dtype=float32",
]
"""The smallest real thing: a few drawn animals and a performer that saw them once."""


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def tiny(tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A configuration whose data, performer and cache are made once for the session."""
    monkeypatch.setenv("PARAPHRASE_HOME", str(tiny_home))
    return load_config(None, TINY)


@pytest.fixture
def tiny_cache(tiny: Config) -> FeatureCache:
    return open_cache(tiny, progress=False)
