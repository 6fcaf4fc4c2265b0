"""Fine-tunes a performer on the data's categories; crops lie in memory, augmentation is done on whole batches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import sys
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from paraphrase.core.config import Config, FitConfig, to_mapping
from paraphrase.core.data import Dataset
from paraphrase.core.data.records import Record, crop
from paraphrase.core.device import autocast_for, choose_device
from paraphrase.core.errors import InputError
from paraphrase.core.home import home
from paraphrase.core.performer.factory import source_of_factory
from paraphrase.core.performer.performer import OWN, Performer, build_network
from paraphrase.core.performer.spec import known_input_size, resolve_spec
from paraphrase.core.performer.weights import ABOUT, load_performer, load_state, save_performer
from paraphrase.core.terminal.progress import bar

MAX_GRADIENT = 5.0
"""Norm above which a step's gradient is scaled down: networks without batch norm start with some that are far above."""


def load_crops(records: list[Record], size: int, threads: int = 4) -> tuple[Tensor, Tensor]:
    """Crops (N, 3, size, size) uint8 of the records and their landmarks (N, parts, 3) float32 in pixels of the crop."""

    def one(record: Record) -> tuple[np.ndarray, np.ndarray]:
        image, landmarks = crop(record, size)
        return np.asarray(image), landmarks

    images = np.empty((len(records), size, size, 3), np.uint8)  # filled in place: a second copy may not fit in memory
    landmarks = []
    with ThreadPoolExecutor(threads) as pool:
        for i, (image, places) in enumerate(pool.map(one, records)):
            images[i] = image
            landmarks.append(places)
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(np.stack(landmarks))


def augment(images: Tensor, config: FitConfig, generator: torch.Generator) -> Tensor:
    """Random crops, flips, rotations and colours, all drawn from the generator. images: (B, 3, S, S) in [0, 1]."""
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return (torch.rand(count, generator=generator) * (high - low) + low).to(images.device)

    scale_x, scale_y = uniform(config.crop_scale, 1), uniform(config.crop_scale, 1)
    shift_x, shift_y = uniform(-1, 1) * (1 - scale_x), uniform(-1, 1) * (1 - scale_y)
    if config.flip:
        scale_x = scale_x * (uniform(0, 1) < 0.5).float().mul(2).sub(1)
    angle = uniform(-math.radians(config.rotation), math.radians(config.rotation))
    rows = [
        torch.stack([angle.cos() * scale_x, -angle.sin() * scale_y, shift_x], 1),
        torch.stack([angle.sin() * scale_x, angle.cos() * scale_y, shift_y], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    if config.colour_jitter:
        strength = config.colour_jitter
        grey = images.mean(1, keepdim=True)
        saturation, contrast, brightness = (uniform(1 - strength, 1 + strength)[:, None, None, None] for _ in range(3))
        images = grey + (images - grey) * saturation
        mean = images.mean((1, 2, 3), keepdim=True)
        images = ((images - mean) * contrast + mean * brightness).clamp(0, 1)
    return images


def accuracy_of(performer: Performer, images: Tensor, labels: Tensor) -> float:
    """Share of uint8 images (N, 3, S, S) whose largest logit is their label's, in evaluation mode."""
    device = next(performer.parameters()).device
    performer.network.eval()
    right = 0
    with torch.no_grad():
        for block, truth in zip(images.split(128), labels.split(128), strict=True):
            batch = performer.normalise(block.to(device).float() / 255).contiguous(memory_format=torch.channels_last)
            right += int((performer.network(batch).argmax(1).cpu() == truth).sum())
    return right / len(labels)


def fit(
    performer: Performer, dataset: Dataset, config: Config, progress: bool = True, frozen: Collection[str] = ()
) -> dict[str, Any]:
    """Train the performer's network in place (AdamW, one-cycle), then freeze it again; the same seed gives the same network.

    Args:
        performer: whose network is trained.
        dataset: its training images; the accuracy is that on its test images.
        config: `performer.fit`, and `train.device` and `train.precision`.
        progress: draw a bar.
        frozen: names of parameters that stay as they are.

    Returns:
        `accuracy` on the test split, `train_accuracy` of the last epoch (on augmented images) and `seconds`.

    Raises:
        InputError: if the loss is no longer finite.
    """
    with torch.random.fork_rng():  # dropout draws from the global generator, which is the caller's
        torch.manual_seed(config.performer.fit.seed)
        try:
            return _fit(performer, dataset, config, progress, frozen)
        finally:
            performer.network.eval().requires_grad_(False)


def _fit(performer: Performer, dataset: Dataset, config: Config, progress: bool, frozen: Collection[str]) -> dict[str, Any]:
    settings, spec = config.performer.fit, performer.spec
    device = choose_device(config.train.device)
    autocast = autocast_for(config.train.precision, device)
    network = performer.network.to(device)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out
    images, labels = load_crops(dataset.train, spec.input_size)[0], torch.tensor([r.label for r in dataset.train])
    test, truth = load_crops(dataset.test, spec.input_size)[0], torch.tensor([r.label for r in dataset.test])
    if device.type == "cuda" and images.nbytes < 0.25 * torch.cuda.mem_get_info(device)[0]:
        images = images.to(device)
    began = time.perf_counter()
    batch_size = min(settings.batch_size, len(labels))
    steps = len(labels) // batch_size
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer, rates = _optimizer(trained, settings, settings.epochs * steps)
    generator = torch.Generator().manual_seed(settings.seed)
    hits, losses = torch.zeros((), device=device), torch.zeros((), device=device)
    with bar(f"fit {spec.arch}", settings.epochs, "epochs", shown=progress) as shown:
        for epoch in range(settings.epochs):
            network.train()
            hits.zero_()
            for index in torch.randperm(len(labels), generator=generator).split(batch_size)[:steps]:
                batch = augment(images[index.to(images.device)].to(device).float() / 255, settings, generator)
                batch = performer.normalise(batch).contiguous(memory_format=torch.channels_last)
                with autocast:
                    logits = network(batch)
                logits = logits if isinstance(logits, Tensor) else logits[0]  # without Inception's auxiliary answers
                answers = labels[index].to(device)
                loss = F.cross_entropy(logits.float(), answers, label_smoothing=settings.label_smoothing)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, MAX_GRADIENT)
                optimizer.step()
                losses += loss.detach()
                optimizer.zero_grad(set_to_none=True)
                rates.step()
                hits += (logits.argmax(1) == answers).sum()
            if not math.isfinite(float(losses)):
                lower = f"use less than {settings.learning_rate:g}"
                raise InputError(f"performer.fit.learning_rate: the loss is no number after epoch {epoch + 1}; {lower}")
            share = float(hits) / (steps * batch_size)
            about = f"accuracy {share:.3f} train"
            if shown.watched or epoch + 1 == settings.epochs:
                with autocast if epoch + 1 < settings.epochs else nullcontext():  # the last one is the one reported
                    accuracy = accuracy_of(performer, test, truth)
                about += f", {accuracy:.3f} test"
            shown.advance(about=about)
    return {"accuracy": accuracy, "train_accuracy": share, "seconds": time.perf_counter() - began}


def _optimizer(trained: list[nn.Parameter], settings: FitConfig, steps: int) -> tuple[torch.optim.Optimizer, OneCycleLR]:
    """AdamW, without weight decay of biases and norms, and its one-cycle schedule over all steps."""
    decayed, plain = [p for p in trained if p.dim() > 1], [p for p in trained if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    total = max(8, steps)  # the schedule's rise needs a step of its own
    return optimizer, OneCycleLR(optimizer, settings.learning_rate, total_steps=total, pct_start=0.25)


def fit_folder(config: Config, dataset: Dataset) -> Path:
    """Where the performer that this configuration fits on this data is kept.

    What the layers are read for (feature, targets, ...) does not change the fit, so it is not part of the name; the content
    of a file of weights is.
    """
    performer = to_mapping(config.performer)
    parts = {k: performer[k] for k in ("arch", "weights", "input_size", "fit")} | {"dataset": dataset.fingerprint}
    parts |= {k: performer[k] for k in ("mean", "std") if performer[k] is not None}
    if ":" in config.performer.arch:
        parts |= {"arguments": performer["arguments"], "source": source_of_factory(config.performer.arch)}
    parts["input_size"] = config.performer.input_size or known_input_size(config.performer.arch)
    file = Path(config.performer.weights)
    if file.is_file():
        parts["weights"] = hashlib.sha256(file.read_bytes()).hexdigest()
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]
    return home() / "performers" / f"{config.performer.arch.replace(':', '.')}-{dataset.name}-{key}"


def obtain_performer(config: Config, dataset: Dataset, progress: bool = True) -> tuple[Performer, dict[str, Any]]:
    """The performer of a configuration: loaded, or fitted once and kept.

    Returns:
        The performer and its description, with `folder` and `accuracy`.

    Raises:
        InputError: if the weights are missing or do not fit the data.
    """
    weights = config.performer.weights
    given = Path(weights)
    if weights not in ("fit", "torchvision") and (given / ABOUT).exists():
        return _read(given, config, dataset)
    folder = fit_folder(config, dataset)
    if (folder / ABOUT).exists():
        return _read(folder, config, dataset)
    with torch.random.fork_rng():
        torch.manual_seed(config.performer.fit.seed)
        asked = config.performer.arch, len(dataset.categories), _ready_made(config), config.performer.arguments
        network = build_network(*asked)
    if weights not in ("fit", "torchvision"):
        fresh = load_state(given, network)
        if fresh:
            print(f"{given}: has another number of classes, so {', '.join(fresh)} start at random", file=sys.stderr)
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    performer = Performer(network, resolve_spec(config.performer, network), dataset.categories)
    performer.check_layers()
    performer.receptive_field()  # before the fit: a layer without one could not be explained
    about = fit(performer, dataset, config, progress, frozen)
    about |= {"dataset": dataset.name, "dataset_fingerprint": dataset.fingerprint, "config": to_mapping(config.performer)}
    save_performer(performer.cpu(), folder, about)
    return _read(folder, config, dataset)


def _read(folder: Path, config: Config, dataset: Dataset) -> tuple[Performer, dict[str, Any]]:
    """A performer that was fitted before, read at the layers that the configuration names."""
    saved, about = load_performer(folder)
    wanted = config.performer
    if saved.categories != dataset.categories:
        raise InputError(f"performer.weights: {folder} knows {saved.categories}, the data {dataset.categories}")
    if wanted.arch != saved.spec.arch:
        raise InputError(f"performer.arch: {wanted.arch}, but {folder} holds {saved.spec.arch}")
    size = wanted.input_size or saved.spec.input_size
    if size != saved.spec.input_size:
        raise InputError(f"performer.input_size: {size}, but {folder} was fitted at {saved.spec.input_size}")
    spec = resolve_spec(dataclasses.replace(wanted, input_size=size), saved.network)
    performer = Performer(saved.network, spec, saved.categories)
    performer.check_layers()
    return performer, about | {"folder": str(folder)}


def _ready_made(config: Config) -> object | None:
    """torchvision's weights, fetched only because the configuration asks for them."""
    if config.performer.weights != "torchvision":
        return None
    arch = config.performer.arch
    if arch in OWN:
        raise InputError(f"performer.weights: torchvision has none for {arch}; use fit or a file")
    weights = torchvision.models.get_model_weights(arch).DEFAULT
    try:
        weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError):  # no network; or what came is not what was asked for
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(f"performer.weights: cannot fetch {weights.url}; put that file into {cache}") from None
    return weights
