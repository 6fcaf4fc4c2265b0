"""Writes a report as one HTML file that opens from disk: no network, no script, under 5 MB whatever is put in."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from paraphrase.core.files import write_atomically
from paraphrase.core.home import home
from paraphrase.sweep.report.pictures import embed

LIMIT = 4_800_000
"""Bytes of a page."""

MOST_ROWS, MOST_TEXT = 400, 100_000
"""Rows of a table and characters of a folded text; what is beyond them is said to be left out."""

NARROW, WIDE = 3, 10
"""Tables of so few columns are wrapped on a narrow screen, others scrolled; those of more are set smaller in print."""

Cell = str | float | int | None


@dataclass
class Table:
    header: Sequence[str]
    """Names of the columns; the first one names the rows."""
    rows: Sequence[Sequence[Cell]]
    """As many cells in each as in the header; None: not defined."""
    caption: str = ""


@dataclass
class Figure:
    path: Path
    """An image file."""
    alt: str
    """What it shows, for those who do not see it."""
    caption: str = ""


@dataclass
class Folded:
    summary: str
    """What is always visible."""
    text: str
    """Preformatted, shown when it is opened, and in print."""


@dataclass
class Section:
    """A part of a page; shown in the order of the fields."""

    title: str
    text: Sequence[str] = ()
    """Paragraphs."""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    folded: Sequence[Folded] = ()


def write_page(title: str, lead: str, sections: Sequence[Section], out: Path) -> Path:
    """Write a page with a table of contents; all texts are plain, whatever is in them.

    Args:
        title: of the page.
        lead: what it is about, in a sentence or two.
        out: the HTML file; its folder is made if it is not there.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("paraphrase.sweep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("page.html")
    parts = [_prepared(section, f"part-{i}") for i, section in enumerate(sections, 1)]
    figures = [figure for part in parts for figure in part["figures"]]
    without = template.render(title=title, lead=lead, sections=parts)
    pictures = embed([f["path"] for f in figures], LIMIT - len(without.encode()))
    for figure, picture in zip(figures, pictures, strict=True):
        if isinstance(picture, str):
            figure["note"] = f"{picture}: {_place(figure['path'])}"
        else:
            figure["picture"] = picture
    write_atomically(out, template.render(title=title, lead=lead, sections=parts))
    return out


def _prepared(section: Section, key: str) -> dict[str, Any]:
    """A section as the template takes it."""
    return {
        "id": key,
        "title": section.title,
        "text": section.text,
        "tables": [_prepared_table(table, section.title) for table in section.tables],
        "figures": [{"path": f.path, "alt": f.alt, "caption": f.caption, "picture": None, "note": ""} for f in section.figures],
        "folded": [{"summary": f.summary, "text": _shortened(f.text)} for f in section.folded],
    }


def _prepared_table(table: Table, title: str) -> dict[str, Any]:
    rows = [[format_cell(cell) for cell in row] for row in table.rows[:MOST_ROWS]]
    columns = list(zip(*rows, strict=True)) or [()] * len(table.header)
    more = len(table.rows) - len(rows)
    return {
        "label": table.caption or title,
        "caption": table.caption,
        "header": list(zip(table.header, map(_is_numeric, columns), strict=True)),
        "rows": [[_breakable(cell) for cell in row] for row in rows],
        "size": "narrow" if len(table.header) <= NARROW else "wide" if len(table.header) <= WIDE else "many",
        "more": f"{more} more rows are left out, to keep the page small." if more else "",
    }


def format_cell(cell: Cell) -> str:
    """A cell as text: four decimals for a number that has any, `-` for what is not defined."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4f}" if cell == 0 or 1e-3 <= abs(cell) < 1e5 else f"{cell:.3g}"
    return str(cell)


_NUMBER = re.compile(r"[-+−]?(\d+(\.\d*)?(e[-+]?\d+)?|inf)( ?±[\d.]+)?( ?%)?")


def _is_numeric(column: Sequence[str]) -> bool:
    """Whether a column is set to the right: at least one number, and nothing but numbers and what is not defined."""
    known = [cell for cell in column if cell not in ("", "-", "not defined")]
    return bool(known) and all(_NUMBER.fullmatch(cell) for cell in known)


def _breakable(cell: str) -> Markup:
    """A cell whose long names of fields, such as `explainer.interp_widths.0`, may go on in the next line after a point."""
    text = str(escape(cell))
    return Markup(re.sub(r"(?<=[a-z])([._])(?=[a-z0-9])", r"\1<wbr>", text) if len(cell) > 12 else text)


def _shortened(text: str) -> str:
    if len(text) <= MOST_TEXT:
        return text
    return f"{text[:MOST_TEXT]}\n… {len(text) - MOST_TEXT} more characters are left out, to keep the page small"


def _place(path: Path) -> str:
    """Where a file is, without the folders above the home folder, which may name a user."""
    path = path.resolve()
    return path.relative_to(home()).as_posix() if path.is_relative_to(home()) else path.name
