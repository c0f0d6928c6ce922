"""Samples of the machine for the wire: columns, which charts take as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tunesmith.features.monitoring.sampler import EVERY_S, KEEP_S, GpuSample, Sample
from tunesmith.schemas.system import GpuHistory, ResourceHistory
from tunesmith.settings import Settings


def disk_total_bytes(folder: Path) -> int:
    """What is used on the folder's disk and what is free for this process, together: quotas and reserved blocks are neither."""
    disk = shutil.disk_usage(folder)
    return disk.used + disk.free


def columns(settings: Settings, samples: Sequence[Sample]) -> ResourceHistory:
    """The samples as lists, oldest first."""
    import psutil

    rows = list(zip(*(sample[:-1] for sample in samples), strict=True)) or [()] * (len(Sample._fields) - 1)
    return ResourceHistory(
        every_s=EVERY_S,
        keep_s=KEEP_S,
        cpu_cores=os.cpu_count() or 1,
        memory_total_bytes=psutil.virtual_memory().total,
        disk_total_bytes=disk_total_bytes(settings.home),
        times=list(rows[0]),
        **{name: list(row) for name, row in zip(Sample._fields[1:-1], rows[1:], strict=True)},
        gpus=_gpus(samples),
    )


def _gpus(samples: Sequence[Sample]) -> list[GpuHistory]:
    """Each GPU that any sample knows, with a gap where it was not there."""
    at = [{gpu.device: gpu for gpu in sample.gpus} for sample in samples]
    found: list[GpuHistory] = []
    for index in sorted({index for gpus in at for index in gpus}):
        line: list[GpuSample | None] = [gpus.get(index) for gpus in at]
        newest = next(gpu for gpu in reversed(line) if gpu)
        found.append(
            GpuHistory(
                index=index,
                name=newest.name,
                memory_total_bytes=newest.memory_total_bytes,
                utilization_percent=[gpu and gpu.utilization_percent for gpu in line],
                memory_used_bytes=[gpu and gpu.memory_used_bytes for gpu in line],
                temperature_c=[gpu and gpu.temperature_c for gpu in line],
                power_w=[gpu and gpu.power_w for gpu in line],
            )
        )
    return found
