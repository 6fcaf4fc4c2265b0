"""Modules of the user's own: networks and data sets that a configuration names as `module:function`."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from paraphrase.core.errors import InputError, first_line
from paraphrase.core.files import write_atomically
from paraphrase.core.home import home

_looked_in: list[Path] = []


def look_in(folder: Path) -> None:
    """Also search a folder, that of a YAML file, for the modules that are named from now on."""
    if (folder := folder.resolve()) not in _looked_in:
        _looked_in.append(folder)


def function_of(reference: str, field: str) -> Callable[..., Any]:
    """The function that `module:name` means.

    The module is searched as any other, then in the working folder, in the folders of the YAML files that were read, and where
    it was found last in this home: so workers, resumed sweeps and saved explainers find it too.

    Args:
        reference: `module:name`.
        field: that names it, for messages.

    Raises:
        InputError: if the module cannot be imported or has no such function.
    """
    module, name = _import(reference, field), reference.partition(":")[2]
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{field}: {reference}: {module.__name__} has no function {name}")
    return function


def called(reference: str, field: str, *arguments: Any, **named: Any) -> Any:
    """What the function that `module:name` means returns for these arguments.

    Raises:
        InputError: if there is none, or it fails.
    """
    function = function_of(reference, field)
    try:
        with redirect_stdout(sys.stderr):  # what it prints is no result of ours
            return function(*arguments, **named)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        first = _failure(error)
        asked = f" with {named}" if named else ""
        raise InputError(f"{field}: {reference}{asked}: {first}") from None


def _failure(error: BaseException) -> str:
    return f"it ends the process with {error.code}" if isinstance(error, SystemExit) else first_line(error)


def source_of(reference: str, field: str) -> str:
    """Hex sha256 of the file that a function is in: what was made with other code is not what is asked for."""
    file = getattr(_import(reference, field), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else ""


def _import(reference: str, field: str) -> ModuleType:
    name = reference.partition(":")[0]
    note = home() / "code" / name
    known = [Path(note.read_text(encoding="utf-8").strip())] if note.is_file() else []
    places = [Path.cwd(), *_looked_in, *known]
    for place in places:
        if str(place) not in sys.path:
            sys.path.append(str(place))  # last, so that no module of the user's takes the place of an installed one
    try:
        with redirect_stdout(sys.stderr):
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        where = " or ".join(dict.fromkeys(str(place) for place in places))
        raise InputError(f"{field}: {reference}: there is no module {error.name} in {where}, or on PYTHONPATH") from None
    except (Exception, SystemExit) as error:
        first = _failure(error)
        raise InputError(f"{field}: {reference}: importing {name} fails: {first}") from None
    found = next((place for place in places if Path(getattr(module, "__file__", None) or "").is_relative_to(place)), None)
    if found and known != [found]:
        write_atomically(note, f"{found}\n")
    return module
