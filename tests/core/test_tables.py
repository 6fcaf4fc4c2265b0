from __future__ import annotations

import math

import pytest

from paraphrase.core.terminal.tables import brief, format_value


@pytest.mark.parametrize(
    ("value", "error", "short", "long"),
    [
        (0.0320, None, ".0320", "0.0320"),
        (3.8181, 0.0102, "3.818 ±.0102", "3.818 ±0.0102"),
        (-0.5, None, "-.5000", "-0.5000"),
        (None, None, "-", "-"),
        (math.nan, None, "-", "-"),
    ],
)
def test_a_metric_that_is_not_defined_is_a_dash_and_others_are_short(
    value: float | None, error: float | None, short: str, long: str
) -> None:
    assert (brief(value, error), format_value(value, error)) == (short, long)
