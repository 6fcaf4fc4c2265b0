"""Typed configuration from plain data, by pydantic: errors in the words of a YAML file, a JSON schema, the fields as a list.

A section is a pydantic dataclass with `config=RULES`; each field's text is the docstring right under it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from paraphrase.core.errors import InputError, first_line
from paraphrase.core.files import read_text

T = TypeVar("T")

RULES = ConfigDict(extra="forbid", use_attribute_docstrings=True)
"""Of every section: no unknown keys; the docstring under a field is its description."""


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _whole(value: Any) -> Any:
    """3.0 is a whole number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


MOST_VALUES = 100_000
"""An alias may stand for a large value many times; no configuration has as many values as this."""
NOT_SET = "not_set"


def _expanded(text: str) -> str:
    """A place without `~` and variables; one that is not set is an error, where the system would leave its name."""
    if "://" in text:
        head, sign, rest = text.partition(":///~/")
        text = f"{head}:///{Path.home()}/{rest}" if sign else text
    else:
        text = os.path.expanduser(text)
    missing = [a or b for a, b in re.findall(r"\$(?:(\w+)|\{(\w+)\})", text) if (a or b) not in os.environ]
    if missing:
        raise PydanticCustomError(NOT_SET, "the environment variable {name} is not set", {"name": missing[0]})
    return os.path.expandvars(text)


Real = Annotated[float, Field(strict=True, allow_inf_nan=False), BeforeValidator(_number)]
"""A finite number; true and false are none."""
Whole = Annotated[int, Field(strict=True), BeforeValidator(_whole)]
"""A whole number; true and false are none."""
Seed = Annotated[Whole, Field(ge=0, le=2**32 - 1)]
"""Of a generator of random numbers."""
Place = Annotated[str, AfterValidator(_expanded)]
"""A path or an address, in which `~` and `$NAME` are the user's home folder and environment variables."""
Flag = Annotated[bool, Field(strict=True)]
"""true or false, and no text or number in their place."""
Key = Annotated[str, BeforeValidator(str)]
"""A key that YAML may have read as a number."""

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<="}
_NAMES = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum"}
_WORDS = {"integer": "a whole number", "number": "a number", "string": "a text", "boolean": "true or false", "null": "null"}


@functools.cache
def _adapter(cls: Any) -> TypeAdapter:
    return TypeAdapter(cls)


@functools.cache
def json_schema(cls: Any) -> dict[str, Any]:
    """The JSON schema of a section: types, bounds, defaults and descriptions of all its fields."""

    def mended(node: Any) -> Any:  # behind a validator, pydantic leaves bounds under its own names
        if isinstance(node, dict):
            return {_NAMES.get(k, k): mended(v) for k, v in node.items() if k != "title"}
        return [mended(v) for v in node] if isinstance(node, list) else node

    return mended(_adapter(cls).json_schema())


def _resolved(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A node of a schema without references, and for an optional field that of its value."""
    if "$ref" in node:
        return _resolved(schema["$defs"][node["$ref"].rpartition("/")[2]], schema)
    return node


def _not_null(node: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    options = [n for n in node.get("anyOf", [node]) if n.get("type") != "null"]
    return _resolved(options[0], schema)


def _node_at(schema: Mapping[str, Any], place: tuple[Any, ...]) -> Mapping[str, Any]:
    """The node of a schema that describes a place in the data."""
    node = _not_null(schema, schema)
    for key in place:
        inside = node.get("properties", {}).get(key) or node.get("items") or node.get("additionalProperties")
        node = inside if isinstance(inside, dict) else {}
        if key != place[-1]:
            node = _not_null(node, schema)
    return node


def describe(node: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """A node of a JSON schema in the words of a YAML file."""
    node = _resolved(node, schema)
    if "anyOf" in node:
        return " or ".join(describe(option, schema) for option in node["anyOf"])
    if "enum" in node or "const" in node:
        return "one of " + ", ".join(map(str, node.get("enum", [node.get("const")])))
    match node.get("type"):
        case "array":
            return "a list, each " + describe(node["items"], schema) if node.get("items") else "a list"
        case "object":
            values = node.get("additionalProperties")
            return "a mapping to " + describe(values, schema) if isinstance(values, dict) and values else "a mapping"
        case kind:
            return _WORDS.get(str(kind), "anything")


def describe_bounds(node: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """What a number, or each of a list, must keep to: `> 0.0 and <= 0.9`; empty if there is nothing."""
    node = _not_null(node, schema)
    if node.get("type") == "array":
        return describe_bounds(node["items"], schema)
    number = float if node.get("type") == "number" else int
    return " and ".join(f"{sign} {number(node[name])}" for name, sign in _BOUNDS.items() if name in node)


def from_mapping(cls: type[T], mapping: Any, path: str = "") -> T:
    """Build a configuration section from plain data.

    Raises:
        InputError: names the full path of an unknown key, a wrong type or an impossible value, and what is allowed.
    """
    section: Any = cls
    if not isinstance(mapping, Mapping):
        raise InputError(f"{path or 'configuration'}: expected a mapping, got {mapping!r}")
    try:
        return _adapter(section).validate_python(mapping)
    except ValidationError as found:
        errors = sorted(found.errors(include_url=False, include_context=False), key=_urgency)
        raise InputError(_in_words(errors[0], json_schema(section), path)) from None


def _urgency(error: Any) -> int:
    """A slip of the pen comes first, what it leaves out last."""
    return {"unexpected_keyword_argument": 0, "missing": 2}.get(error["type"], 1)


def _in_words(error: Any, schema: Mapping[str, Any], path: str) -> str:
    place = tuple(key for key in error["loc"] if key != "[key]")
    where, value = ".".join(map(str, [*([path] if path else []), *place])), error["input"]
    node = _node_at(schema, place)
    match error["type"]:
        case "unexpected_keyword_argument":
            section = _not_null(_node_at(schema, place[:-1]), schema)
            return f"{where}: unknown key; allowed are {', '.join(section['properties'])}"
        case "missing":
            return f"{where}: missing; must be {describe(node, schema)}"
        case "dataclass_type":
            return f"{where}: expected a mapping, got {value!r}"
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "finite_number":
            shown = float(value) if _not_null(node, schema).get("type") == "number" else value
            return f"{where}: {shown} is out of range; must be {describe_bounds(node, schema) or 'finite'}"
        case type_ if type_ == NOT_SET:
            return f"{where}: {error['msg']}"
        case "value_error":  # of fields that do not fit together; the text names them
            return f"{where}{'.' if where else ''}{error['msg'].removeprefix('Value error, ')}"
    return f"{where}: expected {describe(node, schema)}, got {value!r}"


class FieldText(NamedTuple):
    """A field of a configuration, described."""

    path: str
    """Dotted path; a `*` stands for a name that the user chooses."""
    type: str
    """In the words of a YAML file."""
    default: str
    """As YAML writes it; empty where the field must be given."""
    bounds: str
    """What its numbers keep to; may be empty."""
    text: str
    """What it is."""


def fields_of(cls: type, prefix: str = "") -> Iterator[FieldText]:
    """Every field of a section and of the sections in it, in order."""
    schema = json_schema(cls)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        node, info = schema["properties"][field.name], cls.__pydantic_fields__[field.name]  # type: ignore[attr-defined]
        path, inside = prefix + field.name, _section_in(info.annotation)
        if inside is not info.annotation:
            text = " ".join((info.description or "").split())
            yield FieldText(path, describe(node, schema), _default(info), describe_bounds(node, schema), text)
        if inside:
            yield from fields_of(inside, f"{path}.*." if get_origin(info.annotation) is dict else f"{path}.")


def _section_in(annotation: Any) -> type | None:
    """The section that a field holds: itself, perhaps, or many by name."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return kind
    return None


def _default(info: Any) -> str:
    if info.is_required():
        return ""
    value = info.get_default(call_default_factory=True)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else json.dumps(value)


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
    for text in overrides:
        path, sign, value = text.partition("=")
        if not sign or not path:
            raise InputError(f"{text}: expected path=value, for example train.epochs=20")
        set_path(mapping, path, parse_yaml(value, text))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text, of which nothing but plain data is made.

    Args:
        text: the YAML.
        where: the file or argument that it is of, for messages.

    Raises:
        InputError: if it does not parse, names a key twice, or unfolds to more than a configuration can be.
    """
    import yaml

    try:
        content = yaml.load(text, _loader())  # a safe one
        small = _is_small(content)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f":{mark.line + 1}" if mark and "\n" in text else ""
        raise InputError(f"{where}{line}: not YAML: {problem or first_line(error)}") from None
    except RecursionError:
        raise InputError(f"{where}: is nested too deeply for a configuration, or contains itself") from None
    except ValueError as error:  # of a date or number that there is not
        raise InputError(f"{where}: not YAML: {first_line(error)}") from None
    if not small:
        raise InputError(f"{where}: unfolds to more than {MOST_VALUES} values; use fewer aliases")
    return content


@functools.cache
def _loader() -> Any:
    """YAML's safe loader, but for a key that is there twice, of which it would take the last one without a word."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen and key.value != "<<":
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
            return super().construct_mapping(node, deep)

    return Loader


def _is_small(content: Any) -> bool:
    """Whether a value unfolds to so many values at most; looks at no more than that.

    Raises:
        RecursionError: if it contains itself.
    """
    left, waiting = MOST_VALUES, [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        left -= 1
        if left < 0:
            return False
        if depth > sys.getrecursionlimit() // 10:
            raise RecursionError
        if isinstance(value, dict | list):
            waiting += [(inner, depth + 1) for inner in (value.values() if isinstance(value, dict) else value)]
    return True


def read_yaml(file: str | Path) -> dict[str, Any]:
    """A YAML file's mapping.

    Raises:
        InputError: names the file, and the line if it does not parse.
    """
    content = parse_yaml(read_text(Path(file)), str(file))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected a mapping of configuration fields")
    return content
