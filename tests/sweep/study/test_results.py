from __future__ import annotations

import csv
import json
from collections.abc import Callable
from io import StringIO

import optuna
import pytest
from optuna.trial import TrialState

from paraphrase.cli import main
from paraphrase.core.errors import InputError
from paraphrase.sweep.report.figures import draw_figures, importances, plain_copy
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.folder import locked, storage_url, sweep_folder, write_yaml
from paraphrase.sweep.settings.space import suggest
from paraphrase.sweep.study.results import describe, export_csv, parse_bounds, pick, picking_rule
from paraphrase.sweep.study.study import make_sampler, open_study

POINTS = [(0.04, 0.80, 0.05), (0.045, 0.95, 0.04), (0.10, 0.99, 0.02), (0.11, 0.90, 0.06), (0.03, 0.70, 0.09)]


@pytest.fixture
def finished(small: Callable[..., SweepConfig]) -> optuna.Study:
    """A sweep of five complete trials, of which the fourth is dominated, and a failed one."""
    sweep = small()
    write_yaml(sweep_folder(sweep.name) / "sweep.yaml", sweep)
    study = open_study(sweep, storage_url(sweep), create=True)
    study.set_user_attr("baseline", {"performer": {"location_instability": 0.1}, "random": {}, "centre": {}})
    study.set_user_attr("seconds", 12.5)
    for point in [*POINTS, None]:
        study.sampler = make_sampler(sweep, len(study.trials))
        trial = study.ask()
        suggest(trial, sweep.space, {"explainer": {"interp_widths": [0], "mask": "none"}, "loss": {"eta": 1.0}})
        if point is None:
            trial.set_user_attr("reason", "the loss is not finite")
            study.tell(trial, state=TrialState.FAIL)
            continue
        metrics = dict(zip(sweep.objectives, point, strict=True)) | {"fidelity": 0.97, "tracking_left eye": point[1]}
        trial.set_user_attr("metrics", metrics)
        study.tell(trial, point)
    return study


def test_show_gives_programs_what_they_need(finished: optuna.Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "show", "small", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads(json.dumps(describe("small")))
    assert shown["name"] == "small" and shown["seconds"] == 12.5
    assert shown["trials"] == {"complete": 5, "pruned": 0, "failed": 1, "running": 0, "waiting": 0}
    assert shown["performer"] == {"location_instability": 0.1}
    assert [t["number"] for t in shown["pareto"]] == [0, 1, 2, 4]
    assert shown["pareto"][0]["metrics"]["p"] == 0.80 and "loss.eta" in shown["pareto"][0]["params"]
    assert main(["sweep", "list", "--json"]) == 0
    assert [s["name"] for s in json.loads(capsys.readouterr().out)] == ["small"]


def test_table_has_the_performer_above_the_front(finished: optuna.Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "show", "small"]) == 0
    metrics, params = capsys.readouterr().out.split("\n\n")
    trials = ["trial 4", "trial 0", "trial 1", "trial 2"]
    assert [line[:9].strip() for line in metrics.splitlines()[2:]] == ["performer", "random", "centre", *trials]
    assert [line[:9].strip() for line in params.splitlines()[1:]] == trials


def test_export_has_one_row_a_trial(finished: optuna.Study) -> None:
    rows = list(csv.DictReader(StringIO(export_csv("small"))))
    assert [r["state"] for r in rows] == ["complete"] * 5 + ["failed"]
    assert [r["pareto"] for r in rows] == ["1", "1", "1", "0", "1", "0"]
    assert float(rows[1]["p"]) == 0.95 and float(rows[0]["loss.eta"]) > 0
    assert float(rows[1]["tracking_left eye"]) == 0.95
    assert rows[5]["reason"] == "the loss is not finite"


def test_pick_takes_the_knee_or_the_best_under_bounds(finished: optuna.Study) -> None:
    assert pick("small").number == 1
    assert pick("small", ["p>=0.9"]).number == pick("small", ["tracking_left eye >= 0.9"]).number == 1
    assert pick("small", ["p>=0.98", "fidelity > 0.9"]).number == 2
    assert picking_rule("small").startswith("the knee of the front: nearest to the best of every objective")
    rule = "of the front's trials that keep p>=0.98 and fidelity > 0.9, the one of the least location_instability"
    assert picking_rule("small", ["p>=0.98", "fidelity > 0.9"]) == rule
    assert pick("small", ["location_instability<0.05", "reconstruction_error<=0.05"]).number == 1
    with pytest.raises(InputError, match=r"keeps p>=0\.999; the front reaches p 0\.99"):
        pick("small", ["p>=0.999"])


@pytest.mark.parametrize("bound", ["p", "p=0.9", "p>=much", "q>=1"])
def test_bad_bounds_are_refused(bound: str) -> None:
    with pytest.raises(InputError, match="--where"):
        parse_bounds([bound])


def test_commands_on_a_sweep_that_is_not_there_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("show", "resume", "export", "pick", "delete"):
        assert main(["sweep", action, "none"]) == 2
        assert "sweep none: not found in" in capsys.readouterr().err


def test_importance_takes_the_direction_into_account() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    study.set_metric_names(["p", "reconstruction_error"])
    for _ in range(40):
        trial = study.ask()
        # "a" decides who is near the best p, and is noise around the worst
        a, b = trial.suggest_float("a", 0, 1), trial.suggest_float("b", 0, 1)
        study.tell(trial, [a if a > 0.5 else b / 2, b])
    shares = importances(study)
    assert shares["p"]["a"] > 0.8 and shares["reconstruction_error"]["b"] > 0.8


def test_figures_work_offline(finished: optuna.Study, tmp_path) -> None:
    files = draw_figures(plain_copy(finished, finished.trials), {0, 1, 2, 4}, {"location_instability": 0.1}, tmp_path)
    names = {f.name for f in files}
    kinds = ["pareto_front", "optimization_history", "slice", "parallel_coordinate", "importance"]
    assert {f"{k}.html" for k in kinds} <= names and {"pareto_front.png", "importance.png", "slice_p.png"} <= names
    for file in files:
        assert file.stat().st_size > (2000 if file.suffix in (".html", ".png") else 100)
        if file.suffix == ".html":
            assert 'src="http' not in file.read_text() and "Plotly.newPlot" in file.read_text()


def test_the_figure_of_a_single_objective_has_the_performers_line(tmp_path) -> None:
    study = optuna.create_study(direction="minimize")
    study.set_metric_names(["location_instability"])
    for number, value in enumerate((0.3, 0.2)):
        study.add_trial(optuna.trial.create_trial(value=value, user_attrs={"number": number}))
    files = draw_figures(study, {1}, {"location_instability": 0.1}, tmp_path)
    assert {"pareto_front.png", "pareto_front.html"} <= {f.name for f in files}


def test_two_drivers_of_one_sweep_are_kept_apart(finished: optuna.Study, capsys: pytest.CaptureFixture[str]) -> None:
    with locked("small"):
        assert main(["sweep", "resume", "small"]) == 2
    assert "sweep small: is being run by process" in capsys.readouterr().err


def test_existing_name_is_refused_with_the_ways_out(
    finished: optuna.Study,
    sweep_file: Callable,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["sweep", "run", str(sweep_file())]) == 2
    message = capsys.readouterr().err
    assert "sweep resume small" in message and "--name" in message and "sweep delete small" in message


def test_budget_below_what_was_begun_is_refused(finished: optuna.Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "resume", "small", "--trials", "3"]) == 2
    assert "--trials 3: 6 trials were begun already" in capsys.readouterr().err
