from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cub_tree import CubTree
from PIL import Image

PEOPLE_AND_BIRDS = Path(__file__).parents[3].parent / "shared" / "people_and_birds"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))


@pytest.fixture
def cub(tmp_path: Path) -> CubTree:
    return CubTree(tmp_path / "pets")


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes images of 12 x 8 at the given paths below a folder and returns it."""

    def write(*paths: str) -> Path:
        rng = np.random.default_rng(len(paths))
        for path in paths:
            file = tmp_path / "pictures" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(file)
        return tmp_path / "pictures"

    return write


@pytest.fixture
def people_and_birds() -> Path:
    folder = Path(os.environ.get("PARAPHRASE_PEOPLE_AND_BIRDS", PEOPLE_AND_BIRDS))
    if not folder.is_dir():
        pytest.skip("shared/people_and_birds is not here")
    return folder
