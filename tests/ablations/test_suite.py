"""A real suite through the command line."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from core.metrics import KEYS
from sweep.tracking import open_client

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

QUICK = [
    "data.train_images=96",
    "data.test_images=60",
    "performer.fit.epochs=2",
    "performer.fit.batch_size=16",
    "train.epochs=2",
    "train.batch_size=32",
    "explainer.interp_widths=[8]",
    "explainer.ordin_width=8",
]


def paraphrase(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ablations.cli", *arguments], capture_output=True, text=True, timeout=300)


def test_suite_pairs_its_arms_by_seed_and_tags_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))
    ran = paraphrase("ablate", *QUICK, "--seeds", "2", "--ablations", "no_ordinary_track,no_filter_loss,no_masks")
    assert ran.returncode == 0, ran.stderr
    assert "left out, since the base has nothing to take away: no_masks" in ran.stderr
    assert "2 seeds can never make one of 2 arms significant at 5 %; that takes 7" in ran.stderr
    folder = tmp_path / "home" / "sweeps" / "ablations" / "report"
    with (folder / "ablations.csv").open() as file:
        rows = {(r["metric"], r["arm"]): r for r in csv.DictReader(file)}
    assert {metric for metric, _ in rows} >= set(KEYS) - {"part_coverage"}  # which needs a filter that tracks a part
    assert rows["p", "no_ordinary_track"]["difference"] == "not defined"
    assert float(rows["p", "no_filter_loss"]["pairs"]) == 2
    assert (folder / "ablations.png").stat().st_size > 10_000

    client = open_client(f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("paraphrase")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    tags = {(r.data.tags["ablation"], r.data.tags["seed"]) for r in runs}
    assert tags == {(a, s) for a in ("base", "no_ordinary_track", "no_filter_loss") for s in "01"}
    assert {r.data.tags["ablation"] for r in runs if r.data.tags["arm"] == "base"} == {"base"}
    assert {r.data.tags["performer"] for r in runs} == {"small"} and {r.data.tags["category"] for r in runs} == {"all"}

    again = paraphrase("ablate", *QUICK, "--seeds", "2")
    assert again.returncode == 2 and "add --resume to go on" in again.stderr
    assert paraphrase("ablate", "--resume").stdout.splitlines()[-3:] == ran.stdout.splitlines()[-3:]
