"""Builds a feature cache: every image once through the performer, written beside its place and renamed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from paraphrase.core.config import Config
from paraphrase.core.data import Dataset, load_dataset
from paraphrase.core.data.records import Record
from paraphrase.core.device import choose_device
from paraphrase.core.errors import InputError
from paraphrase.core.features.cache import DTYPES, META, REST_WEIGHTS, SMALL, VERSION, caches, locked
from paraphrase.core.files import file_hash, name_folder
from paraphrase.core.performer import Performer, obtain_performer, performer_fingerprint
from paraphrase.core.performer.fit import load_crops
from paraphrase.core.pooling import describe_module
from paraphrase.core.terminal.progress import Bar, bar

BATCH = 64
"""Images in one pass through the performer."""


def cache_key(dataset: Dataset, performer: Performer, dtype: str, mirror: bool = False) -> str:
    """Hash of everything that determines a cache: data, performer (weights and transform), dtype, mirror images and format."""
    parts = [VERSION, dataset.fingerprint, dataset.landmarks, performer_fingerprint(performer), dtype]
    parts += ["mirror"] if mirror else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def build_cache(config: Config, progress: bool = True) -> tuple[Path, list[str]]:
    """Build the cache of a configuration, or find that it is there.

    Returns:
        Its folder, and the files and folders that the configuration reads.

    Raises:
        InputError: for damaged input, or a disk that is too small.
    """
    dataset = load_dataset(config.data)
    performer, info = obtain_performer(config, dataset, progress)
    folder = caches() / cache_key(dataset, performer, config.cache.dtype, config.cache.mirror)
    files = [info["folder"], *_data_files(config, dataset)]
    with locked(caches() / f".{folder.name}.lock"):
        if not (folder / META).exists():
            part = folder.with_name(f".{folder.name}.part")
            shutil.rmtree(part, ignore_errors=True)  # of a builder that was killed: nobody else holds the lock
            part.mkdir(parents=True)
            try:
                _write(part, config, dataset, performer, info, progress)
            except OSError as error:
                raise InputError(f"{part}: cannot be written ({error.strerror}); PARAPHRASE_HOME moves it") from None
            finally:
                if (part / META).exists():
                    name_folder(part, folder, META)
                else:
                    shutil.rmtree(part, ignore_errors=True)
    return folder, files


def _data_files(config: Config, dataset: Dataset) -> list[str]:
    """What a data set lies in: its folder, or that of the images drawn for it."""
    if config.data.path:
        return [str(Path(config.data.path).resolve())]
    return sorted({str(r.image.parent) for r in dataset.train + dataset.test})


def cache_size(dataset: Dataset, performer: Performer, dtype: str, mirror: bool = False) -> int:
    """Bytes that a cache will take, told from one image's shapes."""
    seen = performer.features(torch.zeros(1, 3, performer.spec.input_size, performer.spec.input_size))
    values = seen.feature.numel() + sum(t.numel() for t in seen.targets)
    layers = sum(layer[0].numel() for layer in performer.decoder_layers() if isinstance(layer, tuple))
    images = len(dataset.train) * (2 if mirror else 1) + len(dataset.test)
    return images * values * DTYPES[dtype].itemsize + layers * 4 + 2**20


def _write(folder: Path, config: Config, dataset: Dataset, performer: Performer, info: dict[str, Any], progress: bool) -> None:
    """Write all files of a cache, its description last."""
    needed, free = cache_size(dataset, performer, config.cache.dtype, config.cache.mirror), shutil.disk_usage(folder).free
    if needed > free:
        lacking = f"needs {needed / 2**30:.2f} GiB, {free / 2**30:.2f} GiB are free"
        raise InputError(
            f"{folder.parent}: the feature cache {lacking}; cache.dtype=bfloat16 halves it, PARAPHRASE_HOME moves it"
        )
    device = choose_device(config.train.device)
    performer = performer.to(device)
    small: dict[str, Tensor] = {}
    shapes: dict[str, Any] = {}
    text = f"feature cache ({needed / 2**20:.0f} MiB)"
    splits = {"train": dataset.train, "test": dataset.test} | ({"mirror": dataset.train} if config.cache.mirror else {})
    with bar(text, sum(map(len, splits.values())), "images", shown=progress) as shown:
        for split, records in splits.items():
            shapes = _write_split(folder, split, records, performer, config.cache.dtype, small, shown)
            if split == "train":
                energy = shapes["energy"]
    performer = performer.cpu()
    layers = performer.decoder_layers()
    for i, layer in enumerate(layers):
        if isinstance(layer, tuple):
            small |= {f"decoder{i}.weight": layer[0].contiguous(), f"decoder{i}.bias": layer[1].contiguous()}
    rest = performer.rest()
    if rest is not None:
        save_file(rest.weights(), folder / REST_WEIGHTS)
    head = performer.head()
    for last in head.modules():
        if isinstance(last, nn.Linear):
            bias = torch.zeros(last.out_features) if last.bias is None else last.bias.detach()
            small |= {"head.weight": last.weight.detach().contiguous(), "head.bias": bias}
    save_file(small, folder / SMALL)
    field = performer.receptive_field()
    meta = {
        "key": cache_key(dataset, performer, config.cache.dtype, config.cache.mirror),
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "performer": performer.spec.arch,
        "performer_fingerprint": performer_fingerprint(performer),
        "performer_accuracy": info["accuracy"],
        "performer_folder": info["folder"],
        "categories": dataset.categories,
        "class_of": info.get("class_of", list(range(len(dataset.categories)))),
        "class_names": info.get("class_names"),
        "landmarks": dataset.landmarks,
        "single_category": dataset.single_category,
        "images": {split: len(records) for split, records in splits.items()},
        "input_size": performer.spec.input_size,
        "receptive_field": field._asdict(),
        "channels": shapes["channels"],
        "map_size": shapes["map_size"],
        "target_sizes": shapes["target_sizes"],
        "target_relu": performer.spec.target_relu,
        "target_energy": energy,
        "dtype": config.cache.dtype,
        "pool": describe_module(performer.pool()),
        "rest": rest and rest.description,
        "decoder_layers": ["linear" if isinstance(layer, tuple) else layer for layer in layers],
        "spec": dataclasses.asdict(performer.spec),
        "files": {f.name: {"bytes": f.stat().st_size, "sha256": file_hash(f)} for f in sorted(folder.iterdir())},
    }
    part = folder / f"{META}.part"
    with part.open("w", encoding="utf-8") as handle:
        json.dump(meta, handle, indent=1)
        handle.flush()
        os.fsync(handle.fileno())
    part.rename(folder / META)


def mirrored(images: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Crops (N, 3, S, S) and their landmarks (N, parts, 3), mirrored left to right; a left wing is then still called so."""
    x = torch.where(places[..., 2] > 0, images.shape[-1] - places[..., 0], 0.0)
    return images.flip(-1), torch.stack([x, places[..., 1], places[..., 2]], -1)


def _write_split(
    folder: Path,
    split: str,
    records: list[Record],
    performer: Performer,
    dtype: str,
    small: dict[str, Tensor],
    shown: Bar,
) -> dict[str, Any]:
    """Write one split's features and targets; labels and landmarks go into `small`. Returns the shapes and energies."""
    device, kind = next(performer.parameters()).device, DTYPES[dtype]
    answers: list[Tensor] = []
    landmarks: list[Tensor] = []
    energy = torch.zeros(2, dtype=torch.float64)
    names = ("features", "target1", "target2")
    files = [(folder / f"{split}.{name}.bin").open("wb") for name in names]
    for first in range(0, len(records), BATCH):
        batch = records[first : first + BATCH]
        images, places = load_crops(batch, performer.spec)
        if split == "mirror":
            images, places = mirrored(images, places)
        landmarks.append(places)
        seen = performer.features(images.to(device).float() / 255)
        answers.append(seen.logits.argmax(1).cpu())
        stored = [v.to(kind).cpu().contiguous() for v in (seen.feature.permute(0, 2, 3, 1), *seen.targets)]
        for file, value, name in zip(files, stored, names, strict=True):
            if not bool(torch.isfinite(value.float()).all()):
                raise InputError(f"cache.dtype: {name} of {batch[0].image} and on overflow {dtype}; use bfloat16 or float32")
            file.write(value.view(torch.uint8).numpy().tobytes())
        energy += torch.stack([t.double().square().sum() for t in stored[1:]])
        shown.advance(len(batch))
    for file in files:
        file.flush()
        os.fsync(file.fileno())
        file.close()
    small |= {
        f"{split}.labels": torch.tensor([r.label for r in records]),
        f"{split}.landmarks": torch.cat(landmarks),
        f"{split}.performer_labels": torch.cat(answers),
    }
    return {
        "channels": seen.feature.shape[1],
        "map_size": seen.feature.shape[2],
        "target_sizes": [t.shape[1] for t in seen.targets],
        "energy": (energy / len(records)).tolist(),
    }
