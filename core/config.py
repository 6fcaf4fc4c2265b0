"""The configuration: typed data, defined once, and at once the YAML schema, the command line, the docs and the checks.

Every field has its description right under it. `from_mapping` reports an unknown key, a wrong type or an impossible
value by its full path (`explainer.interp_widths.0`), with what is allowed.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from core.errors import InputError

T = TypeVar("T")


def bounded(default: Any, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A dataclass field whose numbers (also inside lists and mappings) must lie in [low, high] and be > above."""
    metadata = {"low": low, "high": high, "above": above}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class DataConfig:
    source: str = "menagerie"
    """Where the images come from: menagerie (drawn here), cub (CUB-200-2011 layout) or imagefolder."""
    path: str | None = None
    """Folder of the data set; menagerie needs none."""
    categories: list[str] = field(default_factory=list)
    """Categories to use, in this order; empty: all of them."""
    single_category: str | None = None
    """Single-category protocol: this category against random images of the others. Empty: multi-category."""
    landmarks: dict[str, list[str]] = field(default_factory=dict)
    """Landmark name -> the source's parts whose visible ones are averaged; empty: every part of the source."""
    seed: int = bounded(0, low=0)
    """Seed of the drawn images and of every random split."""
    train_images: int = bounded(2400, low=2)
    """menagerie: number of training images."""
    test_images: int = bounded(600, low=2)
    """menagerie: number of test images."""
    test_share: float = bounded(0.2, above=0.0, high=0.9)
    """imagefolder without train/ and test/ folders: share of each category that becomes the test split."""
    skip_bad: bool = False
    """Go on without damaged images instead of stopping at the first report."""


@dataclass
class FitConfig:
    epochs: int = bounded(20, low=1)
    """Passes over the training split."""
    batch_size: int = bounded(64, low=1)
    """Images per step."""
    learning_rate: float = bounded(2e-3, above=0.0)
    """Peak learning rate of the one-cycle schedule (AdamW)."""
    weight_decay: float = bounded(0.05, low=0.0)
    """Decoupled weight decay."""
    label_smoothing: float = bounded(0.0, low=0.0, high=0.5)
    """Label smoothing of the cross-entropy."""
    crop_scale: float = bounded(0.8, above=0.0, high=1.0)
    """Random crops keep at least this share of each side; 1 turns them off."""
    flip: bool = True
    """Mirror half of the training images."""
    colour_jitter: float = bounded(0.0, low=0.0, high=1.0)
    """Strength of random brightness, contrast and saturation changes."""
    rotation: float = bounded(0.0, low=0.0, high=180.0)
    """Random rotations of up to this many degrees."""
    seed: int = bounded(0, low=0)
    """Seed of initialisation, data order and augmentation."""


@dataclass
class PerformerConfig:
    arch: str = "small"
    """small, alexnet, vgg_m, vgg_s, vgg16, or the name of any torchvision classifier."""
    weights: str = "fit"
    """fit (train on the data's categories, once, then kept), torchvision (ImageNet weights, downloaded only then), or the
    folder of a fitted performer, or a .pth/.safetensors state dict to start the fit from."""
    input_size: int | None = bounded(None, low=16, high=2048)
    """Side of the square crop in pixels; empty: the architecture's own."""
    feature: str | None = None
    """Module path of the feature layer (top conv-layer after its ReLU); empty: known for the architecture."""
    pool: list[str] | None = None
    """Module paths between the feature layer and the first target, applied in order: the performer's last pooling."""
    targets: list[str] | None = None
    """Module paths of the two target layers (fc6 and fc7 after their ReLU)."""
    decoder_init: list[str] | None = None
    """Module paths of the linear layers from which fc-dec-1 and fc-dec-2 start; `identity` where the target is the
    pooled feature itself."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How `paraphrase performer fit` trains it."""


@dataclass
class CacheConfig:
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    """Storage type of features and targets."""


@dataclass
class ExplainerConfig:
    interp_widths: list[int] = bounded([0], low=0, high=8192)
    """Track widths of the interpretable track, one for each conv-layer (W1, W2), one or two; 0: as many channels as the
    performer's feature. An empty list takes the interpretable track away."""
    ordin_width: int | None = bounded(0, low=0, high=8192)
    """Track width Wo of the ordinary track; 0: the performer's channels; null takes the ordinary track away."""
    mask: Literal["peak", "mean", "none"] = "none"
    """Centre of the masks: the map's peak, its activation-weighted mean position, or no masks."""
    mask_beta: float = bounded(4.0, above=0.0)
    """How fast the mask falls off with the L1 distance from its centre, in map sizes."""
    norm: bool = True
    """Divide each channel by its running mean peak, so that p is a share of information."""
    norm_momentum: float = bounded(0.1, above=0.0, high=1.0)
    """Weight of a batch in the running mean peak."""
    encoder_init: Literal["kaiming", "identity"] = "identity"
    """Start of the conv-layers: kaiming (random), or the identity plus noise, where widths are equal."""
    decoder_init: Literal["performer", "kaiming"] = "performer"
    """Start of fc-dec: from the performer's own layers where the shapes agree, or random."""


@dataclass
class LossConfig:
    reconstruction: list[float] = bounded([1.0, 1.0], low=0.0)
    """lambda_l: weights of the reconstruction loss of fc-dec-1 and fc-dec-2."""
    eta: float = bounded(1.0, low=0.0)
    """Weight of -log p."""
    lambda_f: float = bounded(1.0, low=0.0)
    """Weight of the filter loss."""
    kappa: float = bounded(5.0, above=0.0)
    """Filter temperature: the score of a map with all its mass at a template's centre."""
    template_beta: float = bounded(4.0, above=0.0)
    """How fast a template falls off with the L1 distance from its centre, in map sizes."""
    filter_loss: Literal["exact", "category"] = "exact"
    """exact: all images of the batch are positives; category: a filter's own category against the others."""
    filter_layers: Literal["last", "all"] = "last"
    """Interpretable conv-layers that the filter loss acts on."""


@dataclass
class TrainConfig:
    epochs: int = bounded(10, low=1)
    """Passes over the training split."""
    batch_size: int = bounded(64, low=2)
    """Images per step and replicate."""
    learning_rate: float = bounded(1e-3, above=0.0)
    """Peak learning rate of the encoder (AdamW, one-cycle)."""
    decoder_learning_rate: float = bounded(1e-3, above=0.0)
    """Peak learning rate of the decoder."""
    p_learning_rate: float = bounded(2e-2, above=0.0)
    """Peak learning rate of w_p; with the common one p stays near 0.5."""
    weight_decay: float = bounded(0.01, low=0.0)
    """Decoupled weight decay of the weight matrices."""
    warmup: float = bounded(0.2, above=0.0, high=0.9)
    """Share of the steps in which the learning rates rise."""
    seed: int = bounded(0, low=0)
    """Seed of the first replicate's initialisation and data order; replicate r has seed + r."""
    replicates: int = bounded(1, low=1, high=1024)
    """Runs of one configuration, each with its own seed, trained as one batched model."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of convolutions and matrix products; auto: bfloat16 where the hardware has it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass
class Config:
    """Everything that determines one explainer."""

    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    performer: PerformerConfig = field(default_factory=PerformerConfig)
    """The CNN that is explained."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """The feature cache."""
    explainer: ExplainerConfig = field(default_factory=ExplainerConfig)
    """The network that explains."""
    loss: LossConfig = field(default_factory=LossConfig)
    """What it minimises."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """How it is trained."""


def _describe(kind: Any) -> str:
    """A type in the words of a YAML file."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(k) for k in typing.get_args(kind))
    if origin is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if origin is list:
        return "a list, each " + _describe(typing.get_args(kind)[0])
    if origin is dict:
        return "a mapping to " + _describe(typing.get_args(kind)[1])
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _number(value: Any, path: str, limits: Mapping[str, Any]) -> Any:
    low, high, above = limits.get("low"), limits.get("high"), limits.get("above")
    too_low = (low is not None and not value >= low) or (above is not None and not value > above)
    if too_low or (high is not None and not value <= high) or value != value or abs(value) == float("inf"):
        bounds = [f">= {low}" if low is not None else "", f"> {above}" if above is not None else ""]
        bounds.append(f"<= {high}" if high is not None else "")
        raise InputError(f"{path}: {value} is out of range; must be {' and '.join(b for b in bounds if b) or 'finite'}")
    return value


def _convert(value: Any, kind: Any, path: str, limits: Mapping[str, Any]) -> Any:
    """`value` as `kind`, or an InputError that names `path`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    wrong = InputError(f"{path}: expected {_describe(kind)}, got {value!r}")
    if origin in (typing.Union, types.UnionType):
        if value is None:
            if type(None) in args:
                return None
            raise wrong
        return _convert(value, next(a for a in args if a is not type(None)), path, limits)
    if dataclasses.is_dataclass(kind):
        return from_mapping(typing.cast(type, kind), value, path)
    if origin is Literal:
        if value not in args:
            raise wrong
        return value
    if origin is list:
        if not isinstance(value, list | tuple):
            raise wrong
        return [_convert(v, args[0], f"{path}.{i}", limits) for i, v in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise wrong
        return {str(k): _convert(v, args[1], f"{path}.{k}", limits) for k, v in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, str):
        try:  # YAML 1.1 reads 1e-3 as a text
            value = float(value)
        except ValueError:
            raise wrong from None
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and value != int(value)):
            raise wrong
        return _number(kind(value), path, limits)
    if not isinstance(value, kind):
        raise wrong
    return value


def from_mapping(cls: type[T], mapping: Any, path: str = "") -> T:
    """Build a configuration dataclass from plain data.

    Raises:
        InputError: names the full path of an unknown key, a wrong type or an impossible value, and what is allowed.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{path or 'configuration'}: expected a mapping, got {mapping!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    prefix = path + "." if path else ""
    for key in mapping:
        if key not in fields:
            raise InputError(f"{prefix}{key}: unknown key; allowed are {', '.join(fields)}")
    values = {k: _convert(v, hints[k], prefix + k, fields[k].metadata) for k, v in mapping.items()}
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise InputError(f"{prefix}{name}: missing; must be {_describe(hints[name])}")
    return cls(**values)


def to_mapping(config: Any) -> dict[str, Any]:
    """The whole configuration as plain data: `from_mapping(type(config), to_mapping(config)) == config`."""
    return dataclasses.asdict(config)


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def set_path(mapping: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path (`explainer.interp_widths.0`) in nested plain data, in place; list items by their index.

    Raises:
        InputError: if the path goes through something that is neither a mapping nor a list.
    """
    *parents, last = path.split(".")
    node: Any = mapping
    for i, key in enumerate([*parents, last]):
        is_last = i == len(parents)
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise InputError(f"{path}: {key} is not an index of a list of {len(node)}")
            if is_last:
                node[int(key)] = value
            else:
                node = node[int(key)]
        elif isinstance(node, dict):
            if is_last:
                node[key] = value
            else:
                node = node.setdefault(key, {})
        else:
            raise InputError(f"{path}: {'.'.join(parents[:i])} has no parts")


def apply_overrides(mapping: dict[str, Any], overrides: list[str]) -> None:
    """Apply `path=value` texts, values in YAML, in place.

    Raises:
        InputError: if a text has no `=` or its value is not YAML.
    """
    import yaml

    for text in overrides:
        path, sign, value = text.partition("=")
        if not sign or not path:
            raise InputError(f"{text}: expected path=value, for example train.epochs=20")
        try:
            set_path(mapping, path, yaml.safe_load(value))
        except yaml.YAMLError:
            raise InputError(f"{text}: the value is not YAML") from None


def read_yaml(file: str | Path) -> dict[str, Any]:
    """A YAML file's mapping.

    Raises:
        InputError: names the file, and the line if it does not parse.
    """
    import yaml

    try:
        text = Path(file).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not a UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise InputError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a mapping of configuration fields")
    return content


def load_config(file: str | Path | None, overrides: list[str] | None = None) -> Config:
    """The configuration of a YAML file with `path=value` overrides on top.

    Raises:
        InputError: names the file or the field, and what would be right.
    """
    mapping = read_yaml(file) if file else {}
    apply_overrides(mapping, overrides or [])
    return from_mapping(Config, mapping)
