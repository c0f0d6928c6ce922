"""Compiled layers, where a run is long enough for it. One graph serves every layer and every length of rows."""

from __future__ import annotations

import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

DEVICES = ("cpu", "cuda")
PAYS_FROM_FLOP = 1e17
"""Work of a run from which compiling pays on a GPU: it costs about half a minute, and saves a tenth to a third of every step.
On CPUs it does not: the kernels (`engine/kernels`) need a compiler too, take two seconds to build, and are faster."""

MOST_GRAPHS = 64
"""Sizes of batches that have a CUDA graph of their own."""


def pays(device: torch.device, flop: float) -> bool:
    """Whether a run of `flop` floating-point operations should be compiled. Depends on counts alone, never on how fast
    the machine happens to be, so that a resumed run decides alike."""
    return device.type == "cuda" and flop >= PAYS_FROM_FLOP and not why_not(device)


def why_not(device: torch.device) -> str:
    """What stands in the way of compiling on `device`; empty when nothing does."""
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "there is no C++ compiler"
    if device.type not in DEVICES:
        return f"it is not done on {device.type}"
    return ""


def compile_layers(model: nn.Module, *, graphs: bool = False) -> int:
    """Compile each block of the decoder at its first use; returns how many there are.

    `graphs`: as CUDA graphs, one for each size of a filled batch (`packing.pack`), which replay a block's kernels instead of
    starting them one by one.
    """
    layers = blocks_of(model)
    if graphs:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
    for layer in layers:
        layer.compile(dynamic=False, mode="reduce-overhead") if graphs else layer.compile(dynamic=True)
    return len(layers)


def undo(model: nn.Module) -> None:
    """Back to eager layers."""
    for layer in blocks_of(model):
        layer._compiled_call_impl = None
    torch._dynamo.reset()


def eager() -> AbstractContextManager[object]:
    """Within this block nothing is compiled: for the odd call that is not worth a graph of its own."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks: the longest list of modules of one class."""
    lists: list[Any] = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    alike = [found for found in lists if len({type(block) for block in found}) == 1]
    return list(max(alike, key=len, default=()))
