"""Typed configuration from plain data: unknown keys, wrong types and impossible values are reported by their full path."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, TypeVar

from core.errors import InputError

T = TypeVar("T")


def bounded(default: Any, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A dataclass field whose numbers (also inside lists and mappings) must lie in [low, high] and be > above."""
    metadata = {"low": low, "high": high, "above": above}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _describe(kind: Any) -> str:
    """A type in the words of a YAML file."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(k) for k in typing.get_args(kind))
    if origin is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if origin is list:
        return "a list, each " + _describe(typing.get_args(kind)[0])
    if origin is dict:
        return "a mapping to " + _describe(typing.get_args(kind)[1])
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _number(value: Any, path: str, limits: Mapping[str, Any]) -> Any:
    low, high, above = limits.get("low"), limits.get("high"), limits.get("above")
    too_low = (low is not None and not value >= low) or (above is not None and not value > above)
    if too_low or (high is not None and not value <= high) or value != value or abs(value) == float("inf"):
        bounds = [f">= {low}" if low is not None else "", f"> {above}" if above is not None else ""]
        bounds.append(f"<= {high}" if high is not None else "")
        raise InputError(f"{path}: {value} is out of range; must be {' and '.join(b for b in bounds if b) or 'finite'}")
    return value


def _convert(value: Any, kind: Any, path: str, limits: Mapping[str, Any]) -> Any:
    """`value` as `kind`, or an InputError that names `path`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    wrong = InputError(f"{path}: expected {_describe(kind)}, got {value!r}")
    if origin in (typing.Union, types.UnionType):
        if value is None:
            if type(None) in args:
                return None
            raise wrong
        return _convert(value, next(a for a in args if a is not type(None)), path, limits)
    if dataclasses.is_dataclass(kind):
        return from_mapping(typing.cast(type, kind), value, path)
    if origin is Literal:
        if value not in args:
            raise wrong
        return value
    if origin is list:
        if not isinstance(value, list | tuple):
            raise wrong
        return [_convert(v, args[0], f"{path}.{i}", limits) for i, v in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise wrong
        return {str(k): _convert(v, args[1], f"{path}.{k}", limits) for k, v in value.items()}
    if kind is Any:
        return value
    if kind is float and isinstance(value, str):
        try:  # YAML 1.1 reads 1e-3 as a text
            value = float(value)
        except ValueError:
            raise wrong from None
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, int | float) or (kind is int and value != int(value)):
            raise wrong
        return _number(kind(value), path, limits)
    if not isinstance(value, kind):
        raise wrong
    return value


def from_mapping(cls: type[T], mapping: Any, path: str = "") -> T:
    """Build a configuration dataclass from plain data.

    Raises:
        InputError: names the full path of an unknown key, a wrong type or an impossible value, and what is allowed.
    """
    if not isinstance(mapping, Mapping):
        raise InputError(f"{path or 'configuration'}: expected a mapping, got {mapping!r}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    prefix = path + "." if path else ""
    for key in mapping:
        if key not in fields:
            raise InputError(f"{prefix}{key}: unknown key; allowed are {', '.join(fields)}")
    values = {k: _convert(v, hints[k], prefix + k, fields[k].metadata) for k, v in mapping.items()}
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise InputError(f"{prefix}{name}: missing; must be {_describe(hints[name])}")
    return cls(**values)


def to_mapping(config: Any) -> dict[str, Any]:
    """The whole configuration as plain data: `from_mapping(type(config), to_mapping(config)) == config`."""
    return dataclasses.asdict(config)


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted paths."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def set_path(mapping: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path (`explainer.interp_widths.0`) in nested plain data, in place; list items by their index.

    Raises:
        InputError: if the path goes through something that is neither a mapping nor a list.
    """
    *parents, last = path.split(".")
    node: Any = mapping
    for i, key in enumerate([*parents, last]):
        is_last = i == len(parents)
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise InputError(f"{path}: {key} is not an index of a list of {len(node)}")
            if is_last:
                node[int(key)] = value
            else:
                node = node[int(key)]
        elif isinstance(node, dict):
            if is_last:
                node[key] = value
            else:
                node = node.setdefault(key, {})
        else:
            raise InputError(f"{path}: {'.'.join(parents[:i])} has no parts")


def apply_overrides(mapping: dict[str, Any], overrides: list[str]) -> None:
    """Apply `path=value` texts, values in YAML, in place.

    Raises:
        InputError: if a text has no `=` or its value is not YAML.
    """
    import yaml

    for text in overrides:
        path, sign, value = text.partition("=")
        if not sign or not path:
            raise InputError(f"{text}: expected path=value, for example train.epochs=20")
        try:
            set_path(mapping, path, yaml.safe_load(value))
        except yaml.YAMLError:
            raise InputError(f"{text}: the value is not YAML") from None


def read_yaml(file: str | Path) -> dict[str, Any]:
    """A YAML file's mapping.

    Raises:
        InputError: names the file, and the line if it does not parse.
    """
    import yaml

    try:
        text = Path(file).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not a UTF-8 text") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise InputError(f"{where}: not YAML: {getattr(error, 'problem', None) or error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a mapping of configuration fields")
    return content
