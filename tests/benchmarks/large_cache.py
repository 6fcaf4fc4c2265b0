"""Training from a cache that is larger than memory: its speed as a share of the disk's, and the memory that it takes.

    python tests/benchmarks/large_cache.py [GIGABYTES=30] [FOLDER=a temporary one]

The cache is synthetic: features of 512 x 14 x 14 in bfloat16, as VGG-16 gives them, of as many images as fill it. The explainer
is narrow, so that the disk is what training waits for. The disk is read in the same pieces and in a random order, by `pread`.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from paraphrase.core.config import load_config
from paraphrase.core.device import memory_bytes
from paraphrase.core.features.cache import META, SMALL, load_cache
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.train.training import Training

CHANNELS, BLOCK = 512, 256


def enlarge(folder: Path, gigabytes: float) -> int:
    """Give a small cache's training split wider features, of as many images as fill the gigabytes; returns their number."""
    meta = json.loads((folder / META).read_text())
    record = CHANNELS * meta["map_size"] ** 2 * 2
    blocks = max(1, round(gigabytes * 1e9 / record / BLOCK))
    images = blocks * BLOCK
    small = load_file(folder / SMALL)
    for split, count in (("train", images), ("test", meta["images"]["test"])):
        features = torch.rand(BLOCK, record // 2).to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
        with (folder / f"{split}.features.bin").open("wb") as file:
            for _ in range(-(-count // BLOCK)):
                file.write(features)
            file.truncate(count * record)
            os.fsync(file.fileno())
        for i, size in enumerate(meta["target_sizes"]):
            (folder / f"{split}.target{i + 1}.bin").write_bytes(
                torch.rand(count, size).bfloat16().view(torch.uint8).numpy().tobytes()
            )
    for name in [key for key in small if key.startswith("train.")]:
        value = small[name]
        small[name] = value.repeat(-(-images // len(value)), *[1] * (value.dim() - 1))[:images].contiguous()
    save_file({k: v for k, v in small.items() if not k.startswith("decoder")}, folder / SMALL)
    meta |= {"channels": CHANNELS, "decoder_layers": [None, None], "images": meta["images"] | {"train": images}}
    for name, about in meta["files"].items():
        about["bytes"] = (folder / name).stat().st_size
    (folder / META).write_text(json.dumps(meta))
    return images


def forget(file: Path) -> None:
    """Take a file out of the page cache."""
    with file.open("rb") as handle:
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def own_memory() -> float:
    """Gigabytes of this process that are no file's pages."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024 / 1e9


def main() -> None:
    gigabytes = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    torch.set_num_threads(1)  # as a trial's
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as home:
        os.environ["PARAPHRASE_HOME"] = home
        quick = ["data.train_images=96", "data.test_images=48", "performer.fit.epochs=1", "cache.mirror=false", "train.epochs=1"]
        config = load_config(None, [*quick, "explainer.interp_widths=[8]", "explainer.ordin_width=null", "loss.lambda_m=0"])
        folder = open_cache(config).folder
        images = enlarge(folder, gigabytes)
        file = folder / "train.features.bin"
        size = file.stat().st_size
        print(f"{images} images, {size / 1e9:.1f} GB on disk, {memory_bytes() / 1e9:.1f} GB of memory")

        forget(file)
        record, order = size // images, random.Random(0).sample(range(images), min(images, 20_000))
        with file.open("rb") as handle:
            begin = time.perf_counter()
            for i in order:
                os.pread(handle.fileno(), record, i * record)
            disk = len(order) * record / (time.perf_counter() - begin)
        forget(file)
        before = own_memory()
        entry = Training(config, load_cache(folder)).run_epoch()
        trained = size / entry["seconds"]
        print(
            f"disk {disk / 1e6:.0f} MB/s; an epoch {entry['seconds']:.0f} s, {trained / 1e6:.0f} MB/s, {trained / disk:.2f} of it"
        )
        print(f"memory of the process itself: {own_memory() - before:.2f} GB more than before")


if __name__ == "__main__":
    main()
