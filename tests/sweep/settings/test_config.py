from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from paraphrase.cli import main
from paraphrase.core.config import from_mapping, to_mapping
from paraphrase.core.errors import InputError
from paraphrase.core.measure.metrics import KEYS
from paraphrase.sweep.settings.config import MEASURED, SweepConfig, drop_landmark_metrics, load_sweep

MANY = {"type": "categorical", "choices": [i / 8 for i in range(1, 31)]}
ETA = {"type": "float", "low": 0.1, "high": 1.0}


def test_what_core_measures_can_be_an_objective() -> None:
    assert set(KEYS) < set(MEASURED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"loss.etta": ETA}}, "space.loss.etta: loss.etta: unknown key; allowed are reconstruction, eta"),
        ({"space": {"loss.eta": ETA | {"low": -1}}}, "space.loss.eta: loss.eta: -1.0 is out of range; must be >= 0"),
        ({"space": {"loss.eta": ETA | {"low": 2}}}, "space.loss.eta.low: 2.0 is above high, 1.0"),
        ({"space": {"loss.eta": {"type": "float", "low": 1}}}, "space.loss.eta.high: missing"),
        ({"space": {"loss.eta": ETA | {"low": 0, "log": True}}}, "space.loss.eta.low: must be > 0"),
        ({"space": {"loss.eta": ETA | {"sort": 1}}}, "space.loss.eta.sort: unknown key; allowed are type, low"),
        ({"space": {"loss.eta": {"type": "categorical"}}}, "space.loss.eta.choices: at least one value"),
        ({"space": {"loss.eta": {"type": "categorical", "choices": [1, 2, 1.0]}}}, "space.loss.eta.choices: 1.0 is there twice"),
        ({"space": {"loss.eta": ETA | {"step": 100}}}, "space.loss.eta.step: 100.0 leads beyond high from the first step"),
        ({"space": {"explainer.mask": {"type": "categorical", "choices": ["peek"]}}}, "space.explainer.mask: explainer.mask"),
        ({"space": {"explainer.interp_widths.2": ETA}}, "space.explainer.interp_widths.2: explainer.interp_widths.2: 2 is"),
        ({"space": {"loss.eta": ETA | {"also": ["loss.zeta"]}}}, "space.loss.eta.also: loss.zeta: unknown key"),
        ({"space": {"loss.eta": ETA | {"when": {"loss.zeta": 1}}}}, "space.loss.eta.when.loss.zeta: no such field"),
        ({"start": [{"loss.eta": 1.0, "loss.kappa": 2}]}, "start.0.loss.kappa: is not in the space"),
        ({"start": [{"loss.eta": 99}]}, "start.0.loss.eta: 99 is not a value that space.loss.eta allows"),
        ({"space": {}}, "space: at least one field"),
        ({"objectives": {"q": "maximize"}}, "objectives.q: unknown metric"),
        ({"objectives": {"p": "up"}}, "objectives.p: expected one of minimize, maximize"),
        ({"constraints": {"fidelity": {}}}, "constraints.fidelity: needs min or max"),
        ({"constraints": {"fidelity": {"min": 2, "max": 1}}}, "constraints.fidelity: min 2.0 is above max 1.0"),
        ({"trials": 0}, "trials: 0 is out of range; must be >= 1"),
        ({"sampler": "best"}, "sampler: expected one of tpe, nsga2, gp, random, grid"),
        ({"sampler": "grid", "space": {"loss.eta": ETA}}, "space.loss.eta: the grid sampler needs a step"),
        (
            {"sampler": "grid", "space": {f"loss.{k}": MANY for k in ("eta", "kappa", "lambda_f", "lambda_r", "lambda_m")}},
            "sampler: the grid has 2.43e+07 points, all of them listed",
        ),
        ({"name": "../up"}, "name: '../up' must be"),
        ({"base": {"loss": {"eta": -1}}}, "base.loss.eta: -1.0 is out of range"),
        ({"early_stopping": {"metric": "p", "mode": "max", "grace_epochs": 9}}, "early_stopping.grace_epochs: must be at"),
        ({"early_stopping": {"metric": "p"}}, "early_stopping.mode: missing"),
        ({"resources": {"cpus_per_trial": 0}}, "resources.cpus_per_trial: 0.0 is out of range; must be > 0"),
    ],
)
def test_bad_sweep_is_named_by_its_full_path(small: Callable[..., SweepConfig], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        small(**changes)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_conditions_in_a_circle_are_refused(small: Callable[..., SweepConfig]) -> None:
    space = {
        "loss.eta": ETA | {"when": {"loss.kappa": 1.0}},
        "loss.kappa": ETA | {"when": {"loss.eta": 1.0}},
    }
    with pytest.raises(InputError, match="circle"):
        small(space=space)


def test_any_field_can_be_overridden(sweep_file: Callable[..., Path]) -> None:
    sweep = load_sweep(
        sweep_file(),
        [
            "trials=20",
            "base.loss.eta=0.5",
            "base.explainer.interp_widths.0=64",
            "space.loss.eta.high=9",
            "space.loss.lambda_f={type: float, low: 0, high: 1}",
            "space.explainer.mask_beta=null",
            "objectives.fidelity=maximize",
            "constraints.fidelity.min=0.95",
            "resources.cpus_per_trial=2",
        ],
        name="other",
    )
    base = sweep.base_config()
    assert (sweep.name, sweep.trials, base.loss.eta, base.explainer.interp_widths) == ("other", 20, 0.5, [64, 0])
    assert sweep.space["loss.eta"].high == 9 and sweep.space["loss.lambda_f"].high == 1
    assert "explainer.mask_beta" not in sweep.space
    assert sweep.objectives["fidelity"] == "maximize" and sweep.constraints["fidelity"].min == 0.95


def test_override_of_an_unknown_part_of_the_space_is_refused(sweep_file: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"space\.loss\.kappa\.high: unknown part of the space"):
        load_sweep(sweep_file(), ["space.loss.kappa.high=3"])


def test_base_can_be_a_file_beside_the_sweep(sweep_file: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("loss: {eta: 0.25}")
    assert load_sweep(sweep_file(base="base.yaml")).base_config().loss.eta == 0.25


def test_sweep_survives_yaml(small: Callable[..., SweepConfig]) -> None:
    sweep = small(constraints={"fidelity": {"min": 0.9}}, early_stopping={"metric": "p", "mode": "max"})
    assert from_mapping(SweepConfig, yaml.safe_load(yaml.safe_dump(to_mapping(sweep)))) == sweep


def test_without_landmarks_the_rest_is_optimised(small: Callable[..., SweepConfig]) -> None:
    sweep = small(constraints={"part_tracking": {"min": 0.5}, "fidelity": {"min": 0.9}})
    assert drop_landmark_metrics(sweep) == ["location_instability", "part_tracking"]
    assert list(sweep.objectives) == ["p", "reconstruction_error", "distinct_filters", "mutual_information"]
    assert list(sweep.constraints) == ["fidelity"]
    alone = small(objectives={"part_coverage": "maximize"})
    drop_landmark_metrics(alone)
    assert alone.objectives == {"distinct_filters": "maximize", "mutual_information": "maximize"}
    plain = small(objectives={"p": "maximize"})
    assert drop_landmark_metrics(plain) == [] and list(plain.objectives) == ["p"]
    with pytest.raises(InputError, match="no landmarks"):
        drop_landmark_metrics(small(early_stopping={"metric": "part_tracking", "mode": "max"}))


def test_a_metric_of_the_last_epoch_stops_nothing_early(small: Callable[..., SweepConfig]) -> None:
    with pytest.raises(InputError, match=r"early_stopping\.metric: landmark_error is measured after the last epoch only"):
        small(early_stopping={"metric": "landmark_error", "mode": "min"})


def test_a_landmarks_own_figures_can_be_objectives(small: Callable[..., SweepConfig]) -> None:
    assert small(objectives={"tracking_head": "maximize", "landmark_error_left_eye": "minimize"}).objectives


def test_the_sweeps_that_come_with_the_code_are_valid() -> None:
    from paraphrase.sweep.settings.config import CONFIGS

    files = sorted(CONFIGS.glob("*.yaml"))
    assert files
    for file in files:
        assert load_sweep(file).trials >= 8


def test_places_may_be_in_the_users_home_or_in_variables(
    small: Callable[..., SweepConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BUCKET", "s3://mine")
    sweep = small(
        base={"data": {"path": "~/birds"}, "performer": {"weights": "$HOME/a.pth"}},
        store="${BUCKET}/sweeps",
        storage="sqlite:///~/studies.db",
        tracking_uri="http://~tracking:5000",
    )
    config = sweep.base_config()
    assert (config.data.path, config.performer.weights) == (f"{tmp_path}/birds", f"{tmp_path}/a.pth")
    assert (sweep.store, sweep.storage) == ("s3://mine/sweeps", f"sqlite:///{tmp_path}/studies.db")
    assert sweep.tracking_uri == "http://~tracking:5000"
    with pytest.raises(InputError, match=r"base\.data\.path: the environment variable NO_SUCH is not set"):
        small(base={"data": {"path": "$NO_SUCH/birds"}})


@pytest.mark.parametrize(
    ("field", "value", "right"),
    [
        ("base", {"train": {"seed": 2**32}}, r"base\.train\.seed: .* must be >= 0 and <= 4294967295"),
        ("sampler_seed", -1, r"sampler_seed: .* must be >= 0"),
        ("resources", {"gpus_per_trial": 1.5}, r"resources\.gpus_per_trial: 1\.5, .*; use 1"),
    ],
)
def test_numbers_that_would_fail_only_in_a_trial(small: Callable[..., SweepConfig], field: str, value: Any, right: str) -> None:
    with pytest.raises(InputError, match=right):
        small(**{field: value})


@pytest.mark.parametrize("name", ["../outside", "/etc", "a/b", "", ".", "..", "a b", "x" * 101, "\u00e9"])
@pytest.mark.parametrize("command", ["show", "resume", "export", "pick", "delete"])
def test_no_name_leads_out_of_the_home(home: Path, capsys: pytest.CaptureFixture[str], command: str, name: str) -> None:
    (home.parent / "outside").mkdir(exist_ok=True)
    (home.parent / "outside" / "sweep.yaml").write_text("name: outside")
    assert main(["sweep", command, name]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"paraphrase: name: {name!r} must be letters")
    assert (home.parent / "outside" / "sweep.yaml").exists()
