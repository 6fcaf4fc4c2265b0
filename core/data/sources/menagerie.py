"""The embedded data set: six categories of drawn animals with landmarks, drawn on first use and kept.

Every image is the whole crop of its animal. Image i of a split depends on nothing but (seed, split, i), so any number of
processes draws the same bytes, and a smaller data set is the beginning of a larger one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from paraphrase.core.config import DataConfig
from paraphrase.core.cores import cores
from paraphrase.core.data.drawn import animals, scenes, sketch
from paraphrase.core.data.drawn.animals import CATEGORIES, LANDMARKS
from paraphrase.core.data.drawn.scenes import draw_animal, draw_background
from paraphrase.core.data.records import WHOLE_IMAGE, Record, Source
from paraphrase.core.errors import InputError
from paraphrase.core.files import name_folder, read_text
from paraphrase.core.home import home
from paraphrase.core.terminal.progress import bar

__all__ = ["CATEGORIES", "LANDMARKS", "draw_animal", "draw_background", "load"]

SIZE = 112
"""Side of the images in pixels."""
SPLITS = ("train", "test")
"""A split's position here is the second of the three numbers that an image's draws depend on."""
INDEX = "index.json"
"""Landmarks of all images; written last."""
SHARE = 250
"""A process of its own is started for at least this many images."""
STALE_SECONDS = 3600.0
"""A half-drawn folder that nothing was added to for so long was left by a killed process."""

Task = tuple[str, int]
"""Split and number of an image."""


def load(config: DataConfig) -> Source:
    """The drawn animals of `config.seed`, `train_images` and `test_images`; they are drawn now if they are not there.

    Raises:
        InputError: if the home folder cannot be written to, or what was kept there has been damaged.
    """
    counts = dict(zip(SPLITS, (config.train_images, config.test_images), strict=True))
    folder = home() / "data" / _name(config.seed, counts)
    if not (folder / INDEX).is_file():
        try:
            _build(folder, config.seed, counts)
        except OSError as error:
            raise InputError(f"{error.filename or folder}: the menagerie cannot be drawn there ({error.strerror})") from None
    splits = _read_index(folder, counts)
    return replace(outline(config), train=splits["train"], test=splits["test"])


def outline(config: DataConfig) -> Source:
    """What `load` gives, but for the records, which would be drawn."""
    return Source("menagerie", list(CATEGORIES), list(LANDMARKS), [], [])


def draw_image(seed: int, split: str, number: int) -> tuple[np.ndarray, dict[str, tuple[float, float, bool]]]:
    """Image (112, 112, 3) uint8 and landmarks; the categories take turns."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, SPLITS.index(split), number])))
    return draw_animal(CATEGORIES[number % len(CATEGORIES)], rng, SIZE)


def draw_share(folder: str | Path, seed: int, counts: dict[str, int], worker: int, workers: int) -> None:
    """Draw every `workers`-th image from number `worker` on into `folder`, and their landmarks into a file beside them."""
    tasks = [(split, i) for split in SPLITS for i in range(counts[split])][worker::workers]
    found = []
    for split, number in tasks:
        picture, landmarks = draw_image(seed, split, number)
        # the fastest level: noise compresses badly anyway
        Image.fromarray(picture).save(Path(folder) / _file_name(split, number), compress_level=1)
        found.append([split, number, list(landmarks.values())])
    (Path(folder) / f"landmarks-{worker}.json").write_text(json.dumps(found), encoding="utf-8")


def _name(seed: int, counts: dict[str, int]) -> str:
    """Of the folder; the drawing code is part of it, so a change of it cannot meet images of the old one."""
    digest = hashlib.sha256(json.dumps([1, SIZE, seed, counts]).encode())
    for module in (sketch, animals, scenes):
        digest.update(Path(str(module.__file__)).read_bytes())
    return f"menagerie-{digest.hexdigest()[:16]}"


def _file_name(split: str, number: int) -> str:
    return f"{split}/{number:05d}-{CATEGORIES[number % len(CATEGORIES)]}.png"


def _build(folder: Path, seed: int, counts: dict[str, int]) -> None:
    """Draw into a folder beside it, then rename: what has the name is complete, and of two builders one is first."""
    _remove_stale(folder)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}-{os.urandom(4).hex()}.partial")
    for split in SPLITS:
        (partial / split).mkdir(parents=True)
    try:
        workers = max(1, min(cores(), 16, sum(counts.values()) // SHARE))
        _draw(partial, seed, counts, workers)
        _write_index(partial, counts, workers)
        name_folder(partial, folder, INDEX)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_stale(folder: Path) -> None:
    for partial in folder.parent.glob("menagerie-*.partial"):
        with contextlib.suppress(OSError):
            latest = max(path.stat().st_mtime for path in (partial, *partial.iterdir()))
            if time.time() - latest > STALE_SECONDS:
                shutil.rmtree(partial, ignore_errors=True)


def _draw(folder: Path, seed: int, counts: dict[str, int], workers: int) -> None:
    """Draw all images with that many processes; what a process fails to draw is drawn here, so its error is seen."""
    total = sum(counts.values())
    with bar("drawing the menagerie", total, "images") as shown:
        with _processes(folder, seed, counts, workers) as running:
            while any(process.poll() is None for process in running):
                time.sleep(0.1)
                shown.advance(sum(len(os.listdir(folder / split)) for split in SPLITS) - shown.done)
            failed = [w for w in range(workers) if w >= len(running) or running[w].returncode]
        for worker in failed:
            draw_share(folder, seed, counts, worker, workers)
        shown.advance(total - shown.done)


@contextlib.contextmanager
def _processes(folder: Path, seed: int, counts: dict[str, int], workers: int) -> Iterator[list[subprocess.Popen]]:
    """Fresh interpreters that draw a share each; none for a single share. They end with the block.

    Neither fork (this process may have threads: torch, Ray) nor multiprocessing's spawn (it imports the caller's script
    again, which may lack a `__main__` guard).
    """
    root = str(Path(__file__).parents[4])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    code = "import json, sys; from paraphrase.core.data.sources.menagerie import draw_share; draw_share(*json.loads(sys.argv[1]))"
    running: list[subprocess.Popen] = []
    try:
        for worker in range(workers if workers > 1 else 0):
            arguments = json.dumps([str(folder), seed, counts, worker, workers])
            with contextlib.suppress(OSError):
                command = [sys.executable, "-c", code, arguments]
                running.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def _write_index(folder: Path, counts: dict[str, int], workers: int) -> None:
    landmarks: dict[str, list] = {split: [None] * counts[split] for split in SPLITS}
    for worker in range(workers):
        file = folder / f"landmarks-{worker}.json"
        for split, number, places in json.loads(file.read_text(encoding="utf-8")):
            landmarks[split][number] = places
        file.unlink()
    content = {"landmarks": LANDMARKS, **landmarks}
    (folder / INDEX).write_text(json.dumps(content), encoding="utf-8")


def _read_index(folder: Path, counts: dict[str, int]) -> dict[str, list[Record]]:
    """The records of both splits."""
    try:
        content = json.loads(read_text(folder / INDEX))
        return {split: [_record(folder, split, i, content[split][i]) for i in range(counts[split])] for split in SPLITS}
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        raise InputError(f"{folder / INDEX}: damaged; remove the folder, and it is drawn again") from None


def _record(folder: Path, split: str, number: int, places: list) -> Record:
    landmarks = {name: (float(x), float(y), bool(v)) for name, (x, y, v) in zip(LANDMARKS, places, strict=True)}
    file = folder / _file_name(split, number)
    return Record(file, WHOLE_IMAGE, number % len(CATEGORIES), landmarks, origin=str(file))
