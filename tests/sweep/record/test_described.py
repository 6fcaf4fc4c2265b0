from __future__ import annotations

from collections.abc import Callable

from paraphrase.core.config import Config, to_mapping
from paraphrase.sweep.record.described import parent_tags, readable, sweep_params, tags_of
from paraphrase.sweep.settings.config import SweepConfig


def test_lists_of_numbers_are_a_number_each_and_nothing_is_empty() -> None:
    params = readable(to_mapping(Config()))
    assert [params[f"explainer.interp_widths.{i}"] for i in (0, 1)] == Config().explainer.interp_widths
    assert params["loss.eta"] == 0.5 and params["cache.mirror"] is True and params["explainer.ordin_width"] is not None
    assert not [k for k, v in params.items() if v in (None, [], {})] and "data.landmarks" not in params
    assert readable({"a": {"b": ["x", "y"], "c": [], "d": 0}}) == {"a.b": ["x", "y"], "a.d": 0}


def test_a_sweep_s_own_run_has_what_it_changes_and_searches(small: Callable[..., SweepConfig]) -> None:
    params = sweep_params(small(constraints={"p": {"min": 0.9}}))
    assert params["data.train_images"] == 96 and "loss.kappa" not in params
    assert params["space.loss.eta"] == "0.3 to 3, log"
    assert params["space.explainer.mask"] == "none | peak" and params["space.explainer.interp_widths.0"] == "8 | 16"
    assert params["constraint.p"] == ">= 0.9" and params["sampler"] == "tpe"
    assert len(params) < 20 and not [k for k in params if "presets" in k]


def test_a_run_says_what_it_is_and_what_code_made_it(small: Callable[..., SweepConfig]) -> None:
    meta = {"performer": "small", "dataset": "menagerie", "images": {"train": 96, "test": 48}}
    note = parent_tags(small(), meta)["mlflow.note.content"]
    assert "explainers of small on menagerie (96 + 48 images)" in note and "location_instability (minimize)" in note
    tags = tags_of(small(name="mine"), meta | {"dataset_fingerprint": "d", "performer_fingerprint": "p", "key": "k"})
    assert tags["mlflow.source.name"] == "paraphrase sweep mine" and len(tags.get("mlflow.source.git.commit", "0" * 40)) == 40
