"""The GPUs of this machine, through NVIDIA's management library; none where it is not there. Imports no torch."""

from __future__ import annotations

import contextlib

from tunesmith.core.events import GpuUse


def read_gpus() -> list[GpuUse]:
    """Every NVIDIA GPU with its use now; empty on machines without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    found = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        name = pynvml.nvmlDeviceGetName(handle)
        gpu = GpuUse(index=index, name=name.decode() if isinstance(name, bytes) else str(name))
        with contextlib.suppress(pynvml.NVMLError):
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            gpu.memory_used_bytes, gpu.memory_total_bytes = int(memory.used), int(memory.total)
        with contextlib.suppress(pynvml.NVMLError):
            gpu.utilization_percent = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        with contextlib.suppress(pynvml.NVMLError):
            gpu.temperature_c = float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
        with contextlib.suppress(pynvml.NVMLError):
            gpu.power_w = pynvml.nvmlDeviceGetPowerUsage(handle) / 1000
        found.append(gpu)
    return found
