"""Checkpoints: tensors with JSON in one safetensors file, and explainers that load back in three lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from core.errors import InputError


def write_tensors(file: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and JSON to one safetensors file that is either whole or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, {"about": json.dumps(about)})
    os.replace(part, file)


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON of `write_tensors`.

    Raises:
        InputError: names the file that is missing or damaged.
    """
    try:
        with safe_open(file, "pt") as opened:
            about = json.loads((opened.metadata() or {})["about"])
            return {k: opened.get_tensor(k) for k in opened.keys()}, about  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise InputError(f"{file}: there is no such checkpoint") from None
    except Exception as error:  # the library raises its own, undocumented kinds
        raise InputError(f"{file}: is damaged ({error})") from None
