"""A real suite through the command line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import PATIENCE, SMALL, paraphrase_here
from PIL import Image, ImageColor

from paraphrase.ablations.paired import compare
from paraphrase.ablations.report.figures import BETTER, draw_forests
from paraphrase.ablations.suite import suite_of
from paraphrase.cli import main
from paraphrase.core.config import load_config
from paraphrase.core.measure.metrics import KEYS
from paraphrase.sweep.record.client import open_client
from paraphrase.sweep.settings.folder import sweep_folder, write_yaml
from paraphrase.sweep.ui import page as page_of

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

QUICK = [
    *(f"data.{k}={v}" for k, v in SMALL["data"].items()),
    *(f"performer.fit.{k}={v}" for k, v in SMALL["performer"]["fit"].items()),
    "train.epochs=2",
    "train.batch_size=32",
    "explainer.interp_widths=[8]",
    "explainer.ordin_width=8",
]


def test_suite_pairs_its_arms_by_seed_and_tags_its_runs(tmp_path: Path, furnished: Path, ray_here: str) -> None:
    ran = paraphrase_here("ablate", *QUICK, "--seeds", "2", "--ablations", "no_ordinary_track,no_filter_loss,no_masks")
    assert ran.returncode == 0, ran.stderr
    assert "left out, since the base has nothing to take away: no_masks" in ran.stderr
    assert "2 seeds can never make one of 2 arms significant at 5 %; that takes 7" in ran.stderr
    folder = tmp_path / "home" / "sweeps" / "ablations" / "report"
    with (folder / "ablations.csv").open() as file:
        rows = {(r["metric"], r["arm"]): r for r in csv.DictReader(file)}
    # these need a filter that tracks a part, and replicates
    assert {metric for metric, _ in rows} >= set(KEYS) - {"part_coverage", "seed_agreement"}
    assert rows["p", "no_ordinary_track"]["difference"] == "not defined"
    assert float(rows["p", "no_filter_loss"]["pairs"]) == 2
    assert (folder / "ablations.png").stat().st_size > 10_000

    client = open_client(f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("paraphrase")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    tags = {(r.data.tags["ablation"], r.data.tags["seed"]) for r in runs}
    assert tags == {(a, s) for a in ("base", "no_ordinary_track", "no_filter_loss") for s in "01"}
    assert all(r.data.tags["seeds"].endswith(f"train {r.data.tags['seed']}") for r in runs)
    assert {r.data.tags["ablation"] for r in runs if r.data.tags["arm"] == "base"} == {"base"}
    parent = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")[0]
    shared = f"mlflow.sharedViewState.{parent.data.tags['study_id']}"  # what `paraphrase ui ablations` opens
    view = json.loads(experiment.tags[shared])
    assert view["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "ablation"}]
    assert view["orderByKey"] == "metrics.`reconstruction_error`"  # by time, runs would be folded into the suite's own
    assert (
        len(client.search_runs([experiment.experiment_id], view["searchFilter"])) == len(runs) and "compareRunCharts" not in view
    )
    assert {r.data.tags["performer"] for r in runs} == {"small"} and {r.data.tags["category"] for r in runs} == {"all"}

    again = paraphrase_here("ablate", *QUICK, "--seeds", "2")
    assert again.returncode == 2 and "add --resume to go on" in again.stderr
    assert paraphrase_here("ablate", "--resume").stdout.splitlines()[-3:] == ran.stdout.splitlines()[-3:]


def test_suite_over_categories_has_tables_pages_and_a_report(tmp_path: Path, furnished: Path, ray_here: str) -> None:
    ran = paraphrase_here(
        *("ablate", *QUICK, "resources.trials_per_batch=2", "experiment=mine"),
        *("--seeds", "2", "--categories", "bird,all", "--ablations", "no_filter_loss", "--name", "tasks"),
    )
    assert ran.returncode == 0, ran.stderr
    folder = tmp_path / "home" / "sweeps" / "tasks" / "report"
    with (folder / "ablations.csv").open() as file:
        rows = {(r["metric"], r["arm"]): r for r in csv.DictReader(file)}
    assert rows["p", "no_filter_loss"]["pairs"] == "4"
    with (folder / "tables.csv").open() as file:
        cells = {(r["metric"], r["side"], r["column"]): r for r in csv.DictReader(file)}
    assert {column for _, _, column in cells} == {"bird", "multi"}
    assert cells["p", "explainer", "bird"]["runs"] == "2" and cells["location_instability", "performer", "multi"]["runs"] == "0"
    page = (folder / "report.html").read_text()
    for title in ("Each ingredient against the base", "The paper's tables", "Side by side", "Exact configuration"):
        assert title.replace("'", "&#39;") in page or title in page, title
    assert (folder / "pages" / "base-no_filter_loss.png").stat().st_size > 50_000

    client = open_client(f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial'")
    assert len(runs) == 8
    hashes: dict[str, set[str]] = {}
    for run in runs:
        hashes.setdefault(run.data.tags["category"], set()).add(run.data.tags["performer_hash"])
    assert hashes.keys() == {"bird", "all"} and all(len(h) == 1 for h in hashes.values())
    assert hashes["bird"] != hashes["all"]
    parent = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")[0]
    assert {"report.html", "ablations.tex", "tables.md", "ablations.png"} <= {
        a.path for a in client.list_artifacts(parent.info.run_id)
    }

    identity = parent.data.tags["study_id"]
    assert page_of(f"sqlite:///{tmp_path / 'home' / 'mlflow.db'}", "mine", identity).endswith(
        f"/runs?viewStateShareKey={identity}&compareRunsMode=CHART&workflowType=machine_learning"
    )

    by_category = {r.data.tags["trial_number"]: r.data.tags["category"] for r in runs}
    bird, other = (n for n, c in by_category.items() if c == "bird"), (n for n, c in by_category.items() if c == "all")
    pair = [next(bird), next(bird)]
    compared = paraphrase_here("compare", "tasks", *pair, "--wide")
    assert compared.returncode == 0 and Path(compared.stdout.splitlines()[-1]).stat().st_size > 50_000
    assert f"tasks/{pair[0]}" in compared.stdout and compared.stdout.count("performer") == 1
    apart = paraphrase_here("compare", f"tasks/{pair[0]}", f"tasks/{next(other)}", "--wide")
    assert apart.returncode == 0 and "so their filters are not drawn" in apart.stdout
    assert "data.single_category" in apart.stdout and apart.stdout.count("performer of tasks/") == 2
    for wrong, message in (
        (["tasks/99", "tasks"], "tasks/99: tasks has no complete trial 99"),
        (["tasks"], "expected two trials"),
        (["tasks", "tasks"], "tasks: is tasks; name two trials"),
        (["nothing", "tasks"], "sweep nothing: not found"),
    ):
        refused = paraphrase_here("compare", *wrong)
        assert refused.returncode == 2 and message in refused.stderr
    shown = paraphrase_here("sweep", "show", "tasks")
    assert shown.returncode == 0 and "no_filter_loss" in shown.stdout and "Holm p" in shown.stdout
    tables = paraphrase_here("tables", "tasks", "--arm", "no_filter_loss", "--format", "latex")
    assert tables.returncode == 0 and tables.stdout.count(r"\begin{tabular}") == 2
    assert paraphrase_here("tables", "tasks", "--arm", "no_such").returncode == 2


def test_aa_suite_compares_the_base_with_itself(tmp_path: Path, furnished: Path, ray_here: str) -> None:
    ran = paraphrase_here("ablate", *QUICK, "train.epochs=1", "--aa", "--seeds", "2")
    assert ran.returncode == 0, ran.stderr
    with (tmp_path / "home" / "sweeps" / "ablations" / "report" / "ablations.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["arm"] for r in rows} == {"base, other seeds"} and {r["pairs"] for r in rows if r["metric"] == "p"} == {"2"}
    assert any(float(r["difference"]) != 0 for r in rows)


def test_scripts_run_from_their_files(furnished: Path, on_ray_here: str) -> None:
    """Their folder is then first on the path, and none of its modules may hide one of the standard library's."""
    folder = Path(__file__).parents[2] / "ablations"
    script = [sys.executable, str(folder / "no_filter_loss.py")]
    arguments = [*QUICK, "--seeds", "2", "train.epochs=1", "resources.concurrency=1"]
    ran = subprocess.run([*script, *arguments], capture_output=True, text=True, timeout=PATIENCE)
    assert ran.returncode == 0 and "no_filter_loss" in ran.stdout, ran.stderr
    again = paraphrase_here("ablate", "--ablations", "no_filter_loss", "--name", "no_filter_loss", "--resume")
    assert again.stdout.splitlines()[-3:] == ran.stdout.splitlines()[-3:]
    other = ["ablate", "--ablations", "no_ordinary_track", "--resume", "--name", "no_filter_loss"]
    assert "--ablations cannot be changed" in paraphrase_here(*other).stderr
    assert not {p.stem for p in folder.glob("*.py")} & set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "--seeds 1: must be at least 2"),
        (["--categories", "unicorn"], "unknown category 'unicorn'"),
        (["--categories", "bird,bird"], "one is there twice"),
        (["--performers", "resnet9000"], "performer.arch: unknown resnet9000"),
        (["--ablations", "no_such"], "--ablations no_such: unknown ablation"),
        (["resources.cpus_per_trial=-1"], "resources.cpus_per_trial"),
        (["--resume", "--name", "never"], "there is no suite never"),
        (["--from-sweep", "never"], "sweep never: not found"),
        (["--trial", "7"], "--trial 7: is of a sweep"),
        (["--name", "../x"], "name: '../x' must be letters"),
        (["--aa", "--ablations", "no_masks"], "--aa: compares the base with itself"),
    ],
)
def test_bad_flags_are_one_line_and_leave_nothing(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))
    assert main(["ablate", *QUICK, *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("paraphrase: ") and message in error
    assert not (tmp_path / "home" / "sweeps").exists()


def test_a_dry_run_of_a_suite_starts_nothing(furnished: Path) -> None:
    plan = paraphrase_here("ablate", *QUICK, "--ablations", "no_filter_loss", "--dry-run", "resources.cpus_per_trial=999")
    assert plan.returncode == 2 and "trials: 16, proposed by grid" in plan.stdout, plan.stderr
    assert plan.stderr.splitlines()[-1].startswith("paraphrase: resources.cpus_per_trial: 999 do not fit")
    assert not (furnished / "sweeps").exists()


def test_a_dry_run_of_a_suite_fits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("PARAPHRASE_HOME", str(home))
    plan = paraphrase_here("ablate", *QUICK, "--ablations", "no_filter_loss,half_widths", "--dry-run")
    assert plan.returncode == 0 and "trials: 24, proposed by grid" in plan.stdout, plan.stderr
    assert "cost: not known before the cache is there" in plan.stdout
    assert not (home / "performers").exists() and not (home / "caches").exists()


def test_a_suite_goes_on_only_as_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARAPHRASE_HOME", str(tmp_path / "home"))
    suite = suite_of(load_config(None, [*QUICK, "train.replicates=3"]), "mine", 2, ["no_filter_loss"])
    assert suite.base_config().train.replicates == 1
    assert "train.replicates is 1 in a suite, not 3" in capsys.readouterr().err
    write_yaml(sweep_folder("mine") / "sweep.yaml", suite)
    before = (sweep_folder("mine") / "sweep.yaml").read_text()
    for arguments, message in (
        (["train.epochs=3"], "train.epochs=3 cannot be changed"),
        (["--seeds", "9"], "--seeds cannot be changed"),
        (["resources.foo=1"], "resources.foo"),
        (["resources.concurrency=abc"], "resources.concurrency"),
        (["resources=5"], "resources: expected fields"),
    ):
        assert main(["ablate", "--resume", "--name", "mine", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert (sweep_folder("mine") / "sweep.yaml").read_text() == before
    for change, message in (
        ("resources.concurrency=0", "resources.concurrency"),
        ("base.train.epochs=3", "base cannot be changed"),
    ):
        assert main(["sweep", "resume", "mine", change]) == 2
        assert message in capsys.readouterr().err
    assert (sweep_folder("mine") / "sweep.yaml").read_text() == before


def test_a_forest_is_green_only_where_the_corrected_test_decides(tmp_path: Path) -> None:
    cases = {
        "one pair": compare([np.array([1.0])], [np.array([0.5])]),
        "four pairs": compare([np.ones(4)], [np.array([0.4, 0.5, 0.5, 0.6])]),  # an interval without 0, and p = .125
        "better": compare([np.ones(8)], [np.linspace(0.4, 0.6, 8)]),
    }
    assert cases["four pairs"].high < 0
    colours = {}
    for name, found in cases.items():
        pixels = np.asarray(Image.open(draw_forests({"dead_filters": {"arm": found}}, tmp_path / f"{name}.png")).convert("RGB"))
        colours[name] = bool((pixels == ImageColor.getrgb(BETTER)).all(-1).any())
    assert colours == {"one pair": False, "four pairs": False, "better": True}


def test_a_forest_does_not_magnify_rounding_errors(tmp_path: Path) -> None:
    drawn = []
    for size in (1e-17, 1e-13):
        found = compare([np.linspace(0, size, 8)], [np.zeros(8)])
        drawn.append(np.asarray(Image.open(draw_forests({"p": {"arm": found}}, tmp_path / f"{size}.png"))))
    assert np.array_equal(*drawn)
