"""What the job uses of the machine, sampled beside the training."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

import psutil

from tunesmith.core.devices import read_gpus
from tunesmith.core.events import ResourcesEvent
from tunesmith.worker.reporter import FENCED_EXIT_CODE, Fenced

SAMPLE_EVERY_S = 3.0
"""Seconds between samples."""


def sample(processes: list[psutil.Process], devices: list[int]) -> ResourcesEvent:
    """One sample over `processes`, the GPUs `devices` and the machine."""
    cpu_percent, memory_bytes, read_bytes, written_bytes = 0.0, 0, 0, 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            cpu_percent += process.cpu_percent(None)
            memory_bytes += process.memory_info().rss
            if hasattr(process, "io_counters"):  # not on macOS
                counters = process.io_counters()
                read_bytes += counters.read_bytes
                written_bytes += counters.write_bytes
    network = psutil.net_io_counters()
    return ResourcesEvent(
        cpu_percent=cpu_percent,
        memory_bytes=memory_bytes,
        machine_memory_percent=psutil.virtual_memory().percent,
        disk_read_bytes=read_bytes,
        disk_written_bytes=written_bytes,
        network_received_bytes=network.bytes_recv if network else 0,
        network_sent_bytes=network.bytes_sent if network else 0,
        gpus=[gpu for gpu in read_gpus() if gpu.index in devices] if devices else [],
    )


def sample_resources(report: Callable[[Any], None], stop: threading.Event, devices: list[int]) -> None:
    """Report a sample every few seconds until `stop` is set. Ends the process when a newer attempt has taken over: the
    main thread may be deep in a library for minutes."""
    # With several ranks the launcher's children are the job.
    me = psutil.Process(os.getppid() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else os.getpid())
    known: dict[int, psutil.Process] = {me.pid: me}
    while not stop.wait(SAMPLE_EVERY_S):
        with contextlib.suppress(psutil.Error):
            children = {child.pid: child for child in me.children(recursive=True)}
            known = {me.pid: me, **{pid: known.get(pid, child) for pid, child in children.items()}}
        try:
            report(sample(list(known.values()), devices))
        except Fenced:
            os._exit(FENCED_EXIT_CODE)
        except OSError:  # a full disk; the main thread meets it too and tells it
            continue
