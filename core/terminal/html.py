"""Results as notebooks show them: parts of HTML that need no other file."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first one the heading, as an HTML table for notebooks."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    head, *body = rows
    return f"<table><thead>{row(head, 'th')}</thead><tbody>{''.join(row(cells, 'td') for cells in body)}</tbody></table>"


def embedded(page: Path) -> str:
    """A PNG file as an HTML image that needs no other file, as notebooks show it."""
    return f'<img style="max-width: 100%" src="data:image/png;base64,{b64encode(page.read_bytes()).decode()}">'
