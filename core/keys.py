"""The metrics' names, for those who show them and need no torch."""

from __future__ import annotations

KEYS = (
    "location_instability",
    "part_tracking",
    "part_coverage",
    "p",
    "reconstruction_error",
    "fidelity",
    "accuracy",
    "dead_filters",
    "mutual_information",
)
"""Every metric's key, in the order of tables."""

LOWER_IS_BETTER = frozenset({"location_instability", "reconstruction_error", "dead_filters"})
