"""Images, labels, boxes and landmarks of every source, checked before anything is trained on them.

A source is one module in `sources`, with a function `load(config: DataConfig) -> Source`. It returns all its records,
with the label an index into its categories and the landmarks of all its parts; `Source` says what each field is. It
need not decode an image, filter categories or merge landmarks: `load_dataset` does that for all sources alike. A user's own
is such a function anywhere, named as `module:function`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from paraphrase.core.config import DataConfig
from paraphrase.core.data import sources
from paraphrase.core.data.checks import Checked, check_images, check_record
from paraphrase.core.data.protocol import (
    against_others,
    choose_categories,
    merge_landmarks,
    require_images,
    same_pictures,
    seen_landmarks,
)
from paraphrase.core.data.records import WHOLE_IMAGE, Dataset, Record, Source, crop
from paraphrase.core.errors import InputError
from paraphrase.core.foreign import called
from paraphrase.core.terminal.console import say

__all__ = ["WHOLE_IMAGE", "Dataset", "Record", "Source", "crop", "load_dataset", "load_source", "outline"]


def known_sources() -> list[str]:
    """The words that `data.source` takes, the embedded one first."""
    names = (module.name for module in pkgutil.iter_modules(sources.__path__))
    return sorted(names, key=lambda name: (name != "menagerie", name))


def load_source(config: DataConfig, outline: bool = False) -> Source:
    """All records of the configured source, before any check of the image files.

    Args:
        outline: without the records of a source whose loader would write them: its module then has a function `outline`.

    Raises:
        InputError: if there is no such source, or its loader finds the data set unusable.
    """
    if ":" in config.source:
        found = called(config.source, "data.source", config)
        if not isinstance(found, Source):
            raise InputError(f"data.source: {config.source} gives {type(found).__name__}, not paraphrase.core.data.Source")
        return found
    name = f"{sources.__name__}.{config.source}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):  # something that the loader needs
            raise
        allowed = ", ".join([*known_sources(), "module:function"])
        raise InputError(f"data.source: unknown source {config.source!r}; allowed are {allowed}") from None
    return module.outline(config) if outline and hasattr(module, "outline") else module.load(config)


def load_dataset(config: DataConfig) -> Dataset:
    """The configured data: categories chosen, landmarks merged, every image decoded once, protocol applied.

    An image that was decoded before and has not changed since (size, times) is not decoded again.

    Returns:
        The data set; its records' boxes lie inside their images, and their landmarks are in the order of `landmarks`.

    Raises:
        InputError: one line, with file and line, on the first damaged image and how many more there are; with
            `config.skip_bad` those are left out and listed in `skipped`, and only an empty category is an error.
    """
    source = load_source(config)
    chosen, names, splits = _chosen(source, config)
    checked = check_images([r.image for r in chain(*splits)])
    problems = list(source.problems)
    train, test = (_sound_records(split, checked, problems) for split in splits)
    content = {image: found.sha256 for image, found in checked.items() if isinstance(found, Checked)}
    in_both, test, doubled = same_pictures(train, test, content)
    problems += in_both
    notes = list(source.notes)
    if doubled:
        notes.append(f"{source.name}: {doubled} objects are there twice in their split, with the same picture and box")
    if names and not seen_landmarks(names, test, asked_for=bool(config.landmarks)):
        notes.append(f"{source.name}: no landmark is visible in a test image ({', '.join(names)}); going on without landmarks")
        names, (train, test) = [], ([replace(r, landmarks={}) for r in split] for split in (train, test))
    for note in notes:
        say(note)
    if problems and not config.skip_bad:
        raise InputError(_report(problems))

    categories = [source.categories[i] for i in chosen]
    if config.single_category is None:
        origins = [source.category_origins[i] for i in chosen] if source.category_origins else categories
        require_images(categories, origins, train, test, left_out=len(problems))
        positive = None
    else:
        positive = categories[0]
        train, test = against_others(positive, train, test, config.seed, left_out=len(problems))
        categories = ["other", positive]

    fingerprint = _fingerprint(categories, names, positive, train, test, checked)
    return Dataset(source.name, categories, names, train, test, positive, problems, fingerprint)


def outline(config: DataConfig) -> list[str]:
    """The categories that `load_dataset` would give; draws and decodes no image, and writes nothing.

    Raises:
        InputError: if there is no such source, data set, category or part, or an image's file is not there.
    """
    source = load_source(config, outline=True)
    chosen, _, splits = _chosen(source, config)
    missing = [record.image for record in chain(*splits) if not record.image.is_file()]
    if missing and not config.skip_bad:
        raise InputError(_report([f"{image}: there is no such file" for image in missing]))
    return [source.categories[i] for i in chosen] if config.single_category is None else ["other", source.categories[chosen[0]]]


def _chosen(source: Source, config: DataConfig) -> tuple[list[int], list[str], list[list[Record]]]:
    """Positions of the chosen categories, names of the merged landmarks, and the records of each split that belong to them."""
    chosen = choose_categories(source, config)
    position = {source_label: i for i, source_label in enumerate(chosen)}
    splits = [
        [replace(r, label=position[r.label]) for r in split if r.label in position] for split in (source.train, source.test)
    ]
    names, splits = merge_landmarks(source.parts, config.landmarks, splits)
    return chosen, names, splits


def _sound_records(records: list[Record], checked: dict[Path, Checked | str], problems: list[str]) -> list[Record]:
    """The records that pass, with clipped boxes; of the others, a line each is added to `problems`."""
    sound = []
    for record in records:
        result = check_record(record, checked[record.image])
        if isinstance(result, str):
            problems.append(result)
        else:
            sound.append(result)
    return sound


def _report(problems: Sequence[str]) -> str:
    more = len(problems) - 1
    also = f"; and {more} more problem{'s' if more > 1 else ''}" if more else ""
    return f"{problems[0]}{also} (--skip-bad leaves such images out)"


def _fingerprint(
    categories: list[str],
    landmarks: list[str],
    single_category: str | None,
    train: list[Record],
    test: list[Record],
    checked: dict[Path, Checked | str],
) -> str:
    """Hex SHA-256 of what the images contain and how they are annotated and split, not of where they lie."""
    digest = hashlib.sha256(json.dumps(["dataset 1", categories, landmarks, single_category]).encode())
    for split in (train, test):
        digest.update(b"split")
        for record in split:
            image = checked[record.image]
            assert isinstance(image, Checked)
            line = [image.sha256, record.box, record.label, list(record.landmarks.values())]
            line += ["upright"] if record.turned else []
            digest.update(json.dumps(line).encode())
    return digest.hexdigest()
