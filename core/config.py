"""The configuration: typed data, defined once, and at once the YAML schema, the command line, the docs and the checks.

Every field has its description right under it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from paraphrase.core.foreign import look_in
from paraphrase.core.objective.terms import LossConfig
from paraphrase.core.schema import (
    RULES,
    Flag,
    Place,
    Real,
    Seed,
    Whole,
    apply_overrides,
    flatten,
    from_mapping,
    read_yaml,
    set_path,
    to_mapping,
)

__all__ = [
    "CacheConfig",
    "Config",
    "DataConfig",
    "ExplainerConfig",
    "FitConfig",
    "LossConfig",
    "PerformerConfig",
    "TrainConfig",
    "apply_overrides",
    "flatten",
    "from_mapping",
    "load_config",
    "read_yaml",
    "set_path",
    "to_mapping",
]


@dataclass(config=RULES)
class DataConfig:
    source: str = "menagerie"
    """Where the images come from: menagerie (drawn here), cub (CUB-200-2011 layout), imagefolder, pascal_part
    (Pascal-Part annotations of VOC 2010), coco_keypoints, or `module:function` of yours, which takes this section and returns
    `paraphrase.core.data.Source`."""
    path: Place | None = None
    """Folder of the data set; menagerie needs none."""
    categories: list[str] = Field(default_factory=list)
    """Categories to use, in this order; empty: all of them."""
    single_category: str | None = None
    """Single-category protocol: this category against random images of the others. Empty: multi-category."""
    landmarks: dict[str, list[str]] = Field(default_factory=dict)
    """Landmark name -> the source's parts whose visible ones are averaged; empty: every part of the source."""
    seed: Seed = Field(default=0)
    """Seed of the drawn images and of every random split."""
    train_images: Whole = Field(default=2400, ge=2)
    """menagerie: number of training images."""
    test_images: Whole = Field(default=600, ge=2)
    """menagerie: number of test images."""
    test_share: Real = Field(default=0.2, gt=0.0, le=0.9)
    """Share of the images (imagefolder: of each category) that becomes the test split where the source has no split."""
    min_object: Real = Field(default=50.0, ge=1.0)
    """pascal_part and coco_keypoints: objects whose box has a shorter side are left out, in pixels."""
    truncated: Flag = True
    """pascal_part: also take objects that the image's border cuts off."""
    links: Flag = False
    """cub and coco_keypoints: images may be links that lead out of the data set, as DVC and git-annex make them."""
    skip_bad: Flag = False
    """Go on without damaged images instead of stopping at the first report."""


@dataclass(config=RULES)
class FitConfig:
    epochs: Whole = Field(default=25, ge=0)
    """Passes over the training split; 0: the network stays as it is, with its own weights and classes."""
    batch_size: Whole = Field(default=64, ge=1)
    """Images per step."""
    learning_rate: Real = Field(default=2e-3, gt=0.0)
    """Peak learning rate of the one-cycle schedule (AdamW)."""
    weight_decay: Real = Field(default=0.05, ge=0.0)
    """Decoupled weight decay."""
    label_smoothing: Real = Field(default=0.1, ge=0.0, le=0.5)
    """Label smoothing of the cross-entropy."""
    crop_scale: Real = Field(default=0.8, gt=0.0, le=1.0)
    """Random crops keep at least this share of each side; 1 turns them off."""
    flip: Flag = True
    """Mirror half of the training images."""
    colour_jitter: Real = Field(default=0.0, ge=0.0, le=1.0)
    """Strength of random brightness, contrast and saturation changes."""
    rotation: Real = Field(default=0.0, ge=0.0, le=180.0)
    """Random rotations of up to this many degrees."""
    hide: Real = Field(default=0.3, ge=0.0, lt=1.0)
    """Share of the 4 x 4 patches of each training image that are hidden at random (Hide-and-Seek, Singh and Lee, ICCV 2017), so
    that the performer learns to look at more than the easiest part; 0 turns it off."""
    seed: Seed = Field(default=0)
    """Seed of initialisation, data order and augmentation."""


@dataclass(config=RULES)
class PerformerConfig:
    arch: str = "small"
    """small, vgg_m, vgg_s, the name of a torchvision classifier (alexnet, vgg16, resnet50, ...), `timm:NAME` where timm is
    installed, or `module:factory`: a function of yours that returns a classifier, imported from the YAML file's folder, the
    working folder or PYTHONPATH. What it freezes stays frozen in the fit."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the factory."""
    weights: Place = "fit"
    """fit (train on the data's categories, once, then kept), torchvision or timm (their weights, downloaded only then), or the
    folder of a fitted performer, or a .pth/.safetensors state dict or checkpoint to start the fit from. With `fit.epochs: 0` they
    are used as they are."""
    classes: list[Annotated[Whole, Field(ge=0)] | str] | None = None
    """With `fit.epochs: 0`: the network's class of each category, in their order, by number or by name where the weights name
    their classes. Empty: by the categories' names, or in their order where there are as many; else accuracy is not known."""
    head: list[Annotated[Whole, Field(ge=1, le=65536)]] = Field(default_factory=list, max_length=2)
    """Widths of one or two fully connected layers with ReLU that take the place of the last linear one, as the paper's fc6 and
    fc7, followed by a new last one; the network before them is frozen in the fit. Empty: the network keeps its own end."""
    head_dropout: Real = Field(default=0.0, ge=0.0, le=0.9)
    """Dropout after each layer of `head`, in the fit."""
    input_size: Annotated[Whole, Field(ge=16, le=2048)] | None = None
    """Side of the square crop in pixels; empty: the architecture's own."""
    mean: list[Real] | None = Field(default=None, min_length=3, max_length=3)
    """Mean of each colour channel that is taken off, of pixels in [0, 1]; empty: that of the published weights, or ImageNet's."""
    std: list[Annotated[Real, Field(gt=0.0)]] | None = Field(default=None, min_length=3, max_length=3)
    """Standard deviation of each colour channel that is divided by; empty: that of the published weights, or ImageNet's."""
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest", "box", "hamming"] | None = None
    """How crops are resized to `input_size`; empty: as for the published weights, or bilinear."""
    feature: str | None = None
    """Module path of the feature layer (top conv-layer after its ReLU); `PATH:input` is what a module takes. Empty: found, as the
    other layers are; `paraphrase performer layers` shows them."""
    pool: list[str] | None = None
    """What lies between the feature layer and the first target, in order, the performer's last pooling: module paths, or for
    functions words: mean, max, `max:K:S:P` and `avg:K:S:P` (kernel, stride, padding), relu. `rest` alone: the explainer rebuilds
    the feature, and all layers between it and the targets make them of it, frozen."""
    targets: list[str] | None = None
    """Module paths of the two target layers (fc6 and fc7 after their ReLU); `PATH:input` is what a module takes."""
    decoder_init: list[str] | None = None
    """Module paths of the linear layers from which fc-dec-1 and fc-dec-2 start; `identity` where the target is the
    pooled feature itself."""
    fit: FitConfig = Field(default_factory=FitConfig)
    """How `paraphrase performer fit` trains it."""


@dataclass(config=RULES)
class CacheConfig:
    dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    """Storage type of features and targets."""
    mirror: Flag = True
    """Also keep features and targets of the mirrored training images; a batch is then half images, half their mirror images."""


@dataclass(config=RULES)
class ExplainerConfig:
    interp_widths: list[Annotated[Whole, Field(ge=0, le=8192)]] = Field(default_factory=lambda: [0, 0])
    """Track widths of the interpretable track, one for each conv-layer (W1, W2), one or two; 0: as many channels as the
    performer's feature. An empty list takes the interpretable track away."""
    ordin_width: Annotated[Whole, Field(ge=0, le=8192)] | None = 0
    """Track width Wo of the ordinary track; 0: the performer's channels; null takes the ordinary track away."""
    mask: Literal["peak", "mean", "none"] = "none"
    """Centre of the masks: the map's peak, its activation-weighted mean position, or no masks."""
    mask_beta: Real = Field(default=4.0, gt=0.0)
    """How fast the mask falls off with the L1 distance from its centre, in map sizes."""
    norm: Flag = True
    """Divide each channel by its running mean peak, so that p is a share of information."""
    norm_momentum: Real = Field(default=0.1, gt=0.0, le=1.0)
    """Weight of a batch in the running mean peak."""
    encoder_init: Literal["kaiming", "identity"] = "identity"
    """Start of the conv-layers: kaiming (random), or the identity plus noise, where widths are equal."""
    decoder_init: Literal["performer", "kaiming"] = "performer"
    """Start of fc-dec: from the performer's own layers where the shapes agree, or random."""


@dataclass(config=RULES)
class TrainConfig:
    epochs: Whole = Field(default=4, ge=1)
    """Passes over the training split, and over its mirror images where the cache has them."""
    batch_size: Whole = Field(default=32, ge=2)
    """Images per step and replicate."""
    learning_rate: Real = Field(default=2e-3, gt=0.0)
    """Peak learning rate of the encoder (AdamW, one-cycle)."""
    decoder_learning_rate: Real = Field(default=2e-3, gt=0.0)
    """Peak learning rate of the decoder."""
    p_learning_rate: Real = Field(default=5e-2, gt=0.0)
    """Peak learning rate of w_p; with the common one p stays near 0.5."""
    weight_decay: Real = Field(default=0.01, ge=0.0)
    """Decoupled weight decay of the weight matrices."""
    warmup: Real = Field(default=0.2, gt=0.0, le=0.9)
    """Share of the steps in which the learning rates rise."""
    seed: Seed = Field(default=0)
    """Seed of the first replicate's initialisation and data order; replicate r has seed + r."""
    replicates: Whole = Field(default=1, ge=1, le=1024)
    """Runs of one configuration, each with its own seed, trained as one batched model."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of convolutions and matrix products; auto: bfloat16 where the hardware has it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""


@dataclass(config=RULES)
class Config:
    """Everything that determines one explainer."""

    data: DataConfig = Field(default_factory=DataConfig)
    """The images."""
    performer: PerformerConfig = Field(default_factory=PerformerConfig)
    """The CNN that is explained."""
    cache: CacheConfig = Field(default_factory=CacheConfig)
    """The feature cache."""
    explainer: ExplainerConfig = Field(default_factory=ExplainerConfig)
    """The network that explains."""
    loss: LossConfig = Field(default_factory=LossConfig)
    """What it minimises."""
    train: TrainConfig = Field(default_factory=TrainConfig)
    """How it is trained."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> Config:
        if self.loss.lambda_m > 0 and not self.cache.mirror:
            raise ValueError("loss.lambda_m: the mirror term needs cache.mirror=true")
        return self


def load_config(file: str | Path | None, overrides: list[str] | None = None) -> Config:
    """The configuration of a YAML file with `path=value` overrides on top.

    Args:
        file: of a configuration, or of a sweep, whose base it then is; None: the defaults.
        overrides: texts such as `loss.eta=0.5`.

    Raises:
        InputError: names the file or the field, and what would be right.
    """
    mapping = _read(file) if file else {}
    if file:
        look_in(Path(file).parent)
    apply_overrides(mapping, overrides or [])
    return from_mapping(Config, mapping)


def config_of(given: Config | str | Path | Mapping[str, Any] | None, changes: Mapping[str, Any] | None = None) -> Config:
    """The configuration of a YAML file, of plain data or of another one, with changes on top.

    Args:
        given: None: the defaults.
        changes: path -> value; a point in a path may be written as two underscores.

    Raises:
        InputError: names the file or the field, and what would be right.
    """
    if isinstance(given, Config):
        mapping = to_mapping(given)
    elif isinstance(given, Mapping):
        mapping = copy.deepcopy(dict(given))
    else:
        mapping = _read(given) if given else {}
    mapping = to_mapping(from_mapping(Config, mapping))  # in full, so that items of lists can be changed
    for path, value in (changes or {}).items():
        set_path(mapping, path.replace("__", "."), value)
    return from_mapping(Config, mapping)


def _read(file: str | Path) -> dict[str, Any]:
    """A YAML file's configuration; of a sweep's, its base."""
    mapping = read_yaml(file)
    if "base" not in mapping:
        return mapping
    base = mapping["base"]
    return read_yaml(Path(file).parent / base) if isinstance(base, str) else base or {}
