from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from cub_tree import CubTree

from paraphrase.core.config import DataConfig
from paraphrase.core.data import Record, known_sources, load_dataset, sources
from paraphrase.core.data.protocol import against_others, merge_landmarks, without_number
from paraphrase.core.errors import InputError


def config(cub: CubTree, **fields: object) -> DataConfig:
    return DataConfig(source="cub", path=str(cub.folder), **fields)  # type: ignore[arg-type]


def error(settings: DataConfig) -> str:
    with pytest.raises(InputError) as caught:
        load_dataset(settings)
    return str(caught.value)


def numbers(records: list[Record]) -> list[int]:
    return [int(r.image.stem.split()[1]) for r in records]


def test_only_a_leading_number_is_taken_off() -> None:
    assert [without_number(n) for n in ("001.Person", "Person", "12.", "a.1.b")] == ["Person", "Person", "12.", "a.1.b"]


@pytest.mark.parametrize("names", [["Black_Cow", "Cat"], ["003.Black_Cow", "001.Cat"]])
def test_categories_are_chosen_in_the_configured_order(cub: CubTree, names: list[str]) -> None:
    data = load_dataset(config(cub, categories=names))
    assert data.categories == ["Black_Cow", "Cat"]
    assert {r.image.parent.name: r.label for r in data.train} == {"003.Black_Cow": 0, "001.Cat": 1}
    assert len(data.train) == 8 and len(data.test) == 4


def test_damage_in_a_category_that_is_not_chosen_does_no_harm(cub: CubTree) -> None:
    cub.image(2).write_bytes(b"")
    assert len(load_dataset(config(cub, categories=["Cat", "Black_Cow"])).train) == 8


def test_a_wrong_choice_of_categories_names_the_field_and_what_there_is(cub: CubTree) -> None:
    message = error(config(cub, categories=["Cat", "Dgo"]))
    assert message == "data.categories.1: unknown category 'Dgo'; did you mean 'Dog'? (there are: Cat, Dog, Black_Cow)"
    assert error(config(cub, categories=["Cat", "001.Cat"])) == "data.categories.1: 'Cat' is there twice"
    assert "two or more are needed" in error(config(cub, categories=["Cat"]))
    assert error(config(cub, single_category="Fish")).startswith("data.single_category: unknown category 'Fish'")
    assert "two or more are needed" in error(config(cub, categories=["Cat"], single_category="Cat"))


def test_a_single_category_meets_as_many_random_others_in_each_split(cub: CubTree) -> None:
    data = load_dataset(config(cub, single_category="002.Dog"))
    assert data.categories == ["other", "Dog"] and data.single_category == "Dog"
    for split, count in ((data.train, 4), (data.test, 2)):
        assert Counter(r.label for r in split) == {0: count, 1: count}
        assert all((r.image.parent.name == "002.Dog") == (r.label == 1) for r in split)
        assert numbers(split) == sorted(numbers(split))


def test_the_others_are_the_same_for_a_seed_and_differ_between_seeds(cub: CubTree) -> None:
    draws = [numbers(load_dataset(config(cub, single_category="Dog", seed=s)).train) for s in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert len(set(map(tuple, draws))) > 2


def test_the_others_come_from_the_chosen_categories_and_all_stay_where_they_are_few(cub: CubTree) -> None:
    data = load_dataset(config(cub, single_category="Dog", categories=["Cat"]))
    assert {r.image.parent.name for r in data.train if r.label == 0} == {"001.Cat"}
    positives = [Record(Path(f"p {i}"), (0, 0, 9, 9), 0) for i in range(5)]
    others = [Record(Path(f"o {i}"), (0, 0, 9, 9), 2) for i in range(3)]
    train, _ = against_others("p", positives + others, positives + others, 0, 0)
    assert [r.label for r in train] == [1] * 5 + [0] * 3


def test_a_single_category_without_images_is_an_error(cub: CubTree) -> None:
    for image_id in (14, 17):
        cub.image(image_id).write_bytes(b"")
    message = error(config(cub, single_category="Dog", skip_bad=True))
    assert message == "data.single_category: no test images of 'Dog' after 2 damaged images were left out"


def test_a_landmark_is_the_mean_of_its_visible_parts(cub: CubTree) -> None:
    landmarks = {"ears": ["left ear", "right ear", "tail"], "tail": ["tail"], "left": ["left ear"]}
    data = load_dataset(config(cub, landmarks=landmarks))
    assert data.landmarks == ["ears", "tail", "left"]
    assert data.train[1].landmarks == {"ears": (27.0, 15.0, True), "tail": (0, 0, False), "left": (22.0, 10.0, True)}


def test_a_wrong_landmark_names_the_field_and_the_parts(cub: CubTree) -> None:
    message = error(config(cub, landmarks={"head": ["left ear", "beak"]}))
    assert message == "data.landmarks.head.1: unknown part 'beak' (there are: left ear, right ear, tail)"
    assert "data.landmarks.head: names no part" in error(config(cub, landmarks={"head": []}))


def test_without_a_choice_every_part_is_a_landmark() -> None:
    record = Record(Path("a"), (0, 0, 9, 9), 0, {"a": (1, 2, True), "b": (3, 4, False)})
    assert merge_landmarks(["a", "b"], {}, [[record], []]) == (["a", "b"], [[record], []])


def test_the_fingerprint_tells_what_determines_the_data_and_not_where_it_lies(cub: CubTree, tmp_path: Path) -> None:
    first = load_dataset(config(cub)).fingerprint
    assert len(first) == 64
    cub.folder = cub.folder.rename(tmp_path / "moved")
    assert load_dataset(config(cub)).fingerprint == first

    seen = {first}
    for settings in (
        config(cub, categories=["Dog", "Cat", "Black_Cow"]),
        config(cub, categories=["Dog", "Cat"]),
        config(cub, single_category="Dog"),
        config(cub, single_category="Dog", seed=1),
        config(cub, landmarks={"ears": ["left ear", "right ear"]}),
        config(cub, landmarks={"ear": ["left ear"]}),
    ):
        seen.add(load_dataset(settings).fingerprint)
    assert len(seen) == 7
    for table, number, text in (
        ("bounding_boxes.txt", 4, "4 10.0 5.0 40.0 30.5"),
        ("image_class_labels.txt", 4, "4 2"),
        ("train_test_split.txt", 4, "4 0"),
        ("train_test_split.txt", 12, "12 0"),
        ("parts/part_locs.txt", 10, "4 1 24.0 10.0 0"),
        ("parts/part_locs.txt", 10, "4 1 24.0 10.5 1"),
    ):
        before = cub.lines(table)[number - 1]
        cub.set_line(table, number, text)
        seen.add(load_dataset(config(cub)).fingerprint)
        cub.set_line(table, number, before)
    assert len(seen) == 13
    assert load_dataset(config(cub)).fingerprint == first
    cub.image(4).write_bytes(cub.image(5).read_bytes())
    assert load_dataset(config(cub)).fingerprint not in seen


def test_an_unknown_source_names_the_known_ones() -> None:
    assert error(DataConfig(source="imagenet")).startswith("data.source: unknown source 'imagenet'; allowed are menagerie")


def test_a_new_source_is_one_module(cub: CubTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "from paraphrase.core.data.records import Record, Source",
        "from paraphrase.core.data.sources.cub import load as load_cub",
        "def load(config):",
        "    whole = load_cub(config)",
        "    train, test = ([Record(r.image, r.box, i % 2) for i, r in enumerate(s)] for s in (whole.train, whole.test))",
        "    return Source('cats', ['tom', 'felix'], [], train, test)",
    ]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "cats.py").write_text("\n".join(lines))
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "more")])
    assert known_sources()[:2] == ["menagerie", "cats"]
    data = load_dataset(DataConfig(source="cats", path=str(cub.folder)))
    assert data.name == "cats" and data.categories == ["tom", "felix"] and len(data.train) == 12
