from __future__ import annotations

import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from cub_tree import TABLES, CubTree
from PIL import Image

from paraphrase.core.config import DataConfig
from paraphrase.core.data import crop, load_dataset
from paraphrase.core.errors import InputError


def config(cub: CubTree, **fields: object) -> DataConfig:
    return DataConfig(source="cub", path=str(cub.folder), **fields)  # type: ignore[arg-type]


def error(settings: DataConfig) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_whole_tree_is_read_as_written(cub: CubTree) -> None:
    data = load_dataset(config(cub))
    assert data.name == "pets"
    assert data.categories == ["Cat", "Dog", "Black_Cow"]
    assert data.landmarks == ["left ear", "right ear", "tail"]
    assert len(data.train) == 12 and len(data.test) == 6 and not data.skipped
    assert [r.label for r in data.train] == [0, 1, 2] * 4
    second = data.train[1]
    assert second.image == cub.folder / "images" / "002.Dog" / "picture 2.png"
    assert second.box == (10.0, 5.0, 40.0, 30.0)
    assert second.landmarks == {"left ear": (22, 10, True), "right ear": (32, 20, True), "tail": (0, 0, False)}
    assert second.origin == f"{cub.folder}/images.txt:2"


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_change_nothing(cub: CubTree) -> None:
    before = load_dataset(config(cub)).fingerprint
    for table in TABLES:
        text = (cub.folder / table).read_text()
        (cub.folder / table).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n\r\n").encode())
    assert load_dataset(config(cub)).fingerprint == before


def test_numbers_stay_where_the_names_without_them_would_be_the_same(cub: CubTree) -> None:
    cub.set_line("classes.txt", 2, "2 002.Cat")
    assert load_dataset(config(cub)).categories == ["001.Cat", "002.Cat", "003.Black_Cow"]


def test_without_parts_there_are_no_landmarks(cub: CubTree) -> None:
    shutil.rmtree(cub.folder / "parts")
    data = load_dataset(config(cub))
    assert data.landmarks == [] and data.train[0].landmarks == {}
    assert crop(data.train[0], 8)[1].shape == (0, 3)
    assert "data.landmarks.ear.0: unknown part 'left ear'" in error(config(cub, landmarks={"ear": ["left ear"]}))


def test_the_folder_above_the_distribution_will_do(cub: CubTree, tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    cub.folder.rename(tmp_path / "downloads" / "CUB_200_2011")
    data = load_dataset(DataConfig(source="cub", path=str(tmp_path / "downloads")))
    assert data.name == "CUB_200_2011" and len(data.train) == 12


def test_ids_that_images_txt_does_not_list_are_of_no_consequence(cub: CubTree) -> None:
    for _ in range(3):
        cub.set_line("images.txt", 16, None)
    data = load_dataset(config(cub))
    assert len(data.train) == 12 and len(data.test) == 3 and not data.skipped


@pytest.mark.parametrize("path", [None, "/no/such/folder"])
def test_a_missing_folder_says_where_to_get_the_data(path: str | None) -> None:
    message = error(DataConfig(source="cub", path=path))
    assert message.startswith("data.path") and "CUB-200-2011" in message and "https://www.vision.caltech.edu" in message


def test_a_folder_of_another_layout_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) in error(DataConfig(source="cub", path=str(tmp_path), skip_bad=True))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_missing_table_is_named_even_when_bad_images_are_skipped(cub: CubTree, table: str, skip_bad: bool) -> None:
    (cub.folder / table).unlink()
    assert error(config(cub, skip_bad=skip_bad)).startswith(f"{cub.folder / table}: cannot be read (No such file")


@pytest.mark.parametrize("table", TABLES)
def test_a_table_that_is_no_text_is_named_with_its_line(cub: CubTree, table: str) -> None:
    lines = (cub.folder / table).read_bytes().split(b"\n")
    lines[1] = b"2 \xff\xfe"
    (cub.folder / table).write_bytes(b"\n".join(lines))
    assert error(config(cub)).startswith(f"{cub.folder / table}:2: is not UTF-8")


# table, line, its new text (None: taken away), what the message says; {} is the folder
LINES = [
    ("bounding_boxes.txt", 4, None, "{}/images.txt:4: image id 4 has no bounding box in bounding_boxes.txt"),
    ("image_class_labels.txt", 4, None, "{}/images.txt:4: image id 4 has no class label in image_class_labels.txt"),
    ("train_test_split.txt", 4, None, "{}/images.txt:4: image id 4 has no split in train_test_split.txt"),
    ("bounding_boxes.txt", 4, "4 nan 5 40 30", "{}/bounding_boxes.txt:4: expected four finite numbers"),
    ("bounding_boxes.txt", 4, "4 1 inf 40 30", "{}/bounding_boxes.txt:4: expected four finite numbers"),
    ("bounding_boxes.txt", 4, "4 1 two 40 30", "{}/bounding_boxes.txt:4: expected four finite numbers"),
    ("bounding_boxes.txt", 4, "4 1 2 40", "{}/bounding_boxes.txt:4: expected `image-id x y width height`"),
    ("bounding_boxes.txt", 4, "4 1 2 40 30 1", "{}/bounding_boxes.txt:4: expected `image-id x y width height`"),
    ("bounding_boxes.txt", 4, "4 10 5 -40 30", "{}/bounding_boxes.txt:4: the bounding box 10 5 -40 30 is empty"),
    ("bounding_boxes.txt", 4, "4 10 5 0 0", "{}/bounding_boxes.txt:4: the bounding box 10 5 0 0 is empty"),
    ("bounding_boxes.txt", 4, "4 70 5 40 30", "{}/bounding_boxes.txt:4: the bounding box 70 5 40 30 lies outside the"),
    ("bounding_boxes.txt", 4, "4 40 5 40 30", "lies outside the image of 60 x 40 pixels (50% is inside)"),
    ("bounding_boxes.txt", 19, "4 1 2 40 30", "{}/bounding_boxes.txt:19: image id 4 has a second bounding box"),
    ("image_class_labels.txt", 4, "4 9", "{}/image_class_labels.txt:4: class id 9 is not in classes.txt"),
    ("image_class_labels.txt", 4, "4 Cat", "{}/image_class_labels.txt:4: expected a class id, got 'Cat'"),
    ("image_class_labels.txt", 19, "4 1", "{}/image_class_labels.txt:19: image id 4 has a second class label"),
    ("train_test_split.txt", 4, "4 2", "{}/train_test_split.txt:4: expected 1 (training) or 0 (test), got '2'"),
    ("train_test_split.txt", 19, "4 0", "{}/train_test_split.txt:19: image id 4 has a second split"),
    ("parts/part_locs.txt", 10, "4 1 nan 5 1", "{}/parts/part_locs.txt:10: left ear is visible, but its position is nan"),
    ("parts/part_locs.txt", 10, "4 1 5 five 1", "{}/parts/part_locs.txt:10: left ear is visible, but its position is"),
    ("parts/part_locs.txt", 10, "4 1 5 5 yes", "{}/parts/part_locs.txt:10: expected visible 1 or 0, got 'yes'"),
    ("parts/part_locs.txt", 10, "4 9 5 5 1", "{}/parts/part_locs.txt:10: part id 9 is not in parts/parts.txt"),
    ("parts/part_locs.txt", 10, "4 1 5 5", "{}/parts/part_locs.txt:10: expected `image-id part-id x y visible`"),
    ("parts/part_locs.txt", 55, "4 1 5 5 1", "{}/parts/part_locs.txt:55: image id 4 has a second left ear"),
    ("images.txt", 4, "4 001.Cat/none.png", "{0}/images.txt:4: {0}/images/001.Cat/none.png: there is no such file"),
    ("images.txt", 4, "4 001.Cat", "{0}/images.txt:4: {0}/images/001.Cat: is not a file"),
    ("images.txt", 4, "4 ../images.txt", "{0}/images.txt:4: the path ../images.txt leads out of {0}/images"),
    ("images.txt", 4, "4 a/../../../x.png", "{0}/images.txt:4: the path a/../../../x.png leads out of {0}/images"),
    ("images.txt", 4, "4 /etc/passwd", "{0}/images.txt:4: the path /etc/passwd leads out of {0}/images"),
    ("images.txt", 4, "4 a\0b.png", "{}/images.txt:4: 'a\\x00b.png' is not a path"),
    ("images.txt", 4, "4 " + "a" * 300, "images.txt:4: "),
    ("images.txt", 4, "4", "{}/images.txt:4: expected `image-id path`, got '4'"),
    ("images.txt", 4, "four a.png", "{}/images.txt:4: expected `image-id path`, got 'four a.png'"),
]


@pytest.mark.parametrize(("table", "number", "text", "message"), LINES)
def test_a_damaged_line_is_named_and_skipping_leaves_out_that_image_alone(
    cub: CubTree, table: str, number: int, text: str | None, message: str
) -> None:
    cub.set_line(table, number, text)
    found = error(config(cub))
    assert message.format(cub.folder) in found and found.endswith("(--skip-bad leaves such images out)")
    data = load_dataset(config(cub, skip_bad=True))
    assert len(data.skipped) == 1 and message.format(cub.folder) in data.skipped[0]
    assert len(data.train) == 11 and len(data.test) == 6
    assert "picture 4.png" not in {r.image.name for r in data.train}


@pytest.mark.parametrize("table", ["bounding_boxes.txt", "image_class_labels.txt", "train_test_split.txt"])
def test_a_line_without_an_id_is_named_and_its_image_counted_once(cub: CubTree, table: str) -> None:
    cub.set_line(table, 4, "x 1")
    assert error(config(cub)).startswith(f"{cub.folder / table}:4: expected `image-id")
    assert "; and 1 more problem (" in error(config(cub))
    assert len(load_dataset(config(cub, skip_bad=True)).skipped) == 1


def test_an_id_that_is_there_twice_leaves_both_images_out(cub: CubTree) -> None:
    cub.set_line("images.txt", 5, "4 002.Dog/picture 5.png")
    assert f"{cub.folder}/images.txt:5: image id 4 is already used at {cub.folder}/images.txt:4" in error(config(cub))
    data = load_dataset(config(cub, skip_bad=True))
    assert len(data.skipped) == 2 and len(data.train) == 10


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize(
    ("table", "number", "text", "message"),
    [
        ("classes.txt", 2, "2", "classes.txt:2: expected `class-id name`"),
        ("classes.txt", 2, "two Dog", "classes.txt:2: expected `class-id name`"),
        ("classes.txt", 2, "1 002.Dog", "classes.txt:2: class id 1 is already used at "),
        ("classes.txt", 2, "2 001.Cat", "classes.txt:2: class name '001.Cat' is already used at "),
        ("parts/parts.txt", 2, "2 left ear", "parts.txt:2: part name 'left ear' is already used at "),
        ("parts/parts.txt", 2, "right ear", "parts.txt:2: expected `part-id name`"),
        ("classes.txt", 4, "4 004.Unicorn", "classes.txt:4: category 'Unicorn' has no training images"),
    ],
)
def test_damage_that_is_not_of_single_images_cannot_be_skipped(
    cub: CubTree, table: str, number: int, text: str, message: str, skip_bad: bool
) -> None:
    cub.set_line(table, number, text)
    assert message in error(config(cub, skip_bad=skip_bad))


@pytest.mark.parametrize("table", ["images.txt", "classes.txt", "parts/parts.txt"])
def test_an_empty_list_is_named(cub: CubTree, table: str) -> None:
    (cub.folder / table).write_text("\n")
    assert error(config(cub, skip_bad=True)).startswith(f"{cub.folder / table}: lists no ")


def test_a_category_whose_test_images_are_all_damaged_is_an_error_even_when_skipping(cub: CubTree) -> None:
    for image_id in (13, 16):
        cub.image(image_id).write_bytes(b"")
    message = error(config(cub, skip_bad=True))
    assert message.startswith(f"{cub.folder}/classes.txt:1: category 'Cat' has no test images after 2 damaged images")


def jpeg(cut: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(stream, "JPEG")
    return stream.getvalue()[:-cut]


def one_pixel() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (1, 1)).save(stream, "PNG")
    return stream.getvalue()


def bomb() -> bytes:
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(jpeg(20), "truncated"), (jpeg(500), "truncated"), (one_pixel(), "1 x 1 pixels"), (bomb(), "decompression bomb")],
)
def test_a_damaged_image_file_is_named_with_its_line(cub: CubTree, content: bytes, reason: str) -> None:
    cub.image(4).write_bytes(content)
    found = error(config(cub))
    assert found.startswith(f"{cub.folder}/images.txt:4: {cub.image(4)}: ") and reason in found
    data = load_dataset(config(cub, skip_bad=True))
    assert len(data.skipped) == 1 and len(data.train) == 11


def test_a_link_that_leads_out_of_the_folder_is_not_followed(cub: CubTree, tmp_path: Path) -> None:
    cub.image(4).rename(tmp_path / "outside.png")
    os.symlink(tmp_path / "outside.png", cub.image(4))
    assert f"{cub.folder}/images.txt:4: the path 001.Cat/picture 4.png leads out of" in error(config(cub))
    os.rename(tmp_path / "outside.png", cub.folder / "outside.png")
    cub.image(4).unlink()
    os.symlink("../../outside.png", cub.image(4))
    assert "leads out of" in error(config(cub)) and "or data.links be true where links lead to a store" in error(config(cub))
    assert len(load_dataset(config(cub, links=True)).train) == 12
    cub.set_line("images.txt", 4, "4 ../../outside.png")
    assert "leads out of" in error(config(cub, links=True))


def test_accents_may_be_composed_otherwise_than_in_the_list(cub: CubTree) -> None:
    composed, apart = "Cr\u00e8me.png", "Cre\u0300me.png"
    cub.image(4).rename(cub.image(4).with_name(apart))
    cub.set_line("images.txt", 4, f"4 001.Cat/{composed}")
    assert len(load_dataset(config(cub)).train) == 12


def test_a_link_that_stays_inside_and_a_linked_folder_of_images_will_do(cub: CubTree, tmp_path: Path) -> None:
    cub.image(4).rename(cub.folder / "images" / "elsewhere.png")
    os.symlink("../elsewhere.png", cub.image(4))
    (cub.folder / "images").rename(tmp_path / "disk")
    os.symlink(tmp_path / "disk", cub.folder / "images")
    assert len(load_dataset(config(cub)).train) == 12


def test_a_loop_of_links_is_named(cub: CubTree) -> None:
    cub.image(4).unlink()
    os.symlink(cub.image(4).name, cub.image(4))
    assert "images.txt:4: " in error(config(cub))


def test_the_first_problem_is_reported_with_the_number_of_others(cub: CubTree) -> None:
    for number in (3, 8, 12):
        cub.set_line("train_test_split.txt", number, f"{number} maybe")
    cub.image(5).write_bytes(b"")
    assert re.fullmatch(
        rf"{cub.folder}/train_test_split.txt:3: .*; and 3 more problems \(--skip-bad leaves such images out\)",
        error(config(cub)),
    )
    assert len(load_dataset(config(cub, skip_bad=True)).skipped) == 4


def test_random_damage_of_the_tables_gives_one_line_or_a_sound_data_set(cub: CubTree) -> None:
    rng = np.random.default_rng(0)
    originals = {table: (cub.folder / table).read_bytes() for table in TABLES}
    for i in range(150):
        table = TABLES[i % len(TABLES)]
        damaged = bytearray(originals[table])
        for _ in range(rng.integers(1, 6)):
            position = rng.integers(len(damaged))
            damaged[position : position + rng.integers(0, 3)] = rng.bytes(1) if i % 3 else b" -9.\n/e"[i % 7 : i % 7 + 1]
        (cub.folder / table).write_bytes(damaged)
        for skip_bad in (False, True):
            try:
                data = load_dataset(config(cub, skip_bad=skip_bad))
            except InputError as problem:
                assert str(problem) and "\n" not in str(problem)
            else:
                for record in data.train + data.test:
                    image, landmarks = crop(record, 8)
                    assert image.size == (8, 8) and np.isfinite(landmarks).all()
                    assert landmarks[:, :2].min() >= 0 and landmarks[:, :2].max() <= 8
        (cub.folder / table).write_bytes(originals[table])


def test_the_people_and_birds_are_read_with_their_joints(people_and_birds: Path) -> None:
    torso = ["right hip", "left hip", "right shoulder", "left shoulder"]
    landmarks = {"head top": ["head top"], "neck": ["neck"], "torso": torso}
    settings = DataConfig(source="cub", path=str(people_and_birds), single_category="Person", landmarks=landmarks, skip_bad=False)
    data = load_dataset(settings)
    assert data.categories == ["other", "Person"] and data.landmarks == ["head top", "neck", "torso"]
    assert len(data.train) == 720 and len(data.test) == 240 and not data.skipped
    people = [r for r in data.test if r.label == 1]
    assert len(people) == 120
    placed = np.stack([crop(r, 112)[1] for r in people])
    both = placed[:, 0, 2] * placed[:, 2, 2] == 1
    assert both.mean() > 0.8
    # most people stand on their feet
    assert (placed[both, 0, 1] < placed[both, 2, 1]).mean() > 0.65
    birds = np.stack([crop(r, 112)[1] for r in data.test if r.label == 0])
    assert not birds.any()
