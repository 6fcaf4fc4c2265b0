"""The `paraphrase` command with all its parts; what they need is imported when they run."""

from __future__ import annotations

import argparse
import sys

from paraphrase.ablations import cli as ablations_cli
from paraphrase.core import cli as core_cli
from paraphrase.core.errors import InputError
from paraphrase.sweep import cli as sweep_cli


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 where training cannot go on, 2 for bad input, 130 after an interruption.

    Args:
        arguments: of the command line; None: the process's own.
    """
    parser = argparse.ArgumentParser(prog="paraphrase", description="Explainer networks: sweeps and ablations.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for part in (core_cli, sweep_cli, ablations_cli):
        part.add_commands(commands)
    try:
        parsed = _parse(parser, arguments)
        return int(parsed.run(parsed))
    except InputError as error:
        print(f"paraphrase: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Parse; overrides may also stand after flags, where argparse alone would refuse them."""
    parsed, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(parsed, "overrides") or any(text.startswith("-") for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.overrides = [*parsed.overrides, *rest]
    return parsed
