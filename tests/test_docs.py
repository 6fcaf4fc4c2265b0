"""The documentation says what is so: pages written from the code are up to date, links lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from house import ROOT

from paraphrase.core.config import Config
from paraphrase.sweep.settings.config import CONFIGS
from paraphrase.sweep.settings.schema import fields, markdown, schema_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_page_of_fields_and_the_schemas_are_those_of_the_code() -> None:
    assert (ROOT / "docs" / "fields.md").read_text() == markdown(), "make docs"
    for kind in ("sweep", "config"):
        assert json.loads((CONFIGS / f"{kind}.schema.json").read_text()) == schema_of(kind), "make docs"


def test_every_field_has_a_text() -> None:
    assert not [field.path for kind in ("config", "sweep") for field in fields(kind) if not field.text]


def test_schemas_take_what_is_right_and_refuse_what_is_not() -> None:
    for kind in ("sweep", "config"):
        jsonschema.Draft202012Validator.check_schema(schema_of(kind))
    sweep = jsonschema.Draft202012Validator(schema_of("sweep"))
    for file in CONFIGS.glob("*.yaml"):
        assert file.read_text().startswith("# yaml-language-server: $schema=sweep.schema.json\n")
        sweep.validate(yaml.safe_load(file.read_text()))
    wrong = {"base": {"loss": {"eta": -1}}, "space": {"loss.eta": {"type": "flaot"}}, "objectives": {"p": "up"}, "trails": 3}
    found = {".".join(map(str, error.absolute_path)) for error in sweep.iter_errors(wrong)}
    assert found == {"base", "space.loss.eta.type", "objectives.p", ""}
    config = jsonschema.Draft202012Validator(schema_of("config"))
    assert not config.is_valid({"loss": {"etta": 1}}) and config.is_valid({"loss": {"eta": 1}, "performer": {"input_size": None}})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_commands_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name}: {target}"
    named = {
        tuple(match.split()) for match in re.findall(r"^paraphrase ((?:sweep |cache |performer )?[a-z]+)", text, re.MULTILINE)
    }
    for words in named:
        done = subprocess.run([sys.executable, "-m", "paraphrase", *words, "--help"], capture_output=True, text=True)
        assert done.returncode == 0, f"{page.name}: paraphrase {' '.join(words)}"


def test_paths_of_fields_in_the_pages_exist() -> None:
    known = {field.path for field in fields("config")}
    sections = {path.partition(".")[0] for path in known}
    for page in PAGES:
        for path in re.findall(r"`((?:base\.)?[a-z_]+(?:\.[a-z_]+)+)`", page.read_text()):
            path = path.removeprefix("base.")
            if path.partition(".")[0] in sections and page.name not in ("extending.md",):
                assert any(field == path or field.startswith(path + ".") for field in known), f"{page.name}: {path}"
    assert Config().loss.eta
