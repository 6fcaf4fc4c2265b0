from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest

from paraphrase.core.config import to_mapping
from paraphrase.core.errors import InputError
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.space import Dimension, check_space, grid, ordered, resolve, run_name, short_names, suggest


def test_conditional_field_is_searched_only_where_its_condition_holds(small: Callable[..., SweepConfig]) -> None:
    sweep = small()
    base = to_mapping(sweep.base_config())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(30):
        trial = study.ask()
        params = suggest(trial, sweep.space, base)
        assert ("explainer.mask_beta" in params) == (params["explainer.mask"] == "peak")
        config = resolve(params, sweep.space, base)
        assert config.explainer.mask == params["explainer.mask"]
        assert config.explainer.mask_beta == params.get("explainer.mask_beta", sweep.base_config().explainer.mask_beta)
        seen.add(config.explainer.mask)
    assert seen == {"none", "peak"}


def test_condition_is_asked_before_the_field_whatever_the_order() -> None:
    space = {
        "loss.kappa": Dimension("float", 1, 2, when={"loss.eta": 1.0}),
        "loss.eta": Dimension("categorical", choices=[0.5, 1.0]),
    }
    assert ordered(space) == ["loss.eta", "loss.kappa"]


def test_lists_can_be_choices_and_one_value_can_set_several_fields(small: Callable[..., SweepConfig]) -> None:
    base = to_mapping(small().base_config())
    space = {
        "explainer.interp_widths": Dimension("categorical", choices=[[8], [8, 16]]),
        "train.learning_rate": Dimension("float", 1e-3, 1e-2, also=["train.decoder_learning_rate"]),
    }
    check_space(space, base, "tpe")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    widths = []
    for _ in range(12):
        config = resolve(suggest(study.ask(), space, base), space, base)
        widths.append(config.explainer.interp_widths)
        assert config.train.learning_rate == config.train.decoder_learning_rate != 1e-3
    assert [8] in widths and [8, 16] in widths


def test_grid_has_every_value(small: Callable[..., SweepConfig]) -> None:
    space = {
        "loss.eta": Dimension("float", 0.1, 0.3, step=0.1),
        "explainer.ordin_width": Dimension("int", 16, 48, step=16),
        "explainer.mask": Dimension("categorical", choices=["none", "peak"]),
    }
    values = grid(space)
    assert values["loss.eta"] == pytest.approx([0.1, 0.2, 0.3])
    assert values["explainer.ordin_width"] == [16, 32, 48] and values["explainer.mask"] == ["none", "peak"]
    with pytest.raises(InputError, match="no conditions"):
        grid({"loss.eta": Dimension("float", 0.1, 0.3, step=0.1, when={"explainer.mask": "peak"})})


def test_run_names_can_be_read() -> None:
    params = {"explainer.interp_widths.0": 64, "loss.eta": 0.53217, "train.p_learning_rate": 0.02}
    assert run_name(7, params) == "007 W1=64 eta=0.532 lr_p=0.02"
    assert run_name(7, {}) == "007" and run_name(7, params | {"loss.kappa": 3}) == "trial 007"
    assert short_names(["a.seed", "b.seed"]) == {"a.seed": "a.seed", "b.seed": "b.seed"}
