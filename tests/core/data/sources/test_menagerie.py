from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import made_once
from PIL import Image

from paraphrase.core.config import DataConfig
from paraphrase.core.data import load_dataset
from paraphrase.core.data.drawn.animals import CATEGORIES, LANDMARKS, sketch_animal
from paraphrase.core.data.drawn.scenes import draw_animal, draw_background, draw_scene
from paraphrase.core.data.sources.menagerie import INDEX, STALE_SECONDS, draw_image, draw_share, load
from paraphrase.core.errors import InputError
from paraphrase.core.home import home

CHANCE = 1 / len(CATEGORIES)


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def folders() -> list[str]:
    return sorted(p.name for p in (home() / "data").glob("menagerie-*"))


@pytest.mark.parametrize("category", CATEGORIES)
def test_an_image_is_a_function_of_its_generator(category: str) -> None:
    first, again, other = (draw_animal(category, np.random.default_rng(seed), 112) for seed in (1, 1, 2))
    assert first[0].shape == (112, 112, 3) and first[0].dtype == np.uint8
    assert np.array_equal(first[0], again[0]) and first[1] == again[1]
    assert not np.array_equal(first[0], other[0])
    assert list(first[1]) == LANDMARKS


def test_an_image_depends_on_seed_split_and_number_only() -> None:
    image, landmarks = draw_image(3, "train", 7)
    assert np.array_equal(image, draw_image(3, "train", 7)[0])
    for other in (draw_image(4, "train", 7), draw_image(3, "test", 7), draw_image(3, "train", 13)):
        assert not np.array_equal(image, other[0])
        assert landmarks != other[1]


def test_same_seed_gives_the_same_files_and_another_seed_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    contents = []
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / place))
        load(DataConfig(seed=seed, train_images=12, test_images=6))
        (name,) = folders()
        contents.append((name, bytes_below(home() / "data" / name)))
    assert contents[0] == contents[1]
    assert contents[0][0] != contents[2][0] and contents[0][1] != contents[2][1]


def test_the_number_of_processes_does_not_matter(tmp_path: Path) -> None:
    counts = {"train": 13, "test": 6}
    for workers in (1, 3):
        for split in counts:
            (tmp_path / str(workers) / split).mkdir(parents=True)
        for worker in range(workers):
            draw_share(tmp_path / str(workers), 5, counts, worker, workers)
    one, three = (
        {name: content for name, content in bytes_below(tmp_path / str(w)).items() if name.endswith(".png")} for w in (1, 3)
    )
    assert len(one) == 19 and one == three


def test_processes_draw_what_this_process_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paraphrase.core.data.sources.menagerie.SHARE", 10)
    monkeypatch.setattr("paraphrase.core.data.sources.menagerie.cores", lambda: 2)
    source = load(DataConfig(seed=2, train_images=18, test_images=6))
    for number, record in enumerate(source.train):
        image, landmarks = draw_image(2, "train", number)
        assert np.array_equal(np.asarray(Image.open(record.image)), image)
        assert record.landmarks == landmarks


def test_what_a_process_fails_to_draw_is_drawn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paraphrase.core.data.sources.menagerie.SHARE", 10)
    monkeypatch.setattr("paraphrase.core.data.sources.menagerie.cores", lambda: 2)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert len(load(DataConfig(train_images=18, test_images=6)).train) == 18


def test_it_is_drawn_from_a_script_without_a_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import paraphrase.core.data.sources.menagerie as m\nfrom paraphrase.core.config import DataConfig\nm.SHARE = 10\n"
        "print(len(m.load(DataConfig(train_images=18, test_images=6)).train))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])}
    done = subprocess.run([sys.executable, str(script)], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "18\n", done.stderr


def test_categories_are_balanced_and_landmarks_are_those_of_the_dataset() -> None:
    dataset = load_dataset(DataConfig(train_images=36, test_images=12))
    assert dataset.categories == ["bird", "cat", "cow", "dog", "horse", "sheep"]
    assert dataset.landmarks == ["head", "neck", "torso", "tail"]
    assert set(Counter(r.label for r in dataset.train).values()) == {6}
    assert set(Counter(r.label for r in dataset.test).values()) == {2}
    for record in [*dataset.train, *dataset.test]:
        assert record.box == (0.0, 0.0, 112.0, 112.0)
        for x, y, visible in record.landmarks.values():
            assert not visible or (0 <= x < 112 and 0 <= y < 112)


def test_a_second_load_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(train_images=6, test_images=6)
    first = load(config)

    def fail(*_: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr("paraphrase.core.data.sources.menagerie._build", fail)
    assert load(config) == first


def test_two_builders_at_once_yield_one_menagerie() -> None:
    config = DataConfig(train_images=24, test_images=6)
    found: list = []
    builders = [threading.Thread(target=lambda: found.append(load(config))) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert len(found) == 3 and found[0] == found[1] == found[2]
    assert len(folders()) == 1


def test_what_a_killed_builder_left_is_harmless_and_removed_when_old() -> None:
    config = DataConfig(train_images=6, test_images=6)
    load(config)
    (name,) = folders()
    fresh, old = (home() / "data" / f"{name}.{suffix}.partial" for suffix in ("1-a", "2-b"))
    for left in (fresh, old):
        (left / "train").mkdir(parents=True)
    long_ago = time.time() - 2 * STALE_SECONDS
    for path in (old / "train", old):
        os.utime(path, (long_ago, long_ago))
    assert len(load(DataConfig(seed=1, train_images=6, test_images=6)).train) == 6
    assert fresh.is_dir() and not old.exists()


@pytest.mark.parametrize("content", ["", "{", '{"train": [[[1, 2, true]]]}', '{"train": 3, "test": []}', "[]"])
def test_a_damaged_index_is_named(content: str) -> None:
    config = DataConfig(train_images=6, test_images=6)
    load(config)
    (name,) = folders()
    (home() / "data" / name / INDEX).write_text(content)
    with pytest.raises(InputError, match=rf"{name}/{INDEX}: damaged; remove the folder"):
        load(config)


def test_a_home_that_is_a_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"file.*the menagerie cannot be drawn there"):
        load(DataConfig(train_images=6, test_images=6))


def test_the_index_holds_every_image() -> None:
    load(DataConfig(train_images=7, test_images=6))
    (name,) = folders()
    index = json.loads((home() / "data" / name / INDEX).read_text())
    assert index["landmarks"] == LANDMARKS
    assert np.shape(index["train"]) == (7, 4, 3) and np.shape(index["test"]) == (6, 4, 3)


def test_background_is_what_a_scene_begins_with() -> None:
    empty = draw_scene(None, np.random.default_rng(4), 112)
    background = draw_background(np.random.default_rng(4), 112)
    assert background.shape == (112, 112, 3) and not empty.coverage.any() and not empty.landmarks
    # distractors cover the smaller part; light and noise change levels, not the texture
    correlation = np.corrcoef(empty.image[..., 1].ravel(), background[..., 1].ravel())[0, 1]
    assert correlation > 0.5


def test_landmarks_lie_on_the_animal() -> None:
    for seed in range(20):
        for category in CATEGORIES:
            scene = draw_scene(category, np.random.default_rng(seed), 112)
            for name, (x, y, visible) in scene.landmarks.items():
                near = scene.coverage[max(int(y) - 2, 0) : int(y) + 3, max(int(x) - 2, 0) : int(x) + 3]
                assert not visible or near.max() > 0.5, (category, seed, name)


def test_landmarks_out_of_the_image_or_behind_a_shape_are_not_visible() -> None:
    hidden = outside = seen = 0
    for seed in range(300):
        for x, y, visible in draw_scene("horse", np.random.default_rng(seed), 112).landmarks.values():
            inside = 0 <= x < 112 and 0 <= y < 112
            assert inside or not visible
            seen += visible
            outside += not inside
            hidden += inside and not visible
    assert outside > 10 and hidden > 5 and seen > 1000


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> tuple[list, np.ndarray]:
    """900 scenes and their labels."""
    labels = np.arange(900) % len(CATEGORIES)

    def draw(folder: Path) -> None:
        found = [draw_scene(CATEGORIES[label], np.random.default_rng([9, i])) for i, label in enumerate(labels)]
        (folder / "scenes").write_bytes(pickle.dumps(found))

    return pickle.loads((made_once(tmp_path_factory, "scenes", draw) / "scenes").read_bytes()), labels


def held_out_accuracy(features: np.ndarray, labels: np.ndarray, hidden: int = 48) -> float:
    """Of a small network on standardised features (N, D), the last third held out; the mean of three seeds."""
    x = torch.from_numpy((features - features.mean(0)) / (features.std(0) + 1e-6)).float()
    y, cut = torch.from_numpy(labels), len(labels) * 2 // 3
    results = []
    for seed in range(3):
        torch.manual_seed(seed)
        net = torch.nn.Sequential(torch.nn.Linear(x.shape[1], hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 6))
        optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.1)
        for _ in range(120):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[:cut]), y[:cut]).backward()
            optimizer.step()
        results.append(float((net(x[cut:]).argmax(1) == y[cut:]).float().mean()))
    return float(np.mean(results))


def thumbnails(images: np.ndarray) -> np.ndarray:
    """(N, 14 * 14 * 3) means and (N, 3) spreads of images (N, 112, 112, 3)."""
    small = images.reshape(len(images), 14, 8, 14, 8, 3).mean((2, 4)).reshape(len(images), -1)
    return np.concatenate([small, images.std((1, 2))], 1)


def blanked(scene: object, radius: float = 0.5) -> np.ndarray:
    """The image with a disc of grey over the animal, of one size for all, so that its outline tells nothing."""
    rows, columns = np.nonzero(scene.coverage > 0.05)  # type: ignore[attr-defined]
    y, x = np.ogrid[:112, :112]
    middle = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
    image = scene.image.astype(float)  # type: ignore[attr-defined]
    image[np.hypot(y - middle[0], x - middle[1]) < radius * 112] = 128
    image[scene.coverage > 0] = 128  # type: ignore[attr-defined]
    return image


def test_background_alone_does_not_tell_the_category(scenes: tuple[list, np.ndarray]) -> None:
    found, labels = scenes
    behind = np.stack([blanked(scene) for scene in found])
    assert held_out_accuracy(thumbnails(behind), labels) < CHANCE + 0.10
    # the same generators without an animal: all that is drawn besides it, seen whole
    empty = np.stack([draw_scene(None, np.random.default_rng([9, i])).image.astype(float) for i in range(600)])
    assert held_out_accuracy(thumbnails(empty), labels[:600]) < CHANCE + 0.08


def test_background_is_drawn_alike_for_every_category() -> None:
    for seed in range(3):
        found = [draw_scene(category, np.random.default_rng(seed)) for category in CATEGORIES]
        free = np.all([scene.coverage == 0 for scene in found], axis=0)
        for scene in found[1:]:
            assert np.array_equal(scene.image[free], found[0].image[free])


def test_colours_alone_hardly_tell_the_category(scenes: tuple[list, np.ndarray]) -> None:
    found, labels = scenes
    histograms = []
    for scene in found:
        bins = (scene.image // 64).reshape(-1, 3) @ (16, 4, 1)
        histograms.append(np.sqrt(np.bincount(bins, minlength=64) / len(bins)))
    assert held_out_accuracy(np.array(histograms), labels) < CHANCE + 0.12


def test_place_and_size_alone_do_not_tell_the_category(scenes: tuple[list, np.ndarray]) -> None:
    found, labels = scenes
    places = np.array([[place[:2] for place in scene.landmarks.values()] for scene in found]) / 112
    assert held_out_accuracy(places.mean(1), labels) < CHANCE + 0.12


def test_landmarks_move_through_the_whole_image(scenes: tuple[list, np.ndarray]) -> None:
    found, _ = scenes
    places = np.array([[place[:2] for place in scene.landmarks.values()] for scene in found])
    assert (places.std(0) > 14).all()
    visible = np.array([[place[2] for place in scene.landmarks.values()] for scene in found])
    assert (visible.mean(0) > 0.85).all()


def test_poses_of_one_animal_vary() -> None:
    sketches = [sketch_animal("dog", np.random.default_rng(seed)) for seed in range(40)]
    reach = np.array([s.landmarks["head"] - s.landmarks["torso"] for s in sketches])
    assert (reach.std(0) > 0.05).all()
