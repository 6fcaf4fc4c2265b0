from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from paraphrase.core.config import DataConfig
from paraphrase.core.data import load_dataset
from paraphrase.core.data.sources import pascal_part
from paraphrase.core.data.sources.pascal_part import load, read_objects
from paraphrase.core.errors import InputError

SAMPLE = Path(__file__).parents[5] / "shared" / "pascal_part_sample"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))


def rectangle(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((80, 100), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def write(folder: Path, name: str, *objects: dict[str, Any]) -> None:
    """An annotation file as the data set has them, with its image."""
    made = np.empty(len(objects), object)
    for i, thing in enumerate(objects):
        parts = np.empty(len(thing["parts"]), object)
        for j, (part, mask) in enumerate(thing["parts"]):
            parts[j] = {"part_name": part, "mask": mask}
        made[i] = {"class": thing["class"], "class_ind": 3, "mask": thing["mask"], "parts": parts}
    savemat(folder / f"{name}.mat", {"anno": {"imname": name, "objects": made}})
    Image.fromarray(np.random.default_rng(zlib.crc32(name.encode())).integers(0, 255, (80, 100, 3), np.uint8)).save(
        folder / f"{name}.jpg"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pascal"
    root.mkdir()
    for i in range(10):
        parts = [("head", rectangle(10, 20, 10, 10)), ("beak", rectangle(20, 20, 10, 10)), ("torso", rectangle(40, 20, 20, 20))]
        animal = {"class": ("cat", "dog")[i % 2], "mask": rectangle(10, 10, 60, 60), "parts": parts}
        small = {"class": "bird", "mask": rectangle(20, 20, 10, 60), "parts": []}
        cut = {"class": ("cat", "dog")[i % 2], "mask": rectangle(0, 10, 60, 60), "parts": parts[:1]}
        person = {"class": "person", "mask": rectangle(5, 5, 80, 70), "parts": [("head", rectangle(5, 5, 9, 9))]}
        write(root, f"2008_{i:06d}", animal, small, cut, person)
    return root


def test_sub_parts_are_merged_into_their_part_before_the_mean(folder: Path) -> None:
    found = read_objects(folder / "2008_000000.mat")
    assert not isinstance(found, str)
    assert [(f["category"], f["truncated"]) for f in found] == [("cat", False), ("bird", True), ("cat", True)]
    assert found[0]["box"] == [10, 10, 60, 60]
    assert found[0]["landmarks"] == {"head": [20.0, 25.0], "neck": None, "torso": [50.0, 30.0]}


def test_small_and_cut_off_objects_can_be_left_out(folder: Path) -> None:
    config = DataConfig(source="pascal_part", path=str(folder))
    source = load(config)
    assert len(source.train) + len(source.test) == 20 and len({r.image for r in source.test}) == 2
    config.truncated = False
    source = load(config)
    assert len(source.train) + len(source.test) == 10
    data = load_dataset(DataConfig(source="pascal_part", path=str(folder), categories=["cat", "dog"], test_share=0.4))
    assert data.categories == ["cat", "dog"] and data.landmarks == ["head", "neck", "torso"]


def test_a_file_is_parsed_once_and_again_when_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def counted(file: Path) -> list[dict[str, Any]] | str:
        parsed.append(file.name)
        return read_objects(file)

    monkeypatch.setattr(pascal_part, "read_objects", counted)
    config = DataConfig(source="pascal_part", path=str(folder))
    first = load(config)
    assert len(parsed) == 10 and load(config).train == first.train and len(parsed) == 10
    os.utime(folder / "2008_000003.mat", ns=(1, 1))
    load(config)
    assert parsed[10:] == ["2008_000003.mat"]


@pytest.mark.parametrize("content", [b"no matlab file", b""])
def test_a_damaged_file_is_named(folder: Path, content: bytes) -> None:
    (folder / "2008_000004.mat").write_bytes(content)
    config = DataConfig(source="pascal_part", path=str(folder), categories=["cat", "dog"], test_share=0.4)
    with pytest.raises(InputError, match=r"2008_000004\.mat: cannot be read as a MATLAB file"):
        load_dataset(config)
    config.skip_bad = True
    assert len(load_dataset(config).skipped) == 1
    savemat(folder / "2008_000004.mat", {"other": 1})
    assert "has no `anno`" in load(config).problems[0]


def test_the_lists_of_voc_are_the_splits(folder: Path) -> None:
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2008_000000\n2008_000001\n")
    (lists / "val.txt").write_text("2008_000002\nnot_annotated\n")
    source = load(DataConfig(source="pascal_part", path=str(folder)))
    assert {r.image.stem for r in source.train} == {"2008_000000", "2008_000001"}
    assert {r.image.stem for r in source.test} == {"2008_000002"}


def test_a_folder_without_annotations_says_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no \.mat file in .*get VOC 2010"):
        load(DataConfig(source="pascal_part", path=str(tmp_path)))


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="shared/pascal_part_sample is not here")
def test_real_files_agree_with_their_masks() -> None:
    source = load(DataConfig(source="pascal_part", path=str(SAMPLE), min_object=1))
    assert not source.problems and len(source.train) + len(source.test) == 11
    dog = next(r for r in source.train + source.test if "2008_005643" in r.origin)
    with Image.open(dog.image) as image:
        assert dog.box[0] + dog.box[2] <= image.width and dog.box[1] + dog.box[3] <= image.height
    anno = loadmat(SAMPLE / "2008_005643.mat", squeeze_me=True, struct_as_record=False)["anno"]
    union = np.zeros(anno.objects.mask.shape, bool)
    for part in anno.objects.parts:
        if part.part_name in ("head", "lear", "rear", "leye", "reye", "muzzle", "nose"):
            union |= part.mask > 0
    rows, columns = np.nonzero(union)
    assert dog.landmarks["head"] == (pytest.approx(columns.mean() + 0.5), pytest.approx(rows.mean() + 0.5), True)


@pytest.mark.parametrize("damage", ["", "[1]", '{"2008_000000.mat": 3}'])
def test_what_was_kept_is_read_anew_where_it_is_damaged(folder: Path, damage: str, tmp_path: Path) -> None:
    config = DataConfig(source="pascal_part", path=str(folder))
    first = load(config)
    (kept,) = (tmp_path / "home" / "data" / "pascal_part").iterdir()
    kept.write_text(damage)
    assert load(config) == first


def test_small_objects_that_are_left_out_are_counted(folder: Path) -> None:
    (note,) = load(DataConfig(source="pascal_part", path=str(folder), min_object=50)).notes
    assert note.endswith("10 objects are smaller than data.min_object (50 pixels); left out")
    assert not load(DataConfig(source="pascal_part", path=str(folder), min_object=1)).notes
