from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from paraphrase.core.config import to_mapping
from paraphrase.core.errors import InputError
from paraphrase.sweep.settings.config import Bound, SweepConfig
from paraphrase.sweep.settings.space import suggest
from paraphrase.sweep.study.study import (
    WARM_START,
    budget,
    finished_trials,
    make_sampler,
    open_storage,
    open_study,
    own_trials,
    pareto_trials,
    study_exists,
    unfinished_trials,
    violations,
)
from paraphrase.sweep.study.warm_start import warm_start

METRICS = ("location_instability", "p", "reconstruction_error")


def run_trials(study: optuna.Study, sweep: SweepConfig, count: int) -> list[dict]:
    """Ask and tell with a made-up objective; returns the proposals."""
    base, proposals = to_mapping(sweep.base_config()), []
    for _ in range(count):
        study.sampler = make_sampler(sweep, len(study.trials))
        trial = study.ask()
        params = suggest(trial, sweep.space, base)
        eta = params["loss.eta"]
        values = [1 / eta, eta / 3, abs(eta - 1)]
        trial.set_user_attr("metrics", dict(zip(METRICS, values, strict=True)))
        study.tell(trial, values)
        proposals.append(params)
    return proposals


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "random"])
def test_interrupted_search_proposes_what_an_uninterrupted_one_does(
    small: Callable[..., SweepConfig], tmp_path: Path, sampler: str
) -> None:
    sweep = small(sampler=sampler, startup_trials=3)
    whole = run_trials(open_study(sweep, f"sqlite:///{tmp_path}/whole.db", create=True), sweep, 8)
    url = f"sqlite:///{tmp_path}/parts.db"
    parts = []
    for count in (2, 3, 3):  # every part opens the storage anew, as another process would
        parts += run_trials(open_study(sweep, url, create=True), sweep, count)
    assert parts == whole
    other = small(sampler=sampler, startup_trials=3, sampler_seed=1)
    assert run_trials(open_study(other, f"sqlite:///{tmp_path}/other.db", create=True), other, 2) != whole[:2]


def test_grid_visits_every_point_once_across_interruptions(small: Callable[..., SweepConfig], tmp_path: Path) -> None:
    space = {
        "loss.eta": {"type": "categorical", "choices": [0.5, 1.0, 2.0]},
        "explainer.mask": {"type": "categorical", "choices": ["none", "peak"]},
    }
    sweep = small(sampler="grid", space=space, trials=100)
    assert budget(sweep) == 6
    url = f"sqlite:///{tmp_path}/grid.db"
    points = [tuple(p.values()) for _ in range(2) for p in run_trials(open_study(sweep, url, create=True), sweep, 3)]
    assert len(set(points)) == 6


def test_front_leaves_out_dominated_and_infeasible_trials() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    for instability, p, fidelity in [(0.1, 0.9, 0.99), (0.2, 0.95, 0.99), (0.2, 0.9, 0.99), (0.05, 0.99, 0.5)]:
        trial = study.ask()
        trial.set_user_attr("metrics", {"fidelity": fidelity})
        study.tell(trial, [instability, p])
    study.tell(study.ask(), state=TrialState.FAIL)
    assert [t.number for t in pareto_trials(study, {})] == [3]
    assert [t.number for t in pareto_trials(study, {"fidelity": Bound(min=0.95)})] == [0, 1]
    assert [t.number for t in pareto_trials(study, {"fidelity": Bound(max=0.1)})] == []


def test_violations_are_positive_where_a_bound_is_broken() -> None:
    bounds = {"fidelity": Bound(min=0.9, max=1.0), "p": Bound(min=0.5)}
    found = violations({"fidelity": 0.8}, bounds)
    assert found["fidelity.min"] == pytest.approx(0.1) and found["fidelity.max"] < 0 < found["p.min"]


def test_warm_start_takes_over_what_fits_and_counts_nothing_twice(small: Callable[..., SweepConfig], tmp_path: Path) -> None:
    old = small(name="old")
    source = open_study(old, f"sqlite:///{tmp_path}/s.db", create=True)
    proposals = run_trials(source, old, 8)
    narrow = {"loss.eta": {"type": "float", "low": 0.3, "high": 1.0, "log": True}}
    new = small(name="new", space=narrow, warm_start="old", trials=4)
    study = open_study(new, f"sqlite:///{tmp_path}/s.db", create=True)
    fitting = sum(p["loss.eta"] <= 1.0 for p in proposals)
    assert 0 < fitting < 8
    assert warm_start(study, new, source, old) == warm_start(study, new, source, old) == fitting
    assert len(study.trials) == fitting and finished_trials(study) == []
    run_trials(study, new, 2)
    assert len(own_trials(study)) == 2 and all(WARM_START not in t.user_attrs for t in own_trials(study))


def test_asking_for_a_study_makes_no_file(tmp_path: Path) -> None:
    assert not study_exists(f"sqlite:///{tmp_path}/none.db", "x")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(InputError, match="storage: nonsense://x cannot be opened"):
        open_storage("nonsense://x")


def test_given_points_are_tried_first_and_only_once(small: Callable[..., SweepConfig], home: Path) -> None:
    sweep = small(start=[{"loss.eta": 0.5, "explainer.interp_widths.0": 16}, {"loss.eta": 2.0}])
    url = f"sqlite:///{home / 'studies.db'}"
    open_study(sweep, url, create=True)
    study = open_study(sweep, url, create=True)
    assert len(unfinished_trials(study)) == 2
    base = to_mapping(sweep.base_config())
    asked = [suggest(study.ask(), sweep.space, base) for _ in range(3)]
    assert (asked[0]["loss.eta"], asked[0]["explainer.interp_widths.0"], asked[1]["loss.eta"]) == (0.5, 16, 2.0)
    assert len(study.trials) == 3
