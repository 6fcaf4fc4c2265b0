"""Modules of the user's own are found from wherever a command is given."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from paraphrase.core import foreign
from paraphrase.core.config import load_config
from paraphrase.core.data import load_dataset
from paraphrase.core.errors import InputError

SOURCE = """
from pathlib import Path

from paraphrase.core.data import WHOLE_IMAGE, Record, Source


def pictures(config):
    files = sorted(Path(config.path).glob("*.png"))
    records = [Record(file, WHOLE_IMAGE, i % 2, {"tip": (i, 2.0, True)}) for i, file in enumerate(files)]
    return Source("mine", ["even", "odd"], ["tip"], records[:4], records[4:])


def nothing(config):
    return 7


def fails(config):
    raise OSError("the share is not mounted")


def leaves(config):
    raise SystemExit("usage: loader FOLDER")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a YAML file and a module beside it; another one is the working folder."""
    name = f"loader_{abs(hash(tmp_path))}"
    folder = tmp_path / "project"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(foreign, "_looked_in", [])
    monkeypatch.setattr("sys.path", list(sys.path))
    for i in range(6):
        Image.new("RGB", (20, 20), (i * 40, 0, 0)).save(folder / f"{i}.png")
    (folder / f"{name}.py").write_text(SOURCE)
    (folder / "mine.yaml").write_text(yaml.safe_dump({"data": {"source": f"{name}:pictures", "path": str(folder)}}))
    return folder


def test_a_data_source_beside_the_yaml_file_is_loaded_checked_and_found_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(project / "mine.yaml")
    dataset = load_dataset(config.data)
    assert (dataset.name, dataset.categories, dataset.landmarks) == ("mine", ["even", "odd"], ["tip"])
    assert (len(dataset.train), len(dataset.test)) == (4, 2) and dataset.train[3].landmarks["tip"] == (3, 2.0, True)
    assert dataset.train[0].box == (0, 0, 20, 20)  # checked as every source's
    monkeypatch.setattr(foreign, "_looked_in", [])  # another process, which read no YAML file
    monkeypatch.setattr("sys.path", [place for place in sys.path if place != str(project)])
    monkeypatch.delitem(sys.modules, config.data.source.partition(":")[0])
    assert load_dataset(config.data).fingerprint == dataset.fingerprint


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "gives int, not paraphrase.core.data.Source"),
        ("fails", "the share is not mounted"),
        ("leaves", "it ends the process with usage: loader FOLDER"),
        ("other", "has no function other"),
    ],
)
def test_a_function_that_gives_no_data_is_named(project: Path, function: str, message: str) -> None:
    config = load_config(project / "mine.yaml")
    config.data.source = f"{config.data.source.partition(':')[0]}:{function}"
    with pytest.raises(InputError, match=rf"^data.source: .*{message}$"):
        load_dataset(config.data)


def test_a_script_that_ends_the_process_is_no_module(project: Path) -> None:
    config = load_config(project / "mine.yaml")
    (project / "a_script.py").write_text("import sys\nsys.exit(0)\n")
    config.data.source = "a_script:pictures"
    with pytest.raises(InputError, match=r"a_script:pictures: importing a_script fails: it ends the process with 0$"):
        load_dataset(config.data)
