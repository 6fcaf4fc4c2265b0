"""The configuration: typed data, defined once, and at once the YAML schema, the command line, the docs and the checks.

Every field has its description right under it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from core.schema import apply_overrides, bounded, flatten, from_mapping, read_yaml, set_path, to_mapping

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
    "bounded",
    "flatten",
    "from_mapping",
    "load_config",
    "read_yaml",
    "set_path",
    "to_mapping",
]


@dataclass
class DataConfig:
    source: str = "menagerie"
    """Where the images come from: menagerie (drawn here), cub (CUB-200-2011 layout), imagefolder, pascal_part
    (Pascal-Part annotations of VOC 2010) or coco_keypoints."""
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
    """Share of the images (imagefolder: of each category) that becomes the test split where the source has no split."""
    min_object: float = bounded(50.0, low=1.0)
    """pascal_part and coco_keypoints: objects whose box has a shorter side are left out, in pixels."""
    truncated: bool = True
    """pascal_part: also take objects that the image's border cuts off."""
    skip_bad: bool = False
    """Go on without damaged images instead of stopping at the first report."""


@dataclass
class FitConfig:
    epochs: int = bounded(10, low=1)
    """Passes over the training split."""
    batch_size: int = bounded(64, low=1)
    """Images per step."""
    learning_rate: float = bounded(2e-3, above=0.0)
    """Peak learning rate of the one-cycle schedule (AdamW)."""
    weight_decay: float = bounded(0.05, low=0.0)
    """Decoupled weight decay."""
    label_smoothing: float = bounded(0.1, low=0.0, high=0.5)
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
    interp_widths: list[int] = bounded([0, 0], low=0, high=8192)
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
    eta: float = bounded(1.4, low=0.0)
    """Weight of -log p."""
    lambda_f: float = bounded(3.0, low=0.0)
    """Weight of the filter loss."""
    kappa: float = bounded(1.5, above=0.0)
    """Filter temperature: the score of a map with all its mass at a template's centre. Above about 3, filters settle on
    different parts in different images."""
    template_beta: float = bounded(4.0, above=0.0)
    """How fast a template falls off with the L1 distance from its centre, in map sizes."""
    filter_loss: Literal["exact", "category"] = "exact"
    """exact: all images of the batch are positives; category: a filter's own category against the others."""
    filter_layers: Literal["last", "all"] = "last"
    """Interpretable conv-layers that the filter loss acts on."""
    filter_maps: Literal["unmasked", "masked"] = "unmasked"
    """Whether the filter loss sees their maps before or after the masks; a mask hides from it what it should put out."""


@dataclass
class TrainConfig:
    epochs: int = bounded(10, low=1)
    """Passes over the training split."""
    batch_size: int = bounded(32, low=2)
    """Images per step and replicate."""
    learning_rate: float = bounded(2e-3, above=0.0)
    """Peak learning rate of the encoder (AdamW, one-cycle)."""
    decoder_learning_rate: float = bounded(1e-3, above=0.0)
    """Peak learning rate of the decoder."""
    p_learning_rate: float = bounded(5e-2, above=0.0)
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


def load_config(file: str | Path | None, overrides: list[str] | None = None) -> Config:
    """The configuration of a YAML file with `path=value` overrides on top.

    Raises:
        InputError: names the file or the field, and what would be right.
    """
    mapping = read_yaml(file) if file else {}
    apply_overrides(mapping, overrides or [])
    return from_mapping(Config, mapping)
