"""What the machine does over time: a sample every few seconds, kept for a day in memory and in two small files.

The newer file is appended to, one line a sample; when it is a day long it takes the place of the older one. So a kill at
any moment loses no more than half a line, and writing costs some two hundred bytes a sample.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.core.devices import read_gpus
from tunesmith.core.rounds import Rounds
from tunesmith.live.bus import Bus
from tunesmith.settings import Settings

EVERY_S = 5.0
"""Seconds between samples."""
KEEP_S = 24 * 3600
"""How long samples are kept, seconds."""
MAX_SAMPLES = int(KEEP_S / EVERY_S)
TOPIC = "resources"
"""Where the bus tells of new samples."""
MAX_GPUS = 64


class GpuSample(NamedTuple):
    """One GPU at one instant; None where its driver does not tell."""

    device: int
    name: str
    utilization_percent: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_c: float | None
    power_w: float | None


class Sample(NamedTuple):
    """The machine at one instant; rates are means since the sample before."""

    at_s: float
    """Seconds since 1970."""
    cpu_percent: float
    """Of all cores together."""
    memory_used_bytes: int
    disk_used_bytes: int
    """Of the file system of the home folder."""
    disk_read_bytes_per_s: float
    disk_written_bytes_per_s: float
    network_received_bytes_per_s: float
    network_sent_bytes_per_s: float
    gpus: Sequence[GpuSample] = ()


class Sampler(Rounds):
    """Takes the samples and keeps them."""

    name = "resources"
    rest_s = 0.5

    def __init__(self, settings: Settings, bus: Bus) -> None:
        super().__init__()
        self.settings, self.bus = settings, bus
        self.file = settings.home / "resources.jsonl"
        self._samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)
        self._in_file = 0
        self._lock = threading.Lock()
        self._counters: tuple[float, list[int]] | None = None

    def since(self, after_s: float = 0.0) -> list[Sample]:
        """Samples taken after that moment (seconds since 1970), oldest first."""
        with self._lock:
            found = list(self._samples)
        return found[bisect_right(found, after_s, key=lambda sample: sample.at_s) :]

    def last(self) -> Sample | None:
        """The newest sample, or None when the server has only just begun."""
        with self._lock:
            return self._samples[-1] if self._samples else None

    def look(self) -> None:
        if self._counters is None:
            self._load()
            self._measure()  # what the next one is compared with
        else:
            self.rest_s = EVERY_S
            self._keep(self._measure())

    def _keep(self, sample: Sample) -> None:
        with self._lock:
            self._samples.append(sample)
        self.bus.publish(TOPIC, sample)
        with contextlib.suppress(OSError):  # a full disk: the samples in memory go on
            if self._in_file >= MAX_SAMPLES:
                os.replace(self.file, self._older())
                self._in_file = 0
            with self.file.open("a") as file:
                file.write(json.dumps(sample) + "\n")
            self._in_file += 1

    def _older(self) -> Path:
        return self.file.with_suffix(".old.jsonl")

    def _load(self) -> None:
        """Samples of an earlier server; lines that cannot be read are passed over."""
        oldest_s, now_s = time.time() - KEEP_S, time.time()
        found: list[Sample] = []
        for path in (self._older(), self.file):
            with contextlib.suppress(OSError):
                lines = path.read_text(errors="replace").splitlines()
                self._in_file = len(lines)
                found += [sample for line in lines if (sample := parse(line)) and oldest_s < sample.at_s <= now_s]
                if lines and path == self.file and not path.read_bytes().endswith(b"\n"):
                    with path.open("a") as file:
                        file.write("\n")
        with self._lock:
            self._samples.extend(sorted(found, key=lambda sample: sample.at_s))

    def _measure(self) -> Sample:
        import psutil

        now_s, counted = time.monotonic(), _counters()
        before_s, before = self._counters or (now_s, counted)
        self._counters = (now_s, counted)
        took_s = max(now_s - before_s, 1e-3)
        rates = [max(0.0, round((new - old) / took_s, 1)) for new, old in zip(counted, before, strict=True)]
        memory = psutil.virtual_memory()
        used_bytes = memory.total - memory.available
        disk_bytes = shutil.disk_usage(self.settings.home).used
        gpus = [GpuSample(*gpu.model_dump().values()) for gpu in read_gpus()[:MAX_GPUS]]
        cpu_percent = psutil.cpu_percent(interval=None)
        return Sample._make([round(time.time(), 3), cpu_percent, used_bytes, disk_bytes, *rates, gpus])


def parse(line: str) -> Sample | None:
    """A line of the file; None for half a line, or one of another version."""
    try:
        values: list[Any] = json.loads(line)
        *numbers, gpus = values
        return Sample._make([*map(float, numbers), [GpuSample(*gpu) for gpu in gpus]])
    except (ValueError, TypeError):
        return None


def _counters() -> list[int]:
    """Bytes read, written, received and sent since the machine started; 0 where it does not tell."""
    import psutil

    disk, network = None, None
    with contextlib.suppress(OSError, RuntimeError):
        disk, network = psutil.disk_io_counters(), psutil.net_io_counters()
    return [
        disk.read_bytes if disk else 0,
        disk.write_bytes if disk else 0,
        network.bytes_recv if network else 0,
        network.bytes_sent if network else 0,
    ]


def thinned(samples: Sequence[Sample], points: int) -> list[Sample]:
    """At most `points` samples: the mean of each stretch of time, the GPUs too. Where there are none, there stays a gap."""
    if len(samples) <= points:
        return list(samples)
    first_s, stretch_s = samples[0].at_s, (samples[-1].at_s - samples[0].at_s + EVERY_S) / points
    return [
        _mean(list(group)) for _, group in groupby(samples, lambda sample: int((sample.at_s - first_s) / stretch_s))
    ]


def _mean(samples: Sequence[Sample]) -> Sample:
    columns = zip(*(sample[:-1] for sample in samples), strict=True)
    means = [round(sum(column) / len(samples), 3) for column in columns]
    seen: dict[int, list[GpuSample]] = {}
    for sample in samples:
        for gpu in sample.gpus:
            seen.setdefault(gpu.device, []).append(gpu)
    gpus = [
        GpuSample(device, of[0].name, *map(_mean_known, zip(*(g[2:] for g in of), strict=True)))
        for device, of in seen.items()
    ]
    return Sample._make([*means, gpus])


def _mean_known(values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 3) if known else None
