"""The house as its import contracts describe it, drawn for the documentation: `python tests/house.py` prints the drawing."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def contracts() -> dict[str, dict]:
    """Id -> contract of `pyproject.toml`."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        found = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return {contract["id"]: contract for contract in found}


def rooms(floor: str) -> list[list[str]]:
    """The rooms of a floor, those that may import the others first; rooms in one entry do not import each other."""
    return [layer.split(" : ") for layer in contracts()[floor]["layers"]]


def drawing() -> str:
    """The house in Mermaid: an arrow leads to what may be imported, and all that is behind it."""
    lines = ["flowchart TB", "  cli([paraphrase.cli]) --> ablations"]
    for floor in ("ablations", "sweep", "core"):
        lines += [f"  subgraph {floor}", "    direction LR"]
        names = [f'{floor}_{i}["{"<br>".join(layer)}"]' for i, layer in enumerate(rooms(floor))]
        lines += [f"    {' --> '.join(names)}", "  end"]
    return "\n".join([*lines, "  ablations --> sweep --> core"])


if __name__ == "__main__":
    print(drawing())
