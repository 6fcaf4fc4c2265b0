"""Where a performer's feature, pooling and targets lie: module paths, given or found."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from paraphrase.core.config import PerformerConfig
from paraphrase.core.data.records import INTERPOLATIONS
from paraphrase.core.errors import InputError
from paraphrase.core.performer.graph import INPUT, Graph, trace
from paraphrase.core.performer.layers import (
    activation_after,
    find_feature,
    find_layers,
    module_path,
    never_negative,
    pooling_between,
)
from paraphrase.core.performer.receptive_field import field_at
from paraphrase.core.pooling import REST, pooling_of

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Spec:
    """Everything that says how a network is read as a performer."""

    arch: str
    """Name of the architecture."""
    input_size: int
    """Side of the square crop in pixels."""
    feature: str
    """Module path of the feature layer."""
    pool: list[str]
    """Between feature layer and first target, the performer's last pooling: module paths, and words of `pooling_of`; or `rest`
    alone: all layers up to both targets, as they are."""
    targets: list[str]
    """Module paths of the two target layers."""
    decoder_init: list[str]
    """Module paths of the linear layers that make the targets; `identity` where the target is the pooled feature."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each colour channel, taken off."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each colour channel, divided by."""
    interpolation: str = "bilinear"
    """How crops are resized."""
    target_relu: list[bool] = field(default_factory=lambda: [True, True])
    """Whether a target cannot be negative, so that fc-dec ends in a ReLU."""
    activation: str = ""
    """Between the second target and the last layer; empty: none."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of the factory, where the architecture is one."""
    head: list[int] = field(default_factory=list)
    """Widths of fully connected layers in the place of the network's own last one."""

    @property
    def through_rest(self) -> bool:
        """Whether the explainer rebuilds the feature, and the performer's own layers make the targets of it."""
        return self.pool == [REST]


FIELDS = ("feature", "pool", "targets", "decoder_init")
"""Of `performer`, that say which layers are read."""
TIMM = "timm:"
"""What the names of timm's networks begin with."""
OWN_SIZES = {"small": 112}
"""Sides of the square crops of networks that are not torchvision's, where not 224 pixels."""


def is_factory(arch: str) -> bool:
    """Whether an architecture is `module:factory`, a function of the user's."""
    return ":" in arch and not arch.startswith(TIMM)


class Published(NamedTuple):
    """How the images were made on which an architecture's published weights were trained."""

    size: int = 224
    """Side of the square crop in pixels."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each colour channel."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each colour channel."""
    interpolation: str = "bilinear"
    """How they were resized."""


def published(arch: str) -> Published:
    """What torchvision or timm know of an architecture's weights; ImageNet's usual values for all others."""
    if arch.startswith(TIMM):
        settings = timm_of(arch).get_pretrained_cfg(arch.removeprefix(TIMM))
        if settings is None:
            return Published()
        resized = settings.interpolation if settings.interpolation in INTERPOLATIONS else "bilinear"
        return Published(settings.input_size[-1], tuple(settings.mean), tuple(settings.std), resized)
    if arch in OWN_SIZES or is_factory(arch):
        return Published(OWN_SIZES.get(arch, 224))
    import torchvision

    if arch not in torchvision.models.list_models(torchvision.models):
        return Published()
    transforms = torchvision.models.get_model_weights(arch).DEFAULT.transforms()
    crop = transforms.crop_size
    size = int(crop[0] if isinstance(crop, list | tuple) else crop)
    return Published(size, tuple(map(float, transforms.mean)), tuple(map(float, transforms.std)), transforms.interpolation.value)


def timm_of(arch: str) -> Any:
    """The package timm, an extra.

    Raises:
        InputError: if it is not installed, or has no such network.
    """
    try:
        import timm
    except ModuleNotFoundError:
        raise InputError(f"performer.arch: {arch} needs timm: pip install 'paraphrase[timm]'") from None
    name = arch.removeprefix(TIMM)
    if not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), 3))
        raise InputError(f"performer.arch: timm has no {name}" + (f"; nearest: {near}" if near else ""))
    return timm


def resolve_spec(config: PerformerConfig, network: nn.Module) -> Spec:
    """How a network is read: as the configuration says, and where it says nothing, as a run of the network tells.

    Raises:
        InputError: if the network has no such module, or its layers cannot be found and are not given.
    """
    arch, known = config.arch, published(config.arch)
    size = config.input_size or known.size
    given: dict[str, Any] = {name: value for name in FIELDS if (value := getattr(config, name)) is not None}
    _check_paths(given, network, arch)
    graph = trace(network, size)
    values = _complete(given, graph, arch)
    places = [graph.at(path) for path in values["targets"]]
    for i, (path, place) in enumerate(zip(values["targets"], places, strict=True)):
        if place is None:
            raise InputError(f"performer.targets.{i}: {path} gives no tensor when {arch} classifies")
    made = [place for place in places if place is not None]
    return Spec(
        arch=arch,
        input_size=size,
        target_relu=[never_negative(graph, place) for place in made],
        activation=activation_after(graph, made[1]),
        mean=known.mean if config.mean is None else tuple(config.mean),
        std=known.std if config.std is None else tuple(config.std),
        interpolation=config.interpolation or known.interpolation,
        arguments=config.arguments,
        head=config.head,
        **values,
    )


def _complete(given: dict[str, Any], graph: Graph, arch: str) -> dict[str, Any]:
    """The fields that are not given, found."""
    if "targets" in given and "decoder_init" in given:
        values = {"feature": given.get("feature") or find_feature(graph, arch)} | given
    else:
        values = vars(find_layers(graph, arch)) | given
    if "pool" not in given and ("feature" in given or "pool" not in values):
        place = graph.at(values["feature"])
        if place is None:
            raise InputError(f"performer.feature: {values['feature']} gives no tensor when {arch} classifies")
        if len(shape := graph.nodes[place].shape) != 4:
            raise InputError(f"performer.feature: {values['feature']} gives {shape[1:]}, not maps C x n x n")
        values["pool"] = pooling_between(graph, place, arch)
    return {name: values[name] for name in FIELDS}


def _check_paths(given: dict[str, Any], network: nn.Module, arch: str) -> None:
    """Every given path names a module of the network."""
    modules = dict(network.named_modules())
    for name, value in given.items():
        paths = {f"performer.{name}": value} if isinstance(value, str) else {}
        paths = paths or {f"performer.{name}.{i}": path for i, path in enumerate(value)}
        for where, path in paths.items():
            word = path == "identity" if name == "decoder_init" else name == "pool" and (path == REST or pooling_of(path))
            if not word and path.removesuffix(INPUT) not in modules:
                near = ", ".join(difflib.get_close_matches(path, modules, 3)) or ", ".join(list(modules)[1:4])
                raise InputError(f"{where}: {arch} has no module {path}; nearest: {near}")
    for name in ("targets", "decoder_init"):
        if name in given and len(given[name]) != 2:
            raise InputError(f"performer.{name}: expected two module paths, got {len(given[name])}")
    if REST in given.get("pool", []) and len(given["pool"]) > 1:
        raise InputError(f"performer.pool: {REST} is all that lies between the feature and the targets, so it stands alone")


def candidates(config: PerformerConfig, network: nn.Module) -> list[list[str]]:
    """The last layer of each size of maps on the way to the answer: path, C x n x n, stride and field in pixels.

    A layer whose field is not known says so in place of it.
    """
    graph = trace(network, config.input_size or published(config.arch).size)
    last: dict[tuple[int, ...], tuple[str, int]] = {}
    for number in sorted(graph.before(graph.answer)):
        shape, name = graph.nodes[number].shape, module_path(graph, number)
        if name and len(shape) == 4 and min(shape[2:]) > 1 and graph.nodes[number].name != "pad":
            last[shape[2:]] = name, number
    rows = []
    for name, number in sorted(last.values(), key=lambda found: found[1]):
        shape = graph.nodes[number].shape
        try:
            field = field_at(graph, number, name)
            about = [f"{field.stride:g}", f"{field.size:g}"]
        except InputError as error:
            about = ["-", str(error).partition(": ")[2]]
        rows.append([name, " x ".join(map(str, shape[1:])), *about])
    return rows
