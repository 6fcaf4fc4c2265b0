"""Files that are either the old or the new one, whenever the process is killed; and hashes of files."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

from paraphrase.core.errors import InputError


def write_atomically(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a text file in one rename; its folder is made if it is not there. The mode is as of `open`.

    Raises:
        InputError: names the file if it cannot be written.
    """
    try:
        replace_file(path, text.encode(), mode)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def replace_file(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file in one rename; its folder is made if it is not there. The mode is as of `open`.

    Raises:
        OSError: if it cannot be written; then it is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power loss may leave the new name with nothing in it
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def name_folder(finished: Path, folder: Path, mark: str) -> None:
    """Give a finished folder its name, in one rename; a whole one that has the name is kept, what is left of one gives way.

    Args:
        mark: a file that every whole one has.

    Raises:
        OSError: if it cannot be renamed; then it is as it was.
    """
    if not (folder / mark).is_file():
        shutil.rmtree(folder, ignore_errors=True)
    try:
        os.rename(finished, folder)
    except OSError:
        if not (folder / mark).is_file():
            raise
        shutil.rmtree(finished)  # another process made the same one meanwhile


def fit_for_output(out: Path) -> Path:
    """A file that a command is told to write, behind its links.

    Raises:
        InputError: if something else is there, which would be replaced by a file: a folder, a device, a pipe.
    """
    if out.exists() and not out.is_file():
        what = "a folder; name a file in it" if out.is_dir() else "no regular file; name one"
        raise InputError(f"--out {out}: is {what}")
    return out.resolve()


def fit_for_folder(out: Path) -> Path:
    """A folder that a command is told to fill.

    Raises:
        InputError: if it cannot be one, or be written in.
    """
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"--out {out}: {there} is a file; name a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"--out {out}: {there} cannot be written in")
    return out


def write_or_print(text: str, out: Path | None) -> None:
    """Write a command's result to a file, or to the standard output where none is named.

    Raises:
        InputError: names the file if it cannot be written.
    """
    if out:
        write_atomically(fit_for_output(out), text)
    else:
        print(text, end="")


def regular(path: Path) -> Path:
    """A path, of a regular file or of nothing.

    Raises:
        InputError: if it is a pipe, a device or a folder, which to open may never end.
    """
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}; expected a file")
    return path


def read_text(path: Path) -> str:
    """The text of a regular file in UTF-8; a pipe, a device or a folder is not opened, since reading it may never end.

    Raises:
        InputError: names the file and says why it cannot be read.
    """
    try:
        return regular(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def file_hash(file: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with regular(file).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
