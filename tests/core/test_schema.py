"""Bad YAML: one line that names the file and what is wrong, and nothing hangs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paraphrase.core.config import Config, from_mapping, load_config, read_yaml, to_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.schema import parse_yaml

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{chr(b + 1)}: &{chr(b + 1)} [{', '.join([f'*{chr(b)}'] * 10)}]" for b in range(ord("a"), ord("h"))
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: 2}\nloss: {eta: 1}\ntrain: {epochs: 3}", ":3: not YAML: train is there twice"),
        ("loss:\n  eta: 1\n  eta: 2", ":3: not YAML: eta is there twice"),
        (BOMB, ": unfolds to more than 100000 values; use fewer aliases"),
        ("a: &a [*a]", ": is nested too deeply for a configuration, or contains itself"),
        ("[" * 5000, ": is nested too deeply for a configuration, or contains itself"),
        ("a: 2026-13-45", ": not YAML: month must be in 1..12"),
        ("a: [1\nb: 2", ":2: not YAML"),
        ("a: !!python/object/apply:os.system [ls]", ": not YAML: could not determine a constructor"),
        ("- 1\n- 2", ": expected a mapping of configuration fields"),
        ("a: \x00", ": not YAML: unacceptable character"),
    ],
)
def test_bad_yaml_is_said_in_a_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        read_yaml(file)
    assert str(caught.value).startswith(f"{file}{message}") and "\n" not in str(caught.value)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    wrong = {"pipe": "is no regular file", "": "is a folder", "loop": "cannot be read", "bytes": "is not a UTF-8 text"}
    for name, message in [*wrong.items(), ("none", "cannot be read (No such file")]:
        with pytest.raises(InputError, match=r".*") as caught:
            read_yaml(tmp_path / (f"{name}.yaml" if name else ""))
        assert message in str(caught.value)


def test_merged_keys_and_aliases_are_fine() -> None:
    text = "base: &b {train: {epochs: 2}}\nmore: {<<: *b, train: {epochs: 3}}"
    assert parse_yaml(text, "x")["more"] == {"train": {"epochs": 3}}


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        (section, field)
        for section, fields in to_mapping(from_mapping(Config, {})).items()
        for field in ((fields or {}) if isinstance(fields, dict) else {})
    ]
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(path=PATHS, value=PLAIN)
def test_whatever_stands_in_a_field_is_taken_or_said_in_a_line(path: tuple[str, str], value: object) -> None:
    section, field = path
    try:
        config = from_mapping(Config, {section: {field: value}})
    except InputError as error:
        assert str(error).startswith(f"{section}.{field}") or "lambda_m" in str(error)
        assert "\n" not in str(error)
    else:
        assert from_mapping(Config, to_mapping(config)) == config


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_any_text_is_yaml_or_said_in_a_line(text: str) -> None:
    try:
        parse_yaml(text, "file.yaml")
    except InputError as error:
        assert str(error).startswith("file.yaml") and "\n" not in str(error)


def test_overrides_are_read_alike() -> None:
    for bad in ("train.epochs={a: 1, a: 2}", "train.epochs=[1", "train.epochs=" + "[" * 3000):
        with pytest.raises(InputError, match=r"train\.epochs=") as caught:
            load_config(None, [bad])
        assert "\n" not in str(caught.value)
