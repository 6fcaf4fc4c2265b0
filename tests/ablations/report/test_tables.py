from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from io import StringIO

import numpy as np
import pytest

from paraphrase.ablations.report.paper import AVERAGE, CATEGORIES, EXPLAINER, MULTI, PERFORMER, reported
from paraphrase.ablations.report.tables import Cell, _cells, grids, render
from paraphrase.ablations.results import Task
from paraphrase.core.config import Config, load_config

RUNS = {
    Task("alexnet", "bird"): [0.10, 0.11, 0.12],
    Task("alexnet", "cat"): [0.08, 0.09, 0.10],
    Task("alexnet", "all"): [0.09, 0.10, 0.11],
}


def measured(source: str = "pascal_part", path: str | None = None) -> list[Cell]:
    configs: dict[Task, Config] = {}
    for task in RUNS:
        configs[task] = load_config(None, [f"data.source={source}", "performer.arch=alexnet"])
        configs[task].data.path = path
    runs = {t: [{"location_instability": v, "p": 0.8 + v} for v in values] for t, values in RUNS.items()}
    performers = {t: {"location_instability": 0.15} for t in RUNS}
    return _cells("suite", configs, runs, performers)


def cell(cells: list[Cell], metric: str, side: str, column: str) -> Cell:
    return next(c for c in cells if (c.metric, c.side, c.column) == (metric, side, column))


def test_cells_are_means_over_seeds_and_the_average_is_over_single_categories() -> None:
    cells = measured()
    assert cell(cells, "location_instability", EXPLAINER, "bird").value == pytest.approx(0.11)
    average = cell(cells, "location_instability", EXPLAINER, AVERAGE)
    assert average.value == pytest.approx((0.11 + 0.09) / 2) and average.runs == 6
    assert average.low < average.value < average.high
    assert cell(cells, "p", EXPLAINER, MULTI).value == pytest.approx(0.9)
    performer = cell(cells, "location_instability", PERFORMER, AVERAGE)
    assert performer.value == pytest.approx(0.15) and math.isnan(performer.low) and performer.runs == 0
    assert not [c for c in cells if c.metric == "p" and c.side == PERFORMER]


def test_the_papers_figures_stand_beside_cells_that_it_has() -> None:
    cells = measured()
    assert cell(cells, "location_instability", PERFORMER, "bird").paper == 0.153
    assert cell(cells, "location_instability", EXPLAINER, MULTI).paper is None
    assert cell(cells, "p", EXPLAINER, MULTI).paper == 0.7137
    assert all(c.paper is None for c in measured("menagerie"))
    cub = measured("cub", "/data/CUB_200_2011")
    assert cell(cub, "location_instability", EXPLAINER, MULTI).paper == 0.0906
    assert cell(cub, "location_instability", EXPLAINER, "bird").paper is None


def test_the_papers_averages_are_those_of_its_own_cells() -> None:
    """A slip of the pen in the figures would show: the printed averages are the rows' means, to the last digit or one off."""
    for performer in ("alexnet", "vgg_m", "vgg_s", "vgg16"):
        for side in (PERFORMER, EXPLAINER):
            cells = [
                reported("location_instability", "pascal_part", performer, side, c)
                for c in ("bird", "cat", "cow", "dog", "horse", "sheep", AVERAGE)
            ]
            *single, average = [c for c in cells if c is not None]
            assert len(single) == 6 and abs(np.mean(single) - average) < 0.0015, (performer, side)


def test_every_form_holds_every_figure() -> None:
    cells = measured()
    for form in ("text", "markdown", "latex"):
        text = render(cells, form)
        assert text.count("0.153") == 1 and "0.1100 [" in text and "0.1500" in text, form
    assert r"\begin{tabular}{lrrrrrr}" in render(cells, "latex") and r"pascal\_part" in render(cells, "latex")
    rows = list(csv.DictReader(StringIO(render(cells, "csv"))))
    assert len(rows) == len(cells)
    bird = next(r for r in rows if r["column"] == "bird" and r["side"] == EXPLAINER and r["metric"] == "p")
    assert float(bird["value"]) == pytest.approx(0.91) and bird["runs"] == "3" and bird["paper"] == ""


def test_columns_end_with_the_average_and_the_multi_category_protocol() -> None:
    (title, table), *_ = grids(measured())
    assert title == "Location instability (lower is better), pascal_part"
    assert table[0] == ["", "bird", "paper", "cat", "paper", AVERAGE, MULTI]
    assert [row[0] for row in table[1:]] == ["alexnet", "explainer of alexnet"]


def test_the_papers_average_stands_beside_one_of_the_same_categories_only() -> None:
    def averages(categories: Sequence[str]) -> list[float | None]:
        tasks = [Task("alexnet", c) for c in categories]
        config = load_config(None, ["data.source=pascal_part", "data.path=.", "performer.arch=alexnet"])
        runs = {t: [{"p": 0.5, "location_instability": 0.1}] * 2 for t in tasks}
        cells = _cells("x", dict.fromkeys(tasks, config), runs, {t: {"location_instability": 0.2} for t in tasks})
        return [c.paper for c in cells if c.column == AVERAGE and c.metric == "location_instability"]

    assert averages(CATEGORIES) == [0.140, 0.096]
    assert averages(CATEGORIES[:2]) == [None, None]
