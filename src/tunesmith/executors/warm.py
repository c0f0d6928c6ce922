"""Workers that begin at once: forked from a zygote that has torch and transformers imported already."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import select
import socket
import subprocess
import sys
import time

from tunesmith.core import confinement
from tunesmith.core.job_dir import JobDir
from tunesmith.core.job_spec import Launch
from tunesmith.executors.base import Order, Prepared
from tunesmith.executors.identity import boot_id, is_alive, start_time
from tunesmith.executors.local import NO_BARS, LocalExecutor, places_hidden_from, worker_environment
from tunesmith.executors.zygote import MARK, MARK_BYTES

log = logging.getLogger(__name__)

PRELOAD = "tunesmith.worker.preload"
"""The module that imports what workers import."""
WORKER = "tunesmith.worker.__main__"
"""The module whose `main` a forked worker runs."""
ANSWER_WITHIN_S = 2.0
"""How long a zygote may take to fork; after that the worker is started cold, and the zygote replaced."""
RETRY_AFTER_S = 60.0
"""How soon another zygote is started; none at all after one that ended before it could fork."""


class _Forked:
    """A shim that waits, forked by the zygote."""

    def __init__(self, launch: Launch, go_fd: int) -> None:
        self.launch, self._go_fd = launch, go_fd

    def go(self) -> None:
        os.write(self._go_fd, b"!")
        os.close(self._go_fd)

    def abandon(self) -> None:
        os.close(self._go_fd)
        deadline_s = time.monotonic() + 5
        while is_alive(self.launch.pid, self.launch.pid_started) and time.monotonic() < deadline_s:
            time.sleep(0.01)


class WarmExecutor(LocalExecutor):
    """As `LocalExecutor`, and quicker once its zygote is ready. For one thread, like the scheduler that has it."""

    def __init__(self, *, offline: bool = False) -> None:
        super().__init__()
        self._offline = offline
        self._zygote: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._ready = False
        self._started_s = -math.inf
        self._refused = False

    def warm_up(self) -> None:
        """Start a zygote where that is possible and none is there; it takes seconds to be ready, which nobody waits for."""
        if self._zygote is not None and self._zygote.poll() is None:
            return
        if self._zygote is not None and not self._is_ready() and not self._refused:
            self._refused = True
            log.warning(
                "workers start cold: the process that should fork them ended with code %s", self._zygote.returncode
            )
        if sys.platform != "linux" or self._refused or time.monotonic() - self._started_s < RETRY_AFTER_S:
            return
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = confinement.environment()
        environment.pop("OMP_NUM_THREADS", None)
        environment |= {
            MARK: "-" * MARK_BYTES,
            **NO_BARS,
            "PYTHONUNBUFFERED": "1",
            "OPENBLAS_NUM_THREADS": "1",  # the threads of numpy and Arrow would begin with the import
            "JE_ARROW_MALLOC_CONF": "background_thread:false",
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # looking for a GPU must not touch it
        }
        if self._offline:
            environment["HF_HUB_OFFLINE"] = "1"
        command = [sys.executable, "-P", "-m", "tunesmith.executors.zygote", str(theirs.fileno())]
        self._zygote = subprocess.Popen(
            [*command, PRELOAD, WORKER],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment, pass_fds=[theirs.fileno()],
        )  # fmt: skip
        theirs.close()
        self._socket, self._ready, self._started_s = ours, False, time.monotonic()

    def prepare(self, job_dir: JobDir, order: Order) -> Prepared:
        """Fork a shim that waits; without a zygote, start one."""
        self.warm_up()
        if not self._is_ready():
            return super().prepare(job_dir, order)
        go_read, go_write = os.pipe()
        try:
            with job_dir.log.open("ab") as output:
                pid = self._fork(job_dir, order, [go_read, output.fileno()])
        except (OSError, ValueError) as error:
            os.close(go_write)
            log.warning("the warm process did not fork (%s); the worker starts cold", error)
            self.close()
            return super().prepare(job_dir, order)
        finally:
            os.close(go_read)
        launch = Launch(
            attempt=order.attempt, devices=order.devices, boot_id=boot_id(), pid=pid, pid_started=start_time(pid) or 0.0
        )
        return _Forked(launch, go_write)

    def close(self) -> None:
        """End the zygote. Workers that it has forked go on."""
        if self._socket:
            self._socket.close()
            self._socket, self._ready = None, False
        if self._zygote:
            with contextlib.suppress(ProcessLookupError):
                self._zygote.kill()
            self._zygote.wait()
            self._zygote = None

    def _is_ready(self) -> bool:
        if self._socket and not self._ready and self._answers(0):
            self._ready = self._socket.recv(64) == b"ready"
        return self._ready

    def _answers(self, timeout_s: float) -> bool:
        assert self._socket
        return bool(select.select([self._socket], [], [], timeout_s)[0])

    def _fork(self, job_dir: JobDir, order: Order, fds: list[int]) -> int:
        """The pid of the new shim. Raises `OSError` or `ValueError` when none comes."""
        assert self._socket
        request = {
            "job_dir": str(job_dir.path),
            "attempt": order.attempt,
            "timeout_s": order.timeout_s,
            "environment": worker_environment(job_dir, order),
            "hidden": places_hidden_from(job_dir),
        }
        socket.send_fds(self._socket, [json.dumps(request).encode()], fds)
        if not self._answers(ANSWER_WITHIN_S):
            raise TimeoutError("no answer")
        return int(self._socket.recv(64))
