"""The parts of a report that say how it came about: configuration, versions, seeds, hardware and the record in MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from optuna.trial import FrozenTrial

from paraphrase.core.config import to_mapping
from paraphrase.sweep.record.facts import without_places
from paraphrase.sweep.report.page import Folded, Section, Table
from paraphrase.sweep.report.sections import label
from paraphrase.sweep.settings.config import SweepConfig
from paraphrase.sweep.settings.space import resolve

PLACES = ("storage", "tracking_uri", "resources.address")
"""Fields that say where things are kept, perhaps with a password, and nothing of the result."""


def provenance_sections(
    sweep: SweepConfig, facts: Mapping[str, Any], record: Mapping[str, Any], picked: FrozenTrial | None = None
) -> list[Section]:
    """The exact configuration; versions, seeds and hardware; and where the runs are.

    Args:
        facts: from `paraphrase.sweep.record.facts.facts`, with `when`, a text that says of when they are.
        record: rows of the tables `runs` (name -> id) and `data` (name -> value).
        picked: the trial whose resolved configuration is shown.
    """
    mapping = to_mapping(sweep)
    folded = [Folded(f"sweep.yaml of {sweep.name}, defaults included", yaml_text(mapping))]
    if picked is not None:
        config = resolve(picked.params, sweep.space, to_mapping(sweep.base_config()))
        folded.append(Folded(f"Resolved configuration of {label(picked)}, the knee of the front", yaml_text(to_mapping(config))))
    base = sweep.base_config()
    seeds = {
        "search": sweep.sampler_seed,
        "data": base.data.seed,
        "performer": base.performer.fit.seed,
        "training": "searched, see the space" if "train.seed" in sweep.space else base.train.seed,
        "replicates of a trial": base.train.replicates,
    }
    return [
        Section("Exact configuration", [f"Where {', '.join(PLACES)} are set, they are not shown."], folded=folded),
        Section(
            "Versions, seeds and hardware",
            [str(facts["when"]), "The hardware is that of the driver; workers on other machines are not listed."],
            [
                _pairs("Versions", facts["versions"]),
                _pairs("Seeds", seeds),
                _pairs("Hardware of the driver", facts["hardware"]),
                *([_pairs("Data, performer and code of the runs", record["data"])] if record["data"] else []),
            ],
        ),
        Section("The record in MLflow", [], [_pairs(f"Ids, in the experiment {sweep.experiment}", record["runs"], "id")]),
    ]


def _pairs(caption: str, values: Mapping[str, Any], name: str = "value") -> Table:
    return Table(["what", name], [[key, without_places(str(value))] for key, value in values.items()], caption)


def yaml_text(mapping: Mapping[str, Any]) -> str:
    """A configuration as YAML, without places, passwords and the user's name in paths."""
    hidden = dict(mapping)
    for path in PLACES:
        first, _, rest = path.partition(".")
        if rest and isinstance(hidden.get(first), dict):
            hidden[first] = hidden[first] | {rest: _hide(hidden[first].get(rest))}
        elif not rest and first in hidden:
            hidden[first] = _hide(hidden[first])
    return without_places(yaml.safe_dump(hidden, sort_keys=False, allow_unicode=True))


def _hide(value: Any) -> Any:
    return None if value is None else "(not shown)"
