"""The small process between server and worker: it outlives the server, waits for the worker, and writes down how it ended.

`python -m tunesmith.executors.shim JOB_DIR --attempt N [--timeout S] -- COMMAND…`, leader of a session of its own.
It begins only when a byte comes on its standard input: the server records its identity first, and if the server dies
before that, the end of input ends the shim. So no worker exists that nobody knows of.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from tunesmith.core import confinement
from tunesmith.core.job_dir import JobDir, write_atomic
from tunesmith.core.job_spec import ShimRecord
from tunesmith.core.log_lines import line as log_line
from tunesmith.executors.base import Stillness
from tunesmith.executors.limits import MEMORY_VARIABLE, WorkerGroup, limit_process
from tunesmith.executors.output import Output
from tunesmith.executors.stillness import StillnessMeter

HEARTBEAT_EVERY_S = 2.0
BEAT_BYTES = 256
"""Each heartbeat has this size, so that one can be written over another."""
TIMEOUT_GRACE_S = 60.0
"""How long past its limit a worker may take to keep what it has, before it is killed."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
"""Opened here: between a fork of a process with threads and what follows it nothing may be loaded."""


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the server's own search for left-over processes has to do."""
    if _LIBC:
        _LIBC.prctl(option, value, 0, 0, 0)


def end_with_parent() -> None:
    """Be killed when the thread that started this process ends."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def out_of_memory_kills(group: WorkerGroup | None = None) -> int:
    """How often the kernel has killed for memory: in `group`, else in this cgroup (version 2, then 1) where that is told, else
    on the machine."""
    if group:
        with contextlib.suppress(OSError):
            return _counter(group.counter())
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                file = Path(f"/sys/fs/cgroup{path}/memory.events")
            elif "memory" in controllers.split(","):
                file = Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
            else:
                continue
            with contextlib.suppress(OSError):
                return _counter(file)
    with contextlib.suppress(OSError):
        return _counter(Path("/proc/vmstat"))
    return 0


def _counter(file: Path) -> int:
    for line in file.read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    raise OSError(f"{file} does not count kills")


def is_stopped(pid: int) -> bool:
    """Whether the process is held by SIGSTOP: it must not pass for one that works."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except OSError:
        return False


def beat(job_dir: JobDir, attempt: int, stillness: Stillness) -> None:
    """Write `heartbeat`. A full disk must not end a worker that could still pause."""
    temporary = job_dir.path / ".heartbeat"
    # The monotonic clock is one for all processes of a machine; nobody sets it, and it rests while a laptop sleeps.
    told = {"attempt": attempt, "at": time.time(), "monotonic_s": time.monotonic(), **asdict(stillness)}
    record = json.dumps(told).ljust(BEAT_BYTES).encode()
    try:
        temporary.write_bytes(record)
        os.replace(temporary, job_dir.heartbeat)
    except OSError:  # over the last one, which needs no room
        with contextlib.suppress(OSError), job_dir.heartbeat.open("r+b", buffering=0) as file:
            file.write(record)


class Worker(Protocol):
    """What the shim needs of a process below it; `subprocess.Popen` has it."""

    pid: int
    returncode: int | Any

    def poll(self) -> int | None: ...

    def wait(self) -> int | None: ...

    def kill(self) -> None: ...


def wait(worker: Worker, job_dir: JobDir, attempt: int, timeout_s: float | None) -> bool:
    """Wait for the worker, with heartbeats. Returns whether it had to be killed for time."""
    began_s = looked_s = time.monotonic()
    stillness = StillnessMeter(job_dir, attempt)
    pidfd = os.pidfd_open(worker.pid) if hasattr(os, "pidfd_open") else None
    while True:
        stopped, now_s = is_stopped(worker.pid), time.monotonic()
        stillness.look(now_s - looked_s, is_stopped=stopped)
        looked_s = now_s
        if not stopped:
            beat(job_dir, attempt, stillness.told())
        if pidfd is not None:
            select.select([pidfd], [], [], HEARTBEAT_EVERY_S)
        else:
            time.sleep(0.2)
        if worker.poll() is not None:
            return False
        if timeout_s is not None and time.monotonic() - began_s > timeout_s + TIMEOUT_GRACE_S:
            worker.kill()
            worker.wait()
            return True


def kill_leftovers() -> None:
    """End what the worker left running: as its adopted parent the shim is told of every one."""
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, IndexError):
                if int(stat.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                    os.kill(int(stat.parent.name), signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.02)


def prepare_worker(group: WorkerGroup | None, output: Output, hidden: str) -> None:
    """In the worker, before it begins: default signals, limits, an end with the shim's, and what is `hidden` from it."""
    output.leave()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    end_with_parent()
    if group:
        group.enter()
    limit_process()
    confinement.enter(hidden)


def memory_limit() -> int | None:
    """What the server told, bytes."""
    told = os.environ.get(MEMORY_VARIABLE, "")
    return int(told) if told.isdigit() else None


def run(
    job_dir: JobDir, attempt: int, timeout_s: float | None, hidden: str, start: Callable[[Callable[[], None]], Worker]
) -> None:
    """Wait for the word to go, `start` the worker, stay until it ends, and write down how. `start` is given what the new process
    must call before it becomes the worker; `hidden` is what it must not see."""
    if not os.read(0, 1):
        sys.exit("the server ended before it had written down this launch")
    # The worker hears of a shutdown; the shim stays to write down how it ended.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    output = Output()
    group = WorkerGroup.make(memory_limit())
    before = out_of_memory_kills(group)
    try:
        worker = start(lambda: prepare_worker(group, output, hidden))
        output.start()
        timed_out = wait(worker, job_dir, attempt, timeout_s)
        kill_leftovers()
    finally:
        output.finish()
    code = worker.returncode or 0
    record = ShimRecord(
        attempt=attempt,
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        out_of_memory=code == -signal.SIGKILL and not timed_out and out_of_memory_kills(group) > before,
        timed_out=timed_out,
    )
    if group:
        group.remove()
    if record.signal:
        _tell_end(record)
    for _ in range(600):  # a full disk may empty; the server would otherwise only see that the worker is gone
        with contextlib.suppress(OSError):
            write_atomic(job_dir.shim, record)
            return
        time.sleep(1)


def _tell_end(record: ShimRecord) -> None:
    """The log's last line, where the worker had no time to write one."""
    name = f"signal {record.signal} ({signal.strsignal(record.signal or 0)})"
    why = (
        "; the machine ran out of memory" if record.out_of_memory else "; its time was over" if record.timed_out else ""
    )
    with contextlib.suppress(OSError):
        os.write(1, b"\n" + log_line("warning", f"The training process was ended by {name}{why}.").encode())


def main() -> None:
    parser = argparse.ArgumentParser(prog="tunesmith.executors.shim")
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--timeout", type=float)
    parser.add_argument("--hidden", default="")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()

    def start(prepare: Callable[[], None]) -> Worker:
        return subprocess.Popen(arguments.command, stdin=subprocess.DEVNULL, preexec_fn=prepare)

    run(JobDir(arguments.job_dir), arguments.attempt, arguments.timeout, arguments.hidden, start)


if __name__ == "__main__":
    main()
