"""Streams that cannot be written, folders that are not there."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from commands import command, paraphrase_here

from paraphrase.core.errors import InputError
from paraphrase.core.home import folder_named_by


def in_shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command line, in which PARAPHRASE is the command."""
    line = line.replace("PARAPHRASE", shlex.join(command()))
    shell = ["bash", "-o", "pipefail", "-c", line]
    return subprocess.run(shell, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


@pytest.mark.parametrize("what", ["fields", "fields --markdown", "--help", "sweep run menagerie --help"])
def test_a_result_that_cannot_be_written_is_told(what: str) -> None:
    ran = in_shell(f"PARAPHRASE {what} > /dev/full")
    assert ran.returncode == 2
    assert ran.stderr == "paraphrase: standard output cannot be written (No space left on device)\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    ran = in_shell("PARAPHRASE fields | head -1")
    assert (ran.returncode, ran.stderr) == (0, "") and len(ran.stdout.splitlines()) == 1


@pytest.mark.parametrize("where", ["2> /dev/full", "2>&-", "2> >(true)", "0<&- 2>&-"])
def test_progress_that_nobody_can_read_ends_nothing(where: str) -> None:
    code = "import sys, time; from paraphrase.core.terminal.streams import safe_streams\n"
    code += "with safe_streams():\n for i in range(20): print(i, file=sys.stderr, flush=True); time.sleep(.01)\nprint('done')"
    python = shlex.join([command()[0], "-c", code])
    ran = in_shell(f"{python} {where}")
    assert (ran.returncode, ran.stdout) == (0, "done\n")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_lead_nowhere(closed: str) -> None:
    ran = in_shell(f"PARAPHRASE fields {closed}")
    assert ran.returncode == 0 and "Traceback" not in ran.stderr


@pytest.mark.parametrize("variable", ["PARAPHRASE_HOME", "PARAPHRASE_SCRATCH"])
def test_the_home_of_nobody_is_named(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "~nobodyatall/x")
    with pytest.raises(InputError, match=f"{variable}: ~nobodyatall/x: the home folder of ~nobodyatall is not known here"):
        folder_named_by(variable)


@pytest.mark.parametrize("given", [("sweep", "list"), ("sweep", "run", "menagerie", "--dry-run"), ("fields",)])
def test_a_working_folder_that_is_gone_is_told(given: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    ran = paraphrase_here(*given)
    assert (ran.returncode, ran.stderr) == (2, "paraphrase: the working folder is gone; change to one that is there\n")
