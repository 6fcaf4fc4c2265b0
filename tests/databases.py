"""sqlite files, seen from outside of the libraries that they belong to."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def tables_of(file: Path) -> list[str]:
    """All that is in it."""
    with closing(sqlite3.connect(file)) as database:
        return list(database.iterdump())


def tables_stamped(file: Path, version: str) -> list[str]:
    """Write another version of the tables into it; all that is in it then."""
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    return tables_of(file)
