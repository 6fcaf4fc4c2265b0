"""The feature cache: (x, targets, label, landmarks) of every image, computed once and memory-mapped by all trials.

A cache is a folder `caches/<key>` whose key is a hash of everything that determines it. It is written beside its place and
appears in one rename, under a lock, so that what is there is whole.
"""

from __future__ import annotations

import dataclasses
import json
import math
import mmap
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from paraphrase.core.device import memory_bytes
from paraphrase.core.errors import InputError, first_line
from paraphrase.core.files import file_hash, read_text, regular
from paraphrase.core.home import home
from paraphrase.core.pooling import build_module
from paraphrase.core.rest import Rest

VERSION = 1
"""Format of a cache; part of its key."""
META, SMALL, REST_WEIGHTS = "meta.json", "small.safetensors", "rest.safetensors"
LARGE = 0.5
"""Share of the machine's memory from which on a split's features are not expected to stay there."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Split(NamedTuple):
    """The cached training or test images."""

    features: Tensor
    """(N, n, n, C) in the cache's dtype, memory-mapped, channels last."""
    targets: list[Tensor]
    """x*_1 (N, D1) and x*_2 (N, D2) in the cache's dtype, memory-mapped."""
    labels: Tensor
    """(N,) int64."""
    landmarks: Tensor
    """(N, parts, 3) float32: x, y in pixels of the crop and 1 where visible."""
    performer_labels: Tensor
    """(N,) int64: the class that the performer gives."""


@dataclass
class FeatureCache:
    """An opened cache: all that training needs, with neither the performer nor the images."""

    folder: Path
    """Where it lies."""
    meta: dict[str, Any]
    """What it was built from: data set, performer, sizes, receptive field, target energies."""
    train: Split
    """The training split."""
    test: Split
    """The test split."""
    mirror: Split | None
    """The training images, mirrored, in the same order, if they were asked for."""
    pool: nn.Module
    """The performer's last pooling: (B, C, n, n) -> (B, C, m, m)."""
    head: nn.Module
    """The performer's last layer, after an activation where there is one: x_2 (B, D2) -> logits (B, K)."""
    decoder_layers: list
    """For each target (weight, bias) of the performer's own layer, or `identity`, or None."""
    rest: Rest | None = None
    """The performer's layers from the feature to the targets; None where `pool` and a decoder stand in their place."""
    outgrown: dict[str, mmap.mmap] = field(default_factory=dict)
    """Split -> the pages of its features, where memory cannot hold them."""

    @property
    def class_of(self) -> list[int] | None:
        """The performer's class of each category; None: not known. Older caches have as many classes as categories."""
        return self.meta.get("class_of", list(range(len(self.meta["categories"]))))

    def truth(self) -> Tensor | None:
        """(N,) int64: of each test image the class that would be right; None where the performer's classes are not known."""
        return None if self.class_of is None else torch.tensor(self.class_of)[self.test.labels]

    def accuracy(self) -> float | None:
        """The performer's share of test images whose class is right; None where its classes are not known."""
        truth = self.truth()
        return None if truth is None else float((self.test.performer_labels == truth).double().mean())

    def class_name(self, number: int) -> str:
        """Of a class of the performer: the category's name, else its own, else its number."""
        if self.class_of is not None and number in self.class_of:
            return self.meta["categories"][self.class_of.index(number)]
        names = self.meta.get("class_names")
        return names[number] if names else f"class {number}"

    def to(self, device: torch.device) -> FeatureCache:
        """The cache with both splits on the device if they fit there, else as it is, memory-mapped."""
        if device.type == "cpu":
            return self
        splits = [self.train, self.test, *([self.mirror] if self.mirror else [])]
        needed = sum(t.nbytes for s in splits for t in (s.features, *s.targets))
        free = torch.cuda.mem_get_info(device)[0]
        if needed > 0.6 * free:  # the rest is for the explainer
            return self
        moved = [s._replace(features=s.features.to(device), targets=[t.to(device) for t in s.targets]) for s in splits]
        mirror = moved[2] if self.mirror else None
        return dataclasses.replace(self, train=moved[0], test=moved[1], mirror=mirror, outgrown={})


class CacheInfo(NamedTuple):
    """A finished cache on disk."""

    folder: Path
    """Its folder, named by its key."""
    bytes: int
    """Its size."""
    description: str
    """Data set, performer and shape in words."""


def caches() -> Path:
    """The folder of all caches."""
    return home() / "caches"


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; waits for whoever holds it. A killed process lets go of it."""
    import fcntl

    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def read_meta(folder: Path) -> dict[str, Any]:
    """What a finished cache was built from.

    Raises:
        InputError: if that cannot be read.
    """
    try:
        meta = json.loads(read_text(folder / META))
        if meta["key"] and meta["files"] and meta["images"]:
            return meta
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise InputError(f"{folder / META}: is not there or damaged; {_remedy(folder)}")


def _remedy(folder: Path) -> str:
    return f"`paraphrase cache remove {folder.name}` has it built again"


def load_cache(folder: Path) -> FeatureCache:
    """Open a finished cache.

    Raises:
        InputError: names the file that is missing or damaged, as far as that is seen without reading all of it.
    """
    meta = read_meta(folder)
    try:
        return _load(folder, meta)
    except InputError:
        raise
    except Exception as error:  # the readers raise their own, undocumented kinds
        raise InputError(f"{folder}: is damaged ({first_line(error)}); {_remedy(folder)}") from None


def _load(folder: Path, meta: dict[str, Any]) -> FeatureCache:
    for name, about in meta["files"].items():
        size = (folder / name).stat().st_size if (folder / name).exists() else None
        if size != about["bytes"]:
            raise InputError(f"{folder / name}: has {size} bytes, not {about['bytes']}; {_remedy(folder)}")
    small = load_file(regular(folder / SMALL))
    layers: list = [
        (small[f"decoder{i}.weight"], small[f"decoder{i}.bias"]) if kind == "linear" else kind
        for i, kind in enumerate(meta["decoder_layers"])
    ]
    head: nn.Module = nn.Identity()
    if "head.weight" in small:
        classes, inputs = small["head.weight"].shape
        last = nn.Linear(inputs, classes)
        last.load_state_dict({"weight": small["head.weight"], "bias": small["head.bias"]})
        activation = meta["spec"].get("activation")
        head = nn.Sequential(build_module([{"kind": activation}]), last) if activation else last
    outgrown: dict[str, mmap.mmap] = {}
    return FeatureCache(
        folder=folder,
        meta=meta,
        train=_open_split(folder, "train", meta, small, outgrown),
        test=_open_split(folder, "test", meta, small, outgrown),
        mirror=_open_split(folder, "mirror", meta, small, outgrown) if "mirror" in meta["images"] else None,
        pool=build_module(meta["pool"]),
        head=head.requires_grad_(False),
        decoder_layers=layers,
        rest=Rest(meta["rest"], load_file(regular(folder / REST_WEIGHTS))) if meta.get("rest") else None,
        outgrown=outgrown,
    )


def _open_split(
    folder: Path, split: str, meta: dict[str, Any], small: dict[str, Tensor], outgrown: dict[str, mmap.mmap]
) -> Split:
    images, dtype = meta["images"][split], DTYPES[meta["dtype"]]
    n, channels = meta["map_size"], meta["channels"]

    def mapped(name: str, *shape: int) -> Tensor:
        with regular(folder / f"{split}.{name}.bin").open("rb") as file:
            # shared, so that all processes have the same pages; nothing writes to them
            pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        if name == "features" and len(pages) > LARGE * memory_bytes():
            outgrown[split] = pages
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that nothing may write to it
            return torch.frombuffer(pages, dtype=dtype).view(shape)

    return Split(
        features=mapped("features", images, n, n, channels),
        targets=[mapped(f"target{i + 1}", images, size) for i, size in enumerate(meta["target_sizes"])],
        labels=small[f"{split}.labels"],
        landmarks=small[f"{split}.landmarks"],
        performer_labels=small[f"{split}.performer_labels"],
    )


class ReadAhead:
    """While it is entered, a cache that memory cannot hold is read image by image, as asked for; others stay as they are.

    Else each image that is read in a random order brings the megabytes behind it, which push others out.

    Args:
        cache: that is read.
        splits: of it that are read in a random order.
    """

    def __init__(self, cache: FeatureCache, *splits: str):
        images = cache.meta["images"]
        self.files = [(pages, len(pages) // images[split]) for split, pages in cache.outgrown.items() if split in splits]

    def __enter__(self) -> ReadAhead:
        for pages, _ in self.files:
            pages.madvise(mmap.MADV_RANDOM)
        return self

    def __exit__(self, *_: object) -> None:
        for pages, _ in self.files:
            pages.madvise(mmap.MADV_NORMAL)

    def __call__(self, index: Tensor) -> None:
        """Ask the disk for images that will be gathered. index: their numbers, of any shape."""
        for pages, size in self.files:
            for image in index.flatten().tolist():
                start = image * size // mmap.PAGESIZE * mmap.PAGESIZE
                pages.madvise(mmap.MADV_WILLNEED, start, (image + 1) * size - start)


def verify_cache(folder: Path, most: float = math.inf) -> None:
    """Compare the files of a cache with their checksums.

    Args:
        most: bytes of the largest file that is read for it.

    Raises:
        InputError: names the file that changed.
    """
    cache = load_cache(folder)
    for name, about in cache.meta["files"].items():
        if about["bytes"] <= most and file_hash(folder / name) != about["sha256"]:
            raise InputError(f"{folder / name}: changed since it was built; {_remedy(folder)}")


def list_caches() -> list[CacheInfo]:
    """All finished caches, by key."""
    found = []
    for file in sorted(caches().glob(f"*/{META}")):
        if file.parent.name.startswith("."):
            continue
        try:
            meta = read_meta(file.parent)
        except InputError:
            found.append(CacheInfo(file.parent, sum(f.stat().st_size for f in file.parent.rglob("*")), "damaged"))
            continue
        size = sum(about["bytes"] for about in meta["files"].values())
        shape = f"{meta['channels']} x {meta['map_size']} x {meta['map_size']} {meta['dtype']}"
        images = f"{meta['images']['train']} + {meta['images']['test']} images"
        found.append(CacheInfo(file.parent, size, f"{meta['dataset']}, {meta['performer']}, {images}, {shape}"))
    return found


def find_cache(key: str) -> Path:
    """The folder of the cache whose key begins so.

    Raises:
        InputError: if there is none, or more than one.
    """
    found = [info.folder for info in list_caches() if info.folder.name.startswith(key)]
    if len(found) != 1:
        raise InputError(f"{key}: {len(found)} caches begin so; `paraphrase cache list` shows them all")
    return found[0]


def remove_cache(key: str) -> Path:
    """Remove the cache whose key begins so; returns where it was.

    Raises:
        InputError: if there is none, or more than one.
    """
    folder = find_cache(key)
    doomed = folder.with_name(f".{folder.name}.removed")
    folder.rename(doomed)
    shutil.rmtree(doomed)
    return folder
