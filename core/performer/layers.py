"""Finds the layers that make a classifier a performer, from one run of it: where its maps end, what pools them, its last
fully connected layers.

Modules have their paths as names; `fc:input` is what the module `fc` takes, for a result that is no module's output. What a
network pools by functions (`x.mean([2, 3])`) is written in words: see `pooling_of`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from paraphrase.core.errors import InputError
from paraphrase.core.performer.graph import INPUT, NON_NEGATIVE, Graph, Node
from paraphrase.core.pooling import ACTIVATIONS, REST

POOLINGS = {"max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"}
SHAPES = {"flatten", "permute", "view", "reshape", "dropout", "dropout2d", "contiguous", "squeeze", "__getitem__", "clone"}
"""Functions that leave all values as they are, in evaluation mode."""
AVERAGES = {"mean", "adaptive_avg_pool2d", "avg_pool2d"}
DESCRIBED = ("MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "LayerNorm", "LayerNorm2d")
"""Modules that a cache keeps as plain data."""


@dataclass(frozen=True)
class Layers:
    """What of a network is read; the fields are those of `performer`."""

    feature: str
    """The last maps before their places are lost, after their activation where that is a module."""
    pool: list[str]
    """What leads from them to the first fully connected layer."""
    targets: list[str]
    """Two layers that the explanation rebuilds."""
    decoder_init: list[str]
    """The linear layers that make them; `identity` for the pooled feature."""


def find_feature(graph: Graph, arch: str) -> str:
    """The name of the last maps before their places are lost.

    Raises:
        InputError: if there are none, or no hook sees them.
    """
    return name_of(graph, _pooling_before(graph, last_lost(graph, arch), arch)[1], arch, "performer.feature")


def find_layers(graph: Graph, arch: str) -> Layers:
    """The layers of a network, from its run.

    Args:
        graph: of the run.
        arch: its name, for messages.

    Raises:
        InputError: says what of the network is in the way, and which field says it by hand.
    """
    lost = last_lost(graph, arch)
    if not max(graph.nodes[lost].inputs):
        raise InputError(f"performer.arch: {arch} has no maps but the image itself, so it is no CNN that can be explained")
    pool, start = _pooling_before(graph, lost, arch)
    chain = _chain(graph, lost, arch)
    linear = [i for i in chain if is_linear(graph, graph.nodes[i])]
    if not linear:
        raise InputError(
            f"performer.arch: {arch} has no linear layer after its last pooling; choose a classifier that ends in one"
        )
    names = [_module_of(graph, i) for i in linear]
    between = [_activation(graph, chain[chain.index(a) + 1 : chain.index(b)], arch) for a, b in itertools.pairwise(linear)]
    pooled = _pooled(graph, chain, linear[0], lost)
    feature = name_of(graph, start, arch, "performer.feature")
    if len(linear) == 1:
        return Layers(feature, pool, [pooled, names[0]], ["identity", names[0]])
    if len(linear) == 2:
        activation, place = between[0]
        target = place if activation in NON_NEGATIVE else linear[0]  # fc-dec can end in a ReLU, and in nothing else
        return Layers(feature, pool, [pooled, name_of(graph, target, arch, "performer.targets.1")], ["identity", names[0]])
    if len(linear) == 3 and all(activation in NON_NEGATIVE for activation, _ in between):
        targets = [name_of(graph, place, arch, f"performer.targets.{k}") for k, (_, place) in enumerate(between)]
        return Layers(feature, pool, targets, names[:2])
    raise InputError(
        f"performer.targets: {arch} ends in {len(linear)} linear layers ({', '.join(names)}), not in two with a ReLU and the "
        "last one; name the two targets and their performer.decoder_init"
    )


def last_lost(graph: Graph, arch: str) -> int:
    """The last operation on the way to the logits that takes maps and gives something without places.

    Raises:
        InputError: if there is none.
    """
    for i in sorted(graph.before(graph.answer), reverse=True):
        node = graph.nodes[i]
        if not _has_places(node.shape) and any(_has_places(graph.nodes[j].shape) for j in node.inputs):
            return i
    raise InputError(f"performer.arch: {arch} has no maps C x n x n before its answer, so it is no CNN that can be explained")


def _has_places(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and min(shape[2:]) > 1


def _pooling_before(graph: Graph, lost: int, arch: str, feature: int | None = None) -> tuple[list[str], int]:
    """The pooling that ends before the first linear layer, and the operation whose maps it takes.

    Args:
        graph: of the run.
        lost: the operation in which places are lost.
        arch: the network's name, for messages.
        feature: the operation whose maps the pooling takes; None: the last that is no pooling and that a hook sees.
    """
    pool = [] if is_linear(graph, graph.nodes[lost]) else _word(graph, lost, arch)
    for i in _chain(graph, lost, arch):
        if is_linear(graph, graph.nodes[i]):
            break
        pool += _word(graph, i, arch)
    at = _maps_of(graph, lost)
    while at != feature:
        node = graph.nodes[at]
        activates = node.name.rstrip("_") in ACTIVATIONS
        if feature is None:
            if node.name not in POOLINGS | {"dropout", "dropout2d"} and not (activates and _named(graph, at) is None):
                break
        elif node.name not in POOLINGS | SHAPES and not activates:
            raise _LayersBetweenError
        pool, at = _word(graph, at, arch) + pool, _maps_of(graph, at)
    return pool, at


def _maps_of(graph: Graph, number: int) -> int:
    """The operation whose maps one takes."""
    return next(i for i in graph.nodes[number].inputs if _has_places(graph.nodes[i].shape))


class _LayersBetweenError(Exception):
    """More than a pooling lies between a feature that is named by hand and the first linear layer."""


def pooling_between(graph: Graph, feature: int, arch: str) -> list[str]:
    """What leads from maps that are named by hand to the targets: a pooling, or all layers as they are."""
    try:
        return _pooling_before(graph, last_lost(graph, arch), arch, feature)[0]
    except (_LayersBetweenError, InputError):
        return [REST]


def _word(graph: Graph, number: int, arch: str) -> list[str]:
    """How `performer.pool` names an operation: a module's path or a word; empty where it changes no value."""
    node = graph.nodes[number]
    name = node.name.rstrip("_") if node.name != "__getitem__" else node.name
    if name in SHAPES:
        return []
    if node.kind in DESCRIBED or name == "layer_norm":
        return [node.modules[-1]]
    if name in ACTIVATIONS:
        return [name]
    if not _has_places(node.shape) and name in AVERAGES:
        return ["mean"]
    if not _has_places(node.shape) and name in ("amax", "adaptive_max_pool2d"):
        return ["max"]
    if name in ("max_pool2d", "avg_pool2d"):
        return [_window(node)]
    if name == "conv2d":
        small = f"the maps of {arch} are 1 x 1 already at {node.where}"
        raise InputError(f"performer.input_size: {small}; use a larger one, or name performer.feature")
    raise InputError(f"performer.pool: {arch} does {name} in {node.where} after its last maps; name the pooling")


def _window(node: Node) -> str:
    """A pooling by function as a word: `max:3:2:1` is kernel 3, stride 2, padding 1."""
    settings = dict(zip(("input", "kernel_size", "stride", "padding"), node.args, strict=False)) | node.kwargs

    def one(name: str, otherwise: int) -> int:
        value = settings.get(name)
        value = otherwise if value is None or value == [] else value
        return int(value[0] if isinstance(value, tuple | list) else value)

    kernel = one("kernel_size", 1)
    return f"{node.name[:3]}:{kernel}:{one('stride', kernel)}:{one('padding', 0)}"


def _chain(graph: Graph, lost: int, arch: str) -> list[int]:
    """The operations after that in which places are lost, which follow one another to the logits; with it where it is linear.

    Raises:
        InputError: if they branch.
    """
    chain = [i for i in sorted(graph.before(graph.answer)) if i > lost]
    for i, before in zip(chain, [lost, *chain], strict=False):
        node = graph.nodes[i]
        if node.inputs != [before]:
            what = f"the layers of {arch} branch at {node.name} in {node.where} after its last maps"
            raise InputError(f"performer.targets: {what}; name the targets")
    return [lost, *chain] if is_linear(graph, graph.nodes[lost]) else chain  # a convolution as large as the maps, as in old VGGs


def is_linear(graph: Graph, node: Node) -> bool:
    """Whether an operation is a linear layer on values without places, as a 1 x 1 convolution is there."""
    if node.name == "linear":
        return True
    if node.name != "conv2d":
        return False
    before, kernel = graph.nodes[node.inputs[0]].shape, tuple(node.args[1].shape[2:])
    return node.shape[2:] == (1, 1) and before[2:] == kernel


def _activation(graph: Graph, numbers: list[int], arch: str) -> tuple[str, int]:
    """The one activation between two linear layers, and its operation."""
    found = [(graph.nodes[i].name.rstrip("_"), i) for i in numbers if graph.nodes[i].name not in SHAPES | POOLINGS]
    if len(found) != 1 or found[0][0] not in ACTIVATIONS:
        between = ", ".join(name for name, _ in found) or "nothing"
        raise InputError(f"performer.targets: {arch} has {between} between two of its last linear layers; name the targets")
    return found[0]


def activation_after(graph: Graph, target: int) -> str:
    """The activation between a target and the linear layer that gives the logits; empty if there is none."""
    way = [graph.nodes[i].name.rstrip("_") for i in sorted(graph.before(graph.answer)) if i > target]
    first = next((name for name in way if name not in SHAPES), "")
    return first if first in ACTIVATIONS else ""


def _module_of(graph: Graph, number: int) -> str:
    return graph.nodes[number].modules[-1]


def _pooled(graph: Graph, chain: list[int], linear: int, lost: int) -> str:
    """The name of what the first linear layer takes: the pooled feature."""
    ways = list(dict.fromkeys([lost, *chain[: chain.index(linear)]])) if linear != lost else []
    ways = [i for k, i in enumerate(ways) if all(graph.nodes[j].name in SHAPES for j in ways[k + 1 :])]  # of one value
    for number in ways:
        if path := module_path(graph, number):
            return path
    return _module_of(graph, linear) + INPUT


def module_path(graph: Graph, number: int) -> str | None:
    """The path of the outermost module whose output an operation's result is; None: it is none's."""
    return min((path for path, i in graph.gives.items() if i == number and path), key=len, default=None)


def _named(graph: Graph, number: int) -> str | None:
    """The name of an operation's result: the outermost module that gives it, or takes it; None where no hook sees it."""
    takes = [path for path, i in graph.takes.items() if i == number and path]
    return module_path(graph, number) or (min(takes, key=len) + INPUT if takes else None)


def name_of(graph: Graph, number: int, arch: str, field: str) -> str:
    """The name of an operation's result.

    Raises:
        InputError: if it is no module's output or input.
    """
    name = _named(graph, number)
    if name is None:
        node = graph.nodes[number]
        raise InputError(f"{field}: what {arch} gives at {node.name} in {node.where} is no module's output; name another layer")
    return name


def never_negative(graph: Graph, number: int) -> bool:
    """Whether an operation's result cannot be negative: a ReLU's, also after poolings and reshapings."""
    node = graph.nodes[number]
    if node.name in NON_NEGATIVE:
        return True
    if node.name == "hardtanh":
        return _smallest(node) >= 0
    passing = node.name in POOLINGS | SHAPES | {"mean", "amax", "cat"}
    return passing and bool(node.inputs) and all(never_negative(graph, i) for i in node.inputs)


def _smallest(node: Node) -> float:
    settings: dict[str, Any] = dict(zip(("input", "min_val"), node.args, strict=False)) | node.kwargs
    return float(settings.get("min_val", -1.0))
