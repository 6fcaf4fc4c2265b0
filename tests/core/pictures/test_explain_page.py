from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from PIL import Image

from paraphrase.cli import main
from paraphrase.core.config import Config
from paraphrase.core.data import load_dataset
from paraphrase.core.data.records import Record
from paraphrase.core.device import autocast_for
from paraphrase.core.explainer.checkpoint import ABOUT, load_explainer
from paraphrase.core.features.cache import FeatureCache
from paraphrase.core.features.obtain import open_cache
from paraphrase.core.measure import evaluation
from paraphrase.core.measure.attribution import NO_PART, OTHERS, SIDES, Average, Groups, open_subject
from paraphrase.core.measure.evaluation import performer_peaks, test_peaks
from paraphrase.core.measure.filters import Peaks
from paraphrase.core.performer import load_crops, load_performer, obtain_performer, save_performer
from paraphrase.core.pictures.explain_page import (
    NOTHING,
    _colours,
    draw_category,
    draw_image,
    draw_overview,
    explain_image,
    explain_test,
    names_by_share,
)
from paraphrase.core.pictures.filters_page import overlay
from paraphrase.core.train.training import Training

test_peaks.__test__ = False  # type: ignore[attr-defined]  # not a test


@pytest.fixture
def explainer(tiny: Config, tiny_cache: FeatureCache, tiny_home: Path) -> Path:
    """Folder of an explainer of two replicates, trained once for the session."""
    folder = tiny_home / "for test_explain"
    if not folder.exists():
        config = copy.deepcopy(tiny)
        config.train.replicates, config.explainer.interp_widths = 2, [24, 16]
        training = Training(config, tiny_cache)
        training.run_epoch()
        training.save_explainer(folder)
    return folder


@pytest.fixture
def changed(explainer: Path, tmp_path: Path) -> Callable[[Callable[[dict], object]], Path]:
    """A copy of the explainer whose JSON was changed."""

    def change(how: Callable[[dict], object]) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(explainer, folder)
        about = json.loads((folder / ABOUT).read_text())
        how(about)
        (folder / ABOUT).write_text(json.dumps(about))
        return folder

    return change


def named(peaks: Peaks, cache: FeatureCache, f: int) -> int:
    """The part that a filter tracks best in its category, -1 if it tracks none: at most ten test images a category here."""
    labels, values = cache.test.labels.tolist(), peaks.values[:, f].tolist()
    means = [np.mean([v for v, label in zip(values, labels, strict=True) if label == c]) for c in range(max(labels) + 1)]
    own = [i for i, label in enumerate(labels) if label == int(np.argmax(means))]
    tracked = []
    for part in range(cache.test.landmarks.shape[1]):
        seen = sorted((i for i in own if cache.test.landmarks[i, part, 2] > 0), key=lambda i: -values[i])
        enough = len(seen) >= 6 and max(values) > 0
        where = peaks.positions[seen, f].double().numpy(), cache.test.landmarks[seen, part, :2].double().numpy()
        tracked.append(reference._explained(*where) if enough else 0.0)
    return int(np.argmax(tracked)) if max(tracked) > 0 else -1


def shares_by_hand(maps: torch.Tensor, answer: torch.Tensor, peaks: Peaks, cache: FeatureCache) -> dict[str, float]:
    """Shares by part of one image, from the gradient that a network's answer sends to its maps (1, F or more, n, n)."""
    (gradient,) = torch.autograd.grad(answer, maps)
    given = (gradient.mean((2, 3)) * maps.sum((2, 3)))[0].clamp(min=0).tolist()
    parts, found = cache.meta["landmarks"], dict.fromkeys([*cache.meta["landmarks"], NO_PART], 0.0)
    for f, value in enumerate(given[: peaks.values.shape[1]]):
        part = named(peaks, cache, f)
        found[parts[part] if part >= 0 else NO_PART] += value / sum(given)
    return found


def run(capsys: pytest.CaptureFixture, *arguments: object) -> dict:
    assert main(["explain", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_shares_of_a_picture_are_those_of_the_whole_networks(tiny, tiny_cache, explainer, tmp_path, capsys, monkeypatch) -> None:
    """The reference runs the performer itself, from the pixels on, and the explainer without a tail of ours."""
    nothing = torch.zeros(len(tiny_cache.meta["landmarks"]), dtype=torch.float64)
    monkeypatch.setattr(evaluation, "chance", lambda cache, width: nothing)  # with ten images a category no name would beat it
    dataset, subject = load_dataset(tiny.data), open_subject(explainer)
    # one whose answer some filter of the hardly trained explainer speaks for
    record = next(r for r in dataset.test if not explain_image(subject, r).shares["explainer"][0].isnan().any())
    box = ",".join(map(str, record.box))
    found = run(capsys, record.image, "--box", box, "--explainer", explainer, "--out", tmp_path)
    performer, _ = obtain_performer(tiny, dataset)
    pixels = load_crops([record], performer.spec)[0].float() / 255
    kept: list[torch.Tensor] = []
    module = performer.network.get_submodule(performer.spec.feature)
    handle = module.register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits = performer.network(performer.normalise(pixels).requires_grad_(True))
    handle.remove()
    said = int(logits.argmax())
    expected = shares_by_hand(kept[0], logits[0, said], performer_peaks(tiny_cache), tiny_cache)
    assert sum(found["shares"]["performer"].values()) == pytest.approx(1)
    assert found["shares"]["performer"] == pytest.approx({k: expected[k] for k in found["shares"]["performer"]}, abs=1e-4)
    assert found["explained"] == found["predicted"]["performer"] == dataset.categories[said]

    model = load_explainer(explainer)
    feature = kept[0].detach().repeat(1, 2, 1, 1).requires_grad_(True)
    explained = model(feature)
    maps = explained.interp_maps[-1]
    answers = tiny_cache.head(explained.outputs[1][0])
    peaks = test_peaks(model, tiny_cache, autocast_for("float32", torch.device("cpu")))
    expected = shares_by_hand(maps, answers[0, said], Peaks(*(t[:, :16] for t in peaks)), tiny_cache)
    assert found["shares"]["explainer"] == pytest.approx({k: expected[k] for k in found["shares"]["explainer"]}, abs=1e-4)
    for side, values in (("performer", logits), ("explainer", answers)):
        probabilities = dict(zip(dataset.categories, values[0].softmax(0).tolist(), strict=True))
        assert found["probabilities"][side] == pytest.approx(probabilities, abs=1e-4)
    p = model.p()
    assert p is not None and found["p"] == pytest.approx(float(p[0]))


def test_averages_are_those_of_the_pictures(tiny, tiny_cache, explainer, tmp_path, capsys) -> None:
    found = run(capsys, "--explainer", explainer, "--out", tmp_path, "--category", "cat")
    assert [Path(page).name for page in found["pages"]] == ["explain.png", "faithfulness.png", "explain-cat.png"]
    assert Path(found["gallery"]).stat().st_size > 50_000
    for about in found["faithfulness"].values():
        assert about["left"][0] in (None, pytest.approx(1)) and about["left"][-1] in (None, pytest.approx(0, abs=1e-6))
        assert len(about["left"]) == len(about["left_control"]) == len(about["alone"]) + 1
    assert list(found["categories"]) == tiny_cache.meta["categories"]
    subject = open_subject(explainer)
    records = [r for r in subject.dataset.test if r.label == tiny_cache.meta["categories"].index("cat")]
    rows = [explain_image(subject, record) for record in records]
    for side in SIDES:
        values = np.array([row.shares[side][0].tolist() for row in rows])
        values = values[~np.isnan(values).any(1)]
        about = found["categories"]["cat"][side]
        assert about["images"] == len(values)
        assert list(about["shares"].values()) == pytest.approx(values.mean(0).tolist(), abs=1e-4)
        assert list(about["se"].values()) == pytest.approx((values.std(0, ddof=1) / math.sqrt(len(values))).tolist(), abs=1e-4)
        assert sum(about["shares"].values()) == pytest.approx(1)


def test_tables_name_parts_answers_and_p_and_nothing_at_zero(tiny, explainer, tmp_path, capsys) -> None:
    image = load_dataset(tiny.data).test[0].image
    found = run(capsys, image, "--explainer", explainer, "--out", tmp_path)
    assert main(["explain", str(image), "--explainer", str(explainer), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    lines = [line.split("  ")[0].strip() for line in printed.splitlines()]
    largest = {name: max(found["shares"][side].get(name) or 0 for side in SIDES) for name in found["shares"]["performer"]}
    assert {name for name in largest if name in lines} == {name for name, share in largest.items() if share >= NOTHING}
    assert {"predicted category", "p"} <= set(lines)
    assert "the performer is right on" in printed  # one epoch on 48 images teaches nothing
    page = tmp_path / f"explained-{image.stem}.png"
    assert str(page) in printed
    with Image.open(page) as drawn:
        assert drawn.width > 800 and np.asarray(drawn.convert("RGB")).std() > 20


def test_names_stand_in_the_order_of_their_larger_share() -> None:
    groups = {side: Groups(["head", "torso", "tail", NO_PART], torch.zeros(4)) for side in SIDES}
    none = torch.zeros(4)
    means = {"explainer": Average(torch.tensor([0.2, 0.1, 0.003, 0.697]), none, 1)}
    means["performer"] = Average(torch.tensor([0.1, 0.5, 0.004, 0.396]), none, 1)
    assert names_by_share(groups, means) == ["torso", "head", NO_PART]


def test_a_picture_is_shown_as_it_was_given(explainer, tmp_path) -> None:
    pixels = np.zeros((120, 300, 3), np.uint8)
    pixels[30:90, 50:250] = (200, 30, 30)
    Image.fromarray(pixels).save(file := tmp_path / "wide.png")
    subject = open_subject(explainer)
    explained = explain_image(subject, Record(file, (50.0, 30.0, 200.0, 60.0), 0))
    whole, part = np.asarray(explained.pictures[0]), np.asarray(explained.images[0])
    assert whole.shape == (120, 300, 3) and part.shape[0] / part.shape[1] == pytest.approx(60 / 200, rel=0.02)
    assert (part == (200, 30, 30)).all()  # the box, and nothing around it
    assert (whole[60, 51:54] == (255, 242, 51)).any() and (whole[5, 5] == 0).all()  # framed, the rest untouched
    alone = explain_image(subject, Record(file, (0.0, 0.0, 300.0, 120.0), 0))
    assert np.array_equal(np.asarray(alone.pictures[0]), pixels)
    draw_image(subject, explained, tmp_path / "page.png")


def test_pages_of_a_category_show_its_first_images(explainer, tmp_path) -> None:
    subject = open_subject(explainer)
    averages = explain_test(subject)
    page, overview = (
        draw_category(subject, averages, 2, tmp_path / "page.png"),
        draw_overview(subject, averages, tmp_path / "overview.png"),
    )
    alone = explain_image(subject, subject.dataset.test[0])
    single = draw_image(subject, alone, tmp_path / "single.png")
    heights = [Image.open(file).height for file in (page, single, overview)]
    assert heights[0] > 2 * heights[1]  # three images against one


def test_heat_lies_where_its_cell_looks() -> None:
    meta = {"input_size": 120, "receptive_field": {"start": 11.5, "stride": 16.0, "size": 40.0}}
    heat = np.zeros((7, 7))
    heat[2, 5] = 1.0
    plain = Image.new("RGB", (120, 120), "grey")
    outlined = overlay(plain, heat, meta, (120, 120))
    rows, columns = np.nonzero((outlined != np.asarray(plain) / 255).any(-1))
    centre = (rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2
    assert abs(centre[0] - (11.5 + 16 * 2)) <= 1 and abs(centre[1] - (11.5 + 16 * 5)) <= 1
    assert 8 <= np.ptp(rows) <= 32  # a cell's size, and the line around it


def test_without_landmarks_groups_of_filters_are_shown_by_what_they_see(explainer, tmp_path) -> None:
    whole = open_subject(explainer)
    subject = whole._replace(parts={})
    averages = explain_test(subject)
    names = averages.groups["performer"].names
    assert all(name.startswith("performer ") for name in names[:-1]) and names[-1] == OTHERS
    assert averages.groups["explainer"].names[0].startswith("explainer ")
    page = draw_category(subject, averages, 0, tmp_path / "page.png")
    draw_overview(subject, averages, tmp_path / "overview.png")
    assert Image.open(page).height > Image.open(draw_category(whole, explain_test(whole), 0, tmp_path / "parts.png")).height + 200


def test_single_category_protocol_averages_that_category_alone(explainer) -> None:
    subject = open_subject(explainer)
    meta = subject.cache.meta | {"single_category": "cat"}
    averages = explain_test(subject._replace(cache=dataclasses.replace(subject.cache, meta=meta)))
    assert list(averages.by_category) == [1]


def damaged(folder: Path) -> dict[str, Path]:
    folder.mkdir()
    text, cut, bomb, sound = (folder / name for name in ("text.png", "cut.png", "bomb.ppm", "sound.png"))
    text.write_text("no picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(sound)
    cut.write_bytes(sound.read_bytes()[:2000])
    bomb.write_bytes(b"P6 60000 60000 255\n")
    return {"missing": folder / "no.png", "text": text, "cut": cut, "bomb": bomb, "sound": sound, "folder": folder}


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("missing", [], r"no\.png: there is no such file"),
        ("folder", [], "is not a file"),
        ("text", [], "is not an image in a known format"),
        ("cut", [], "cannot be decoded"),
        ("bomb", [], "is a decompression bomb"),
        ("sound", ["--box", "30,30,40,40"], "lies outside the image of 40 x 40 pixels"),
        ("sound", ["--box", "1,2,3"], "expected X,Y,W,H"),
        ("sound", ["--box", "0,0,nan,9"], "not a finite number"),
        ("sound", ["--category", "cat"], "--category: is for the averages"),
        ("sound", ["--explainer", "nowhere"], "there is no such checkpoint"),
        (None, ["--box", "0,0,9,9"], "--box: belongs to an IMAGE"),
        (None, ["--category", "unicorn"], "--category unicorn: is none of those explained: bird, cat"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(explainer, tmp_path, capsys, name, flags, message) -> None:
    files, out = damaged(tmp_path / "files"), tmp_path / "out"
    picture = [str(files[name])] if name else []
    capsys.readouterr()
    assert main(["explain", *picture, "--explainer", str(explainer), "--out", str(out), *flags]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("paraphrase: ") and told.err.count("\n") == 1 and not told.out
    assert re.search(message, told.err)
    assert not out.exists()


def refused(folder: Path, capsys: pytest.CaptureFixture, *arguments: object) -> str:
    capsys.readouterr()
    assert main(["explain", *map(str, arguments), "--explainer", str(folder)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("paraphrase: ") and not (folder / "explained").exists()
    return told[-1]


def test_explainer_of_another_cache_or_data_set_is_refused(changed, explainer, capsys) -> None:
    folder = changed(lambda about: about["performer"].update(key="0" * 24))
    assert "was trained on the cache 0000" in refused(folder, capsys)
    shutil.rmtree(folder)
    folder = changed(lambda about: about["config"]["data"].update(test_images=12, train_images=12))
    assert "its data, menagerie, has changed since" in refused(folder, capsys)
    shutil.rmtree(folder)
    folder = changed(lambda about: about.pop("config"))
    assert "does not say what the explainer was trained on" in refused(folder, capsys)


def test_performer_that_was_replaced_is_refused(changed, tiny, tmp_path, capsys) -> None:
    dataset = load_dataset(tiny.data)
    performer, about = load_performer(Path(obtain_performer(tiny, dataset)[1]["folder"]))
    with torch.no_grad():
        next(performer.network.parameters()).view(-1)[0] += 1e-3
    save_performer(performer, tmp_path / "other", {"accuracy": about["accuracy"]})
    folder = changed(lambda about: about["config"]["performer"].update(weights=str(tmp_path / "other")))
    assert "performer: is not that of the cache" in refused(folder, capsys, dataset.test[0].image)


def test_explainer_without_interpretable_track_is_refused(tiny, tmp_path, capsys) -> None:
    config = copy.deepcopy(tiny)
    config.explainer.interp_widths = []
    Training(config, open_cache(tiny, progress=False)).save_explainer(tmp_path / "ordinary")
    assert "no interpretable track" in refused(tmp_path / "ordinary", capsys)


def test_folder_that_cannot_be_written_is_named(explainer, tmp_path, capsys) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["explain", "--explainer", str(explainer), "--out", str(blocked)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"paraphrase: --out {blocked}:") and told.count("\n") == 1


@pytest.mark.parametrize("parts", [3, 9, 15])
def test_no_part_has_the_grey_of_the_rest(parts: int) -> None:
    names = [*(f"part {i}" for i in range(parts)), NO_PART]
    colours = _colours({side: Groups(names, torch.zeros(4, dtype=torch.long)) for side in SIDES})
    assert colours[NO_PART] == "0.5"
    coloured = [tuple(colour) for name, colour in colours.items() if name != NO_PART]
    assert all(max(colour[:3]) - min(colour[:3]) > 0.1 for colour in coloured) and len(set(coloured)) == parts
