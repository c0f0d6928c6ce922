"""Which number format to compute in, how many threads with, and how memory is kept."""

from __future__ import annotations

import contextlib
import ctypes
import os

import torch

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.processor import read_processor


def pick_device() -> torch.device:
    """The GPU this process may use, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def pick_dtype(device: torch.device, bf16: bool | None, fp16: bool) -> torch.dtype:
    """The compute format. Raises `JobFailure` when what was asked for cannot run on `device`."""
    if fp16:
        if device.type != "cuda":
            raise JobFailure(
                FailureCode.UNSUPPORTED,
                "fp16 needs an NVIDIA GPU.",
                hint="Leave fp16 off; bf16 is chosen where it is fast.",
            )
        return torch.float16
    if bf16 is None:
        bf16 = torch.cuda.is_bf16_supported() if device.type == "cuda" else read_processor().multiplies_bf16
    return torch.bfloat16 if bf16 else torch.float32


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Options of glibc's mallopt(3)."""


def keep_freed_memory() -> None:
    """Have the C library keep what tensors give back instead of returning it to the system at once: every step needs the same again,
    and on CPUs a page that comes new takes longer than one that is written to. Where there is no glibc, nothing happens."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            mallopt(option, value)


def set_threads(cpu_threads: int | None) -> int:
    """Use `cpu_threads`, or as many as this process may run on; returns the number."""
    if cpu_threads is None:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        cpu_threads = int(os.environ.get("OMP_NUM_THREADS", allowed))
    torch.set_num_threads(cpu_threads)
    return cpu_threads
