"""Performers on disk: safetensors plus a JSON of what they are; nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paraphrase.core.errors import InputError
from paraphrase.core.files import name_folder, regular
from paraphrase.core.performer.performer import Performer, build_network, name_of_last_layer, replace_last_layer
from paraphrase.core.performer.spec import Spec, is_factory

WEIGHTS, ABOUT = "performer.safetensors", "performer.json"


def performer_fingerprint(performer: Performer) -> str:
    """Hex sha256 of the weights and of how they are read."""
    read = dataclasses.asdict(performer.spec)
    for name, plain in (("arguments", {}), ("activation", ""), ("head", []), ("interpolation", "bilinear")):
        if read[name] == plain:  # as before there were any: what was cached and explained then is still what it is
            del read[name]
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
    name_folder(part, folder, ABOUT)


def load_performer(folder: Path) -> tuple[Performer, dict[str, Any]]:
    """A saved performer and its description.

    Raises:
        InputError: names the file that is missing or damaged.
    """
    try:
        about = json.loads(regular(folder / ABOUT).read_text(encoding="utf-8"))
        values: dict[str, Any] = about["spec"]
        spec = Spec(**values | {k: tuple(values[k]) for k in ("mean", "std")})
        classes = about.get("classes", len(about["categories"]))
        network = _unfilled(spec, classes)
        network.load_state_dict(load_file(regular(folder / WEIGHTS)), assign=True)
        performer = Performer(network, spec, about["categories"])
        if about.get("fingerprint") not in (None, performer_fingerprint(performer)):
            raise ValueError("its weights are not those that were saved")
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename or folder}: there is no such performer; `paraphrase performer fit` makes one"
        ) from None
    except InputError:
        raise
    except Exception as error:  # the readers raise their own, undocumented kinds
        raise InputError(f"{folder}: is damaged ({str(error).splitlines()[0]})") from None
    return performer, about


def _unfilled(spec: Spec, classes: int) -> nn.Module:
    """A network whose weights are to be replaced: where possible none are drawn, and the caller's generator rests."""
    asked = spec.arch, classes, None, spec.arguments, spec.head
    if not is_factory(spec.arch):  # which may load weights of its own
        try:
            with torch.device("meta"):
                return build_network(*asked)
        except RuntimeError:  # RegNet computes its widths with tensors
            pass
    with torch.random.fork_rng():
        return build_network(*asked)


WRAPPERS = ("state_dict", "model_state_dict", "model", "ema", "state_dict_ema", "net", "network")
"""Keys under which training scripts keep a network's state dict."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "ema_model.")
"""What wrappers (DataParallel, compile, Lightning) put before every name."""


def _read_state(file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """A network's tensors from a file as people have them: a state dict, or a checkpoint that holds one.

    Args:
        file: a .safetensors file, or one that torch.save wrote, of which nothing but tensors and plain data is read.

    Returns:
        Name -> tensor, and in words what was taken off: `took state_dict`.

    Raises:
        InputError: names the file and says why it cannot be read.
    """
    if not file.is_dir():
        regular(file)
    try:
        state: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(
            f"performer.weights: {file} does not exist; use fit, torchvision, a fitted performer's folder or a state dict"
        ) from None
    except IsADirectoryError:
        raise InputError(f"performer.weights: {file} is a folder without {ABOUT}, so no fitted performer's") from None
    except Exception as error:  # both readers raise their own kinds on a damaged file
        pickled = "it holds more than tensors; save the state dict: torch.save(network.state_dict(), FILE)"
        reason = pickled if "Weights only" in str(error) or "weights_only" in str(error) else str(error).splitlines()[0]
        raise InputError(f"performer.weights: {file} cannot be read as weights ({reason})") from None
    taken_off = []
    while isinstance(state, Mapping) and (key := next((k for k in WRAPPERS if isinstance(state.get(k), Mapping)), None)):
        state = state[key]
        taken_off.append(f"took {key}")
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"performer.weights: {file} is not a state dict (names -> tensors), nor a checkpoint that holds one")
    return dict(state), taken_off


def _without_prefixes(state: Iterable[str], own: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """The prefixes taken off with which most names are the network's: name in the file -> without them; and what was done."""
    best: tuple[dict[str, str], list[str]] = ({name: name for name in state}, [])
    for depth in range(1, 4):  # `model._orig_mod.module.` is the longest that is met
        for prefixes in itertools.product(PREFIXES, repeat=depth):
            # of a Lightning module, say, other entries (a loss's weights) have no such prefix
            names = {name: name.removeprefix(whole) for name in best[0] if name.startswith(whole := "".join(prefixes))}
            if sum(name in own for name in names.values()) > sum(name in own for name in best[0].values()):
                left = len(best[0]) - len(names)
                also = [f"without the {left} entries that lack it"] if left else []
                best = names, [f"without the prefix {whole}", *also]
    return best


def _fitted_names(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The state with prefixes taken off as long as that makes more of its names the network's; and what was taken off."""
    names, said = _without_prefixes(state, own)
    state = {own_name: state[name] for name, own_name in names.items()}
    auxiliary = [n for n in state if n not in own and n.lower().startswith(("aux", "n_averaged"))]
    if auxiliary:
        said.append(f"without {len(auxiliary)} entries of auxiliary heads")
    return {n: v for n, v in state.items() if n not in auxiliary}, said


def take_classes(file: Path, network: nn.Module) -> None:
    """Give a network a last layer for as many classes as that in a file of weights has, in place.

    Raises:
        InputError: names the file and says why it cannot be read.
    """
    state, _ = _read_state(file)
    name = name_of_last_layer(network, type(network).__name__)
    found = [v for k, v in state.items() if k == f"{name}.weight" or k.endswith(f".{name}.weight")]
    if found and found[0].dim() == 2:
        replace_last_layer(network, len(found[0]))


def load_state(file: Path, network: nn.Module) -> tuple[list[str], str]:
    """Load a file of weights into a network, but for last layers of another number of classes.

    Args:
        file: as `_read_state` takes it.
        network: changed in place.

    Returns:
        Names of the parameters that stay as they were: those of a last layer for another number of classes; and in words what
        was taken off.

    Raises:
        InputError: names the file and the keys that do not fit.
    """
    state, taken_off = _read_state(file)
    own = network.state_dict()
    state, said = _fitted_names(state, own)
    said = [*taken_off, *said]
    last = name_of_last_layer(network, type(network).__name__)
    kept = [k for k, v in state.items() if k.startswith(last + ".") and k in own and v.shape != own[k].shape]
    state = {k: v for k, v in state.items() if k not in kept}
    counters = {k for k in own if k.endswith("num_batches_tracked")}  # which old files lack
    wrong = [
        k for k in own if k not in kept and (k not in state or state[k].shape != own[k].shape) and k not in counters - set(state)
    ]
    wrong += [k for k in state if k not in own]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise InputError(f"performer.weights: {file} does not fit performer.arch: {', '.join(wrong[:5])}{more}")
    if any(v.dtype in (torch.float16, torch.bfloat16) for v in state.values()):
        said.append("half precision made single")  # copying into the network's own tensors does it
    network.load_state_dict(state, strict=False)
    return kept, ", ".join(said)
