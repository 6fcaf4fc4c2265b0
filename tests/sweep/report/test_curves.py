from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paraphrase.sweep.record.client import open_client, open_experiment
from paraphrase.sweep.record.reading import histories
from paraphrase.sweep.record.tracking import Tracker
from paraphrase.sweep.report.curves import TOGETHER, draw_curves, draw_trials, mean_and_deviation


def run(level: float, epochs: int = 5, **more: list[tuple[int, float]]) -> dict[str, list[tuple[int, float]]]:
    return {"p": [(e, level + e / 100) for e in range(1, epochs + 1)], **more}


def colours(file: Path) -> set[tuple[int, ...]]:
    with Image.open(file) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(10**7)}


def test_mean_and_deviation_are_over_the_runs_that_reached_the_epoch() -> None:
    epochs, mean, spread = mean_and_deviation([[(1, 1.0), (2, 2.0), (3, 3.0)], [(1, 3.0), (2, 6.0)]])
    assert epochs.tolist() == [1, 2, 3] and mean.tolist() == [2.0, 4.0, 3.0]
    assert spread == pytest.approx([np.std([1, 3], ddof=1), np.std([2, 6], ddof=1), 0.0])


def test_histories_are_as_mlflow_has_them(tmp_path: Path) -> None:
    client = open_client(f"sqlite:///{tmp_path}/mlflow.db")
    tracker = Tracker(client, open_experiment(client, "curves", tmp_path.as_uri()), "curves", "c1", {})
    runs = [tracker.start_trial(number, f"{number:03d}", {}) for number in range(2)]
    tracker.log(0, [{"epoch": e, "timestamp": 1000 - e, "p": e / 10, "other": 1.0} for e in (2, 1, 3)])
    tracker.flush()
    found = histories(client, runs, ["p", "location_instability"])
    assert found == [{"p": [(1, 0.1), (2, 0.2), (3, 0.3)]}, {}]


def test_front_is_coloured_and_others_are_grey(tmp_path: Path) -> None:
    others = draw_trials({}, [run(0.1), run(0.2)], tmp_path / "others.png")
    third = run(0.3, reconstruction_error=[(1, 0.5), (2, 0.4)])
    both = draw_trials({"trial 3": third}, [run(0.1), {}], tmp_path / "new" / "both.png")
    assert others and both
    assert (0, 0x72, 0xB2) not in colours(others) and (0, 0x72, 0xB2) in colours(both)
    with Image.open(others) as one, Image.open(both) as two:  # two metrics, two panels
        assert two.width > one.width


def test_a_metric_that_is_measured_once_has_no_panel_beside_curves(tmp_path: Path) -> None:
    curves = draw_trials({"trial 3": run(0.3)}, [], tmp_path / "curves.png")
    beside = draw_trials({"trial 3": run(0.3, landmark_error=[(2, 0.5)])}, [], tmp_path / "beside.png")
    alone = draw_trials({"trial 3": {"landmark_error": [(1, 0.5)]}}, [], tmp_path / "alone.png")  # of one epoch
    assert curves and beside and alone and curves.read_bytes() == beside.read_bytes()


def test_many_coloured_trials_can_be_drawn(tmp_path: Path) -> None:
    assert draw_trials({f"trial {i}": run(i / 50) for i in range(40)}, [], tmp_path / "many.png")


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    assert draw_trials({"trial 1": {}}, [{}], tmp_path / "a.png") is None
    assert draw_curves({"base": [], "arm": [{}]}, tmp_path / "b.png", "base") is None
    assert not list(tmp_path.glob("*.png"))


def test_many_groups_get_a_row_each(tmp_path: Path) -> None:
    groups = {name: [run(0.1 * i), run(0.1 * i + 0.05), {}] for i, name in enumerate(["base", *map(str, range(TOGETHER - 1))])}
    few = draw_curves(groups, tmp_path / "few.png", "base")
    many = draw_curves({**groups, "one more": [run(0.9)]}, tmp_path / "many.png", "base")
    assert few and many and (0, 0, 0) in colours(few)
    with Image.open(few) as one, Image.open(many) as two:
        assert two.height > 2 * one.height
