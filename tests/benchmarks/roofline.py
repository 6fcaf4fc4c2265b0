"""How near a training step comes to what the machine can: `python tests/benchmarks/roofline.py [cpu|cuda] [widths ...]`.

Floating point operations of a step of the default explainer (counted by torch, those of the loss terms included) by the time
that it takes, as a share of the fastest matrix product measured in the same run and type; what each loss term adds by itself;
a pass of the evaluation; and the peak memory. On the CPU on one thread, as a trial's, each shape in a process of its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from terms import PLAIN, WITH, explainer_of, feature_of, step_of
from torch.utils.flop_counter import FlopCounterMode

from paraphrase.core.device import autocast_for, keep_memory, without_denormals
from paraphrase.core.measure.filters import peaks_of

BATCHES = (32, 64)
SIDES = (512, 1024, 2048, 4096)
"""Of the square matrices whose product is timed."""
SECONDS = 2.0
"""That each thing is repeated for."""


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """The fastest of some runs, after two that warm up."""
    finish = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    taken: list[float] = []
    while len(taken) < 5 or sum(taken) < SECONDS:
        finish()
        began = time.perf_counter()
        run()
        finish()
        taken.append(time.perf_counter() - began)
    return min(taken[2:])


def operations(run: Callable[[], object]) -> int:
    """Floating point operations of a run."""
    with FlopCounterMode(display=False) as counted:
        run()
    return counted.get_total_flops()


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of the fastest matrix product."""
    found = []
    for side in SIDES if device.type == "cuda" else SIDES[:3]:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        found.append(2 * side**3 / seconds(lambda a=a, b=b: a @ b, device))
    return max(found)


def memory(device: torch.device) -> float:
    """Most MiB so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@without_denormals()
def measure(device: torch.device, width: int, batch: int) -> None:
    """Print one shape's row."""
    torch.set_num_threads(1)
    keep_memory()  # as training does
    before, autocast, feature = memory(device), autocast_for("auto", device), feature_of(width, batch, device)
    whole = step_of(width, batch, WITH["all three"], device)
    count, took, used = operations(whole), seconds(whole, device), memory(device) - before
    plain = seconds(step_of(width, batch, PLAIN, device), device)
    added = {name: seconds(step_of(width, batch, WITH[name], device), device) - plain for name in list(WITH)[:-1]}
    explainer = explainer_of(width, device).eval()

    @torch.no_grad()
    def evaluation() -> None:
        with autocast:
            maps = explainer(feature).interp_maps[-1]
        peaks_of(maps.float(), 0.0, 1.0)

    passed, of_pass = seconds(evaluation, device), operations(evaluation)
    most = peak(device, feature.dtype)
    name = str(feature.dtype).removeprefix("torch.")
    print(f"widths {width}, batch {batch}, {name}: peak {most / 1e9:.0f} GFLOP/s")
    print(f"  step {took * 1e3:.1f} ms, {count / 1e9:.1f} GFLOP: {count / took / most:.0%} of it; {used:.0f} MiB")
    print(f"  without the three terms {plain * 1e3:.1f} ms; " + ", ".join(f"{k} +{v * 1e3:.1f}" for k, v in added.items()))
    print(f"  evaluation pass {passed * 1e3:.1f} ms: {of_pass / passed / most:.0%} of it", flush=True)


def main() -> None:
    device, *widths = [*sys.argv[1:], *(["cpu", "64", "512"] if len(sys.argv) < 2 else [])]
    if len(widths) == 2 and widths[0].startswith("="):  # one shape, from below
        return measure(torch.device(device), int(widths[0][1:]), int(widths[1]))
    for width in widths or ["64", "512"]:
        for batch in BATCHES:
            subprocess.run([sys.executable, __file__, device, f"={width}", str(batch)], check=True)


if __name__ == "__main__":
    main()
