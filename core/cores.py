"""How many cores this process may use, which is less than the machine has in many containers and jobs."""

from __future__ import annotations

import math
import os
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
"""Where Linux tells a container's limits, of version 2 or 1."""


def cores(groups: Path = GROUPS) -> int:
    """Cores that this process may use: those that it is bound to, and no more than its control group's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(groups)
    return bound if quota is None else max(1, min(bound, math.ceil(quota)))


def _quota(groups: Path) -> float | None:
    """CPU seconds a second that the control group allows; None: as many as there are."""
    try:
        if (groups / "cpu.max").exists():
            allowed, period = (groups / "cpu.max").read_text().split()
        else:
            allowed, period = ((groups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        quota = float(allowed) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # not there, or `max`
        return None
    return quota if quota > 0 else None
