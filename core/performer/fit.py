"""Fine-tunes a performer on the data's categories; crops lie in memory, augmentation is done on whole batches."""

from __future__ import annotations

import hashlib
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from tqdm import tqdm

from core.config import Config, FitConfig, to_mapping
from core.data import Dataset
from core.data.records import Record, crop
from core.device import autocast_for, choose_device
from core.errors import InputError
from core.home import home
from core.performer.performer import OWN, Performer, build_network
from core.performer.spec import resolve_spec
from core.performer.weights import ABOUT, load_performer, load_state, save_performer


def load_crops(records: list[Record], size: int, threads: int = 4) -> tuple[Tensor, Tensor]:
    """Crops (N, 3, size, size) uint8 of the records and their landmarks (N, parts, 3) float32 in pixels of the crop."""

    def one(record: Record) -> tuple[np.ndarray, np.ndarray]:
        image, landmarks = crop(record, size)
        return np.asarray(image), landmarks

    with ThreadPoolExecutor(threads) as pool:
        images, landmarks = zip(*pool.map(one, records), strict=True)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(np.stack(landmarks))


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
    """Share of uint8 images whose largest logit is their label's."""
    device = next(performer.parameters()).device
    right = 0
    with torch.no_grad():
        for block, truth in zip(images.split(128), labels.split(128), strict=True):
            logits = performer.network(performer.normalise(block.to(device).float() / 255))
            right += int((logits.argmax(1).cpu() == truth).sum())
    return right / len(labels)


def fit(performer: Performer, dataset: Dataset, config: Config, progress: bool = True) -> dict[str, Any]:
    """Train the performer's network in place (AdamW, one-cycle), then freeze it again.

    Returns:
        `accuracy` on the test split, `train_accuracy` of the last epoch and `seconds`.
    """
    settings, spec = config.performer.fit, performer.spec
    device = choose_device(config.train.device)
    autocast = autocast_for(config.train.precision, device)
    network = performer.network.to(device, memory_format=torch.channels_last).requires_grad_(True)
    images, labels = load_crops(dataset.train, spec.input_size)[0], torch.tensor([r.label for r in dataset.train])
    test, truth = load_crops(dataset.test, spec.input_size)[0], torch.tensor([r.label for r in dataset.test])
    began = time.perf_counter()
    decayed = [p for p in network.parameters() if p.dim() > 1]
    plain = [p for p in network.parameters() if p.dim() <= 1]
    groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    steps = max(1, len(labels) // settings.batch_size)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, epochs=settings.epochs, steps_per_epoch=steps, pct_start=0.25
    )
    generator = torch.Generator().manual_seed(settings.seed)
    hits = torch.zeros((), device=device)
    with tqdm(total=settings.epochs, unit="epoch", desc=f"fit {spec.arch}", disable=None if progress else True) as bar:
        for _ in range(settings.epochs):
            network.train()
            hits.zero_()
            for index in torch.randperm(len(labels), generator=generator).split(settings.batch_size)[:steps]:
                batch = augment(images[index].to(device).float() / 255, settings, generator)
                batch = performer.normalise(batch).contiguous(memory_format=torch.channels_last)
                with autocast:
                    logits = network(batch)
                answers = labels[index].to(device)
                F.cross_entropy(logits.float(), answers, label_smoothing=settings.label_smoothing).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                rates.step()
                hits += (logits.argmax(1) == answers).sum()
            bar.update()
            bar.set_postfix_str(f"training accuracy {float(hits) / (steps * settings.batch_size):.3f}")
    network.eval().requires_grad_(False)
    return {
        "accuracy": accuracy_of(performer, test, truth),
        "train_accuracy": float(hits) / (steps * settings.batch_size),
        "seconds": time.perf_counter() - began,
    }


def fit_folder(config: Config, dataset: Dataset) -> Path:
    """Where the performer that this configuration fits on this data is kept."""
    performer = to_mapping(config.performer) | {"dataset": dataset.fingerprint}
    key = hashlib.sha256(json.dumps(performer, sort_keys=True).encode()).hexdigest()[:12]
    return home() / "performers" / f"{config.performer.arch}-{dataset.name}-{key}"


def obtain_performer(config: Config, dataset: Dataset, progress: bool = True) -> tuple[Performer, dict[str, Any]]:
    """The performer of a configuration: loaded, or fitted once and kept.

    Returns:
        The performer and its description, with `folder` and `accuracy`.

    Raises:
        InputError: if the weights are missing or do not fit the data.
    """
    weights = config.performer.weights
    folder = Path(weights) if weights not in ("fit", "torchvision") else fit_folder(config, dataset)
    if folder.is_dir() and (folder / ABOUT).exists():
        performer, about = load_performer(folder)
        if performer.categories != dataset.categories:
            raise InputError(f"performer.weights: {folder} knows {performer.categories}, the data {dataset.categories}")
        return performer, about | {"folder": str(folder)}
    torch.manual_seed(config.performer.fit.seed)
    network = build_network(config.performer.arch, len(dataset.categories), _ready_made(config))
    if weights not in ("fit", "torchvision"):
        load_state(Path(weights), network)
        folder = fit_folder(config, dataset)
        if (folder / ABOUT).exists():
            return obtain_fitted(folder)
    performer = Performer(network, resolve_spec(config.performer, network), dataset.categories)
    about = fit(performer, dataset, config, progress)
    about |= {"dataset": dataset.name, "dataset_fingerprint": dataset.fingerprint, "config": to_mapping(config.performer)}
    save_performer(performer.cpu(), folder, about)
    return obtain_fitted(folder)


def obtain_fitted(folder: Path) -> tuple[Performer, dict[str, Any]]:
    """A performer that was fitted before."""
    performer, about = load_performer(folder)
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
    except OSError:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(f"performer.weights: cannot fetch {weights.url}; put that file into {cache}") from None
    return weights
