from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.config import DataConfig
from core.data import crop, load_dataset
from core.errors import InputError
from tests_data_types import CubTree  # type: ignore[import-not-found]


def config(cub: CubTree, **fields: object) -> DataConfig:
    return DataConfig(source="cub", path=str(cub.folder), **fields)  # type: ignore[arg-type]
