"""Metric tables as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.keys import KEYS


def format_value(value: float | None, error: float | None = None) -> str:
    """A metric in three or four digits, `-` where it is not defined, with its standard error if there is one."""
    if value is None:
        return "-"
    return f"{value:.4f}" + (f" ±{error:.4f}" if error is not None else "")


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first one the heading, in aligned columns; the first column is set left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True))) for r in rows
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * len(lines[0]), *lines[1:]])


def metrics_table(rows: Mapping[str, Mapping[str, float]], keys: tuple[str, ...] = KEYS) -> str:
    """A text table with a row for each name and a column for each metric that any row has.

    Args:
        rows: name -> metrics; `<metric>_se` is shown as its standard error.
        keys: the metrics, in order.
    """
    shown = [k for k in keys if any(k in row for row in rows.values())]
    table = [["", *(k.replace("_", " ") for k in shown)]]
    for name, row in rows.items():
        table.append([name, *(format_value(row.get(k), row.get(f"{k}_se")) for k in shown)])
    return text_table(table)


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
