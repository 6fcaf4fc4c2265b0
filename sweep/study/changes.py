"""What may be different when a sweep goes on: its budget and its resources."""

from __future__ import annotations

from typing import Any

from paraphrase.core.config import flatten, from_mapping, to_mapping
from paraphrase.core.errors import InputError
from paraphrase.sweep.settings.config import SweepConfig, check_sweep
from paraphrase.sweep.settings.folder import read_sweep, storage_url
from paraphrase.sweep.settings.places import absolute
from paraphrase.sweep.study.study import open_study, own_trials, study_exists


def changes_since_begun(sweep: SweepConfig) -> tuple[int | None, dict[str, Any]]:
    """What `resume_sweep` must be told for a sweep to go on as it is said now: its budget, if another, and resources.

    Raises:
        InputError: if anything else was different when it was begun; objectives that its data cannot give were taken out then.
    """
    begun, now = (flatten(to_mapping(s)) for s in (read_sweep(sweep.name), absolute(sweep)))
    for field in sorted(begun.keys() | now.keys()):
        same = begun.get(field) == now.get(field) or (field == "tracking_uri" and not sweep.tracking_uri)  # as it was begun
        if not field.startswith(("trials", "resources.", "objectives.")) and not same:
            raise InputError(
                f"sweep {sweep.name}: was begun with {field}={begun.get(field)}, which cannot become {now.get(field)}"
            )
    trials = None if begun["trials"] == now["trials"] else sweep.trials
    return trials, {k: v for k, v in to_mapping(sweep)["resources"].items() if begun.get(f"resources.{k}") != v}


def with_resources(sweep: SweepConfig, changes: dict[str, Any]) -> SweepConfig:
    """The sweep on other resources.

    Raises:
        InputError: if one is impossible.
    """
    mapping = to_mapping(sweep)
    if not isinstance(changes, dict):
        raise InputError(f"resources: expected fields such as resources.concurrency, got {changes!r}")
    mapping["resources"] |= changes
    changed = from_mapping(SweepConfig, mapping)
    check_sweep(changed)
    return changed


def check_budget(sweep: SweepConfig, trials: int) -> None:
    """Raises InputError if a budget is none, or less than what has begun."""
    if trials < 1:
        raise InputError(f"--trials {trials}: must be at least 1")
    if not study_exists(storage_url(sweep), sweep.name):
        return
    begun = len(own_trials(open_study(sweep, storage_url(sweep))))
    if trials < begun:
        raise InputError(f"--trials {trials}: {begun} trials were begun already; the budget must be at least that")
