"""The `paraphrase` command with all its parts."""

from __future__ import annotations

import sys

from ablations import pages, report, suite, tables
from sweep.cli import main as sweep_main


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return sweep_main(arguments, suite.add_command, tables.add_command, pages.add_command, sections=report.sections_of)


if __name__ == "__main__":
    sys.exit(main())
