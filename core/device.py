"""Devices, memory and mixed precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from paraphrase.core.cores import cores
from paraphrase.core.errors import InputError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def choose_device(name: str) -> torch.device:
    """The device of `train.device`.

    Raises:
        InputError: if it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"train.device: {name} is not available; use auto, cpu, cuda or cuda:N") from None
    return device


def memory_bytes() -> int:
    """Main memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def autocast_for(precision: str, device: torch.device) -> torch.autocast:
    """Mixed precision of `train.precision`: bfloat16 convolutions and matrix products where the hardware has them."""
    fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    wanted = precision == "bfloat16" or (precision == "auto" and fast)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


@contextmanager
def without_denormals() -> Iterator[None]:
    """Numbers below 1e-38 are 0 in this thread, and in those that it starts meanwhile.

    Intel's CPUs take a hundred times as long for one of them, and the filter loss's gradient is full of them: a training step
    took eight times as long.
    """
    before = (torch.full((1,), torch.finfo(torch.float32).tiny) / 2).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def keep_to_cores() -> None:
    """No more threads than this process may use cores, where a container's quota allows less than it sees."""
    if torch.get_num_threads() > cores():
        torch.set_num_threads(cores())


def keep_memory() -> None:
    """Let the C library keep what tensors free.

    Else glibc gives large blocks back to the system, and each step asks for them again and has them filled page by page: a
    sixth of a training step on the CPU. Where the library is another, nothing is changed.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that glibc takes
