"""Where a performer's feature, pooling and targets lie: module paths, known for the paper's networks."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from paraphrase.core.config import PerformerConfig
from paraphrase.core.errors import InputError
from paraphrase.core.performer.graph import ends_in_relu

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
    """Module paths between feature layer and first target: the performer's last pooling."""
    targets: list[str]
    """Module paths of the two target layers."""
    decoder_init: list[str]
    """Module paths of the linear layers that make the targets; `identity` where the target is the pooled feature."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each colour channel, taken off."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each colour channel, divided by."""
    target_relu: list[bool] = field(default_factory=lambda: [True, True])
    """Whether a target cannot be negative, so that fc-dec ends in a ReLU."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of the factory, where the architecture is one."""


_CHAINED = {"targets": ["classifier.1", "classifier.4"], "decoder_init": ["classifier.0", "classifier.3"]}
_RESNET = {"feature": "layer4", "pool": ["avgpool"], "targets": ["avgpool", "fc"], "decoder_init": ["identity", "fc"]}
_CONVNEXT = {
    "feature": "features.7",
    "pool": ["avgpool", "classifier.0"],
    "targets": ["classifier.0", "classifier.2"],
    "decoder_init": ["identity", "classifier.2"],
}
KNOWN: dict[str, dict] = {
    "small": {"input_size": 112, "feature": "features.16", "pool": ["features.17", "avgpool"], **_CHAINED},
    "vgg_m": {"input_size": 224, "feature": "features.13", "pool": ["features.14", "avgpool"], **_CHAINED},
    "vgg_s": {"input_size": 224, "feature": "features.12", "pool": ["features.13", "avgpool"], **_CHAINED},
    "alexnet": {
        "input_size": 224,
        "feature": "features.11",
        "pool": ["features.12", "avgpool"],
        "targets": ["classifier.2", "classifier.5"],
        "decoder_init": ["classifier.1", "classifier.4"],
    },
    "vgg16": {"input_size": 224, "feature": "features.29", "pool": ["features.30", "avgpool"], **_CHAINED},
    **{f"resnet{depth}": {"input_size": 224, **_RESNET} for depth in (18, 34, 50, 101, 152)},
    **{f"resnext{kind}": {"input_size": 224, **_RESNET} for kind in ("50_32x4d", "101_32x8d", "101_64x4d")},
    **{f"wide_resnet{depth}_2": {"input_size": 224, **_RESNET} for depth in (50, 101)},
    **{f"convnext_{size}": {"input_size": 224, **_CONVNEXT} for size in ("tiny", "small", "base", "large")},
}
"""What is known of each architecture."""


def known_input_size(arch: str) -> int:
    """The architecture's own side of the square crop, in pixels."""
    return KNOWN.get(arch, {}).get("input_size", 224)


def resolve_spec(config: PerformerConfig, network: nn.Module) -> Spec:
    """The module paths of a performer, from the configuration or what is known of the architecture.

    Raises:
        InputError: if a path is missing or the network has no such module.
    """
    known = KNOWN.get(config.arch, {})
    values = {}
    for name in ("feature", "pool", "targets", "decoder_init"):
        value = getattr(config, name)
        if value is None and name not in known:
            raise InputError(f"performer.{name}: must be given for {config.arch}, of which no layers are known")
        values[name] = known[name] if value is None else value
    modules = dict(network.named_modules())
    for name, value in values.items():
        paths = {f"performer.{name}": value} if isinstance(value, str) else {}
        paths = paths or {f"performer.{name}.{i}": path for i, path in enumerate(value)}
        for where, path in paths.items():
            if path not in modules and not (name == "decoder_init" and path == "identity"):
                near = ", ".join(difflib.get_close_matches(path, modules, 3)) or ", ".join(list(modules)[1:4])
                raise InputError(f"{where}: {config.arch} has no module {path}; nearest: {near}")
    for name in ("targets", "decoder_init"):
        if len(values[name]) != 2:
            raise InputError(f"performer.{name}: expected two module paths, got {len(values[name])}")
    relu = [isinstance(modules[path], nn.ReLU) for path in values["targets"]]
    if values["decoder_init"][0] == "identity":  # the pooled feature: as non-negative as the feature itself
        only_pools = not any(isinstance(modules[path], nn.LayerNorm) for path in values["pool"])
        relu[0] = only_pools and ends_in_relu(network, values["feature"])
    size = config.input_size or known_input_size(config.arch)
    scale: dict[str, Any] = {k: tuple(value) for k in ("mean", "std") if (value := getattr(config, k)) is not None}
    return Spec(arch=config.arch, input_size=size, target_relu=relu, arguments=config.arguments, **values, **scale)
