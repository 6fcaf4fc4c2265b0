"""The `paraphrase` command with all its parts; what they need is imported when they run."""

from __future__ import annotations

import argparse
import sys

import paraphrase
from paraphrase.ablations import cli as ablations_cli
from paraphrase.core import cli as core_cli
from paraphrase.core.errors import InputError, Interrupted, Stopped
from paraphrase.core.home import check_working_folder, unfit_home
from paraphrase.core.terminal.commands import with_examples
from paraphrase.core.terminal.streams import safe_streams
from paraphrase.sweep import cli as sweep_cli

EXAMPLES = (
    "sweep run menagerie               # a whole sweep on drawn animals",
    "sweep run mine.yaml --dry-run     # what would run, and its cost",
    'sweep pick mine --where "p>=0.9"  # one trial of the front',
    "explain bird.jpg --explainer DIR  # which parts an answer came from",
    "ablate --from-sweep mine          # what each ingredient is worth",
    "fields loss                       # what can be written into mine.yaml",
    "ui mine                           # MLflow's pages",
)


class _Version(argparse.Action):
    """Prints the version when it is asked for, and not before: git takes its time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from paraphrase.sweep.record.facts import code_version

        print(f"paraphrase {paraphrase.__version__} ({code_version()})")
        parser.exit()


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 where nothing can be trained (on), 2 for bad input, 130 if interrupted.

    Args:
        arguments: of the command line; None: the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="paraphrase", description="Explainer networks: hyperparameter sweeps and ablations.", **with_examples(EXAMPLES)
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="the version, and that of this code")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for part in (core_cli, sweep_cli, ablations_cli):
        part.add_commands(commands)
    with safe_streams() as unwritten:
        try:
            code = _run(parser, arguments)
        except SystemExit as end:  # of argparse, and of rich where nobody reads on
            code = int(end.code or 0)
        except OSError:
            if not unwritten():
                if not (reason := unfit_home()):
                    raise
                print(f"paraphrase: {reason}", file=sys.stderr)
            code = 2
        if not (lost := unwritten()):
            return code
        if isinstance(lost, BrokenPipeError):  # `| head` has seen what it wanted
            return 0
        print(f"paraphrase: standard output cannot be written ({lost.strerror})", file=sys.stderr)
        return 2


def _run(parser: argparse.ArgumentParser, arguments: list[str] | None) -> int:
    try:
        check_working_folder()
        if not (sys.argv[1:] if arguments is None else arguments):
            parser.print_help()
            return 0
        parsed = _parse(parser, arguments)
        return int(parsed.run(parsed))
    except InputError as error:
        print(f"paraphrase: {error}", file=sys.stderr)
        return 2
    except Stopped as error:
        print(f"paraphrase: {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """Parse; overrides may also stand after flags, where argparse alone would refuse them."""
    parsed, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(parsed, "overrides") or any(text.startswith("-") for text in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.overrides = [*parsed.overrides, *rest]
    return parsed
