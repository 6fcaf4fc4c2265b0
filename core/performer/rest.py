"""Cuts a network at its feature layer: what lies between it and the targets becomes plain data (`paraphrase.core.rest`)."""

from __future__ import annotations

import logging
import operator
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn

from paraphrase.core.errors import InputError, first_line
from paraphrase.core.performer.graph import INPUT, evaluating
from paraphrase.core.rest import ARITHMETIC, CONSTANTS, FEATURE, Rest, function_of


def rest_of(network: nn.Module, feature: str, targets: list[str], size: int, rectified: bool) -> Rest:
    """The operations of a network from its feature to its targets, with its own weights.

    Args:
        network: a classifier; not changed.
        feature: module path of the feature layer.
        targets: module paths of the target layers.
        size: side of its images in pixels.
        rectified: whether the feature cannot be negative; the operations then begin with a ReLU.

    Raises:
        InputError: if torch cannot export the network, or something passes the feature by.
    """
    program = _exported(network, size)
    nodes = list(program.graph.nodes)
    start = _at(nodes, feature, "performer.feature")
    ends = [_at(nodes, path, f"performer.targets.{i}") for i, path in enumerate(targets)]
    images = next(node for node in nodes if node.op == "placeholder")
    of_images, of_feature = _reached(nodes, images), _reached(nodes, start)
    for path, end in zip(targets, ends, strict=True):
        if end not in of_feature:
            raise InputError(f"performer.feature: {feature} is not on the way to {path}; name a layer before it")
    needed = _needed(ends, start)
    names: dict[fx.Node, Any] = {start: {"node": FEATURE}}
    described: list[list[Any]] = []
    weights: dict[str, Tensor] = {}
    if rectified:
        described.append(["rectified", "aten.relu.default", [{"node": FEATURE}], {}])
        names[start] = {"node": "rectified"}
    for node in nodes:
        if node not in needed or node is start:
            continue
        if node.op == "get_attr":
            names[node] = {"weight": str(node.target)}
            weights[str(node.target)] = operator.attrgetter(str(node.target))(program).detach().clone()
            continue
        if node not in of_feature:
            if "sym_size" in str(node.target) and node.args[1] == 0:  # counts the images, of which there are as many features
                described.append([node.name, _name_of(node.target), [names[start], 0], {}])
                names[node] = {"node": node.name}
                continue
            if node in of_images:  # seen where it meets the feature
                continue
        if any(before in of_images and before not in of_feature and before not in names for before in node.all_input_nodes):
            what = f"{feature} is not all that enters {_where(node)}"
            raise InputError(f"performer.feature: {what}; name the end of a block, where its branches meet")
        called = _name_of(node.target)
        function_of(called)
        args = [_plain(each, names) for each in node.args]
        described.append([node.name, called, args, {k: _plain(v, names) for k, v in node.kwargs.items()}])
        names[node] = {"node": node.name}
    outputs = [names[end]["node"] for end in ends]
    return Rest({"nodes": described, "outputs": outputs}, weights)


def _exported(network: nn.Module, size: int) -> fx.GraphModule:
    """The network as torch exports it, for any number of images."""
    like = next(network.parameters())
    images = torch.zeros(2, 3, size, size, dtype=like.dtype, device=like.device)
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    try:
        with evaluating(network), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("images", min=1)},))
            return whole.module()  # type: ignore[return-value]  # a graph module, which its signature does not say
    except Exception as error:  # torch's exporter raises many kinds
        reason = first_line(error)
        what = f"torch.export cannot follow {type(network).__name__} ({reason})"
        raise InputError(f"performer.feature: layers lie between it and the targets, and {what}; name the last one") from None


def _at(nodes: list[fx.Node], place: str, field: str) -> fx.Node:
    """The node whose result a module gives, or with `:input` takes, when it runs last."""
    path = place.removesuffix(INPUT)
    inside = [node for node in nodes if node.op == "call_function" and path in _modules(node)]
    within = set(inside)
    if place.endswith(INPUT):
        found = [n for node in inside for n in node.all_input_nodes if n not in within and n.op == "call_function"][:1]
    else:
        found = [node for node in inside if any(user not in within for user in node.users)]
    if not found:
        raise InputError(f"{field}: {place} does nothing of its own, so the network cannot be cut there; name another layer")
    return found[-1]


def _modules(node: fx.Node) -> list[str]:
    return [str(path) for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def _where(node: fx.Node) -> str:
    return next((path for path in reversed(_modules(node)) if path), node.name)


def _reached(nodes: list[fx.Node], start: fx.Node) -> set[fx.Node]:
    """All nodes that a node's result reaches, with itself."""
    found = {start}
    for node in nodes:
        if any(before in found for before in node.all_input_nodes):
            found.add(node)
    return found


def _needed(ends: list[fx.Node], start: fx.Node) -> set[fx.Node]:
    """All nodes that lead to the ends, from the start on."""
    found, todo = set(ends), list(ends)
    while todo:
        node = todo.pop()
        fresh = [] if node is start else [n for n in node.all_input_nodes if n not in found and n.op != "placeholder"]
        found.update(fresh)
        todo += fresh
    return found


def _name_of(target: Any) -> str:
    """How a description calls a function; none works in place, since what it would overwrite may be asked for."""
    name = getattr(target, "__name__", str(target))
    if getattr(target, "__module__", "") == "_operator" and name in ARITHMETIC:
        return f"operator.{name}"
    kind, _, rest = str(target).partition(".")
    packet, _, overload = rest.partition(".")
    packet = packet.removesuffix("_") if not packet.startswith("_") else packet
    packet = "reshape" if packet == "view" and overload == "default" else packet  # also of maps that lie channels last
    return f"{kind}.{packet}.{overload}"


def _plain(value: Any, names: dict[fx.Node, Any]) -> Any:
    """An argument as JSON has it."""
    if isinstance(value, fx.Node):
        return names[value]
    if isinstance(value, list | tuple):
        return [_plain(each, names) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    for key, kind in CONSTANTS.items():
        if isinstance(value, kind):
            return {key: str(value).removeprefix("torch.")}
    raise InputError(f"performer.feature: between it and the targets lies something that takes a {type(value).__name__}")
