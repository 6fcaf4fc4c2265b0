"""Where everything that Paraphrase makes is kept."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from paraphrase.core.errors import InputError

NAME = ".paraphrase"
"""Of the folder, where no other is named."""


def home() -> Path:
    """The absolute folder of data, performers, caches and sweeps: $PARAPHRASE_HOME, else `.paraphrase` here.

    Inside the temporary copy of a working directory that a Ray job runs in, `.paraphrase` would vanish with the job, so
    there it is the one in the user's home folder.
    """
    if named := folder_named_by("PARAPHRASE_HOME"):
        return named
    here = Path.cwd()
    if "working_dir_files" in here.parts:
        return Path.home() / NAME
    return here / NAME


def folder_named_by(variable: str) -> Path | None:
    """The absolute folder that a variable of the environment names, if it names one.

    Raises:
        InputError: if it begins with ~NAME and there is no such user.
    """
    named = os.environ.get(variable)
    try:
        return Path(named).expanduser().resolve() if named else None
    except RuntimeError:
        raise InputError(f"{variable}: {named}: the home folder of {Path(str(named)).parts[0]} is not known here") from None


def check_working_folder() -> None:
    """
    Raises:
        InputError: if the folder that this process is in has been deleted; where it has, torch ends the process on import.
    """
    try:
        Path.cwd()
    except OSError:
        raise InputError("the working folder is gone; change to one that is there") from None


def unfit_home() -> str:
    """Why nothing can be kept in the home, in a line; empty if it can. Makes nothing that stays."""
    folder = home()
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        named = "PARAPHRASE_HOME" if os.environ.get("PARAPHRASE_HOME") else "the working folder"
        return f"{named}: nothing can be kept in {folder} ({error.strerror}); set PARAPHRASE_HOME to a folder that can be written"
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()
    return ""


def name_the_user() -> None:
    """Where the user's number has no entry in the system's list, as in many containers, name a home folder and a name.

    Ray, torch and getpass ask for them when they are imported, and fail.
    """
    import pwd

    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("HOME", tempfile.gettempdir())
        os.environ.setdefault("USER", f"uid{os.getuid()}")


def hide_home() -> None:
    """Let git leave the home in a working folder alone, and Ray where it uploads that folder with a job: by a `.gitignore`."""
    folder = home()
    if folder.name == NAME and folder.is_dir() and not (folder / ".gitignore").exists():
        (folder / ".gitignore").write_text("*\n", encoding="utf-8")
