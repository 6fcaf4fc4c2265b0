from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from paraphrase.sweep.driver.strikes import NODE, Strikes


def fail(strikes: Strikes, node: str, *numbers: int) -> list[str | None]:
    found = []
    for number in numbers:
        strikes.began(f"t{number}", node)
        found.append(strikes.failed(f"t{number}", number))
    return found


def test_three_different_trials_in_a_row_and_the_node_is_left_out() -> None:
    strikes = Strikes({"CPU": 1.0}, lambda: 3)
    assert fail(strikes, "a", 0, 0, 0) == [None] * 3  # one trial's own fault, as far as one knows
    assert fail(strikes, "b", 0, 1) == [None] * 2
    assert fail(strikes, "a", 1, 2) == [None, "a"]
    strikes.began("t7", "b")
    strikes.went_well("t7")
    assert fail(strikes, "b", 3, 4) == [None] * 2
    assert strikes.out == ["a"]


def test_the_last_node_stays() -> None:
    strikes = Strikes({"CPU": 1.0}, lambda: 1)
    assert fail(strikes, "a", 0, 1, 2, 3) == [None] * 4
    assert strikes.failed("unknown", 5) is None


def test_trials_that_do_not_run_yet_are_kept_from_it() -> None:
    strikes, asked = Strikes({"CPU": 2.0, "GPU": 1.0}, lambda: 2), []
    trial: Any = SimpleNamespace(status="PENDING", RUNNING="RUNNING", update_resources=asked.append)
    strikes.apply(trial)
    assert asked == []
    fail(strikes, "a", 0, 1, 2)
    strikes.apply(trial)
    trial.status = "RUNNING"
    strikes.apply(trial)
    (factory,) = asked
    assert factory.required_resources == {"CPU": 2.0, "GPU": 1.0}
    assert factory._kwargs["bundle_label_selector"] == [{NODE: "!in(a)"}]
