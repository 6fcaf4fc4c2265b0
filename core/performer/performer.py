"""The performer: a frozen classifier, read at its feature layer, its two target layers and its answer."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from paraphrase.core.config import PerformerConfig
from paraphrase.core.errors import InputError
from paraphrase.core.foreign import called
from paraphrase.core.performer import networks
from paraphrase.core.performer.graph import INPUT, trace
from paraphrase.core.performer.layers import never_negative
from paraphrase.core.performer.receptive_field import ReceptiveField, receptive_field
from paraphrase.core.performer.rest import rest_of
from paraphrase.core.performer.spec import TIMM, Spec, is_factory, resolve_spec, timm_of
from paraphrase.core.pooling import ACTIVATIONS, pooling_of
from paraphrase.core.rest import Rest

OWN = {"small": networks.small, "vgg_m": networks.vgg_m, "vgg_s": networks.vgg_s}
"""Networks defined here; every other name is torchvision's."""


class PerformerFeatures(NamedTuple):
    """Everything that the explainer ever needs of a batch."""

    feature: Tensor
    """x: (B, C, n, n), after the ReLU of the top conv-layer."""
    targets: list[Tensor]
    """x*_1, x*_2: (B, D1) and (B, D2)."""
    logits: Tensor
    """(B, K) the performer's answer."""


class Performer(nn.Module):
    """A frozen classifier: eval mode, no gradients, never changed.

    Args:
        network: the classifier.
        spec: its module paths.
        categories: names of the data's categories.

    Raises:
        InputError: if the network cannot take the spec's input size, or a module of the spec does not run or has no maps.
    """

    def __init__(self, network: nn.Module, spec: Spec, categories: list[str] | None = None):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.spec, self.categories = spec, categories
        self.feature_shape = self._shape_of_feature()

    def _shape_of_feature(self) -> tuple[int, int, int]:
        """(C, n, n), told from shapes alone."""
        spec, graph = self.spec, trace(self.network, self.spec.input_size)
        self._rectified = never_negative(graph, graph.at(spec.feature) or 0)
        for name, path in [("feature", spec.feature), *((f"targets.{i}", path) for i, path in enumerate(spec.targets))]:
            if graph.at(path) is None:
                raise InputError(f"performer.{name}: {path} gives no tensor when {spec.arch} classifies")
        shape = graph.nodes[graph.at(spec.feature) or 0].shape
        if len(shape) != 4 or shape[2] != shape[3]:
            raise InputError(f"performer.feature: {spec.feature} gives {tuple(shape[1:])}, not maps C x n x n")
        return shape[1], shape[2], shape[3]

    def _observe(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """What the spec's modules give while the network runs, and its answer."""
        seen: dict[str, Tensor] = {}

        def keep(path: str, value: Any) -> None:
            if isinstance(value, Tensor):
                seen[path] = value.clone()  # what follows may write into it (`relu(..., inplace=True)`)

        handles = []
        for path in {self.spec.feature, *self.spec.targets}:
            module = self.network.get_submodule(path.removesuffix(INPUT))
            if path.endswith(INPUT):
                handles.append(module.register_forward_pre_hook(lambda _, given, path=path: keep(path, given[0])))
            else:
                handles.append(module.register_forward_hook(lambda _, given, output, path=path: keep(path, output)))
        try:
            return seen, self.network(images)
        finally:
            for handle in handles:
                handle.remove()

    def train(self, mode: bool = True) -> Performer:
        """A performer is always in evaluation mode."""
        return super().train(False)

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1] on the scale that the network was trained on."""
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (self.spec.mean, self.spec.std))
        return (images - mean) / std

    @torch.no_grad()
    def features(self, images: Tensor) -> PerformerFeatures:
        """One forward pass. images: (B, 3, S, S) float in [0, 1]."""
        seen, logits = self._observe(self.normalise(images))
        return PerformerFeatures(seen[self.spec.feature], [seen[path].flatten(1) for path in self.spec.targets], logits)

    @torch.no_grad()
    def pool(self) -> nn.Module:
        """A copy of the performer's own last pooling: feature (B, C, n, n) -> (B, C, m, m).

        An adaptive pooling that leaves maps of this size as they are (torchvision's `avgpool` at 224 px) is left out. Where the
        rest of the performer takes the feature, nothing is pooled before.
        """
        maps, modules = torch.zeros(1, *self.feature_shape), []
        for path in [] if self.spec.through_rest else self.spec.pool:
            module = pooling_of(path) or copy.deepcopy(self.network.get_submodule(path))
            pooled = copy.deepcopy(module).cpu()(maps)
            if not (isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d) and pooled.shape == maps.shape):
                modules.append(module)
            maps = pooled
        return nn.Sequential(*modules)

    def rest(self) -> Rest | None:
        """A copy of all layers from the feature to the targets; None where a pooling and the decoder stand in their place."""
        if not self.spec.through_rest:
            return None
        return rest_of(self.network, self.spec.feature, self.spec.targets, self.spec.input_size, self._rectified)

    def head(self) -> nn.Module:
        """A copy of what follows the second target: (B, D2) -> logits (B, K); the identity if that is the logits."""
        name = name_of_last_layer(self.network, self.spec.arch)
        if self.spec.targets[1] == name:
            return nn.Identity()
        last = as_linear(self.network.get_submodule(name))
        return nn.Sequential(ACTIVATIONS[self.spec.activation](), last) if self.spec.activation else last

    @torch.no_grad()
    def check_layers(self) -> None:
        """Run one random image to see that the spec's layers follow one another as a performer's must.

        Raises:
            InputError: if the head does not turn the second target into the logits, or a first target that is declared
                to be the pooled feature is not.
        """
        device = next(self.parameters()).device
        size = self.spec.input_size
        seen = self.features(torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device))
        head = self.head()
        given = seen.targets[1].shape[1]
        takes = next((m.in_features for m in head.modules() if isinstance(m, nn.Linear)), given)
        if takes != given:
            raise InputError(
                f"performer.targets.1: {self.spec.targets[1]} gives {given} values, the last layer takes "
                f"{takes}; name the layer before the last linear one"
            )
        if not torch.allclose(head(seen.targets[1]), seen.logits, rtol=1e-3, atol=1e-4):
            raise InputError(f"performer.targets.1: the last layer does not turn {self.spec.targets[1]} into the logits")
        if (rest := self.rest()) is not None:
            made = rest(seen.feature)
            if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(made, seen.targets, strict=True)):
                raise InputError(f"performer.feature: the layers after {self.spec.feature} do not make the targets of it alone")
            return
        pooled = self.pool()(seen.feature).flatten(1)
        if self.spec.decoder_init[0] == "identity" and (
            pooled.shape != seen.targets[0].shape or not torch.allclose(pooled, seen.targets[0], rtol=1e-3, atol=1e-4)
        ):
            raise InputError(
                f"performer.decoder_init.0: identity, but {self.spec.targets[0]} is not the feature pooled by performer.pool"
            )

    def decoder_layers(self) -> list[tuple[Tensor, Tensor] | str | None]:
        """For each target the (weight, bias) of the performer's own layer, or `identity`; None where the rest makes it."""
        if self.spec.through_rest:
            return [None, None]
        layers: list[tuple[Tensor, Tensor] | str | None] = []
        for path in self.spec.decoder_init:
            module = None if path == "identity" else self.network.get_submodule(path)
            if isinstance(module, nn.Linear | nn.Conv2d):
                linear = as_linear(module)
                layers.append((linear.weight.detach(), linear.bias.detach()))
            else:
                layers.append("identity" if module is None else None)
        return layers

    def receptive_field(self) -> ReceptiveField:
        """Of the feature layer's cells, in pixels of the crop."""
        return receptive_field(self.network, self.spec.feature, self.spec.input_size)


def build_network(
    arch: str,
    classes: int | None,
    weights: object | None = None,
    arguments: Mapping[str, Any] | None = None,
    head: Sequence[int] = (),
    dropout: float = 0.0,
) -> nn.Module:
    """A classifier of this name, with random weights, or torchvision's; or what a factory `module:name` returns.

    Args:
        arch: its name.
        classes: that it is to have; None: its own.
        weights: of torchvision.
        arguments: of a factory.
        head: widths of fully connected layers that take the place of the last linear one.
        dropout: after each of them.

    Raises:
        InputError: if there is no such architecture or factory.
    """
    if arch.startswith(TIMM):
        network = _of_timm(arch, pretrained=weights is not None)
    elif is_factory(arch):
        network = called(arch, "performer.arch", **(arguments or {}))
        if not isinstance(network, nn.Module):
            raise InputError(f"performer.arch: {arch} gives {type(network).__name__}, not a torch.nn.Module")
    elif arch in OWN:
        network = OWN[arch](classes or 1000)
    else:
        if arch not in torchvision.models.list_models(torchvision.models):
            others = "the name of a torchvision classifier, timm:NAME, or module:factory"
            raise InputError(f"performer.arch: unknown {arch}; use {', '.join(OWN)}, {others}")
        more = {"aux_logits": False} if arch in ("googlenet", "inception_v3") else {}  # heads that only training asks for
        more |= {"init_weights": True} if more and not weights else {}
        network = torchvision.models.get_model(arch, weights=weights, **more)
    if head:
        add_head(network, head, classes, dropout)
    elif classes is not None:
        replace_last_layer(network, classes)
    return without_inplace(network)


def _of_timm(arch: str, pretrained: bool) -> nn.Module:
    name = arch.removeprefix(TIMM)
    try:
        return timm_of(arch).create_model(name, pretrained=pretrained)
    except (OSError, RuntimeError) as error:  # no network
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"performer.weights: timm cannot fetch those of {name} ({reason})") from None


def add_head(network: nn.Module, widths: Sequence[int], classes: int | None, dropout: float) -> None:
    """Put fully connected layers with ReLU, and a new last one, in the place of the last linear layer; freeze all before them."""
    name = name_of_last_layer(network, type(network).__name__)
    last = network.get_submodule(name)
    if not isinstance(last, nn.Linear):
        raise InputError(f"performer.head: the last layer, {name}, is a {type(last).__name__} and no linear one")
    network.requires_grad_(False)
    sizes = [last.in_features, *widths]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
    layers.append(nn.Linear(sizes[-1], last.out_features if classes is None else classes))
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, nn.Sequential(*layers))


def without_inplace(network: nn.Module) -> nn.Module:
    """The network itself, none of whose modules works in place: a ReLU would overwrite what the hooks keep."""
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # any module may have such a flag
    return network


def as_linear(module: nn.Module) -> nn.Linear:
    """A copy of a linear layer, or of a convolution as large as its maps, as a linear layer with a bias."""
    assert isinstance(module, nn.Linear | nn.Conv2d)
    weight = module.weight.detach().flatten(1).clone()
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias.detach().clone()
    linear.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return linear.requires_grad_(False)


def replace_last_layer(network: nn.Module, classes: int) -> None:
    """Give the network a new last linear layer for this many classes, in place."""
    name = name_of_last_layer(network, type(network).__name__)
    last = network.get_submodule(name)
    parent, _, own = name.rpartition(".")
    if isinstance(last, nn.Linear) and last.out_features != classes:
        setattr(network.get_submodule(parent), own, nn.Linear(last.in_features, classes))
    elif isinstance(last, nn.Conv2d) and last.out_channels != classes:
        setattr(network.get_submodule(parent), own, nn.Conv2d(last.in_channels, classes, last.kernel_size[0]))


def name_of_last_layer(network: nn.Module, arch: str) -> str:
    """Module path of the layer that gives the logits: the last linear one, or without any the last 1 x 1 convolution.

    Raises:
        InputError: if the network has no linear layer.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        points = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
        names = [points[-1]] if points else []
    if not names:
        raise InputError(f"performer.arch: {arch} has no linear last layer; choose a classifier that ends in one")
    return names[-1]


def build_performer(config: PerformerConfig, classes: int) -> Performer:
    """A performer with random weights."""
    network = build_network(config.arch, classes, None, config.arguments, config.head, config.head_dropout)
    return Performer(network, resolve_spec(config, network))
