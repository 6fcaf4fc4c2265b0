"""A classifier of the user's own: `module:factory`, imported from the working folder or PYTHONPATH."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from paraphrase.core.errors import InputError


def call_factory(arch: str, arguments: Mapping[str, Any]) -> nn.Module:
    """What the factory returns.

    Args:
        arch: `module:name`.
        arguments: of the factory.

    Raises:
        InputError: if the module cannot be imported, has no such function, the function fails, or gives no network.
    """
    module, name = _import(arch), arch.partition(":")[2]
    factory = getattr(module, name, None)
    if not callable(factory):
        raise InputError(f"performer.arch: {arch}: {module.__name__} has no function {name}")
    try:
        network = factory(**arguments)
    except Exception as error:  # the user's code may raise anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"performer.arch: {arch} with performer.arguments {dict(arguments)}: {first}") from None
    if not isinstance(network, nn.Module):
        raise InputError(f"performer.arch: {arch} gives {type(network).__name__}, not a torch.nn.Module")
    return network


def source_of_factory(arch: str) -> str:
    """Hex sha256 of the file that the factory is in: what was fitted with other code is not what is asked for."""
    file = getattr(_import(arch), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else ""


def _import(arch: str) -> ModuleType:
    name = arch.partition(":")[0]
    here = os.getcwd()
    sys.path.append(here)  # last, so that no module of the user's takes the place of an installed one
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = f"there is no module {error.name} in {here} or on PYTHONPATH"
        raise InputError(f"performer.arch: {arch}: {missing}") from None
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"performer.arch: {arch}: importing {name} fails: {first}") from None
    finally:
        sys.path.remove(here)
