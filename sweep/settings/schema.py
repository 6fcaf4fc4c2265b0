"""What can be written into YAML files, for people and for editors: fields as text and Markdown, and JSON schemas."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from paraphrase.core.config import Config
from paraphrase.core.measure.metrics import BY_KEY
from paraphrase.core.schema import FieldText, fields_of, json_schema
from paraphrase.sweep.settings.config import MEASURED, SweepConfig

KINDS = {
    "config": "a configuration: of `train`, `performer`, `cache` and `ablate`, and in a sweep below `base.`",
    "sweep": "a sweep",
}
"""Kind of YAML file -> what it is."""


def fields(kind: str, prefix: str = "") -> Iterator[FieldText]:
    """The fields of a kind of YAML file whose path begins so."""
    for field in fields_of(Config if kind == "config" else SweepConfig):
        if field.path.startswith(prefix):
            yield field


def about(field: FieldText) -> str:
    """Type, range and default of a field in a line."""
    kind, null, _ = field.type.partition(" or null")
    words = f"{kind} {field.bounds}".rstrip() + null
    return ", ".join([words, f"default {field.default}" if field.default else "must be given"])


def schema_of(kind: str) -> dict[str, Any]:
    """The JSON schema of a kind of YAML file."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"Paraphrase: {KINDS[kind].partition(':')[0]}"}
    config = copy.deepcopy(json_schema(Config))
    if kind == "config":
        return head | config
    schema = copy.deepcopy(json_schema(SweepConfig))
    schema["$defs"] |= config.pop("$defs") | {"Config": config}
    properties = schema["properties"]
    base = {"anyOf": [{"$ref": "#/$defs/Config"}, {"type": "string"}]}
    properties["base"] = base | {"description": properties["base"]["description"]}
    dimension = properties["space"]["additionalProperties"]
    properties["space"]["properties"] = {f.path: dimension | {"description": f.text} for f in fields("config")}
    for name in ("objectives", "constraints"):
        value = properties[name]["additionalProperties"]
        known = {key: BY_KEY[key].meaning if key in BY_KEY else key.replace("_", " ") for key in MEASURED}
        properties[name]["properties"] = {key: value | {"description": text} for key, text in known.items()}
    del schema["required"]  # its name is the file's
    return head | schema


def markdown() -> str:
    """All fields as a page of the documentation."""
    lines = ["# Fields of the YAML files", "", "Written by `paraphrase fields --markdown`; do not edit.", ""]
    for kind, words in KINDS.items():
        lines += [f"## Of {words}", ""]
        section = ""
        for field in fields(kind):
            if (top := field.path.rpartition(".")[0]) != section:
                section = top
                lines += [f"### `{section}`", ""]
            lines += [f"- **`{field.path}`**: {about(field)}.  ", f"  {field.text}"]
        lines.append("")
    return "\n".join(lines)
