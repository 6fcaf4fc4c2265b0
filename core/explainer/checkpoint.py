"""Checkpoints: tensors with JSON in one safetensors file, and explainers that load back in three lines."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from paraphrase.core.config import ExplainerConfig, from_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.explainer.network import Explainer, PerformerShape
from paraphrase.core.files import regular, write_atomically
from paraphrase.core.pooling import build_module, describe_module
from paraphrase.core.rest import Rest

EXPLAINER, ABOUT = "explainer.safetensors", "explainer.json"
REST = "rest."
"""What the names of the weights of the performer's own layers begin with."""


def write_tensors(file: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and JSON to one safetensors file that is either whole or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    plain, said = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, json.dumps(about)
    save_file(plain, part, {"about": said, "crc32": str(_checksum(plain, said))})
    os.replace(part, file)


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and JSON of `write_tensors`.

    Raises:
        InputError: names the file that is missing or damaged.
    """
    regular(file)
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118 (not a mapping)
            if metadata.get("crc32") not in (None, str(_checksum(tensors, metadata["about"]))):  # None: of an older version
                raise ValueError("its checksum is another one")
            return tensors, json.loads(metadata["about"])
    except FileNotFoundError:
        raise InputError(f"{file}: there is no such checkpoint") from None
    except Exception as error:  # the library raises its own, undocumented kinds
        raise InputError(f"{file}: is damaged ({error})") from None


def _checksum(tensors: dict[str, Tensor], about: str) -> int:
    """CRC-32 of the (contiguous) tensors, in the order of their names, and of the JSON beside them."""
    checksum = zlib.crc32(about.encode())
    for name in sorted(tensors):
        values = (ctypes.c_char * tensors[name].nbytes).from_address(tensors[name].data_ptr())  # of any dtype, without a copy
        checksum = zlib.crc32(values, zlib.crc32(name.encode(), checksum))
    return checksum


def save_explainer(explainer: Explainer, folder: Path, about: dict[str, Any]) -> None:
    """Write an explainer that `load_explainer` loads back, and a JSON of what it is.

    Args:
        explainer: of R replicates.
        folder: for `explainer.safetensors` and `explainer.json`; made if it is not there.
        about: what else the JSON should say: configuration, metrics, data.
    """
    shape = explainer.shape
    network = {
        "explainer": dataclasses.asdict(explainer.config),
        "replicates": explainer.replicates,
        "pool": describe_module(explainer.pool),
        "rest": shape.rest and shape.rest.description,
        "shape": {k: getattr(shape, k) for k in ("channels", "pooled", "target_sizes", "target_relu")},
    }
    rest = {} if shape.rest is None else {f"{REST}{k}": v for k, v in shape.rest.weights().items()}
    write_tensors(folder / EXPLAINER, explainer.state_dict() | rest, network)
    write_atomically(folder / ABOUT, json.dumps(network | about, indent=2) + "\n")


def load_explainer(folder: str | Path) -> Explainer:
    """A saved explainer in evaluation mode, without gradients.

    Raises:
        InputError: names the file that is missing or damaged.
    """
    tensors, about = read_tensors(Path(folder) / EXPLAINER)
    config = from_mapping(ExplainerConfig, about["explainer"])
    sizes: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in about["shape"].items()}
    own = {name.removeprefix(REST): tensors.pop(name) for name in list(tensors) if name.startswith(REST)}
    rest = Rest(about["rest"], own) if about.get("rest") else None
    peaks = torch.ones(sizes["channels"])
    shape = PerformerShape(**sizes, channel_peaks=peaks, decoder_layers=[None, None], rest=rest)
    explainer = Explainer(config, shape, build_module(about["pool"]), list(range(about["replicates"])))
    explainer.load_state_dict(tensors)
    return explainer.eval().requires_grad_(False)
