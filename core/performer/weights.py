"""Performers on disk: safetensors plus a JSON of what they are; nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paraphrase.core.errors import InputError
from paraphrase.core.performer.performer import Performer, build_network, name_of_last_layer
from paraphrase.core.performer.spec import Spec

WEIGHTS, ABOUT = "performer.safetensors", "performer.json"


def performer_fingerprint(performer: Performer) -> str:
    """Hex sha256 of the weights and of how they are read."""
    read = dataclasses.asdict(performer.spec)
    if not read["arguments"]:  # as before there were any: what was cached and explained then is still what it is
        del read["arguments"]
    digest = hashlib.sha256(json.dumps(read, sort_keys=True).encode())
    for name, value in sorted(performer.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_performer(performer: Performer, folder: Path, about: dict[str, Any]) -> None:
    """Write a performer to `folder`, which appears in one rename; an existing one is kept."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    save_file({k: v.contiguous() for k, v in performer.network.state_dict().items()}, part / WEIGHTS)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    description = {
        "spec": dataclasses.asdict(performer.spec),
        "categories": performer.categories,
        "fingerprint": performer_fingerprint(performer),
        "versions": versions,
        **about,
    }
    (part / ABOUT).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    try:
        os.rename(part, folder)
    except OSError:  # another process fitted the same one meanwhile
        shutil.rmtree(part)


def load_performer(folder: Path) -> tuple[Performer, dict[str, Any]]:
    """A saved performer and its description.

    Raises:
        InputError: names the file that is missing or damaged.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        values: dict[str, Any] = about["spec"]
        spec = Spec(**values | {k: tuple(values[k]) for k in ("mean", "std")})
        # no weights are drawn, only to be replaced: faster, and the caller's generator rests; a factory may load its own
        with torch.random.fork_rng() if ":" in spec.arch else torch.device("meta"):
            network = build_network(spec.arch, len(about["categories"]), arguments=spec.arguments)
        network.load_state_dict(load_file(folder / WEIGHTS), assign=True)
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename or folder}: there is no such performer; `paraphrase performer fit` makes one"
        ) from None
    except InputError:
        raise
    except Exception as error:  # the readers raise their own, undocumented kinds
        raise InputError(f"{folder}: is damaged ({str(error).splitlines()[0]})") from None
    return Performer(network, spec, about["categories"]), about


def load_state(file: Path, network: nn.Module) -> list[str]:
    """Load a state dict (.pth or .safetensors) into a network, but for last layers of another number of classes.

    Args:
        file: a .safetensors file, or one that torch.save wrote, of which nothing but tensors is read.
        network: changed in place.

    Returns:
        Names of the parameters that stay as they were: those of a last layer for another number of classes.

    Raises:
        InputError: names the file and the keys that do not fit.
    """
    try:
        state: dict[str, Tensor] = (
            load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
        )
    except FileNotFoundError:
        raise InputError(
            f"performer.weights: {file} does not exist; use fit, torchvision, a fitted performer's folder or a state dict"
        ) from None
    except IsADirectoryError:
        raise InputError(f"performer.weights: {file} is a folder without {ABOUT}, so no fitted performer's") from None
    except Exception as error:  # both readers raise their own kinds on a damaged file
        reason = "it holds more than tensors" if "Weights only" in str(error) else str(error).splitlines()[0]
        raise InputError(f"performer.weights: {file} cannot be read as weights ({reason})") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"performer.weights: {file} is not a state dict (names -> tensors)")
    own = network.state_dict()
    last = name_of_last_layer(network, type(network).__name__)
    kept = [k for k, v in state.items() if k.startswith(last + ".") and k in own and v.shape != own[k].shape]
    state = {k: v for k, v in state.items() if k not in kept}
    wrong = [k for k in own if k not in kept and (k not in state or state[k].shape != own[k].shape)]
    wrong += [k for k in state if k not in own]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise InputError(f"performer.weights: {file} does not fit performer.arch: {', '.join(wrong[:5])}{more}")
    network.load_state_dict(state, strict=False)
    return kept
