"""What MLflow's pages show of a run beside its metrics: readable parameters, a description, source and data."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping
from typing import Any

from paraphrase.core.config import Config, flatten, to_mapping
from paraphrase.sweep.record.facts import code_commit, code_version
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.space import Dimension

LONGEST_DIGEST = 36
"""Characters that MLflow keeps of a data set's digest."""


def readable(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Flat parameters of plain data: lists of numbers as one number each, so that they are axes of charts; nothing empty."""
    params: dict[str, Any] = {}
    for path, value in flatten(mapping).items():
        if isinstance(value, list) and value and all(isinstance(v, int | float) for v in value):
            params |= {f"{path}.{i}": v for i, v in enumerate(value)}
        elif value not in (None, [], {}):
            params[path] = value
    return params


def sweep_params(sweep: SweepConfig) -> dict[str, Any]:
    """Parameters of a sweep's own run: what its base has otherwise than the default, and the space in words."""
    default = readable(to_mapping(Config()))
    base = {path: value for path, value in readable(to_mapping(sweep.base_config())).items() if default.get(path) != value}
    space = {f"space.{path}": _in_words(dimension) for path, dimension in sweep.space.items()}
    constraints = {f"constraint.{metric}": _bound(bound.min, bound.max) for metric, bound in sweep.constraints.items()}
    return base | space | constraints | {"sampler": sweep.sampler, "sampler_seed": sweep.sampler_seed}


def _in_words(dimension: Dimension) -> str:
    if dimension.type == "categorical":
        return " | ".join(str(choice) for choice in dimension.choices)
    if dimension.type == "preset":
        return " | ".join(dimension.presets)
    step = f", steps of {dimension.step:g}" if dimension.step else ""
    return f"{dimension.low:g} to {dimension.high:g}{step}{', log' if dimension.log else ''}"


def _bound(low: float | None, high: float | None) -> str:
    return " and ".join(f"{sign} {value:g}" for sign, value in ((">=", low), ("<=", high)) if value is not None)


def tags_of(sweep: SweepConfig, meta: Mapping[str, Any]) -> dict[str, str]:
    """Tags of every run of a sweep: what it is made from, how it is searched, and MLflow's own of source, commit and user."""
    try:
        user = {"mlflow.user": getpass.getuser()}
    except (KeyError, OSError):
        user = {}
    commit = code_commit()
    return {
        **hash_tags(meta),
        "code_version": code_version(),
        "objectives": ", ".join(f"{m} {d}" for m, d in sweep.objectives.items()),
        "sampler": sweep.sampler,
        "sampler_seed": str(sweep.sampler_seed),
        **seed_tags(sweep.base_config()),
        "mlflow.source.name": f"paraphrase sweep {sweep.name}",
        "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": commit} if commit else {}),
        **user,
    }


def parent_tags(sweep: SweepConfig, meta: Mapping[str, Any]) -> dict[str, str]:
    """More tags of a sweep's own run: its description."""
    searched = ", ".join(f"`{path}`" for path in sweep.space) or "nothing"
    aims = ", ".join(f"{metric} ({direction})" for metric, direction in sweep.objectives.items())
    images = meta["images"]
    return {
        "mlflow.note.content": (
            f"Sweep **{sweep.name}**: explainers of {meta['performer']} on {meta['dataset']} "
            f"({images['train']} + {images['test']} images).\n\nObjectives: {aims}.\n\nSearched: {searched}.\n\n"
            f"`paraphrase sweep show {sweep.name}` shows its table, `paraphrase report {sweep.name}` draws its report again."
        )
    }


def data_of(config: Config, meta: Mapping[str, Any]) -> dict[str, str]:
    """Fields of MLflow's `Dataset` that name the data of a run."""
    profile = {"images": dict(meta["images"]), "categories": list(meta["categories"]), "landmarks": list(meta["landmarks"])}
    source = {"source": config.data.source, "path": config.data.path, "seed": config.data.seed}
    return {
        "name": meta["dataset"],
        "digest": meta["dataset_fingerprint"][:LONGEST_DIGEST],
        "source_type": "local" if config.data.path else "code",
        "source": json.dumps(source),
        "profile": json.dumps(profile),
    }


def hash_tags(meta: Mapping[str, Any]) -> dict[str, str]:
    """Tags that say what a feature cache was built from."""
    return {
        "data_hash": meta["dataset_fingerprint"],
        "performer_hash": meta["performer_fingerprint"],
        "cache_key": meta["key"],
    }


def seed_tags(config: Config) -> dict[str, str]:
    """The seeds that a run, or a sweep's base, has."""
    data, performer, train = config.data.seed, config.performer.fit.seed, config.train.seed
    return {"seeds": f"data {data}, performer {performer}, train {train}"}
