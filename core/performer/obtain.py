"""The performer of a configuration: found, fitted once, or taken as it is, and kept."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torchvision

from paraphrase.core.config import Config, to_mapping
from paraphrase.core.data import Dataset
from paraphrase.core.device import choose_device
from paraphrase.core.errors import InputError
from paraphrase.core.foreign import source_of
from paraphrase.core.home import home
from paraphrase.core.performer.fit import accuracy_of, fit, load_crops
from paraphrase.core.performer.performer import OWN, Performer, build_network, name_of_last_layer
from paraphrase.core.performer.spec import TIMM, is_factory, published, resolve_spec
from paraphrase.core.performer.weights import ABOUT, load_performer, load_state, save_performer, take_classes

WORDS = ("fit", "torchvision", "timm")
"""Of `performer.weights`; anything else is a file or folder."""


def fit_folder(config: Config, dataset: Dataset) -> Path:
    """Where the performer that this configuration fits on this data is kept.

    What the layers are read for (feature, targets, ...) does not change the fit, so it is not part of the name; the content
    of a file of weights is.
    """
    performer = to_mapping(config.performer)
    parts = {k: performer[k] for k in ("arch", "weights", "input_size", "fit")} | {"dataset": dataset.fingerprint}
    parts |= {k: performer[k] for k in ("mean", "std") if performer[k] is not None}
    parts |= {k: performer[k] for k in ("head", "head_dropout", "classes", "interpolation") if performer[k]}
    if is_factory(config.performer.arch):
        parts |= {"arguments": performer["arguments"], "source": source_of(config.performer.arch, "performer.arch")}
    parts["input_size"] = config.performer.input_size or published(config.performer.arch).size
    file = Path(config.performer.weights)
    if file.is_file():
        parts["weights"] = hashlib.sha256(file.read_bytes()).hexdigest()
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    return home() / "performers" / f"{config.performer.arch.replace(':', '.')}-{dataset.name}-{key}"


def obtain_performer(config: Config, dataset: Dataset, progress: bool = True) -> tuple[Performer, dict[str, Any]]:
    """The performer of a configuration: loaded, or fitted once and kept.

    Returns:
        The performer and its description, with `folder` and `accuracy`.

    Raises:
        InputError: if the weights are missing or do not fit the data.
    """
    weights = config.performer.weights
    given = Path(weights)
    if weights not in WORDS and (given / ABOUT).exists():
        return _read(given, config, dataset.categories)
    _refuse_random(config)
    folder = fit_folder(config, dataset)
    if (folder / ABOUT).exists():
        return _read(folder, config, dataset.categories)
    ready = _ready_made(config)
    performer, frozen = _not_fitted(config, dataset.categories, ready)
    if not config.performer.fit.epochs:
        about = _as_it_is(performer, dataset, config, getattr(ready, "meta", {}).get("categories"))
    else:
        about = fit(performer, dataset, config, progress, frozen)
    about |= {"dataset": dataset.name, "dataset_fingerprint": dataset.fingerprint, "config": to_mapping(config.performer)}
    save_performer(performer.cpu(), folder, about)
    return _read(folder, config, dataset.categories)


def check_performer(config: Config, categories: list[str]) -> Performer:
    """The performer of a configuration, built, its weights read and its layers found, but nothing fitted.

    Weights that torchvision or timm would fetch are not fetched.

    Raises:
        InputError: what `obtain_performer` would say.
    """
    given = Path(config.performer.weights)
    if config.performer.weights not in WORDS and (given / ABOUT).exists():
        return _read(given, config, categories)[0]
    _refuse_random(config)
    return _not_fitted(config, categories, None)[0]


def _refuse_random(config: Config) -> None:
    if not config.performer.fit.epochs and config.performer.weights == "fit" and not is_factory(config.performer.arch):
        raise InputError("performer.fit.epochs: 0 leaves the weights at random; give performer.weights")


def _not_fitted(config: Config, categories: list[str], ready: object | None) -> tuple[Performer, set[str]]:
    """The network before its fit, with the weights that it starts from, and the names of its frozen parameters.

    Args:
        ready: weights of torchvision or timm.
    """
    weights, as_it_is = config.performer.weights, not config.performer.fit.epochs
    given = Path(weights)
    with torch.random.fork_rng():
        torch.manual_seed(config.performer.fit.seed)
        asked = config.performer
        classes = len(categories)
        network = build_network(asked.arch, None if as_it_is else classes, ready, asked.arguments, asked.head, asked.head_dropout)
        if as_it_is and weights not in WORDS:
            take_classes(given, network)
    if weights not in WORDS:
        fresh, taken_off = load_state(given, network)
        if taken_off:
            print(f"{given}: {taken_off}", file=sys.stderr)
        if fresh:
            print(f"{given}: has another number of classes, so {', '.join(fresh)} start at random", file=sys.stderr)
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    if len(frozen) == len(list(network.parameters())) and not as_it_is:
        raise InputError(f"performer.arch: all of {config.performer.arch} is frozen; use it as it is, performer.fit.epochs: 0")
    performer = Performer(network, resolve_spec(config.performer, network), categories)
    performer.check_layers()
    performer.receptive_field()  # before the fit: a layer without one could not be explained
    return performer, frozen


def _as_it_is(performer: Performer, dataset: Dataset, config: Config, names: list[str] | None) -> dict[str, Any]:
    """The description of a network that is not trained: its classes, which of them are the data's categories, its accuracy.

    Args:
        performer: the network.
        dataset: whose test images are classified.
        config: `performer.classes` and `train.device`.
        names: of the network's classes, where its weights name them.
    """
    last = performer.network.get_submodule(name_of_last_layer(performer.network, performer.spec.arch))
    classes = len(last.weight)  # type: ignore[arg-type]  # of a linear layer
    about: dict[str, Any] = {"classes": classes, "class_names": names}
    about["class_of"] = class_of = _classes_of(config, dataset.categories, classes, names)
    if class_of is None:
        asked = "name them in performer.classes to know its accuracy"
        print(f"performer: which of its {classes} classes are the data's categories is not known; {asked}", file=sys.stderr)
        return about | {"accuracy": None}
    performer.to(choose_device(config.train.device))
    test = load_crops(dataset.test, performer.spec)[0]
    truth = torch.tensor([class_of[r.label] for r in dataset.test])
    return about | {"accuracy": accuracy_of(performer, test, truth)}


def _classes_of(config: Config, categories: list[str], classes: int, names: list[str] | None) -> list[int] | None:
    """The network's class of each category, by number; None: not known.

    Raises:
        InputError: if `performer.classes` does not fit.
    """
    given: list[Any] | None = config.performer.classes
    if given is None:
        known = {name.lower(): k for k, name in enumerate(names or [])}
        if all(category.lower() in known for category in categories):
            return [known[category.lower()] for category in categories]
        return list(range(classes)) if classes == len(categories) and not names else None
    if len(given) != len(categories):
        raise InputError(f"performer.classes: expected one for each of the {len(categories)} categories, got {len(given)}")
    found = []
    for i, value in enumerate(given):
        if isinstance(value, str):
            if value not in (names or []):
                there = "; nearest: " + ", ".join(near) if (near := difflib.get_close_matches(value, names or [])) else ""
                raise InputError(f"performer.classes.{i}: the network names no class {value!r}{there}; give its number")
            value = (names or []).index(value)
        if value >= classes:
            raise InputError(f"performer.classes.{i}: the network has {classes} classes, there is no number {value}")
        found.append(value)
    return found


def _read(folder: Path, config: Config, categories: list[str]) -> tuple[Performer, dict[str, Any]]:
    """A performer that was fitted before, read at the layers that the configuration names."""
    saved, about = load_performer(folder)
    if "accuracy" not in about:
        raise InputError(f"{folder / ABOUT}: is damaged (it has no accuracy)")
    wanted = config.performer
    if saved.categories != categories:
        raise InputError(f"performer.weights: {folder} knows {saved.categories}, the data {categories}")
    if wanted.arch != saved.spec.arch:
        raise InputError(f"performer.arch: {wanted.arch}, but {folder} holds {saved.spec.arch}")
    size = wanted.input_size or saved.spec.input_size
    if size != saved.spec.input_size:
        raise InputError(f"performer.input_size: {size}, but {folder} was fitted at {saved.spec.input_size}")
    spec = resolve_spec(dataclasses.replace(wanted, input_size=size), saved.network)
    performer = Performer(saved.network, spec, saved.categories)
    performer.check_layers()
    return performer, about | {"folder": str(folder)}


def _ready_made(config: Config) -> object | None:
    """The weights of torchvision or timm, fetched only because the configuration asks for them."""
    asked, arch = config.performer.weights, config.performer.arch
    if asked == "timm":
        if not arch.startswith(TIMM):
            raise InputError(f"performer.weights: timm has none for {arch}; performer.arch would be {TIMM}NAME")
        return TIMM
    if asked != "torchvision":
        return None
    if arch in OWN or ":" in arch:
        raise InputError(f"performer.weights: torchvision has none for {arch}; use fit or a file")
    weights = torchvision.models.get_model_weights(arch).DEFAULT
    try:
        weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError):  # no network; or what came is not what was asked for
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(f"performer.weights: cannot fetch {weights.url}; put that file into {cache}") from None
    return weights
