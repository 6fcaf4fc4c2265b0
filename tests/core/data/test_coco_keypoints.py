from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.config import DataConfig
from core.data import load_dataset
from core.data.coco_keypoints import load_coco_keypoints
from core.errors import InputError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))


def content(count: int = 8) -> dict[str, Any]:
    """Two categories with a keypoint in common."""
    shared: dict[str, Any] = {"bbox": [5, 5, 60, 50], "iscrowd": 0}
    annotations = [
        shared | {"id": i, "image_id": i, "category_id": 1 + i % 2, "keypoints": [20, 10 + i, 2, 30, 30 + i, 2 - i % 2]}
        for i in range(count)
    ]
    annotations.append(annotations[0] | {"id": 99, "iscrowd": 1})
    annotations.append(annotations[0] | {"id": 98, "bbox": [5, 5, 60, 9]})
    return {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in range(count)],
        "annotations": annotations,
        "categories": [
            {"id": 1, "name": "cat", "keypoints": ["nose", "tail"]},
            {"id": 2, "name": "bird", "keypoints": ["nose", "wing"]},
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    for i in range(8):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (80, 100, 3), np.uint8)).save(root / "images" / f"{i}.png")
    return root


def write(folder: Path, name: str, data: Any) -> DataConfig:
    (folder / "annotations" / name).write_text(data if isinstance(data, str) else json.dumps(data))
    return DataConfig(source="coco_keypoints", path=str(folder), test_share=0.5)


def test_keypoints_of_all_categories_are_parts_and_only_seen_ones_visible(folder: Path) -> None:
    source = load_coco_keypoints(write(folder, "animals.json", content()))
    assert source.categories == ["cat", "bird"] and source.parts == ["nose", "tail", "wing"]
    assert len(source.train) == len(source.test) == 4
    records = {r.image.name: r for r in source.train + source.test}
    assert records["3.png"].box == (5, 5, 60, 50) and records["3.png"].label == 1
    assert records["3.png"].landmarks == {"nose": (20, 13, True), "tail": (0, 0, False), "wing": (30, 33, False)}
    assert records["2.png"].landmarks["tail"] == (30, 32, True)


def test_names_of_the_files_are_the_splits(folder: Path) -> None:
    write(folder, "person_keypoints_train2017.json", content(6))
    held_out = content(8)
    held_out["annotations"] = held_out["annotations"][6:8]
    data = load_dataset(write(folder, "person_keypoints_val2017.json", held_out))
    assert (len(data.train), len(data.test)) == (6, 2) and data.landmarks == ["nose", "tail", "wing"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keypoints": [1, 2, 2]}, "keypoints has 3 numbers, its category's 2 keypoints need 6"),
        ({"image_id": 77}, "there is no image of id 77"),
        ({"category_id": 77}, "there is no category of id 77"),
        ({"bbox": None}, "bad or missing"),
    ],
)
def test_a_damaged_annotation_is_named(folder: Path, change: dict[str, Any], message: str) -> None:
    data = content()
    data["annotations"][2] |= change
    config = write(folder, "animals.json", data)
    with pytest.raises(InputError, match=rf"animals\.json: annotations\[2\]: {message}"):
        load_dataset(config)
    config.skip_bad = True
    assert len(load_dataset(config).skipped) == 1


def test_a_path_that_climbs_out_is_refused(folder: Path) -> None:
    data = content()
    data["images"][1]["file_name"] = "../../secret.png"
    assert "leads out of" in load_coco_keypoints(write(folder, "animals.json", data)).problems[0]


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"images": [], "annotations": []}', '{"images": [{}], "annotations": [], "categories": []}']
)
def test_a_file_that_is_none_is_named(folder: Path, damage: str) -> None:
    with pytest.raises(InputError, match=r"animals\.json"):
        load_coco_keypoints(write(folder, "animals.json", damage))


def test_captions_and_instances_beside_the_keypoints_are_passed_over(folder: Path) -> None:
    whole = content()
    captions = {"images": whole["images"], "annotations": [{"id": 1, "image_id": 1, "caption": "a cat"}]}
    instances = whole | {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "bird"}]}
    write(folder, "captions_val2017.json", captions)
    write(folder, "instances_val2017.json", instances)
    alone = load_coco_keypoints(write(folder, "person_keypoints_val2017.json", whole))
    assert alone.parts == ["nose", "tail", "wing"] and len(alone.train) + len(alone.test) == 8


def test_files_without_any_keypoints_are_refused(folder: Path) -> None:
    plain = content() | {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "bird", "keypoints": None}]}
    with pytest.raises(InputError, match=r"instances\.json: no category has `keypoints`"):
        load_coco_keypoints(write(folder, "instances.json", plain))


def test_entries_of_a_wrong_kind_are_named(folder: Path) -> None:
    damaged = content()
    damaged["annotations"] += [5, {"bbox": [1, 2, 90], "image_id": 0, "category_id": 1}, None]
    problems = load_coco_keypoints(write(folder, "a.json", damaged)).problems
    assert [p.split("a.json: ")[1].split(":")[0] for p in problems] == [f"annotations[{i}]" for i in (10, 11, 12)]
    for key, value in (("categories", [7]), ("images", [7]), ("categories", [{"id": 1, "name": "cat", "keypoints": 3}])):
        with pytest.raises(InputError, match="every category needs `id` and `name`, every image"):
            load_coco_keypoints(write(folder, "a.json", content() | {key: value}))
