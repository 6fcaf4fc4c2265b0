from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from paraphrase.core.config import DataConfig
from paraphrase.core.data import crop, load_dataset
from paraphrase.core.data.sources.imagefolder import EXTENSIONS
from paraphrase.core.errors import InputError

Write = Callable[..., Path]


def config(folder: Path, **fields: object) -> DataConfig:
    return DataConfig(source="imagefolder", path=str(folder), **fields)  # type: ignore[arg-type]


def error(settings: DataConfig) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(settings)
    return str(caught.value)


def pictures(write: Write, cats: int = 10, dogs: int = 5) -> Path:
    return write(*(f"cat/{i}.png" for i in range(cats)), *(f"dog/{i}.jpg" for i in range(dogs)))


def test_the_extensions_are_those_of_torchvision() -> None:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert EXTENSIONS == IMG_EXTENSIONS


def test_the_images_are_those_that_torchvision_finds(image_folder: Write) -> None:
    folder = image_folder("cat/b.png", "cat/a.PNG", "cat/deep/er/c.jpeg", "dog/x y.jpg", "dog/d.png", "dog/e.webp")
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "readme.md").write_text("no folder")
    data = load_dataset(config(folder))
    expected = ImageFolder(str(folder))
    assert data.categories == expected.classes
    found = {(str(r.image), r.label) for r in data.train + data.test}
    assert found == set(expected.samples) and len(data.train + data.test) == 6


def test_each_category_is_split_by_the_share_and_the_box_is_the_image(image_folder: Write) -> None:
    data = load_dataset(config(pictures(image_folder), test_share=0.2))
    assert Counter(r.label for r in data.train) == {0: 8, 1: 4}
    assert Counter(r.label for r in data.test) == {0: 2, 1: 1}
    assert {r.box for r in data.train} == {(0.0, 0.0, 12.0, 8.0)}
    assert data.landmarks == [] and crop(data.train[0], 8)[1].shape == (0, 3)


def test_the_split_is_the_same_for_a_seed_whatever_other_categories_there_are(image_folder: Write) -> None:
    folder = pictures(image_folder)
    tests = [{r.image.relative_to(folder) for r in load_dataset(config(folder, seed=s)).test} for s in (0, 0, 1, 2, 3)]
    assert tests[0] == tests[1] and len(set(map(frozenset, tests))) > 2
    folder = image_folder(*(f"ape/{i}.png" for i in range(4)))
    more = {r.image.relative_to(folder) for r in load_dataset(config(folder, seed=0)).test}
    assert tests[0] < more


@pytest.mark.parametrize(("share", "test"), [(0.01, 1), (0.5, 1), (0.9, 1)])
def test_both_splits_get_an_image_of_every_category(image_folder: Write, share: float, test: int) -> None:
    data = load_dataset(config(pictures(image_folder, 2, 2), test_share=share))
    assert Counter(r.label for r in data.test) == {0: test, 1: test}


@pytest.mark.parametrize("name", ["test", "val", "valid"])
def test_folders_of_splits_are_taken_as_they_are(image_folder: Write, name: str) -> None:
    folder = image_folder("train/cat/1.png", "train/dog/2.png", f"{name}/cat/3.png", f"{name}/dog/4.png")
    data = load_dataset(config(folder))
    assert data.categories == ["cat", "dog"]
    assert [r.image.stem for r in data.train] == ["1", "2"] and [r.image.stem for r in data.test] == ["3", "4"]


def test_test_goes_before_val(image_folder: Write) -> None:
    folder = image_folder(*(f"{s}/{c}/{s}.png" for s in ("train", "val", "test") for c in ("cat", "dog")))
    assert {r.image.stem for r in load_dataset(config(folder)).test} == {"test"}


def test_categories_named_like_splits_are_categories(image_folder: Write) -> None:
    folder = image_folder("train/1.png", "train/2.png", "test/3.png", "test/4.png")
    assert load_dataset(config(folder)).categories == ["test", "train"]


def test_a_category_in_one_split_alone_is_named(image_folder: Write) -> None:
    folder = image_folder("train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/dog/4.png", "test/cow/5.png")
    assert error(config(folder)).startswith(f"{folder / 'test' / 'cow'}: there is no folder {folder / 'train' / 'cow'}")
    folder = image_folder("train/cow/1.png", "train/ape/2.png")
    message = error(config(folder))
    assert message.startswith(f"{folder / 'train' / 'ape'}: category 'ape' has no test images")


@pytest.mark.parametrize("skip_bad", [False, True])
def test_an_empty_category_is_named(image_folder: Write, skip_bad: bool) -> None:
    folder = pictures(image_folder)
    (folder / "cow").mkdir()
    assert error(config(folder, skip_bad=skip_bad)).startswith(f"{folder / 'cow'}: category 'cow' has no training")


def test_a_hidden_folder_is_no_category(image_folder: Write) -> None:
    folder = pictures(image_folder)
    (folder / ".ipynb_checkpoints").mkdir()
    assert load_dataset(config(folder)).categories == ["cat", "dog"]


def test_links_to_images_elsewhere_are_followed_as_torchvision_does(image_folder: Write, tmp_path: Path) -> None:
    folder = pictures(image_folder)
    (tmp_path / "subset" / "cat").mkdir(parents=True)
    for i in range(3):
        os.symlink(folder / "cat" / f"{i}.png", tmp_path / "subset" / "cat" / f"{i}.png")
    os.symlink(folder / "dog", tmp_path / "subset" / "dog")
    data = load_dataset(config(tmp_path / "subset"))
    assert Counter(r.label for r in data.train + data.test) == {0: 3, 1: 5}


def test_damaged_files_are_named_or_left_out(image_folder: Write) -> None:
    folder = pictures(image_folder)
    (folder / "cat" / "3.png").write_bytes((folder / "cat" / "3.png").read_bytes()[:60])
    os.symlink("nowhere.png", folder / "cat" / "gone.png")
    message = error(config(folder))
    assert str(folder / "cat") in message and "; and 1 more problem (--skip-bad" in message
    data = load_dataset(config(folder, skip_bad=True))
    assert len(data.skipped) == 2 and all(line.startswith(str(folder / "cat")) for line in data.skipped)
    assert len(data.train) + len(data.test) == 14


@pytest.mark.parametrize("path", [None, "/no/such/folder"])
def test_a_missing_folder_is_named(path: str | None) -> None:
    assert error(DataConfig(source="imagefolder", path=path)).startswith("data.path: ")


def test_a_folder_without_categories_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert error(config(tmp_path / "empty")).startswith(f"{tmp_path / 'empty'}: has no folders inside")


def test_landmarks_cannot_be_asked_for(image_folder: Write) -> None:
    assert "data.landmarks.head.0: unknown part 'head' (there are: none)" in error(
        config(pictures(image_folder), landmarks={"head": ["head"]})
    )


def test_what_systems_leave_behind_is_passed_over(image_folder: Write) -> None:
    folder = pictures(image_folder)
    image_folder("cat/.ipynb_checkpoints/1-checkpoint.png", "__MACOSX/cat/1.png", "cat/.hidden.png")
    (folder / "cat" / "._1.png").write_bytes(b"AppleDouble")
    data = load_dataset(config(folder))
    assert data.categories == ["cat", "dog"] and len(data.train) + len(data.test) == 15


def test_each_real_folder_is_walked_once(image_folder: Write) -> None:
    folder = pictures(image_folder)
    os.symlink("..", folder / "cat" / "again")  # would bring the dogs, and the cats without end
    os.symlink(".", folder / "dog" / "same")
    (folder / "cat" / "more").mkdir()
    (folder / "cat" / "0.png").rename(folder / "cat" / "more" / "0.png")
    os.symlink("more", folder / "cat" / "once more")
    data = load_dataset(config(folder))
    assert Counter(r.label for r in data.train + data.test) == {0: 10, 1: 5}


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("training_set", "test_set"), ("seg_train", "seg_test"), ("train", "validation"), ("TRAIN", "Valid")],
)
def test_splits_are_known_in_any_spelling(image_folder: Write, train: str, test: str) -> None:
    folder = image_folder(*(f"{split}/{c}/{i}{split}.png" for split in (train, test) for c in ("cat", "dog") for i in range(2)))
    data = load_dataset(config(folder))
    assert data.categories == ["cat", "dog"] and {r.image.parts[-3] for r in data.test} == {test}
    assert {r.image.parts[-3] for r in data.train} == {train}


def test_a_test_folder_without_categories_is_passed_over_for_val(image_folder: Write) -> None:
    names = [f"{split}/{c}/{i}.png" for split in ("train", "val") for c in ("cat", "dog") for i in range(2)]
    data = load_dataset(config(image_folder(*names, "test/0001.png", "test/0002.png")))
    assert {r.image.parts[-3] for r in data.test} == {"val"} and len(data.train) == len(data.test) == 4


def test_without_another_split_the_training_folder_is_split(image_folder: Write) -> None:
    names = [f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(5)]
    data = load_dataset(config(image_folder(*names, "test/0001.png")))
    assert data.categories == ["cat", "dog"] and len(data.train) == 8 and len(data.test) == 2


def test_splits_of_unknown_names_are_not_taken_for_categories(image_folder: Write) -> None:
    folder = image_folder(*(f"{split}/{c}/{i}.png" for split in ("fold_a", "fold_b") for c in ("cat", "dog") for i in range(2)))
    assert error(config(folder)) == (
        f"{folder}: fold_a, fold_b hold the same folders (cat, dog), so they look like splits, not like categories; "
        f"name them train and test"
    )


def test_categories_whose_names_have_such_words_are_categories(image_folder: Write) -> None:
    data = load_dataset(config(image_folder(*(f"{c}/deep/{i}.png" for c in ("train station", "test tube") for i in range(4)))))
    assert data.categories == ["test tube", "train station"]


def test_names_that_are_not_utf_8_are_read_like_others(image_folder: Write) -> None:
    folder = pictures(image_folder)
    (folder / "cat" / "0.png").rename(os.fsdecode(os.fsencode(folder / "cat") + b"/caf\xe9.png"))
    (folder / "dog").rename(os.fsdecode(os.fsencode(folder) + b"/d\xf6g"))
    data = load_dataset(config(folder))
    assert data.categories[-1] == "d\ufffdg" and len(data.train) + len(data.test) == 15


def test_pictures_that_cannot_be_read_are_counted(image_folder: Write, capsys: pytest.CaptureFixture[str]) -> None:
    folder = pictures(image_folder)
    for i in range(3):
        (folder / "cat" / f"phone{i}.HEIC").write_bytes(b"heic")
    load_dataset(config(folder))
    assert capsys.readouterr().err == f"{folder}: 3 .heic files are passed over; convert them, e.g. to .jpg\n"


def test_a_picture_in_both_splits_is_named_or_left_out(image_folder: Write, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"{split}/{c}/{i}.png" for split in ("train", "test") for c in ("cat", "dog") for i in range(3)]
    folder = image_folder(*names)
    twice = folder / "train" / "dog" / "1.png"
    (folder / "test" / "cat" / "2.png").write_bytes(twice.read_bytes())
    (folder / "train" / "cat" / "copy.png").write_bytes((folder / "train" / "cat" / "0.png").read_bytes())
    line = f"{folder / 'test' / 'cat' / '2.png'}: {folder / 'test' / 'cat' / '2.png'} is a training picture, too ({twice})"
    assert error(config(folder)).endswith(" (--skip-bad leaves such images out)") and line.split(": ")[1] in error(config(folder))
    data = load_dataset(config(folder, skip_bad=True))
    assert len(data.train) == 7 and len(data.test) == 5
    assert "pictures: 1 objects are there twice in their split" in capsys.readouterr().err


def test_one_category_alone_says_what_is_missing(image_folder: Write) -> None:
    message = "data.path: pictures has one category, cat; its classifier needs images without it, as a second category"
    folder = image_folder(*(f"cat/{i}.png" for i in range(4)))
    assert error(config(folder)) == error(config(folder, single_category="cat")) == message
