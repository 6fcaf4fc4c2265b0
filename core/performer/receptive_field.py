"""Exact receptive fields: strides, kernels and paddings followed through a network's run up to a layer.

Coordinates are continuous: pixel k covers [k, k + 1), as boxes and landmarks have it. Ceil mode adds cells at the end of a
map and moves none; norms, activations and the channels are without places. A branch that has lost its places (the global
pooling of a squeeze-and-excitation) only scales, so it is left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from paraphrase.core.errors import InputError
from paraphrase.core.performer.graph import Graph, Node, trace


class ReceptiveField(NamedTuple):
    """Of the cells of a map, the same along both axes: cell i sees pixels around `start + i * stride`."""

    start: float
    """Centre of cell 0, in pixels."""
    stride: float
    """Distance of neighbouring centres, in pixels."""
    size: float
    """Side of the field, in pixels."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


POINTWISE = _words(
    "relu relu6 leaky_relu prelu elu selu gelu silu mish softplus tanh sigmoid hardswish hardsigmoid hardtanh clamp softmax "
    "batch_norm layer_norm group_norm instance_norm local_response_norm dropout dropout2d linear "
    "add iadd radd sub isub rsub mul imul rmul div idiv rdiv truediv itruediv rtruediv true_divide pow neg sqrt rsqrt "
    "cat concat stack chunk split permute unsqueeze clone contiguous detach float type to expand expand_as stochastic_depth "
    "addcmul lerp where"
)
"""Functions that move nothing, without the underscores of those in place; a linear layer inside a network acts on channels."""
RESHAPING = _words("view reshape transpose flatten squeeze unflatten swapaxes")
"""Functions that move nothing where they leave the last two sides as they are, as in a shuffle of channels."""
GLOBAL = _words("adaptive_avg_pool2d adaptive_max_pool2d mean amax sum norm vector_norm linalg_vector_norm var std var_mean max")
"""Functions whose result has no places any more."""
POOLING_ARGUMENTS = ("input", "kernel_size", "stride", "padding", "dilation")
CONVOLUTION_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def receptive_field(network: nn.Module, layer: str, size: int = 224) -> ReceptiveField:
    """The receptive field of a layer's cells.

    Args:
        network: any CNN.
        layer: path of a module, whose output is meant, or `PATH:input` for what it takes.
        size: side of the images in pixels; fields do not depend on it, but some networks take no others.

    Raises:
        InputError: if the network mixes fields of different strides, or has an operation whose field is not known.
    """
    graph = trace(network, size)
    last = graph.at(layer)
    if last is None:
        raise InputError(f"performer.feature: {layer} is not on the network's path")
    return field_at(graph, last, layer)


def field_at(graph: Graph, last: int, layer: str) -> ReceptiveField:
    """The receptive field of an operation's result, which messages call `layer`.

    Raises:
        InputError: as `receptive_field`.
    """
    fields = [_follow(graph, last, axis) for axis in (0, 1)]
    if fields[0] is None or fields[1] is None:
        raise InputError(f"performer.feature: {layer} comes after a global pooling; its cells have no places")
    if fields[0][:2] != fields[1][:2]:
        raise InputError(f"performer.feature: the cells of {layer} lie differently along rows and columns")
    return fields[0]._replace(size=max(f.size for f in fields if f))


def _follow(graph: Graph, last: int, axis: int) -> ReceptiveField | None:
    """The field at an operation, along one axis (0: rows)."""
    fields: dict[int, ReceptiveField | None] = {0: ReceptiveField(0.5, 1.0, 1.0)}
    for number in sorted(graph.before(last) - {0}):
        node = graph.nodes[number]
        merged = _merge([f for i in node.inputs if (f := fields[i]) is not None], node)
        fields[number] = None if merged is None else _through(merged, node, graph, axis)
    return fields[last]


def _merge(fields: list[ReceptiveField], node: Node) -> ReceptiveField | None:
    """The field of a sum: all that any of its branches sees, as with a shortcut that pools and a convolution beside it."""
    if len({f.stride for f in fields}) > 1:
        raise InputError(f"performer.arch: branches with different strides meet at {node.name} in {node.where}")
    if not fields:
        return None
    first, last = min(f.start - f.size / 2 for f in fields), max(f.start + f.size / 2 for f in fields)
    return ReceptiveField((first + last) / 2, fields[0].stride, last - first)


def _through(field: ReceptiveField, node: Node, graph: Graph, axis: int) -> ReceptiveField | None:
    """The field after an operation; None once the map has no places any more (a global pooling)."""
    before = max((graph.nodes[i].shape for i in node.inputs), key=len)
    if node.name in ("max_pool2d", "avg_pool2d", "max_pool2d_with_indices"):
        dilated = not node.name.startswith("avg")
        return _windowed(field, _named(node, POOLING_ARGUMENTS if dilated else POOLING_ARGUMENTS[:-1]), axis)
    if node.name == "conv2d":
        settings = _named(node, CONVOLUTION_ARGUMENTS)
        return _windowed(field, {"stride": 1} | settings | {"kernel_size": tuple(settings["weight"].shape[2:])}, axis)
    if node.name == "pad":
        sides = _named(node, ("input", "pad"))["pad"]
        side = 2 if axis == 0 else 0
        return field._replace(start=field.start - (sides[side] if len(sides) > side else 0) * field.stride)
    if node.name in GLOBAL and len(before) >= 4 and node.shape[-2:] == before[-2:]:
        return field  # over channels, or a pooling that leaves maps of this size as they are
    if node.name in GLOBAL or (node.name in ("flatten", "view", "reshape") and len(node.shape) <= 2):
        return None
    reshaped = node.name in RESHAPING and node.shape[-2:] == before[-2:]
    if node.name.strip("_") in POINTWISE or reshaped:
        return field
    if node.name == "__getitem__" and _takes_whole_maps(node):
        return field
    what = node.name.strip("_")
    kind = f"{node.kind} ({what})" if node.kind and node.modules else what
    raise InputError(f"performer.arch: the receptive field after {kind} in {node.where} is not known; take an earlier layer")


def _named(node: Node, names: tuple[str, ...]) -> dict[str, Any]:
    return dict(zip(names, node.args, strict=False)) | node.kwargs


def _takes_whole_maps(node: Node) -> bool:
    """Whether an indexing takes whole maps, `x[:, 0]` or `x[:, :8, :, :]`, and so moves nothing."""
    index = node.args[1]
    return isinstance(index, tuple) and all(part == slice(None) for part in index[2:])


def _windowed(field: ReceptiveField, window: dict[str, Any], axis: int) -> ReceptiveField:
    """The field after a convolution or a pooling with these settings."""

    def along(name: str, otherwise: int) -> int:
        value = window.get(name)
        value = otherwise if value is None or value == [] else value
        return int(value[axis] if isinstance(value, tuple | list) else value)

    kernel, dilation = along("kernel_size", 1), along("dilation", 1)
    reach = dilation * (kernel - 1)
    if isinstance(window.get("padding"), str):  # torch puts the odd pixel of `same` at the end
        padding = reach // 2 if window["padding"] == "same" else 0
    else:
        padding = along("padding", 0)
    start = field.start + (reach / 2 - padding) * field.stride
    # a function's pooling steps by its kernel where no stride is given; modules always have one
    return ReceptiveField(start, field.stride * along("stride", kernel), field.size + reach * field.stride)
