"""Fine-tunes a performer on the data's categories; crops lie in memory, augmentation is done on whole batches."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from paraphrase.core.config import Config, FitConfig
from paraphrase.core.data import Dataset
from paraphrase.core.data.records import Record, crop
from paraphrase.core.device import autocast_for, choose_device, keep_memory, keep_to_cores, without_denormals
from paraphrase.core.errors import InputError
from paraphrase.core.performer.graph import trace
from paraphrase.core.performer.performer import Performer
from paraphrase.core.performer.spec import Spec
from paraphrase.core.terminal.progress import bar

MAX_GRADIENT = 5.0
"""Norm above which a step's gradient is scaled down: networks without batch norm start with some that are far above."""

PATCHES = 4
"""A side's patches, of which some are hidden; each is then the mean colour of its image."""

VIEWS, MOST_BYTES = 8, 2 * 2**30
"""Random views of each image that go through a frozen network, once, and about how much memory they may take."""


def load_crops(records: list[Record], spec: Spec, threads: int = 4) -> tuple[Tensor, Tensor]:
    """Crops (N, 3, S, S) uint8 of the records as a performer takes them; landmarks (N, parts, 3) float32 in its pixels."""
    size = spec.input_size

    def one(record: Record) -> tuple[np.ndarray, np.ndarray]:
        image, landmarks = crop(record, size, spec.interpolation)
        return np.asarray(image), landmarks

    images = np.empty((len(records), size, size, 3), np.uint8)  # filled in place: a second copy may not fit in memory
    landmarks = []
    with ThreadPoolExecutor(threads) as pool:
        for i, (image, places) in enumerate(pool.map(one, records)):
            images[i] = image
            landmarks.append(places)
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(np.stack(landmarks))


def augment(images: Tensor, config: FitConfig, generator: torch.Generator) -> Tensor:
    """Random crops, flips, rotations, colours and hidden patches, drawn from the generator. images: (B, 3, S, S) in [0, 1]."""
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
    if config.hide:
        shown = torch.rand(count, 1, PATCHES, PATCHES, generator=generator).to(images.device) >= config.hide
        shown = F.interpolate(shown.float(), images.shape[2:])
        images = images * shown + images.mean((2, 3), keepdim=True) * (1 - shown)
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


@without_denormals()
def _fit(performer: Performer, dataset: Dataset, config: Config, progress: bool, frozen: Collection[str]) -> dict[str, Any]:
    settings, spec = config.performer.fit, performer.spec
    device = choose_device(config.train.device)
    if device.type == "cpu":
        keep_memory()
        keep_to_cores()
    autocast = autocast_for(config.train.precision, device)
    network = performer.network.to(device)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    tail = _trained_tail(network, spec.input_size)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs leave it out
    images, labels = load_crops(dataset.train, spec)[0], torch.tensor([r.label for r in dataset.train])
    test, truth = load_crops(dataset.test, spec)[0], torch.tensor([r.label for r in dataset.test])
    if device.type == "cuda" and images.nbytes < 0.25 * torch.cuda.mem_get_info(device)[0]:
        images = images.to(device)
    began = time.perf_counter()
    batch_size = min(settings.batch_size, len(labels))
    steps = len(labels) // batch_size
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer, rates = _optimizer(trained, settings, settings.epochs * steps)
    generator = torch.Generator().manual_seed(settings.seed)

    def batch_of(index: Tensor) -> Tensor:
        """A new view of some training images, ready for the network."""
        batch = augment(images[index.to(images.device)].to(device).float() / 255, settings, generator)
        return performer.normalise(batch).contiguous(memory_format=torch.channels_last)

    seen: list[Tensor] = []
    if tail is not None:
        seen = _views(network, tail, batch_of, len(labels), settings.epochs, autocast, progress)
    hits, losses = torch.zeros((), device=device), torch.zeros((), device=device)
    with bar(f"fit {spec.arch}", settings.epochs, "epochs", shown=progress) as shown:
        for epoch in range(settings.epochs):
            _train_mode(network)
            hits.zero_()
            for index in torch.randperm(len(labels), generator=generator).split(batch_size)[:steps]:
                with autocast:
                    if tail is not None:
                        logits = tail(seen[epoch % len(seen)][index].to(device).float()).flatten(1)
                    else:
                        logits = network(batch_of(index))
                logits = logits if isinstance(logits, Tensor) else logits[0]  # without auxiliary answers
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
            if (shown.watched and tail is None) or epoch + 1 == settings.epochs:
                with autocast if epoch + 1 < settings.epochs else nullcontext():  # the last one is the one reported
                    accuracy = accuracy_of(performer, test, truth)
                about += f", {accuracy:.3f} test"
            shown.advance(about=about)
    return {"accuracy": accuracy, "train_accuracy": share, "seconds": time.perf_counter() - began}


def _train_mode(network: nn.Module) -> None:
    """Training mode, but for modules of which no parameter is trained: their batch norms keep their averages."""
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()


def _trained_tail(network: nn.Module, size: int) -> nn.Module | None:
    """The module that holds all that is trained and gives the answer, where all before it is frozen; None: there is none."""
    trained = [f"/{name}".replace(".", "/") for name, parameter in network.named_parameters() if parameter.requires_grad]
    path = os.path.commonpath([os.path.dirname(name) for name in trained])[1:].replace("/", ".") if trained else ""
    if not path or len(trained) == len(list(network.parameters())):
        return None
    graph = trace(network, size)
    images = 0
    whole = graph.gives.get(path) == graph.answer and graph.takes.get(path, images) != images
    return network.get_submodule(path) if whole else None


@torch.no_grad()
def _views(
    network: nn.Module,
    tail: nn.Module,
    batch_of: Callable[[Tensor], Tensor],
    images: int,
    epochs: int,
    autocast: torch.autocast,
    progress: bool,
) -> list[Tensor]:
    """What the tail takes of every training image, in several random views: a frozen network need not run in every epoch."""
    taken: list[Tensor] = []
    network.eval()
    handle = tail.register_forward_pre_hook(lambda _, given: taken.append(given[0].half().cpu()))
    views: list[Tensor] = []
    try:
        with bar("frozen layers", images * min(VIEWS, epochs), "images", shown=progress) as shown:
            while len(views) < min(VIEWS, epochs):
                for index in torch.arange(images).split(64):
                    with autocast:
                        network(batch_of(index))
                    shown.advance(len(index))
                views.append(torch.cat(taken))
                taken.clear()
                if sum(view.nbytes for view in views) > MOST_BYTES:
                    break
    finally:
        handle.remove()
    return views


def _optimizer(trained: list[nn.Parameter], settings: FitConfig, steps: int) -> tuple[torch.optim.Optimizer, OneCycleLR]:
    """AdamW, without weight decay of biases and norms, and its one-cycle schedule over all steps."""
    decayed, plain = [p for p in trained if p.dim() > 1], [p for p in trained if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    total = max(8, steps)  # the schedule's rise needs a step of its own
    return optimizer, OneCycleLR(optimizer, settings.learning_rate, total_steps=total, pct_start=0.25)
