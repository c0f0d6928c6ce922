"""Programs that run on a disk that forgets (`power.py`) and say at once what they have been told: `python -m … NAME FOLDER`."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STEPS = 20


def told(**what: Any) -> None:
    """Nobody may forget this from now on."""
    ctypes.CDLL(None).power_loss_note(json.dumps(what).encode())


def record_children() -> None:
    """Let what this process starts be recorded too: the product gives its children an environment of its own making."""
    original = subprocess.Popen.__init__
    passed_on = {name: os.environ[name] for name in ("LD_PRELOAD", "TUNESMITH_POWER_LOSS")}

    def start(self: Any, *arguments: Any, env: dict[str, str] | None = None, **more: Any) -> None:
        original(self, *arguments, env=None if env is None else {**env, **passed_on}, **more)

    subprocess.Popen.__init__ = start  # type: ignore[assignment,method-assign]


def jobs(home: Path) -> None:
    """Two jobs with the real worker, to their end; told is what any watcher would have been told of them."""
    from tests.reliability import real_worker
    from tests.reliability.ground import ENDED, Ground

    ground = Ground(home, worker=real_worker.COMMAND, cpu_slots=2)
    ids = []
    for _ in range(2):
        ids.append(ground.submit(steps=STEPS, pause_s=0.02, weights_bytes=1000))
        told(job=ids[-1], status="queued", seq=0, checkpoint=0)
    seen: dict[int, tuple[Any, ...]] = {}
    until_s = time.monotonic() + 90
    while any(ground.job(job_id).status not in ENDED for job_id in ids):
        assert time.monotonic() < until_s, [ground.job(job_id).status_reason for job_id in ids]
        ground.scheduler.tick()
        for job_id in ids:
            job = ground.job(job_id)
            now = (job.status, job.last_seq, job.last_checkpoint_step or 0)
            if seen.get(job_id) != now:
                seen[job_id] = now
                told(job=job_id, status=now[0], seq=now[1], checkpoint=now[2])
        time.sleep(0.02)
    ground.close()


def server(_home: Path) -> None:
    """`tunesmith up`."""
    from tunesmith.cli.serve import up

    up(host=None, port=int(sys.argv[3]))


def old_sqlite_server(home: Path) -> None:
    """The same with Python's own SQLite, which may be one that keeps a journal of the other kind."""
    from tunesmith.storage import database

    database.SAFE_WAL = (99, 0, 0)
    server(home)


if __name__ == "__main__":
    record_children()
    globals()[sys.argv[1]](Path(sys.argv[2]))
