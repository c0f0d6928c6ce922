"""Processes forked from one that has imported everything, so that a start costs a fraction of a second and not several.
Nothing else is different: each is a process of its own, in a session of its own, and is killed for real.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import threading
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(
    ["tests.forked", "tunesmith.app", "tunesmith.cli.serve", "alembic.command", "uvicorn.lifespan.on", "uvicorn.loops.auto",
     "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.websockets_sansio_impl", "pysqlite3.dbapi2", "psycopg"]
)  # fmt: skip


class Forked:
    """A forked process, with what tests use of `subprocess.Popen`."""

    def __init__(self, process: BaseProcess) -> None:
        assert process.pid
        self.pid, self._process = process.pid, process

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it lives."""
        return self._process.exitcode

    def wait(self, timeout_s: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired` when it still lives after that."""
        self._process.join(timeout_s)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("a forked process", timeout_s or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def start_scheduler(settings: dict[str, Any], worker: tuple[str, ...], log: Path) -> Forked:
    """A scheduler that runs until it is killed."""
    return _start(_run_scheduler, settings, worker, log)


def start_server(port: int, environment: dict[str, str], log: Path) -> Forked:
    """`tunesmith up --port PORT`."""
    return _start(_run_server, port, environment, log)


def _start(target: Any, *arguments: Any) -> Forked:
    process = FORKING.Process(target=target, args=arguments, daemon=True)
    process.start()
    return Forked(process)


def _run_scheduler(settings: dict[str, Any], worker: tuple[str, ...], log: Path) -> None:
    from tunesmith.executors.local import LocalExecutor
    from tunesmith.live.bus import Bus
    from tunesmith.scheduler.loop import Scheduler
    from tunesmith.settings import Settings
    from tunesmith.storage.database import Database

    _begin(log)
    chosen = Settings(**settings)
    database = Database(chosen.sqlalchemy_url)
    database.take_process_lock()
    Scheduler(chosen, database, Bus(), LocalExecutor(worker)).start()
    threading.Event().wait()


def _run_server(port: int, environment: dict[str, str], log: Path) -> None:
    from tunesmith.cli.serve import up

    _begin(log)
    os.environ.clear()
    os.environ.update(environment)
    up(host=None, port=port)


def _begin(log: Path) -> None:
    """On its own, but not longer than the tests."""
    from tunesmith.worker.ranks import die_with_parent

    die_with_parent()
    os.setsid()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
