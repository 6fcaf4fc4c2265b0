"""CUB-200-2011 as distributed, and any data set in its layout.

    images.txt               id path           path is relative to images/
    classes.txt              id name
    image_class_labels.txt   id class-id
    bounding_boxes.txt       id x y w h        pixels
    train_test_split.txt     id 1|0            1: training
    parts/parts.txt          id name           the name may have spaces
    parts/part_locs.txt      id part-id x y visible

Without the folder `parts` there are no landmarks. Ids that images.txt does not list are of no consequence, so a subset
is made by deleting lines there. A path must stay inside images/, also where it goes through links.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

from paraphrase.core.config import DataConfig
from paraphrase.core.data.folders import as_it_is_named
from paraphrase.core.data.protocol import climbs_out, without_number
from paraphrase.core.data.records import Landmark, Record, Source
from paraphrase.core.errors import InputError
from paraphrase.core.files import regular

HOMEPAGE = "https://www.vision.caltech.edu/datasets/cub_200_2011/"


def load(config: DataConfig) -> Source:
    """All images of a folder in the layout of CUB-200-2011.

    Returns:
        The source; categories without their numbers (`Person` for `001.Person`), unless that makes two the same.

    Raises:
        InputError: if a file is missing, or classes.txt, parts.txt or the whole of images.txt is unusable. What is
            wrong with single images is in `problems`.
    """
    folder = _folder(config.path)
    classes = _names(folder / "classes.txt", "class")
    parts = _names(folder / "parts" / "parts.txt", "part") if (folder / "parts").is_dir() else {}
    tables = _Tables(folder)
    images = tables.read_images(config.links)
    labels = tables.read_labels(classes)
    boxes = tables.read_boxes()
    training = tables.read_split()
    landmarks = tables.read_landmarks({i: name for i, (name, _) in parts.items()}) if parts else {}

    class_ids = list(classes)
    position = {class_id: i for i, class_id in enumerate(class_ids)}
    splits: tuple[list[Record], list[Record]] = [], []
    for image_id, (path, origin) in images.items():
        for table, file, what in (
            (labels, "image_class_labels.txt", "class label"),
            (boxes, "bounding_boxes.txt", "bounding box"),
            (training, "train_test_split.txt", "split"),
        ):
            if image_id not in table and image_id not in tables.bad:
                tables.bad[image_id] = f"{origin}: image id {image_id} has no {what} in {file}"
        if image_id not in tables.bad:
            box, box_origin = boxes[image_id]
            points = {name: landmarks.get((image_id, p), (0.0, 0.0, False)) for p, (name, _) in parts.items()}
            record = Record(path, box, position[labels[image_id]], points, origin, box_origin)
            splits[0 if training[image_id] else 1].append(record)

    names = [name for name, _ in classes.values()]
    plain = [without_number(name) for name in names]
    return Source(
        name=folder.resolve().name,
        categories=plain if len(set(plain)) == len(plain) else names,
        parts=[name for name, _ in parts.values()],
        train=splits[0],
        test=splits[1],
        problems=tables.problems(set(images), config.skip_bad),
        category_origins=[origin for _, origin in classes.values()],
    )


def _folder(path: str | None) -> Path:
    where = f"get CUB-200-2011 (Caltech-UCSD Birds) from {HOMEPAGE}, unpack it and name its folder"
    if not path:
        raise InputError(f"data.path: missing; {where}")
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"data.path: there is no folder {path}; {where}")
    if not (folder / "images.txt").exists() and (folder / "CUB_200_2011" / "images.txt").is_file():
        folder /= "CUB_200_2011"
    if not (folder / "images").is_dir():
        raise InputError(f"{folder}: has no folder images/, so it is not in the layout of CUB-200-2011; {where}")
    return folder


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """(origin `file:number`, text) of the lines that are not blank.

    Raises:
        InputError: if the file cannot be read or is not UTF-8.
    """
    try:
        content = regular(file).read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); the layout of CUB-200-2011 needs it") from None
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            try:
                yield f"{file}:{number}", line.decode("utf-8").strip()
            except UnicodeDecodeError:
                raise InputError(f"{file}:{number}: is not UTF-8 text") from None


def _id(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _names(file: Path, kind: str) -> dict[int, tuple[str, str]]:
    """id -> (name, origin) of classes.txt or parts.txt, in the file's order.

    Raises:
        InputError: on a malformed line, an id or a name that is there twice, or an empty file.
    """
    names: dict[int, tuple[str, str]] = {}
    for origin, line in _lines(file):
        first, _, name = line.partition(" ")
        identity, name = _id(first), name.strip()
        if identity is None or not name:
            raise InputError(f"{origin}: expected `{kind}-id name`, got {line!r}")
        for known, (known_name, known_origin) in names.items():
            if identity == known or name == known_name:
                what = f"id {identity}" if identity == known else f"name {name!r}"
                raise InputError(f"{origin}: {kind} {what} is already used at {known_origin}")
        names[identity] = (name, origin)
    if not names:
        raise InputError(f"{file}: lists no {kind}; expected lines of `{kind}-id name`")
    return names


class _Tables:
    """The files with a line for each image, and what is wrong with each image: its first problem is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bad: dict[int, str] = {}  # image id -> problem
        self.strays: list[str] = []  # lines of images.txt that give no id, and duplicates of ids: images of their own
        self.unreadable: list[str] = []  # lines of other files that give no id: the image that lacks one has its own

    def problems(self, listed: set[int], skip_bad: bool) -> list[str]:
        """One line for each image left out; if nothing may be left out, also lines that belong to no image."""
        of_images = [self.bad[i] for i in self.bad if i in listed]
        return [*([] if skip_bad else self.unreadable), *self.strays, *of_images]

    def _rows(self, file: str, columns: str) -> Iterator[tuple[int, list[str], str]]:
        """(image id, all fields, origin) of each line that has as many fields as `columns` names."""
        names = columns.split()
        for origin, line in _lines(self.folder / file):
            fields = line.split()
            image_id = _id(fields[0])
            problem = f"{origin}: expected `{columns}`, got {line[:80]!r}"
            if image_id is None:
                self.unreadable.append(problem)
            elif len(fields) != len(names):
                self.bad.setdefault(image_id, problem)
            else:
                yield image_id, fields, origin

    def _once(self, seen: dict, key: object, image_id: int, what: str, origin: str) -> None:
        if key in seen:
            self.bad.setdefault(image_id, f"{origin}: image id {image_id} has a second {what}")

    def read_images(self, links: bool) -> dict[int, tuple[Path, str]]:
        """id -> (file, origin). An id that is there twice is bad in both places: nobody knows whose its box is.

        Args:
            links: whether images may be links that lead out of the data set.
        """
        root = self.folder / "images"
        inside = os.path.join(os.path.realpath(root), "")
        images: dict[int, tuple[Path, str]] = {}
        for origin, line in _lines(self.folder / "images.txt"):
            first, *rest = line.split(None, 1)
            image_id = _id(first)
            if image_id is None or not rest:
                self.strays.append(f"{origin}: expected `image-id path`, got {line[:80]!r}")
            elif image_id in images:
                first_origin = images[image_id][1]
                self.strays.append(f"{origin}: image id {image_id} is already used at {first_origin}")
                self.bad.setdefault(image_id, f"{first_origin}: image id {image_id} is used again at {origin}")
            else:
                images[image_id] = (as_it_is_named(root / rest[0]), origin)
                if problem := climbs_out(rest[0], root, inside, links):
                    self.bad[image_id] = f"{origin}: {problem}"
        if not images and not self.strays:
            raise InputError(f"{self.folder / 'images.txt'}: lists no image; expected lines of `image-id path`")
        return images

    def read_labels(self, classes: dict[int, tuple[str, str]]) -> dict[int, int]:
        """id -> class id."""
        labels: dict[int, int] = {}
        for image_id, (_, text), origin in self._rows("image_class_labels.txt", "image-id class-id"):
            self._once(labels, image_id, image_id, "class label", origin)
            class_id = _id(text)
            if class_id is None:
                self.bad.setdefault(image_id, f"{origin}: expected a class id, got {text!r}")
            elif class_id not in classes:
                self.bad.setdefault(image_id, f"{origin}: class id {class_id} is not in classes.txt")
            else:
                labels[image_id] = class_id
        return labels

    def read_boxes(self) -> dict[int, tuple[tuple[float, float, float, float], str]]:
        """id -> ((x, y, w, h), origin); that it fits the image is checked when the image is decoded."""
        boxes: dict[int, tuple[tuple[float, float, float, float], str]] = {}
        for image_id, fields, origin in self._rows("bounding_boxes.txt", "image-id x y width height"):
            self._once(boxes, image_id, image_id, "bounding box", origin)
            numbers = _numbers(fields[1:])
            if numbers is None:
                self.bad.setdefault(image_id, f"{origin}: expected four finite numbers, got {' '.join(fields[1:])!r}")
            else:
                x, y, w, h = numbers
                boxes[image_id] = ((x, y, w, h), origin)
        return boxes

    def read_split(self) -> dict[int, bool]:
        """id -> whether it is a training image."""
        training: dict[int, bool] = {}
        for image_id, (_, text), origin in self._rows("train_test_split.txt", "image-id is-training"):
            self._once(training, image_id, image_id, "split", origin)
            if text not in ("0", "1"):
                self.bad.setdefault(image_id, f"{origin}: expected 1 (training) or 0 (test), got {text!r}")
            else:
                training[image_id] = text == "1"
        return training

    def read_landmarks(self, parts: dict[int, str]) -> dict[tuple[int, int], Landmark]:
        """(id, part id) -> landmark; a part that has no line is not visible."""
        points: dict[tuple[int, int], Landmark] = {}
        for image_id, fields, origin in self._rows("parts/part_locs.txt", "image-id part-id x y visible"):
            part = _id(fields[1])
            if part not in parts or part is None:
                problem = f"{origin}: part id {fields[1]} is not in parts/parts.txt"
                self.bad.setdefault(image_id, problem)
                continue
            self._once(points, (image_id, part), image_id, parts[part], origin)
            if fields[4] not in ("0", "1"):
                self.bad.setdefault(image_id, f"{origin}: expected visible 1 or 0, got {fields[4]!r}")
            elif fields[4] == "0":
                points[image_id, part] = (0.0, 0.0, False)
            elif (position := _numbers(fields[2:4])) is None:
                problem = f"{origin}: {parts[part]} is visible, but its position is {fields[2]} {fields[3]}"
                self.bad.setdefault(image_id, problem)
            else:
                points[image_id, part] = (position[0], position[1], True)
        return points


def _numbers(texts: list[str]) -> list[float] | None:
    """Finite numbers, or None."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
