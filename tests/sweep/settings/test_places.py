from __future__ import annotations

from pathlib import Path

import pytest

from paraphrase.core.config import Config, to_mapping
from paraphrase.core.errors import InputError
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import keep_sweep, sqlite_file
from paraphrase.sweep.settings.places import absolute, tracked
from paraphrase.sweep.settings.space import Dimension
from paraphrase.sweep.study.changes import changes_since_begun


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("sqlite:///study.db", "sqlite:///{here}/study.db"),
        ("sqlite:///deep/study.db?timeout=60", "sqlite:///{here}/deep/study.db?timeout=60"),
        ("sqlite:////data/study.db", "sqlite:////data/study.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("file:///shared", "file:///shared"),
        ("shared/store", "{here}/shared/store"),
    ],
)
@pytest.mark.parametrize("field", ["storage", "tracking_uri", "store"])
def test_addresses_do_not_depend_on_the_working_folder(
    field: str, given: str, kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = SweepConfig(name="x", **{field: given})  # type: ignore[arg-type]
    assert getattr(absolute(sweep), field) == kept.format(here=tmp_path)
    assert getattr(sweep, field) == given


def test_paths_of_base_and_presets_are_absolute_and_words_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = to_mapping(Config())
    base["data"]["path"] = "birds"
    presets = {"a": {"performer.weights": "mine.pth"}, "b": {"performer.weights": "torchvision", "loss.eta": 2}}
    sweep = absolute(SweepConfig(name="x", base=base, space={"performer": Dimension("preset", presets=presets)}))
    assert sweep.base["data"]["path"] == str(tmp_path / "birds") and sweep.base["performer"]["weights"] == "fit"
    assert sweep.space["performer"].presets == {
        "a": {"performer.weights": str(tmp_path / "mine.pth")},
        "b": {"performer.weights": "torchvision", "loss.eta": 2},
    }
    assert absolute(sweep) == sweep


def test_in_a_ray_job_paths_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder is a copy, and another one when the job is submitted again."""
    (tmp_path / "working_dir_files" / "_ray_pkg_1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "working_dir_files" / "_ray_pkg_1")
    assert absolute(SweepConfig(name="x", storage="sqlite:///study.db")).storage == "sqlite:///study.db"


def test_the_file_of_a_sqlite_address_is_known_with_arguments_too() -> None:
    assert sqlite_file("sqlite:////x/study.db?timeout=60") == Path("/x/study.db")
    assert sqlite_file("postgresql://host/db") is None


def test_mlflow_s_own_variable_names_the_tracking_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracked(SweepConfig(name="x")).tracking_uri == "http://127.0.0.1:5000"
    assert tracked(SweepConfig(name="x", tracking_uri="sqlite:////x.db")).tracking_uri == "sqlite:////x.db"


def test_the_tracking_store_of_the_environment_counts_when_a_sweep_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))
    sweep = SweepConfig(name="x", base=to_mapping(Config()))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    keep_sweep(absolute(tracked(sweep)))
    for now in ("http://127.0.0.1:6000", ""):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", now)
        assert changes_since_begun(sweep) == (None, {})
    with pytest.raises(InputError, match=r"tracking_uri=http://127\.0\.0\.1:5000, which cannot become http://127\.0\.0\.1:7000"):
        changes_since_begun(SweepConfig(name="x", base=to_mapping(Config()), tracking_uri="http://127.0.0.1:7000"))
