"""Workers as processes of this machine, each with a shim, in a session of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tunesmith.core import confinement
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import DUMP_SIGNAL, JobSpec, Launch
from tunesmith.core.recipe import Recipe
from tunesmith.executors.base import Observation, Order, Prepared, Stillness
from tunesmith.executors.identity import age_s, boot_id, is_alive, start_time
from tunesmith.executors.limits import MEMORY_VARIABLE
from tunesmith.executors.zygote import MARK
from tunesmith.recipes.catalog import RECIPES

NO_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
"""A worker's progress bars have no audience: they fill the log, and draw from destructors, at moments when nothing should be
printed. transformers goes by the first."""
DUMP_S = 1.0
KILL_WITHIN_S = 12.0
FOREIGN_SILENCE_S = 60.0
"""How long an attempt of another machine, or of this one before it was restarted, must be silent to count as gone."""


def credentials(spec: JobSpec | None) -> set[str]:
    """Names of the variables that this job needs and others do not get."""
    recipe = _recipe_of(spec)
    return recipe.credentials(spec) if spec and recipe else set()


def _recipe_of(spec: JobSpec | None) -> Recipe | None:
    return next((recipe for recipe in RECIPES if spec and recipe.name == spec.recipe), None)


def _spec_of(job_dir: JobDir) -> JobSpec | None:
    """None where there is none yet, or one that the worker will say cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return job_dir.read_spec()
    return None


def worker_environment(job_dir: JobDir, order: Order) -> dict[str, str]:
    """Made from an allow-list, and from what the job needs."""
    tmp = job_dir.path / "tmp"
    tmp.mkdir(exist_ok=True, mode=0o700)
    spec = _spec_of(job_dir)
    environment = confinement.environment(*credentials(spec))
    if spec and spec.worker_memory_bytes:
        environment[MEMORY_VARIABLE] = str(spec.worker_memory_bytes)
    environment |= {
        MARK: f"{job_dir.path}#{order.attempt}",
        "TMPDIR": str(tmp),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "true",
        **NO_BARS,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as NVML counts, by whose numbers devices are given out
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, order.devices)),
        "TUNESMITH_OOM_KILLS": str(order.out_of_memory_kills),
    }
    if order.offline:
        environment["HF_HUB_OFFLINE"] = "1"
    if order.cpu_threads:
        environment["OMP_NUM_THREADS"] = str(order.cpu_threads)
    return environment


def places_hidden_from(job_dir: JobDir) -> str:
    """What the job's worker is kept from, as `confinement.enter` takes it."""
    recipe = _recipe_of(_spec_of(job_dir))
    return "" if recipe and recipe.confines_itself else confinement.places()


class _PreparedProcess:
    def __init__(self, process: subprocess.Popen[bytes], launch: Launch) -> None:
        self.process, self.launch = process, launch

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(b"!")
        self.process.stdin.close()

    def abandon(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


class LocalExecutor:
    """`worker` is the command that trains; the job directory and `--attempt N` are added."""

    def __init__(self, worker: Sequence[str] = (sys.executable, "-P", "-m", "tunesmith.worker")) -> None:
        self.worker = list(worker)
        self._children: list[subprocess.Popen[bytes]] = []

    def warm_up(self) -> None:
        """Nothing to make ready."""

    def close(self) -> None:
        """Nothing to end."""

    def prepare(self, job_dir: JobDir, order: Order) -> Prepared:
        """Start a shim that waits. Its output goes to the job's log."""
        timeout = ["--timeout", str(order.timeout_s)] if order.timeout_s else []
        attempt = ["--attempt", str(order.attempt)]
        # -P: the job directory is the working directory, and nothing that a job left there may pass for a module.
        hidden = ["--hidden", places_hidden_from(job_dir)]
        command = [
            sys.executable,
            "-P",
            "-m",
            "tunesmith.executors.shim",
            str(job_dir.path),
            *attempt,
            *timeout,
            *hidden,
            "--",
        ]
        with job_dir.log.open("ab") as log:
            process = subprocess.Popen(
                [*command, *self.worker, str(job_dir.path), *attempt],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, cwd=job_dir.path,
                env=worker_environment(job_dir, order),
            )  # fmt: skip
        self._children = [child for child in self._children if child.poll() is None] + [process]
        launch = Launch(
            attempt=order.attempt, devices=order.devices, boot_id=boot_id(), pid=process.pid,
            pid_started=start_time(process.pid) or 0.0,
        )  # fmt: skip
        return _PreparedProcess(process, launch)

    def observe(self, job_dir: JobDir, launch: Launch) -> Observation:
        """On another machine that shares the folder, only the heartbeat tells."""
        for child in self._children:
            child.poll()  # reap: a corpse is not alive
        shim = job_dir.read_shim()
        stillness = read_stillness(job_dir, launch)
        if shim and shim.attempt == launch.attempt:
            return Observation("ended", shim, stillness=stillness)
        if launch.boot_id != boot_id():
            silent_s = silence_s(job_dir)
            return Observation("alive" if silent_s < FOREIGN_SILENCE_S else "gone", None, silent_s)
        if is_alive(launch.pid, launch.pid_started):
            return Observation("alive", None, heartbeat_age_s(job_dir, launch), stillness)
        shim = job_dir.read_shim()  # it may have written it between the two looks
        if shim and shim.attempt == launch.attempt:
            return Observation("ended", shim, stillness=stillness)
        return Observation("gone", stillness=stillness)

    def dump(self, job_dir: JobDir, launch: Launch) -> None:
        """Those that listen for the signal (others would be ended by it) get `DUMP_S` for their answer."""
        if launch.boot_id != boot_id():
            return
        told = False
        for process in self._members(job_dir, launch):
            with contextlib.suppress(psutil.Error):
                if process.pid != launch.pid and catches(process.pid, DUMP_SIGNAL):
                    process.send_signal(DUMP_SIGNAL)
                    told = True
        time.sleep(DUMP_S if told else 0)

    def kill(self, job_dir: JobDir, launch: Launch) -> bool:
        """The worker and all it started first, so that the shim can tell; then the shim."""
        if launch.boot_id != boot_id():
            return True
        began_s = time.monotonic()
        while members := self._members(job_dir, launch):
            waited_s = time.monotonic() - began_s
            if waited_s > KILL_WITHIN_S:
                return False
            for process in [p for p in members if p.pid != launch.pid] or members:
                with contextlib.suppress(psutil.Error):
                    if process.pid != launch.pid or waited_s > KILL_WITHIN_S / 2:
                        process.kill()
                    else:
                        process.resume()  # a shim that was stopped too tells the end once it runs again
            time.sleep(0.05)
            for child in self._children:
                child.poll()
        return True

    def _members(self, job_dir: JobDir, launch: Launch) -> list[psutil.Process]:
        """Every living process that carries this launch's mark; while the shim lives, also those that have thrown the
        mark away but are of its session or descend from it."""
        mark = f"{job_dir.path}#{launch.attempt}"
        family: set[int] = set()
        shim_lives = is_alive(launch.pid, launch.pid_started)
        if shim_lives:
            with contextlib.suppress(psutil.Error):
                family = {child.pid for child in psutil.Process(launch.pid).children(recursive=True)}
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                is_family = process.pid in family or (shim_lives and os.getsid(process.pid) == launch.pid)
                if is_family or process.environ().get(MARK) == mark:
                    found.append(process)
        return found


def heartbeat_age_s(job_dir: JobDir, launch: Launch) -> float:
    """Seconds since the shim of this very attempt said that the worker works, on a clock that nobody sets; counted from
    its start until it first does."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        beat = json.loads(job_dir.heartbeat.read_bytes())
        if beat["attempt"] == launch.attempt:
            return max(0.0, time.monotonic() - float(beat["monotonic_s"]))
    return age_s(launch.pid_started)


def read_stillness(job_dir: JobDir, launch: Launch) -> Stillness | None:
    """What the shim of this very attempt last told; None where it told nothing yet."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        beat = json.loads(job_dir.heartbeat.read_bytes())
        if beat["attempt"] == launch.attempt:
            return Stillness(str(beat["phase"]), float(beat["still_s"]), float(beat["slowest_s"]))
    return None


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for that signal. Linux tells."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def silence_s(job_dir: JobDir) -> float:
    """Seconds since anybody on another machine, or before this one's last start, beat or launched; by the folder's clock."""
    last = 0.0
    for path in (job_dir.heartbeat, job_dir.launch):
        with contextlib.suppress(OSError):
            last = max(last, path.stat().st_mtime)
    return max(0.0, time.time() - last) if last else 0.0
