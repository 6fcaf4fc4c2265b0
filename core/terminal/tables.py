"""Tables as text: on the screen, in files, as Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Sequence


def format_value(value: float | None, error: float | None = None) -> str:
    """A metric in four digits, `-` where it is not defined, with its standard error if there is one."""
    if value is None or math.isnan(value):
        return "-"
    text = f"{value:.4f}" if abs(value) < 0.99995 else f"{value:#.4g}"
    return text + (f" ±{format_value(error)}" if error is not None else "")


def brief(value: float | None, error: float | None = None) -> str:
    """A metric in four digits and few characters, for the screen: `.0320`, `3.818`, `-` where it is not defined."""
    if value is None or math.isnan(value):
        return "-"
    text = format_value(value)
    text = text.replace("0.", ".", 1) if abs(value) < 0.99995 else text
    return text + (f" ±{brief(error)}" if error is not None else "")


GAP = 2
"""Spaces between columns."""


def blocks(rows: Sequence[Sequence[str]], width: int, keys: int = 1) -> list[list[list[str]]]:
    """A table cut between columns into tables of at most `width` characters, each with the columns that name its rows.

    Args:
        rows: cells, the first row the heading.
        width: of the screen.
        keys: first columns, which name the rows.
    """
    widths = [max(map(len, column)) + GAP for column in zip(*rows, strict=True)]
    groups: list[list[int]] = [[]]
    for column in range(keys, len(widths)):
        taken = sum(widths[:keys]) + sum(widths[c] for c in groups[-1])
        if groups[-1] and taken + widths[column] - GAP > width:
            groups.append([])
        groups[-1].append(column)
    return [[[*row[:keys], *(row[c] for c in group)] for row in rows] for group in groups]


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first one the heading, in aligned columns; the first column is set left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True))) for r in rows
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first one the heading, as a Markdown table; numbers are set right."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])


LATEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}"}


def latex_table(rows: Sequence[Sequence[str]], caption: str) -> str:
    """Rows of cells, the first one the heading, as a LaTeX table with booktabs' rules."""
    head, *body = ["  " + " & ".join("".join(LATEX.get(c, c) for c in cell) for cell in row) + r" \\" for row in rows]
    escaped = "".join(LATEX.get(c, c) for c in caption)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escaped}}}", rf"\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}"]
    lines += [r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines)
