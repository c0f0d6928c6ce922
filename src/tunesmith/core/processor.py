"""What this machine's processor multiplies, told to everything from here. Imports no torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Set
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tunesmith.core.errors import InvalidInput

VARIABLE = "TUNESMITH_CPU"
"""A test aid: `plain`, `bf16` or `amx`, the processor to take this one for. It takes away only, for what is not there cannot be run."""
OF_LIBRARIES: dict[str, dict[str, str]] = {
    "plain": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "amx": {},
}
"""How the libraries inside torch are told the same; they read it when they first compute."""
NO_TILES = ("-mno-amx-tile", "-mno-amx-bf16", "-mno-amx-int8")
OF_COMPILERS: dict[str, tuple[str, ...]] = {"plain": ("-mno-avx512f", *NO_TILES), "bf16": NO_TILES, "amx": ()}
"""And how a C++ compiler is that builds for this machine."""
PASSED_ON = (VARIABLE, *OF_LIBRARIES["plain"])
"""Variables that every process must have as the one that starts it has them."""


class Processor(NamedTuple):
    """What a processor has of what Tunesmith makes a difference by."""

    has_avx512_bf16: bool
    has_amx_bf16: bool

    @property
    def multiplies_bf16(self) -> bool:
        """Without such products bf16 is many times slower than fp32."""
        return self.has_avx512_bf16 or self.has_amx_bf16


def pretended() -> str:
    """The kind of processor to take this one for; empty for what it is. Raises `InvalidInput` for a kind that is unknown."""
    kind = os.environ.get(VARIABLE, "")
    if kind and kind not in OF_LIBRARIES:
        raise InvalidInput(
            f"{VARIABLE} is {kind!r}, which is no kind of processor.",
            hint=f"Set it to {', '.join(OF_LIBRARIES)}, or leave it out.",
        )
    return kind


@cache
def read_processor() -> Processor:
    """What the kernel says of this processor, less what `TUNESMITH_CPU` takes away; nothing where there is no /proc."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    return processor_of(flags, pretended())


def processor_of(flags: Set[str], kind: str) -> Processor:
    """What is left of `flags`, as the kernel names them, in a processor of that kind."""
    return Processor("avx512_bf16" in flags and kind != "plain", "amx_bf16" in flags and kind in ("", "amx"))


def limit_libraries() -> None:
    """Have this process and its children compute as the processor would that `TUNESMITH_CPU` names. Called by the package itself,
    before torch computes anything."""
    for name, value in OF_LIBRARIES.get(os.environ.get(VARIABLE, ""), {}).items():
        os.environ.setdefault(name, value)


def compiler_flags() -> tuple[str, ...]:
    """Flags that leave the same out of code built for this machine."""
    return OF_COMPILERS.get(pretended(), ()) if platform.machine() == "x86_64" else ()
