"""What the paper reports (Zhang, Yang, Wu 2018), to stand beside what was measured here."""

from __future__ import annotations

AVERAGE, MULTI = "Avg.", "multi"
"""Columns: the average of the single categories, and the multi-category protocol."""

PASCAL_PART, CUB = "pascal_part", "CUB_200_2011"
"""Data sets of the paper: a source of ours, and the folder name that CUB-200-2011 is distributed under."""

PERFORMER, EXPLAINER = "performer", "explainer"

CATEGORIES = ("bird", "cat", "cow", "dog", "horse", "sheep")
"""What `AVERAGE` is over in the paper."""

_COLUMNS = (*CATEGORIES, AVERAGE, MULTI)

_TABLE_2: dict[str, tuple[tuple[float | None, ...], tuple[float | None, ...]]] = {
    "alexnet": ((0.153, 0.131, 0.141, 0.128, 0.145, 0.140, 0.140, None), (0.104, 0.089, 0.101, 0.083, 0.098, 0.103, 0.096, None)),
    "vgg_m": ((0.152, 0.132, 0.143, 0.130, 0.145, 0.141, 0.141, 0.135), (0.106, 0.088, 0.101, 0.088, 0.097, 0.101, 0.097, 0.097)),
    "vgg_s": ((0.152, 0.131, 0.141, 0.128, 0.144, 0.141, 0.139, 0.138), (0.110, 0.085, 0.098, 0.085, 0.091, 0.096, 0.094, 0.107)),
    "vgg16": ((0.145, 0.133, 0.146, 0.127, 0.143, 0.143, 0.139, 0.128), (0.095, 0.089, 0.097, 0.085, 0.087, 0.089, 0.090, 0.109)),
}
"""Location instability on Pascal-Part: performer and explainer by `_COLUMNS`."""

_TABLE_3 = {
    "alexnet": (0.1502, 0.0906),
    "vgg_m": (0.1476, 0.0815),
    "vgg_s": (0.1481, 0.0704),
    "vgg16": (0.1373, 0.0490),
}
"""Location instability on CUB-200-2011: performer and explainer."""

_TABLE_4 = {
    "alexnet": (None, 0.7137, 0.5810),
    "vgg_m": (0.9012, 0.8066, 0.8611),
    "vgg_s": (0.9270, 0.8996, 0.9533),
    "vgg16": (0.8593, 0.8718, 0.9579),
}
"""p: Pascal-Part single-class (average) and multi-class, CUB-200-2011."""


def reported(metric: str, data: str, performer: str, side: str, column: str) -> float | None:
    """The paper's figure of a cell; None where it has no such cell.

    Args:
        metric: `location_instability` (tables 2 and 3) or `p` (table 4).
        data: data set.
        performer: architecture.
        side: `performer` or `explainer`.
        column: a category, `AVERAGE` or `MULTI`.
    """
    if performer not in _TABLE_4:
        return None
    if metric == "p":
        columns = {(PASCAL_PART, AVERAGE): 0, (PASCAL_PART, MULTI): 1, (CUB, MULTI): 2}
        place = columns.get((data, column))
        return None if place is None else _TABLE_4[performer][place]
    row = (PERFORMER, EXPLAINER).index(side)
    if data == CUB:
        return _TABLE_3[performer][row] if column == MULTI else None
    if data == PASCAL_PART and column in _COLUMNS:
        return _TABLE_2[performer][row][_COLUMNS.index(column)]
    return None
