from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paraphrase.core.data.checks import Checked, check_image, check_images, check_record, fit_box
from paraphrase.core.data.records import WHOLE_IMAGE, Record
from paraphrase.core.home import home


def encoded(image_format: str, side: int = 32) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, image_format)
    return stream.getvalue()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "PPM", "GIF", "TIFF", "WEBP"])
def test_a_sound_file_gives_its_size_and_hash(tmp_path: Path, image_format: str) -> None:
    (tmp_path / "a").write_bytes(encoded(image_format))
    found = check_image(tmp_path / "a")
    assert isinstance(found, Checked) and (found.width, found.height, len(found.sha256)) == (32, 32, 64)


@pytest.mark.parametrize("cut", [1, 2, 10, 100, 1000])
def test_a_jpeg_that_lacks_its_end_is_damaged(tmp_path: Path, cut: int) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded("JPEG")[:-cut])
    assert "truncated" in str(check_image(tmp_path / "a.jpg")).lower()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP", "PPM", "GIF", "TIFF", "WEBP"])
def test_any_damage_gives_one_line_and_never_an_exception(tmp_path: Path, image_format: str) -> None:
    content, rng = encoded(image_format), np.random.default_rng(1)
    for i in range(60):
        damaged = bytearray(content[: rng.integers(len(content))] if i % 2 else content)
        for position in rng.integers(max(1, min(len(damaged), 200)), size=4):
            if damaged:
                damaged[position] = rng.integers(256)
        (tmp_path / str(i)).write_bytes(damaged)
    for found in check_images(tmp_path / str(i) for i in range(60)).values():
        assert isinstance(found, Checked) or (found and "\n" not in found)


def test_a_file_that_is_missing_empty_a_folder_or_no_image_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "postscript.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n")
    assert check_image(tmp_path / "none.png") == "there is no such file"
    assert check_image(tmp_path) == "is not a file"
    assert check_image(tmp_path / "empty.png") == "the file is empty"
    for name in ("text.png", "postscript.png"):
        assert "is not an image in a known format" in str(check_image(tmp_path / name))
    assert "too long" in str(check_image(tmp_path / ("long" * 100)))
    assert "cannot be read" in str(check_image(Path("a\0b"))) or "no such file" in str(check_image(Path("a\0b")))


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (50, 3)])
def test_an_image_of_hardly_any_pixels_is_damaged(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    assert f"{size[0]} x {size[1]} pixels" in str(check_image(tmp_path / "a.png"))


@pytest.mark.parametrize("size", [(10_000, 10_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_not_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    content = bytearray(encoded("BMP"))
    content[18:26] = b"".join(side.to_bytes(4, "little") for side in size)
    (tmp_path / "a.bmp").write_bytes(content)
    (found,) = check_images([tmp_path / "a.bmp"]).values()
    assert "decompression bomb" in str(found)


def test_boxes_inside_the_image_stay_as_they_are() -> None:
    assert fit_box((7.7, 4.9, 100.1, 91.0), 181, 272) == pytest.approx((7.7, 4.9, 100.1, 91.0))
    assert fit_box((0, 0, 181, 272), 181, 272) == (0, 0, 181, 272)
    assert fit_box(WHOLE_IMAGE, 181, 272) == (0, 0, 181, 272)


def test_a_box_that_sticks_out_a_little_is_clipped() -> None:
    assert fit_box((-1, 0, 12, 10), 100, 80) == (0, 0, 11, 10)
    assert fit_box((90, 70, 12, 11.5), 100, 80) == (90, 70, 10, 10)
    assert fit_box((-5, 0, 100, 80), 100, 80) == (0, 0, 95, 80)


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((100, 0, 10, 10), "outside the image"),
        ((-10, 0, 10, 10), "outside the image"),
        ((500, 500, 10, 10), "outside the image"),
        ((80, 60, 40, 40), "outside the image"),
        ((-50, -50, 1000, 1000), "outside the image"),
        ((10, 10, 0, 10), "empty"),
        ((10, 10, 10, -3), "empty"),
        ((10, 10, 1, 10), "too small"),
        ((float("nan"), 10, 10, 10), "finite"),
        ((10, 10, float("inf"), 10), "finite"),
        ((10, 1e308, 10, 1e308), "outside the image"),
    ],
)
def test_a_box_that_shows_nothing_of_the_image_is_damage(box: tuple, reason: str) -> None:
    found = fit_box(box, 100, 80)
    assert isinstance(found, str) and reason in found


def test_a_visible_landmark_without_a_position_is_damage_and_an_invisible_one_is_not() -> None:
    image = Checked(100, 80, "", 1)
    nan = float("nan")
    bad = Record(Path("a.png"), WHOLE_IMAGE, 0, {"head": (nan, 3.0, True)}, "list.txt:3")
    assert check_record(bad, image) == "list.txt:3: landmark 'head' is visible, but its position is nan, 3.0"
    assert isinstance(check_record(Record(Path("a.png"), WHOLE_IMAGE, 0, {"head": (nan, nan, False)}), image), Record)


def test_what_was_found_sound_is_not_decoded_again_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(encoded("PNG"))
    first = check_images([file])[file]
    (memory,) = (home() / "data" / "checked").iterdir()
    content = json.loads(memory.read_text())
    content["images"][str(file)][-2] = "remembered"
    memory.write_text(json.dumps(content))
    second = check_images([file])[file]
    assert isinstance(second, Checked) and second.sha256 == "remembered"

    stat = file.stat()
    damaged = bytearray(encoded("PNG"))
    damaged[60] ^= 1
    file.write_bytes(damaged)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    third = check_images([file])[file]
    assert third not in (first, second)


def test_damage_is_not_remembered_and_other_files_stay_remembered(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded("PNG"))
    (tmp_path / "bad.png").write_text("no image")
    check_images([tmp_path / "a.png", tmp_path / "bad.png"])
    check_images([tmp_path / "b.png"])
    (memory,) = (home() / "data" / "checked").iterdir()
    assert {Path(p).name for p in json.loads(memory.read_text())["images"]} == {"a.png", "b.png"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rules": null}', "\0\0"])
def test_a_damaged_memory_only_means_that_files_are_checked_again(tmp_path: Path, content: str) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(encoded("PNG"))
    first = check_images([file])
    (memory,) = (home() / "data" / "checked").iterdir()
    memory.write_text(content)
    assert check_images([file]) == first


def test_a_home_that_cannot_be_written_to_does_not_stop_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "file"))
    assert isinstance(check_images([tmp_path / "a.png"])[tmp_path / "a.png"], Checked)
