"""A network as the operations that it runs, written down while it runs: what its module tree alone does not tell.

A run is followed on torch's meta device, where nothing is computed, whatever control flow the network's code has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from paraphrase.core.errors import InputError, first_line

INPUT = ":input"
"""`fc:input` is what the module `fc` takes, where no module's output is that."""
NON_NEGATIVE = {"relu", "relu_", "relu6"}
"""Names of operations whose result cannot be negative."""


@dataclass(frozen=True)
class Node:
    """One operation of a run."""

    name: str
    """Of the function: conv2d, relu, add, ..."""
    args: tuple[Any, ...]
    """As the function got them."""
    kwargs: dict[str, Any]
    """Likewise."""
    inputs: list[int]
    """Numbers of the operations whose results it takes; weights are none."""
    shape: tuple[int, ...]
    """Of its result, or of the first one."""
    modules: tuple[str, ...]
    """Paths of the modules inside which it ran, from the outermost."""
    kind: str
    """Class name of the innermost one."""

    @property
    def where(self) -> str:
        """The innermost module, for messages."""
        return self.modules[-1] if self.modules else "forward"


@dataclass
class Graph:
    """All operations of one run that the images reach, in the order in which they ran."""

    nodes: list[Node] = field(default_factory=list)
    """The first one is the images themselves."""
    takes: dict[str, int] = field(default_factory=dict)
    """Module path -> the operation whose result it took when it ran last."""
    gives: dict[str, int] = field(default_factory=dict)
    """Module path -> the operation whose result was its own."""
    answer: int = 0
    """The operation that gave the logits."""

    def at(self, place: str) -> int | None:
        """The operation whose result is a module's output, or with `:input` what it takes; None if it did not run."""
        return self.takes.get(place.removesuffix(INPUT)) if place.endswith(INPUT) else self.gives.get(place)

    def before(self, last: int) -> set[int]:
        """All operations that reach one, with itself."""
        found, todo = {last}, [last]
        while todo:
            fresh = [i for i in self.nodes[todo.pop()].inputs if i not in found]
            found.update(fresh)
            todo += fresh
        return found


class _Recorder(TorchFunctionMode):
    """Writes down every torch function that takes something that came from the images."""

    def __init__(self, graph: Graph):
        super().__init__()
        self.graph, self.stack = graph, [("", "")]
        self.made: dict[int, int] = {}
        self.kept: list[Tensor] = []  # while they live, nothing else gets their ids

    def note(self, result: Any, number: int) -> None:
        """Say that the tensors of a result came from this operation."""
        for tensor in _tensors([result]):
            self.made[id(tensor)] = number
            self.kept.append(tensor)

    def number_of(self, value: Any) -> int | None:
        """The operation that a value came from."""
        return next((self.made[id(t)] for t in _tensors([value]) if id(t) in self.made), None)

    def add(self, name: str, args: tuple, kwargs: dict, result: Any) -> None:
        inputs = list(dict.fromkeys(self.made[id(t)] for t in _tensors([args, kwargs]) if id(t) in self.made))
        shapes = [tuple(t.shape) for t in _tensors([result])]
        if shapes and (inputs or not self.graph.nodes):
            paths = tuple(path for path, _ in self.stack if path)
            self.note(result, len(self.graph.nodes))
            self.graph.nodes.append(Node(name, args, kwargs, inputs, shapes[0], paths, self.stack[-1][1]))

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.add(getattr(func, "__name__", str(func)), args, kwargs, result)
        return result


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


def trace(network: nn.Module, size: int) -> Graph:
    """The operations of a network in evaluation mode on one image.

    Args:
        network: any classifier (B, 3, size, size) -> logits; not changed.
        size: side of the image in pixels.

    Raises:
        InputError: if the network cannot take such an image.
    """
    graph = Graph()
    recorder = _Recorder(graph)
    paths = {id(module): path for path, module in network.named_modules()}

    def enter(module: nn.Module, inputs: tuple) -> None:
        path = paths.get(id(module), "")
        recorder.stack.append((path, type(module).__name__))
        if (number := recorder.number_of(inputs)) is not None:
            graph.takes[path] = number

    def leave(module: nn.Module, inputs: tuple, output: Any) -> None:
        path, _ = recorder.stack.pop()
        if (number := recorder.number_of(output)) is not None:
            graph.gives[path] = number

    state = {k: torch.empty_like(v, device="meta") for k, v in network.state_dict().items()}
    images = torch.empty(
        1, 3, size, size, device="meta", dtype=next((v.dtype for v in state.values() if v.is_floating_point()), None)
    )
    hooks = nn.modules.module
    handles = [hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave)]
    try:
        recorder.add("images", (), {}, images)
        with evaluating(network), torch.no_grad(), recorder:
            answer = torch.func.functional_call(network, state, (images,))
    except Exception as error:  # the network's own code, which may raise anything
        reason = first_line(error)
        raise InputError(f"performer.input_size: {type(network).__name__} cannot take {size} px ({reason})") from None
    finally:
        for handle in handles:
            handle.remove()
    number = recorder.number_of(answer)
    if number is None:
        raise InputError(f"performer.arch: {type(network).__name__} answers with {type(answer).__name__}, not with logits")
    graph.answer = number
    return graph


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode; each of its modules is put back into its own afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
