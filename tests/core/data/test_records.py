from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paraphrase.core.data.checks import check_image, check_record
from paraphrase.core.data.records import WHOLE_IMAGE, Record, crop, cut, to_rgb


def save(image: Image.Image, path: Path, **options: object) -> Record:
    image.save(path, **options)
    return Record(path, (0.0, 0.0, float(image.width), float(image.height)), 0)


def test_landmarks_move_with_the_crop_by_the_formula(tmp_path: Path) -> None:
    save(Image.new("RGB", (100, 80)), tmp_path / "a.png")
    record = Record(tmp_path / "a.png", (20.0, 10.0, 50.0, 40.0), 0, {"head": (45.0, 20.0, True), "tail": (0.0, 0.0, False)})
    image, landmarks = crop(record, 224)
    assert image.size == (224, 224) and image.mode == "RGB"
    assert landmarks.dtype == np.float32
    np.testing.assert_allclose(landmarks, [[(45 - 20) / 50 * 224, (20 - 10) / 40 * 224, 1], [0, 0, 0]])


@pytest.mark.parametrize(
    ("x", "y", "visible"), [(20, 10, 1), (70, 50, 1), (19.9, 30, 0), (70.1, 30, 0), (40, 9.9, 0), (40, 50.1, 0)]
)
def test_a_landmark_outside_the_box_is_not_visible(tmp_path: Path, x: float, y: float, visible: int) -> None:
    save(Image.new("RGB", (100, 80)), tmp_path / "a.png")
    _, landmarks = crop(Record(tmp_path / "a.png", (20.0, 10.0, 50.0, 40.0), 0, {"head": (x, y, True)}), 32)
    assert landmarks[0, 2] == visible
    assert visible or not landmarks.any()


@pytest.mark.parametrize("size", [16, 64, 150])
def test_a_mark_in_the_image_is_found_where_its_landmark_says(tmp_path: Path, size: int) -> None:
    rng = np.random.default_rng(size)
    for i in range(10):
        x, y = rng.uniform(60, 120, 2)
        box = (rng.uniform(0, 20), rng.uniform(0, 20), rng.uniform(160, 175), rng.uniform(145, 178))
        rows, columns = np.mgrid[:200, :200] + 0.5
        blob = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 8**2))
        save(Image.fromarray((blob * 255).astype(np.uint8)).convert("RGB"), tmp_path / f"{i}.png")
        image, landmarks = crop(Record(tmp_path / f"{i}.png", box, 0, {"mark": (x, y, True)}), size)
        weight = np.asarray(image, float)[..., 0]
        centres = np.arange(size) + 0.5
        found = (weight.sum(0) @ centres) / weight.sum(), (weight.sum(1) @ centres) / weight.sum()
        np.testing.assert_allclose(landmarks[0, :2], found, atol=0.01 * size)


def test_a_crop_shows_the_box_and_nothing_beside_it(tmp_path: Path) -> None:
    pixels = np.zeros((50, 50, 3), np.uint8)
    pixels[10:30, 20:40] = 200
    save(Image.fromarray(pixels), tmp_path / "a.png")
    image, _ = crop(Record(tmp_path / "a.png", (20.0, 10.0, 20.0, 20.0), 0), 64)
    assert (np.asarray(image) == 200).all()


def test_a_box_may_begin_within_a_pixel(tmp_path: Path) -> None:
    ramp = np.tile(4 * np.arange(50, dtype=np.uint8), (50, 1))
    for name, pixels, axis in (("x.png", ramp, 0), ("y.png", ramp.T, 1)):
        save(Image.fromarray(np.ascontiguousarray(pixels)), tmp_path / name)
        picture, _ = crop(Record(tmp_path / name, (10.5, 10.5, 20.0, 20.0), 0), 20)
        means = np.asarray(picture)[2:-2, 2:-2, 0].mean(axis)
        np.testing.assert_allclose(means, 4 * (10.5 + np.arange(2, 18)), atol=0.5)


def test_a_box_that_ends_at_the_image_border_in_floating_point_is_cropped(tmp_path: Path) -> None:
    save(Image.new("RGB", (181, 272), "red"), tmp_path / "a.png")
    for x in np.random.default_rng(0).uniform(0, 100, 50):
        image, _ = crop(Record(tmp_path / "a.png", (x, x, 181 - x, 272 - x), 0), 8)
        assert image.getpixel((7, 7)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"])
def test_every_mode_of_image_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((6, 6), 65535, np.uint16))
    elif mode == "I":
        image = Image.fromarray(np.full((6, 6), 65535, np.int32))
    elif mode == "LAB":
        image = Image.new("LAB", (6, 6), (255, 0, 0))
    else:
        image = Image.new("RGB", (6, 6), "white").convert("L" if mode == "F" else "RGB").convert(mode)
    assert image.mode == mode
    rgb = to_rgb(image)
    assert rgb.mode == "RGB" and rgb.size == (6, 6)
    if mode != "LAB":
        assert min(rgb.getpixel((3, 3))) >= 250


@pytest.mark.parametrize("suffix", ["grey.png", "cmyk.jpg", "palette.gif", "alpha.png", "deep.png"])
def test_files_of_every_mode_are_cropped(tmp_path: Path, suffix: str) -> None:
    image = {
        "grey.png": Image.new("L", (20, 20), 100),
        "cmyk.jpg": Image.new("RGB", (20, 20), (100, 100, 100)).convert("CMYK"),
        "palette.gif": Image.new("RGB", (20, 20), (100, 100, 100)).convert("P"),
        "alpha.png": Image.new("RGBA", (20, 20), (100, 100, 100, 255)),
        "deep.png": Image.fromarray(np.full((20, 20), 100 * 256, np.uint16)),
    }[suffix]
    picture, _ = crop(save(image, tmp_path / suffix), 10)
    np.testing.assert_allclose(np.asarray(picture), 100, atol=6)


def test_transparent_pixels_are_white_whatever_colour_they_hide(tmp_path: Path) -> None:
    picture, _ = crop(save(Image.new("RGBA", (20, 20), (10, 200, 30, 0)), tmp_path / "a.png"), 10)
    assert (np.asarray(picture) == 255).all()
    indexed = Image.new("P", (20, 20), 0)
    indexed.putpalette([10, 200, 30] * 256)
    picture, _ = crop(save(indexed, tmp_path / "b.png", transparency=0), 10)
    assert (np.asarray(picture) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_taken_upright_where_nothing_is_annotated_in_it(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((20, 40, 3), np.uint8)
    upright[:, :20], upright[:10, 20:] = 255, 128
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # of PIL's Transpose: what stores it so
    stored = Image.fromarray(upright)
    stored = stored.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    record = save(stored, tmp_path / "a.png", exif=exif)
    checked = check_record(replace(record, box=WHOLE_IMAGE), check_image(record.image))
    assert isinstance(checked, Record) and checked.box == (0, 0, 40, 20) and checked.turned == (orientation > 1)
    np.testing.assert_array_equal(np.asarray(cut(checked, 40)), upright)


@pytest.mark.parametrize("annotated", [{"box": (0, 0, 10, 10)}, {"landmarks": {"head": (3.0, 4.0, True)}}])
def test_a_turned_picture_with_annotations_is_refused(tmp_path: Path, annotated: dict) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    record = save(Image.new("RGB", (20, 40)), tmp_path / "a.jpg", exif=exif)
    said = check_record(replace(record, **{"box": WHOLE_IMAGE} | annotated), check_image(record.image))
    assert isinstance(said, str) and "a.jpg: is turned by its EXIF orientation" in said
