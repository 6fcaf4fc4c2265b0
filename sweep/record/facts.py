"""What a report says of the software and the machine: nothing that names a user, a host or a folder."""

from __future__ import annotations

import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from paraphrase.core.cores import cores
from paraphrase.core.home import home

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "scipy", "numpy")

CPUINFO = Path("/proc/cpuinfo")


def facts() -> dict[str, Any]:
    """`time`, `versions` and `hardware` of this process: the driver's, as workers may run on other machines."""
    return {"time": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "versions": versions(), "hardware": hardware()}


def versions() -> dict[str, str]:
    """Versions of this code, of Python and of the packages that results depend on."""
    found = {"paraphrase": _version("paraphrase"), "code": code_version(), "python": platform.python_version()}
    return found | {name: _version(name) for name in PACKAGES}


def code_version() -> str:
    """`git describe` of this code, or the installed version."""
    return _git("describe", "--always", "--dirty", "--tags") or _version("paraphrase")


def code_commit() -> str | None:
    """The commit that this code is at; None where it is no checkout."""
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str | None:
    """What git says of this code; None where it is no checkout."""
    try:
        found = subprocess.run(["git", "-C", str(Path(__file__).parent), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def hardware() -> dict[str, str]:
    """Platform, processor, cores that this process may use, memory, and the GPUs that torch sees."""
    import torch

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": f"{platform.system()} {platform.release()} on {platform.machine()}",
        "processor": processor(),
        "cores usable": str(cores()),
        "memory": memory(),
        "GPUs": ", ".join(f"{g.name} ({g.total_memory / 2**30:.0f} GiB)" for g in gpus) or "none",
    }


def processor(cpuinfo: Path = CPUINFO) -> str:
    """The processor's model where Linux tells it, else what Python knows."""
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, models), "") or platform.processor() or platform.machine() or "unknown"


def memory() -> str:
    """Main memory of the machine."""
    from paraphrase.core.device import memory_bytes  # brings torch, which the driver needs late

    try:
        return f"{memory_bytes() / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def without_places(text: str) -> str:
    """A text in which the home folders have no names of their own, and addresses no passwords."""
    for folder, name in ((home(), "$PARAPHRASE_HOME"), (Path.home(), "~")):
        if folder != Path(folder.anchor):
            text = re.sub(rf"{re.escape(str(folder))}(?![\w.-])", name, text)
    return re.sub(r"://[^\s/@]+@", "://…@", text)
