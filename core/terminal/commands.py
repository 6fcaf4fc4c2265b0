"""How commands are described: one line of help, examples below the flags."""

from __future__ import annotations

import argparse


def add_command(commands: argparse._SubParsersAction, name: str, about: str, *examples: str) -> argparse.ArgumentParser:
    """A command's parser.

    Args:
        commands: of the command above.
        name: of the command.
        about: what it does, in a line.
        examples: command lines without `paraphrase`.
    """
    return commands.add_parser(name, help=about, description=about, **with_examples(examples))


def with_examples(examples: tuple[str, ...]) -> dict:
    """Arguments of a parser that shows examples."""
    lines = ["examples:", *(f"  paraphrase {example}" for example in examples)] if examples else []
    return {"epilog": "\n".join(lines), "formatter_class": argparse.RawDescriptionHelpFormatter}
