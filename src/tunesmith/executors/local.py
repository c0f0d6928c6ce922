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
from urllib.parse import urlsplit

import psutil

from tunesmith.core import processor
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import JobSpec, Launch
from tunesmith.executors.base import Observation, Order, Prepared
from tunesmith.executors.identity import age_s, boot_id, is_alive, start_time
from tunesmith.executors.limits import MEMORY_VARIABLE
from tunesmith.executors.zygote import MARK

PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "USER", "LOGNAME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SYSTEMROOT",
    "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "CUDA_HOME", "OMP_NUM_THREADS",
    *processor.PASSED_ON,
)  # fmt: skip
"""The server's variables that every worker gets. None of them is a secret."""
HUB_TOKEN = ("HF_TOKEN",)
JUDGE_KEY = "TUNESMITH_JUDGE_API_KEY"
OPENAI = "https://api.openai.com/v1"
OF_TRACKERS = {
    "wandb": ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"),
    "mlflow": ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"),
    "trackio": ("TRACKIO_SPACE_ID", *HUB_TOKEN),
}
"""What a worker gets besides when its job reports to that tracker."""
KILL_WITHIN_S = 12.0
FOREIGN_SILENCE_S = 60.0
"""How long an attempt of another machine, or of this one before it was restarted, must be silent to count as gone."""


def credentials(spec: JobSpec | None) -> set[str]:
    """Names of the variables that this job needs and others do not get: a token goes to whom it is for. A user's own
    script gets none."""
    if spec is None or spec.recipe == "custom":
        return set()
    reports_to = spec.params.get("report_to") or ()
    wanted = {name for tracker in reports_to for name in OF_TRACKERS.get(tracker, ())}
    if spec.model and not spec.offline and is_hub_id(spec.model.path):
        wanted.update(HUB_TOKEN)
    if spec.recipe == "evaluate" and is_judge_of_the_key((spec.params.get("judge") or {}).get("base_url", "")):
        wanted.add(JUDGE_KEY)
    return wanted


def is_judge_of_the_key(base_url: str) -> bool:
    """Whether the judge's key is for that address: users choose the address, the administrator whom the key is shown."""
    known = os.environ.get("TUNESMITH_JUDGE_URL", OPENAI)
    return bool(base_url) and urlsplit(base_url)[:2] == urlsplit(known)[:2]


def is_hub_id(path: str) -> bool:
    """Whether a model must be asked for at the hub: everything that is here has an absolute path."""
    return not Path(path).is_absolute()


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
    environment = {name: os.environ[name] for name in {*PASSED_ON, *credentials(spec)} if name in os.environ}
    if spec and spec.worker_memory_bytes:
        environment[MEMORY_VARIABLE] = str(spec.worker_memory_bytes)
    environment |= {
        MARK: f"{job_dir.path}#{order.attempt}",
        "TMPDIR": str(tmp),
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "true",
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
        command = [sys.executable, "-P", "-m", "tunesmith.executors.shim", str(job_dir.path), *attempt, *timeout, "--"]
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
        if shim and shim.attempt == launch.attempt:
            return Observation("ended", shim)
        if launch.boot_id != boot_id():
            silent_s = silence_s(job_dir)
            return Observation("alive" if silent_s < FOREIGN_SILENCE_S else "gone", None, silent_s)
        if is_alive(launch.pid, launch.pid_started):
            return Observation("alive", None, heartbeat_age_s(job_dir, launch))
        shim = job_dir.read_shim()  # it may have written it between the two looks
        if shim and shim.attempt == launch.attempt:
            return Observation("ended", shim)
        return Observation("gone")

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


def silence_s(job_dir: JobDir) -> float:
    """Seconds since anybody on another machine, or before this one's last start, beat or launched; by the folder's clock."""
    last = 0.0
    for path in (job_dir.heartbeat, job_dir.launch):
        with contextlib.suppress(OSError):
            last = max(last, path.stat().st_mtime)
    return max(0.0, time.time() - last) if last else 0.0
