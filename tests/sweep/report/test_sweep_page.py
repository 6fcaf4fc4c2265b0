from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from PIL import Image

from paraphrase.cli import main
from paraphrase.sweep.record.client import open_client, open_experiment
from paraphrase.sweep.record.tracking import Tracker
from paraphrase.sweep.report.page import Section, Table
from paraphrase.sweep.report.provenance import yaml_text
from paraphrase.sweep.report.sweep_page import arms_of, write_sweep_page
from paraphrase.sweep.report.write import report_again
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import storage_url, sweep_folder, tracking_uri, trial_folder, write_yaml
from paraphrase.sweep.settings.space import suggest
from paraphrase.sweep.study.study import identity_of, make_sampler, open_study

POINTS = [(0.04, 0.80, 0.05), (0.045, 0.95, 0.04), (0.10, 0.99, 0.02), (0.11, 0.90, 0.06), (0.03, 0.70, 0.09)]
ARMS = {
    "ablation": {"type": "preset", "presets": {"base": {}, "no_filter_loss": {"loss.lambda_f": 0}}},
    "train.seed": {"type": "int", "low": 0, "high": 1},
}


def record(sweep: SweepConfig, points: list[tuple[float, ...] | None]) -> optuna.Study:
    """A study and its MLflow runs, as a driver would have left them; None: a trial that failed."""
    write_yaml(sweep_folder(sweep.name) / "sweep.yaml", sweep)
    study = open_study(sweep, storage_url(sweep), create=True)
    performer = {"location_instability": 0.1234, "accuracy": 0.9}
    study.set_user_attr("baseline", {"performer": performer, "random": {"location_instability": 0.2}, "centre": {}})
    study.set_user_attr("seconds", 125.0)
    client = open_client(tracking_uri(sweep))
    artifacts = (sweep_folder(sweep.name).parent.parent / "mlartifacts").as_uri()
    tags = {"code_version": "abc1234", "data_hash": "d" * 64}
    tracker = Tracker(client, open_experiment(client, sweep.experiment, artifacts), sweep.name, identity_of(study), tags)
    base = {"explainer": {"interp_widths": [0], "mask": "none"}, "loss": {"eta": 1.0, "lambda_f": 1.0}, "train": {"seed": 0}}
    for point in points:
        study.sampler = make_sampler(sweep, len(study.trials))
        trial = study.ask()
        suggest(trial, sweep.space, base)
        trial.set_user_attr("mlflow_run", tracker.start_trial(trial.number, f"{trial.number:03d}", {}))
        if point is None:
            trial.set_user_attr("reason", "the loss <is> not finite & more")
            study.tell(trial, state=TrialState.FAIL)
            continue
        metrics = dict(zip(("location_instability", "p", "reconstruction_error"), point, strict=True))
        tracker.log(trial.number, [{"epoch": e, "timestamp": e, **{k: v + 0.1 / e for k, v in metrics.items()}} for e in (1, 2)])
        trial.set_user_attr("metrics", metrics)
        study.tell(trial, [metrics[m] for m in sweep.objectives])
    tracker.flush()
    return study


def test_report_of_a_sweep_has_everything(small: Callable[..., SweepConfig], capsys: pytest.CaptureFixture[str]) -> None:
    sweep = small(experiment="birds <b> & more")
    sweep.resources.address = "secret-host:6379"
    study = record(sweep, [*POINTS, None])
    page = trial_folder("small", 1) / "filters.png"
    page.parent.mkdir(parents=True)
    Image.new("RGB", (40, 40), "red").save(page)
    assert main(["report", "small"]) == 0
    file = Path(capsys.readouterr().out.strip())
    assert file == sweep_folder("small") / "report" / "report.html" and file.stat().st_size < 5_000_000
    text = file.read_text()
    titles = ["Summary", "Pareto front", "How to read the numbers", "What each hyperparameter is worth", "How the search went"]
    titles += ["Slices", "Parallel coordinates", "Learning curves", "What the filters see", "Exact configuration"]
    titles += ["Versions, seeds and hardware", "The record in MLflow"]
    places = [text.index(f">{title}</h2>") for title in titles]
    assert places == sorted(places)
    assert "6 of 6 trials have ended (5 complete, 1 failed)." in text and "2:05 min" in text
    assert "the trial nearest to the best of every objective, is trial 1" in text
    assert "the loss &lt;is&gt; not finite &amp; more" in text and "birds &lt;b&gt; &amp; more" in text and "<b>" not in text
    front = text[text.index(">Pareto front</h2>") : text.index(">How to read the numbers</h2>")]
    order = [front.index(f'scope="row">{row}</th>') for row in ("performer", "random", "centre", "trial 4", "trial 0", "trial 2")]
    assert order == sorted(order) and "trial 3<" not in front and "0.1234" in front
    assert text.count("<img ") == 1 + 1 + 3 * 3 + 1 + 1  # front, importance, three kinds by objective, curves, filters
    assert all(t.user_attrs["mlflow_run"] in text for t in study.trials[:3]) and "abc1234" in text and "d" * 64 in text
    assert "secret-host" not in text and str(sweep_folder("small").parent.parent) not in text and "loss.eta" in text

    client = open_client(tracking_uri(sweep))
    experiment = client.get_experiment_by_name(sweep.experiment)
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep'")
    assert [f.path for f in client.list_artifacts(parent.info.run_id)] == ["report.html"]
    assert parent.info.run_id in text


def test_report_of_an_unfinished_sweep_shows_what_is_there(small: Callable[..., SweepConfig], tmp_path: Path) -> None:
    study = record(small(constraints={"p": {"min": 0.9}}), [])
    study.ask()
    out = tmp_path / "new" / "x.html"
    assert report_again("small", out) == out
    text = out.read_text()
    assert "0 of 6 trials have ended (1 running); the sweep is not finished" in text
    assert "No complete trial keeps the constraints." in text and "constraint: at least 0.9" in text
    assert "<img " not in text and not (sweep_folder("small") / "report" / "report.html").exists()


def test_report_of_a_suite_compares_its_arms(small: Callable[..., SweepConfig], tmp_path: Path) -> None:
    sweep = small(space=ARMS, sampler="grid", objectives={"reconstruction_error": "minimize"}, trials=4)
    record(sweep, POINTS[:4])
    assert arms_of(sweep) == "ablation" and arms_of(small()) is None
    more = [Section("Paired differences", [], [Table(["arm", "difference"], [["no_filter_loss", 0.125]])])]
    text = write_sweep_page("small", tmp_path / "suite.html", more).read_text()
    titles = ["Summary", "Paired differences", "Runs of each arm", "How to read the numbers", "Exact configuration"]
    places = [text.index(f">{title}</h2>") for title in titles]
    assert places == sorted(places) and "Ablation suite small" in text and "0.1250" in text
    assert ">Pareto front<" not in text and "knee" not in text and text.count("<img ") == 1
    assert "no filter loss</th>" in text and "±" in text and "Every combination of 2 fields" in text


def test_report_says_in_a_line_what_is_wrong(
    small: Callable[..., SweepConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "none"]) == 2
    assert "sweep none: not found in" in capsys.readouterr().err
    write_yaml(sweep_folder("small") / "sweep.yaml", small())
    assert main(["report", "small"]) == 2
    assert "sweep small: has no trials yet" in capsys.readouterr().err
    record(small(name="other"), [])
    for out, why in ((tmp_path, "is a folder; name a file"), (tmp_path / "small.yaml" / "x.html", "cannot be written")):
        assert main(["report", "other", "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert why in error and error.count("\n") == 1


def test_configuration_is_shown_without_places() -> None:
    mapping = {"storage": "postgresql://ada:secret@db/x", "tracking_uri": None, "resources": {"address": "host:1", "cpus": 2}}
    assert yaml_text(mapping) == "storage: (not shown)\ntracking_uri: null\nresources:\n  address: (not shown)\n  cpus: 2\n"
