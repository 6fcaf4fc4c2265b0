from __future__ import annotations

import pytest

from paraphrase.ablations.results import NO_RUNS, NOT_DEFINED, Metrics, Task, _compare, rows_of

TASK = Task("small", "all")
BASE_RUNS: dict[int, Metrics] = {0: {"p": 0.8, "fidelity": 0.9}, 1: {"p": 0.7, "fidelity": 0.9}}


@pytest.mark.parametrize(
    ("arm", "pairs", "shown"),
    [
        ({0: {"fidelity": 0.5}, 1: {"fidelity": 0.5}}, None, NOT_DEFINED),
        ({0: {"fidelity": 0.5}}, None, NOT_DEFINED),
        ({}, 0, NO_RUNS),
        ({0: {"p": 0.9}}, 1, pytest.approx(0.1)),
        ({0: {"p": 0.9}, 1: {"p": 0.9}}, 2, pytest.approx(0.15)),
    ],
)
def test_only_what_an_arm_takes_away_is_not_defined(arm: dict[int, Metrics], pairs: int | None, shown: object) -> None:
    found = _compare("p", {TASK: BASE_RUNS}, {TASK: arm})
    assert (found and found.pairs) == pairs
    (row,) = rows_of({"p": {"arm": found}})
    assert row[2] == (pairs or 0) and row[5] == shown
