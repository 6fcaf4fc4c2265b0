from __future__ import annotations

import pytest

from paraphrase.ablations.arms import ABLATIONS, BASE, arms
from paraphrase.core.config import Config, load_config
from paraphrase.core.errors import InputError


def test_every_ablation_changes_a_base_that_has_masks_and_nothing_else_is_left_out() -> None:
    chosen, idle = arms(load_config(None, ["explainer.mask=peak"]), [64], [])
    assert next(iter(chosen)) == BASE and chosen[BASE] == {}
    assert idle == ["with_masks"] and set(chosen) == {BASE, *ABLATIONS} - set(idle)


def test_what_the_base_does_not_have_is_left_out() -> None:
    chosen, idle = arms(Config(), [64], [])
    assert {"no_masks", "mean_mask", "neither"} <= set(idle) and "no_filter_loss" in chosen
    with pytest.raises(InputError, match="no_masks would change nothing"):
        arms(Config(), [64], ["no_masks"])


def test_widths_are_in_units_of_the_performer() -> None:
    chosen, _ = arms(Config(), [64], ["half_widths", "double_widths", "one_interpretable_layer"])
    assert chosen["half_widths"] == {"explainer.interp_widths": [32, 32], "explainer.ordin_width": 32}
    assert chosen["double_widths"] == {"explainer.interp_widths": [128, 128], "explainer.ordin_width": 128}
    assert chosen["one_interpretable_layer"] == {"explainer.interp_widths": [0]}  # 0: the performer's own


def test_the_base_alone_is_a_suite() -> None:
    assert arms(Config(), [64], [BASE]) == ({BASE: {}}, [])


def test_widths_that_depend_on_the_performer_are_refused_for_several() -> None:
    with pytest.raises(InputError, match=r"half_widths: the performers' features differ in channels; give the base explainer\."):
        arms(Config(), [64, 256], ["half_widths"])
    base = load_config(None, ["explainer.interp_widths=[32,32]", "explainer.ordin_width=32"])
    assert arms(base, [64, 256], ["half_widths"])[0]["half_widths"]["explainer.interp_widths"] == [16, 16]


def test_unknown_ablation_is_named() -> None:
    with pytest.raises(InputError, match="--ablations no_such: unknown ablation; allowed are base, no_ordinary_track"):
        arms(Config(), [64], ["no_such"])
