from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from paraphrase.core.config import DataConfig
from paraphrase.core.data import load_dataset
from paraphrase.core.data.sources.coco_keypoints import load
from paraphrase.core.errors import InputError


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
    source = load(write(folder, "animals.json", content()))
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
        ({"image_id": [1]}, r"there is no image of id \[1\]"),
        ({"bbox": None}, "bbox is None; expected four finite numbers"),
        ({"bbox": [1, 2, 90]}, r"bbox is \[1, 2, 90\]; expected four"),
        ({"bbox": "1299"}, "bbox is '1299'; expected four"),
        ({"bbox": [5, 5, math.nan, 50]}, r"bbox is \[5, 5, nan, 50\]; expected four"),
        ({"bbox": [5, 5, 5, math.nan]}, r"bbox is \[5, 5, 5, nan\]; expected four"),
        ({"bbox": [5, 5, 10**400, 50]}, "bbox is .*; expected four"),
        ({"keypoints": 3}, "keypoints is 3; expected a list of numbers"),
        ({"keypoints": [None, 1, 2, 3, 4, 2]}, r"keypoints is \[None, 1, 2, 3, 4, 2\]; expected a list of numbers"),
        ({"keypoints": [math.nan, 1, 2, 3, 4, 2]}, "landmark 'nose' is visible, but its position is nan"),
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


@pytest.mark.parametrize("field", ["bbox", "image_id", "category_id", "keypoints"])
def test_a_field_that_an_annotation_lacks_is_named(folder: Path, field: str) -> None:
    data = content()
    del data["annotations"][2][field]
    (problem,) = load(write(folder, "animals.json", data)).problems
    assert "animals.json: annotations[2]: " in problem and field in problem


def test_a_name_too_long_for_a_file_is_named(folder: Path) -> None:
    data = content()
    data["images"][2]["file_name"] = "a" * 5000
    with pytest.raises(InputError, match=r"animals\.json: annotations\[2\]: .*cannot be read"):
        load_dataset(write(folder, "animals.json", data))


def test_a_path_that_climbs_out_is_refused(folder: Path) -> None:
    data = content()
    data["images"][1]["file_name"] = "../../secret.png"
    assert "leads out of" in load(write(folder, "animals.json", data)).problems[0]


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"images": [], "annotations": []}', '{"images": [{}], "annotations": [], "categories": []}']
)
def test_a_file_that_is_none_is_named(folder: Path, damage: str) -> None:
    with pytest.raises(InputError, match=r"animals\.json"):
        load(write(folder, "animals.json", damage))


def without(entries: list[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k != field} for entry in entries]


@pytest.mark.parametrize("split", ["train", "val"])
def test_other_files_of_coco_are_passed_over(folder: Path, split: str) -> None:
    """The folder as it is distributed; instances must neither double the objects nor take the category's keypoints."""
    whole = content()
    categories = without(whole["categories"], "keypoints")
    instances = {"images": whole["images"], "annotations": without(whole["annotations"], "keypoints"), "categories": categories}
    captions = [{"id": 1, "image_id": 1, "caption": "a cat"}]
    for other in ("train", "val"):
        write(folder, f"captions_{other}2017.json", {"images": whole["images"], "annotations": captions})
        write(folder, f"instances_{other}2017.json", instances)
        write(folder, f"named_instances_{other}2017.json", instances | {"categories": whole["categories"]})
    write(folder, "image_info_test2017.json", {"images": whole["images"], "categories": categories})
    alone = load(write(folder, f"person_keypoints_{split}2017.json", whole))
    assert alone.categories == ["cat", "bird"] and alone.parts == ["nose", "tail", "wing"] and not alone.problems
    assert len(alone.train) == len(alone.test) == 4  # a single keypoint file is split at random
    rest = "train" if split == "val" else "val"
    both = load(write(folder, f"person_keypoints_{rest}2017.json", whole))
    assert len(both.train) == len(both.test) == 8 and not both.problems


def test_parts_are_those_of_all_keypoint_files(folder: Path) -> None:
    other = content()
    other["categories"][0]["keypoints"] = ["ear", "tail"]
    write(folder, "a_train.json", content())
    source = load(write(folder, "a_val.json", other))
    assert source.parts == ["nose", "tail", "wing", "ear"]
    assert source.train[0].landmarks["nose"] == source.test[0].landmarks["ear"] == (20, 10, True)
    assert not source.test[0].landmarks["nose"][2]


@pytest.mark.parametrize("keypoints", [None, []])
def test_files_without_any_keypoints_are_refused(folder: Path, keypoints: list[str] | None) -> None:
    plain = content() | {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "bird", "keypoints": keypoints}]}
    write(folder, "captions.json", {"images": [], "annotations": []})
    with pytest.raises(InputError, match=r"annotations: no file has keypoints .*\(captions\.json, instances\.json\)") as error:
        load(write(folder, "instances.json", plain))
    assert "\n" not in str(error.value)


def test_a_category_without_keypoints_beside_others_has_none(folder: Path) -> None:
    data = content()
    data["categories"][1]["keypoints"] = None
    data["annotations"] = [a | ({"keypoints": None} if a["category_id"] == 2 else {}) for a in data["annotations"]]
    source = load(write(folder, "animals.json", data))
    assert source.parts == ["nose", "tail"] and not source.problems
    assert all(any(seen for _, _, seen in r.landmarks.values()) == (r.label == 0) for r in source.train + source.test)


@pytest.mark.parametrize("entry", [5, None, "cat", [1]])
def test_an_annotation_of_a_wrong_kind_is_named(folder: Path, entry: Any) -> None:
    for sound in ([], content()["annotations"]):
        data = content() | {"annotations": [*sound, entry]}
        (problem,) = load(write(folder, "a.json", data)).problems
        assert f"a.json: annotations[{len(sound)}]: is {entry!r}; expected an object" in problem


@pytest.mark.parametrize(
    ("key", "entry", "message"),
    [
        ("images", 5, "is 5; expected an object with `id` and `file_name`"),
        ("images", None, "is None; expected an object"),
        ("images", {"file_name": "1.png"}, "is {'file_name': '1.png'}; expected an object with `id`"),
        ("images", {"id": [1], "file_name": "1.png"}, "expected an object with `id`"),
        ("images", {"id": 1, "file_name": None}, "expected an object with `id` and `file_name`"),
        ("categories", 7, "is 7; expected an object with `id` and `name`"),
        ("categories", {"name": "cat"}, "expected an object with `id` and `name`"),
        ("categories", {"id": 3}, "expected an object with `id` and `name`"),
        ("categories", {"id": 3, "name": ["cat"]}, "expected an object with `id` and `name`"),
        ("categories", {"id": 3, "name": "dog", "keypoints": 3}, "keypoints is 3; expected a list of names"),
        ("categories", {"id": 3, "name": "dog", "keypoints": "nose"}, "keypoints is 'nose'; expected a list of names"),
        ("categories", {"id": 3, "name": "dog", "keypoints": [{}]}, "keypoints is [{}]; expected a list of names"),
    ],
)
def test_a_damaged_image_or_category_is_named(folder: Path, key: str, entry: Any, message: str) -> None:
    data = content()
    data[key].append(entry)
    with pytest.raises(InputError) as error:
        load(write(folder, "a.json", data))
    told = str(error.value)
    assert f"a.json: {key}[{len(data[key]) - 1}]: " in told and message in told and "\n" not in told


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_a_list_that_is_none_is_named(folder: Path, key: str) -> None:
    with pytest.raises(InputError, match=rf"a\.json: has no list `{key}`"):
        load(write(folder, "a.json", content() | {key: {"1": 5}}))


def test_json_nested_without_end_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json: cannot be read as JSON"):
        load(write(folder, "a.json", "[" * 100_000))


def of(numbers: range, **fields: Any) -> dict[str, Any]:
    """A file of these images alone."""
    data = content()
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] in numbers]
    data["images"] = [i | fields for i in data["images"] if i["id"] in numbers]
    return data


def error(config: DataConfig) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(config)
    return str(caught.value)


def test_of_several_files_each_says_its_split(folder: Path) -> None:
    write(folder, "birds_train.json", of(range(6)))
    config = write(folder, "birds.json", of(range(6, 8)))
    assert "birds.json: is one of 2 files of keypoints; its name must say whether it is train, test or val" in error(config)
    (folder / "annotations" / "birds.json").rename(folder / "annotations" / "birds-Training2.json")
    assert "are all of one split; a train and a test or val file are needed" in error(config)


def test_test_goes_before_val_with_a_line(folder: Path) -> None:
    write(folder, "birds_train.json", of(range(4)))
    write(folder, "birds_val.json", of(range(4, 6)))
    source = load(write(folder, "birds_test.json", of(range(6, 8))))
    assert [r.image.stem for r in source.test] == ["6", "7"] and len(source.train) == 4
    assert source.notes[0].endswith("birds_val.json: is passed over, since there is a test split")


def test_a_picture_of_two_splits_is_named(folder: Path) -> None:
    write(folder, "x-train-split1.json", of(range(6)))
    message = error(write(folder, "x-test-split1.json", of(range(5, 8))))
    assert "x-test-split1.json: annotations[0]: " in message and "5.png is a training picture, too (" in message


def test_a_file_that_a_system_left_behind_is_passed_over(folder: Path) -> None:
    (folder / "annotations" / "._animals.json").write_bytes(b"\0\5\x16\7")
    assert load(write(folder, "animals.json", content())).categories == ["cat", "bird"]


@pytest.mark.parametrize("key", ["images", "categories"])
def test_an_id_that_is_there_twice_is_named(folder: Path, key: str) -> None:
    data = content()
    data[key].append(data[key][0])
    load(write(folder, "animals.json", data))  # the same once more does no harm
    data[key].append(data[key][1] | {"id": data[key][0]["id"]})
    message = error(write(folder, "animals.json", data))
    assert f"animals.json: {key}[{len(data[key]) - 1}]: its id {data[key][0]['id']} is that of {key}[0] already" in message


def test_a_stated_size_must_be_the_image_s(folder: Path) -> None:
    assert len(load_dataset(write(folder, "animals.json", of(range(8), width=100, height=80))).train) == 4
    message = error(write(folder, "animals.json", of(range(8), width=50, height=40)))
    assert "0.png: has 100 x 80 pixels, its annotation says 50 x 40; one of them was resized or turned" in message


@pytest.mark.parametrize(("stated", "turned"), [((80, 100), True), ((100, 80), False)])
def test_a_stated_size_tells_which_view_of_a_turned_image_is_annotated(
    folder: Path, stated: tuple[int, int], turned: bool
) -> None:
    for file in (folder / "images").iterdir():
        with Image.open(file) as image:
            exif = image.getexif()
            exif[0x0112] = 6  # to be turned by a quarter
            image.save(file, exif=exif)
    data = load_dataset(write(folder, "animals.json", of(range(8), width=stated[0], height=stated[1])))
    assert all(record.turned is turned for record in data.train + data.test)


def test_without_a_flag_of_2_those_of_1_are_seen_with_a_line(folder: Path) -> None:
    data = content()
    for annotation in data["annotations"]:
        annotation["keypoints"] = [20, 10, 1, 0, 0, 0]
    source = load(write(folder, "animals.json", data))
    assert all(r.landmarks["nose"][2] and not r.landmarks["tail"][2] for r in source.train + source.test)
    assert source.notes[0].endswith("no keypoint has the flag 2 (labelled and seen), so 1 is taken for seen")


def test_landmarks_that_are_never_visible_are_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = content()
    for annotation in data["annotations"]:
        annotation["keypoints"] = [0] * 6
    config = write(folder, "animals.json", data)
    found = load_dataset(config)
    assert found.landmarks == [] and all(not r.landmarks for r in found.train + found.test)
    assert (
        "coco: no landmark is visible in a test image (nose, tail, wing); going on without landmarks" in capsys.readouterr().err
    )
    config.landmarks = {"face": ["nose"]}
    assert error(config).startswith("data.landmarks: none of face is visible in a test image")


def test_categories_that_nothing_is_annotated_of_are_left_out_with_a_line(folder: Path) -> None:
    data = content()
    data["categories"].insert(0, {"id": 0, "name": "animals", "keypoints": ["root"]})
    source = load(write(folder, "animals.json", data))
    assert source.categories == ["cat", "bird"] and source.parts == ["nose", "tail", "wing"]
    assert source.notes[0].endswith("annotations: nothing is annotated of animals; left out")


def test_objects_that_are_too_small_are_counted(folder: Path) -> None:
    data = content()
    for annotation in data["annotations"][:5]:
        annotation["bbox"] = [0, 0, 0, 0]
    notes = load(write(folder, "animals.json", data)).notes
    assert notes[-1].endswith("6 objects are smaller than data.min_object (50 pixels); left out")
