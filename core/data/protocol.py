"""Which categories, which landmarks, and the two protocols: multi-category and single-category [algorithm.md, 1]."""

from __future__ import annotations

import difflib
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from paraphrase.core.config import DataConfig
from paraphrase.core.data.records import Landmark, Record, Source
from paraphrase.core.errors import InputError


def without_number(category: str) -> str:
    """`Person` for `001.Person`, the way CUB-200-2011 numbers its categories."""
    return re.sub(r"^\d+\.(?=.)", "", category)


def _unknown(field: str, kind: str, name: str, known: Sequence[str]) -> InputError:
    """One line: what is unknown, what may be meant, and what there is."""
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(known[:30]) + (f", ... ({len(known)} in all)" if len(known) > 30 else "")
    return InputError(f"{field}: unknown {kind} {name!r}{guess} (there are: {shown or 'none'})")


def _find(name: str, source: Source, field: str) -> int:
    """Index of a category that is named with or without its number."""
    if name in source.categories:
        return source.categories.index(name)
    plain = [without_number(c) for c in source.categories]
    if plain.count(without_number(name)) != 1:
        raise _unknown(field, "category", name, source.categories)
    return plain.index(without_number(name))


def choose_categories(source: Source, config: DataConfig) -> list[int]:
    """Indices of the source's categories to use, in the configured order; the single category comes first.

    Raises:
        InputError: on an unknown or repeated category, or fewer than two.
    """
    chosen = [_find(name, source, f"data.categories.{i}") for i, name in enumerate(config.categories)]
    for i, index in enumerate(chosen):
        if index in chosen[:i]:
            raise InputError(f"data.categories.{i}: {source.categories[index]!r} is there twice")
    chosen = chosen or list(range(len(source.categories)))
    if config.single_category is not None:
        positive = _find(config.single_category, source, "data.single_category")
        chosen = [positive, *(i for i in chosen if i != positive)]
    if len(chosen) < 2 and len(source.categories) < 2:
        (only,) = source.categories or ["none"]
        raise InputError(
            f"data.path: {source.name} has one category, {only}; its classifier needs images without it, as a second category"
        )
    if len(chosen) < 2:
        have = ", ".join(source.categories[i] for i in chosen) or "none"
        hint = "" if config.single_category else "; for one against the others set data.single_category"
        raise InputError(f"data.categories: two or more are needed, {source.name} is left with: {have}{hint}")
    return chosen


def merge_landmarks(
    parts: Sequence[str], landmarks: Mapping[str, Sequence[str]], splits: Sequence[list[Record]]
) -> tuple[list[str], list[list[Record]]]:
    """Landmarks as means of the visible ones of several parts; visible if any one of them is.

    Args:
        parts: names of the source's parts.
        landmarks: name -> parts; empty: every part is a landmark of its own name.
        splits: records with the landmarks of all parts.

    Returns:
        The landmarks' names, and the records with these landmarks in this order.

    Raises:
        InputError: on a part that the source does not have, or a landmark without parts.
    """
    if not landmarks:
        return list(parts), list(splits)
    for name, members in landmarks.items():
        if not members:
            raise InputError(f"data.landmarks.{name}: names no part (there are: {', '.join(parts) or 'none'})")
        for i, part in enumerate(members):
            if part not in parts:
                raise _unknown(f"data.landmarks.{name}.{i}", "part", part, list(parts))
    merged = [
        [replace(r, landmarks={n: _mean([r.landmarks[p] for p in m]) for n, m in landmarks.items()}) for r in split]
        for split in splits
    ]
    return list(landmarks), merged


def _mean(points: list[Landmark]) -> Landmark:
    visible = [(x, y) for x, y, seen in points if seen]
    if not visible:
        return 0.0, 0.0, False
    return sum(x for x, _ in visible) / len(visible), sum(y for _, y in visible) / len(visible), True


def _after_skipping(left_out: int) -> str:
    return f" after {left_out} damaged image{'s were' if left_out > 1 else ' was'} left out" if left_out else ""


def require_images(
    categories: Sequence[str], origins: Sequence[str], train: list[Record], test: list[Record], left_out: int
) -> None:
    """Check that every category has images in both splits.

    Raises:
        InputError: names the first category that has none, and where it was read.
    """
    for split, records in (("training", train), ("test", test)):
        counts = np.bincount([r.label for r in records], minlength=len(categories))
        for name, origin, count in zip(categories, origins, counts, strict=True):
            if not count:
                raise InputError(
                    f"{origin}: category {name!r} has no {split} images{_after_skipping(left_out)}; "
                    f"give it some or choose others in data.categories"
                )


def against_others(
    positive: str, train: list[Record], test: list[Record], seed: int, left_out: int
) -> tuple[list[Record], list[Record]]:
    """The single-category protocol [P]: label 1 for the category, 0 for as many random images of the others.

    Args:
        positive: name of the category, for messages.
        train, test: records with label 0 for the category, above 0 for the others.
        seed: of the random draw, which has a stream of its own in each split.
        left_out: number of damaged images, for messages.

    Returns:
        Both splits in their former order; all others are kept where they are fewer than the positives.

    Raises:
        InputError: if a split has no positive or no negative image.
    """
    results = []
    for stream, (split, records) in enumerate((("training", train), ("test", test))):
        is_positive = np.array([r.label == 0 for r in records], bool)
        others = np.flatnonzero(~is_positive)
        for what, missing in ((repr(positive), not is_positive.any()), ("other categories", not len(others))):
            if missing:
                raise InputError(f"data.single_category: no {split} images of {what}{_after_skipping(left_out)}")
        rng = np.random.default_rng([seed, stream])
        drawn = rng.choice(others, min(len(others), int(is_positive.sum())), replace=False)
        kept = np.sort(np.concatenate([np.flatnonzero(is_positive), drawn]))
        results.append([replace(records[i], label=int(is_positive[i])) for i in kept])
    return results[0], results[1]


def draw_test(count: int, share: float, seed: int, category: str) -> set[int]:
    """Indices of the test images: a draw of its own for each category, so that another one changes nothing."""
    if count < 2:
        return set()
    rng = np.random.default_rng([seed, zlib.crc32(category.encode(errors="surrogateescape"))])
    return set(rng.permutation(count)[: min(count - 1, max(1, round(count * share)))].tolist())


def same_pictures(train: list[Record], test: list[Record], content: Mapping[Path, str]) -> tuple[list[str], list[Record], int]:
    """Pictures that are in both splits, and doubles within one, by what the files contain.

    Args:
        content: image -> hash of its file.

    Returns:
        A line for each such record of the test split, the test split without them, and how many objects a split has twice.
    """
    known = {content[r.image]: r for r in reversed(train)}
    problems = [
        f"{r.origin}: {r.image} is a training picture, too ({known[content[r.image]].image})"
        for r in test
        if content[r.image] in known
    ]
    kept = [r for r in test if content[r.image] not in known]
    doubled = sum(len(split) - len({(content[r.image], r.box) for r in split}) for split in (train, kept))
    return problems, kept, doubled


def seen_landmarks(names: Sequence[str], test: list[Record], asked_for: bool) -> bool:
    """Whether any landmark is visible in a test image.

    Raises:
        InputError: if none is, though `data.landmarks` asks for them.
    """
    seen = any(visible for record in test for _, _, visible in record.landmarks.values())
    if names and not seen and asked_for:
        raise InputError(
            f"data.landmarks: none of {', '.join(names)} is visible in a test image; their parts are marked as not visible"
        )
    return seen


def climbs_out(path: str, root: Path, inside: str, links: bool = False) -> str | None:
    """What is wrong with a path that is absolute or leaves images/, also through a link.

    Args:
        links: whether links may lead out.
    """
    try:
        led_to = (
            os.path.normpath(os.path.join(os.path.realpath(root), path)) if links else os.path.realpath(os.path.join(root, path))
        )
        stays = not os.path.isabs(path) and "\0" not in path and led_to.startswith(inside)
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, a loop of links
        return f"{path!r} is not a path ({error})"
    links_may = "" if links else ", or data.links be true where links lead to a store"
    return None if stays else f"the path {path} leads out of {root}; it must be relative and stay inside{links_may}"
