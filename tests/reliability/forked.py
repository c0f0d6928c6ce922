"""Servers that are killed hundreds of times: forked from one process that has imported everything, so that a start costs
a twentieth of a second and not a whole one. Nothing else is different: each is a process of its own, killed for real.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import tunesmith.app  # noqa: F401  what `up` needs, imported once
from tunesmith.cli.serve import up
from tunesmith.executors.local import LocalExecutor
from tunesmith.live.bus import Bus
from tunesmith.scheduler.loop import Scheduler
from tunesmith.settings import Settings
from tunesmith.storage.database import Database
from tunesmith.worker.ranks import die_with_parent

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload([__name__])


def start_scheduler(settings: dict[str, Any], worker: tuple[str, ...], log: Path) -> BaseProcess:
    """A scheduler that runs until it is killed."""
    return _start(_run_scheduler, settings, worker, log)


def start_server(port: int, environment: dict[str, str], log: Path) -> BaseProcess:
    """`tunesmith up --port PORT`."""
    return _start(_run_server, port, environment, log)


def _start(target: Any, *arguments: Any) -> BaseProcess:
    process = FORKING.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def _run_scheduler(settings: dict[str, Any], worker: tuple[str, ...], log: Path) -> None:
    _begin(log)
    chosen = Settings(**settings)
    database = Database(chosen.sqlalchemy_url)
    database.take_process_lock()
    Scheduler(chosen, database, Bus(), LocalExecutor(worker)).start()
    threading.Event().wait()


def _run_server(port: int, environment: dict[str, str], log: Path) -> None:
    _begin(log)
    os.environ.clear()
    os.environ.update(environment)
    up(host=None, port=port)


def _begin(log: Path) -> None:
    """On its own, but not longer than the tests."""
    die_with_parent()
    os.setsid()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
