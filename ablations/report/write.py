"""What is written once a suite is done: tables, forest plots, side-by-side filter pages and the report, into MLflow too."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from paraphrase.ablations.arms import BASE
from paraphrase.ablations.paired import Comparison, too_few
from paraphrase.ablations.report import tables as paper_tables
from paraphrase.ablations.report.figures import draw_forests, draw_shares
from paraphrase.ablations.report.pages import draw_pages
from paraphrase.ablations.results import DIMENSION, HEADER, comparisons, rows_of, runs_by_arm, tables_of
from paraphrase.core.files import write_atomically
from paraphrase.core.measure.metrics import LOWER_IS_BETTER
from paraphrase.core.terminal.tables import latex_table, markdown_table, text_table
from paraphrase.sweep.record.client import connect, reach
from paraphrase.sweep.record.tracking import log_to_parent
from paraphrase.sweep.record.views import share_view
from paraphrase.sweep.report.page import Figure, Section, Table, format_cell
from paraphrase.sweep.report.sweep_page import write_sweep_page
from paraphrase.sweep.settings.folder import SUITE_TABLES, sweep_folder, tracking_uri
from paraphrase.sweep.study.results import load
from paraphrase.sweep.study.study import identity_of

METHOD = (
    "Every arm is paired with the base by seed, performer and category. Low and high: 95 % interval of the paired difference, "
    "Student's for fewer than 8 pairs, else by BCa bootstrap with Student's width. p-value: two-sided sign-flip permutation "
    "test, exact up to 13 pairs; Holm's correction is over the arms of a metric. Effect size: difference over the "
    "standard deviation of the differences within performer and category, with Hedges' correction."
)
SEVERAL = (
    "With several performers or categories the figures are interquartile means over all runs, of the base, of the arm and of "
    "their differences (which need not be the difference of the two), with bootstraps stratified by performer and category "
    "(Agarwal et al. 2021)."
)


class Written(NamedTuple):
    """What a suite has beyond a sweep."""

    text: str
    """The table of comparisons; of the base's metrics where there is no other arm."""
    files: list[Path]
    """Tables and figures, in the report folder."""
    sections: list[Section]
    """Of the report."""


def write_suite_report(name: str) -> str:
    """Write a suite's tables, figures and page into its folder and MLflow; returns the table of comparisons as text."""
    written = write_tables(name)
    page = write_sweep_page(name, more=written.sections)
    sweep, study = load(name)
    assert study is not None  # of which the tables are
    log_to_parent(tracking_uri(sweep), sweep.experiment, identity_of(study), [*written.files, page])
    arranged = sweep.experiment, identity_of(study), sweep.objectives, (), DIMENSION
    reach(tracking_uri(sweep), lambda uri: share_view(connect(uri), *arranged))
    return written.text


def sections_of(name: str) -> list[Section]:
    """What a suite's report has beyond a sweep's; nothing for a sweep."""
    return write_tables(name).sections if DIMENSION in load(name)[0].space else []


def write_tables(name: str) -> Written:
    """Write a suite's tables and figures into its folder, for whatever runs are complete."""
    table = comparisons(name)
    rows = rows_of(table)
    folder = sweep_folder(name) / "report"
    cells = [HEADER, *([format_cell(v) for v in row] for row in rows)]
    out = StringIO()
    csv.writer(out, lineterminator="\n").writerows([HEADER, *rows])
    runs = runs_by_arm(name).get(BASE, {})
    measured = paper_tables.measure(name) if any(runs.values()) else []
    texts = {
        "ablations.txt": text_table(cells) + "\n",
        "ablations.csv": out.getvalue(),
        "ablations.md": markdown_table(cells) + "\n",
        "ablations.tex": latex_table(cells, f"Ablations of {name}") + "\n",
        "tables.txt": paper_tables.render(measured, "text"),
        "tables.csv": paper_tables.render(measured, "csv"),
        "tables.md": paper_tables.render(measured, "markdown"),
        "tables.tex": paper_tables.render(measured, "latex"),
    }
    for file, content in texts.items():
        write_atomically(folder / file, content)
    write_atomically(folder / SUITE_TABLES, json.dumps(tables_of(table)))
    files = [folder / file for file in texts]
    shares = draw_shares(measured, folder / "p.png")
    sections = [_tables_section(measured, shares)]
    files += [shares] if shares else []
    if table:
        forests = draw_forests(table, folder / "ablations.png")
        pages = draw_pages(name, folder / "pages")
        sections = [_comparison_section(table, rows, forests, len(runs)), *sections, _pages_section(pages)]
        files += [forests, *pages.values()]
    text = texts["ablations.txt"] if table else texts["tables.txt"]
    return Written(text, files, [s for s in sections if s.tables or s.figures])


def _comparison_section(
    table: Mapping[str, Mapping[str, Comparison | None]], rows: list[list[Any]], forests: Path, tasks: int
) -> Section:
    """A table for each metric, and the forest plots.

    Args:
        tasks: performers times categories.
    """
    found = []
    for metric, some in groupby(rows, key=lambda row: row[0]):
        better = "lower" if metric in LOWER_IS_BETTER else "higher"
        caption = f"{metric.replace('_', ' ')} ({better} is better)"
        found.append(Table(HEADER[1:], [[row[1].replace("_", " "), *row[2:]] for row in some], caption))
    alt = f"Forest plots of {len(table)} metrics: each arm's difference from the base; its numbers are in the tables above."
    caption = "Green: significantly better than the base (Holm-corrected p of at most .05); red: worse; grey: not decided."
    pairs = max(c.pairs if c else 0 for row in table.values() for c in row.values())
    few = too_few(max(2, pairs // tasks), tasks, max(map(len, table.values())))
    texts = [METHOD, *([SEVERAL] if tasks > 1 else []), *([f"{few}."] if few else [])]
    return Section("Each ingredient against the base", texts, found, [Figure(forests, alt, caption)])


def _tables_section(cells: list[paper_tables.Cell], shares: Path | None) -> Section:
    found = [Table(grid[0], grid[1:], title) for title, grid in paper_tables.grids(cells)]
    figures = [Figure(shares, "Bars of p by category; its numbers are in the table above.", "p of the base.")] if shares else []
    text = (
        "The base's runs in the shape of the paper's tables 2 to 4, with 95 % intervals over seeds; the columns “paper” are its."
    )
    return Section("The paper's tables", [text], found, figures)


def _pages_section(pages: Mapping[str, Path]) -> Section:
    text = (
        "The same filters and images in the base (left) and in an arm (right), of the first seed. Filters of the same number "
        "start from the same channel of the performer."
    )
    figures = [
        Figure(page, f"Filters of the base and of {arm.replace('_', ' ')} on the same test images.", arm.replace("_", " "))
        for arm, page in pages.items()
    ]
    return Section("Side by side", [text], figures=figures)
