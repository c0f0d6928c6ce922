"""A process that has imported what workers import, and forks one of them in milliseconds instead of seconds.

`python -P -m tunesmith.executors.zygote FD PRELOAD MAIN`: imports the module PRELOAD, then answers requests that come
through the socket FD. Each forks a shim, in a session of its own, which forks a worker that runs `MAIN.main()`. The
zygote computes nothing and starts no thread, so that everything in it survives a fork; it ends with its server.
Linux only: elsewhere libraries do not survive a fork.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from tunesmith.core.job_dir import JobDir
from tunesmith.executors import shim

MARK = "TUNESMITH_LAUNCH"
"""Variable by which every process of a launch is known, wherever it has run to."""
MARK_BYTES = 4096
"""Room for its value: what others see as a process's environment is the memory that it was started with."""
MAX_REQUEST_BYTES = 256 * 1024


class Forked:
    """A forked child, with what the shim needs of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._reap(os.WNOHANG)

    def wait(self) -> int | None:
        return self._reap(0)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)

    def _reap(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def main() -> None:
    """Import, say `ready`, and fork on request until the server is gone."""
    shim.end_with_parent()
    connection = socket.socket(fileno=int(sys.argv[1]))
    preload, main_module = sys.argv[2], sys.argv[3]
    import_module(preload)
    worker_main: Callable[[], None] = import_module(main_module).main
    if trouble := why_not_fork():
        sys.exit(trouble)
    room = _mark_address()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes the shims away
    connection.send(b"ready")
    while True:
        data, fds, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 2)
        if not data:
            return
        pid = os.fork()
        if pid == 0:
            connection.close()
            _run_and_exit(_become_shim, json.loads(data), fds, room, worker_main)
        for fd in fds:
            os.close(fd)
        connection.send(str(pid).encode())


def why_not_fork() -> str:
    """What would not survive a fork; empty when nothing stands in the way."""
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        return "an imported library has started a thread"
    if "libcuda.so" in Path("/proc/self/maps").read_text():
        return "an imported library has touched the GPU"
    return ""


def _mark_address() -> int:
    """Where the value of `MARK`, which the server has made long enough, stands in the memory that others see."""
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    address: int | None = getenv(MARK.encode())
    if not address or len(os.environ[MARK]) < MARK_BYTES:
        sys.exit(f"{MARK} has not been made room for")
    return address


def _become_shim(request: dict[str, Any], fds: list[int], room: int, worker_main: Callable[[], None]) -> None:
    """`request`: job_dir, attempt, timeout_s, environment, hidden; `fds`: what brings the word to go, and the job's log."""
    go, log = fds
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for fd, place in ((go, 0), (log, 1), (log, 2)):
        os.dup2(fd, place)
    os.close(go)
    os.close(log)
    os.chdir(request["job_dir"])
    os.environ.clear()
    os.environ.update(request["environment"])
    mark = os.environ[MARK].encode()[: MARK_BYTES - 1]
    ctypes.memmove(room, mark + bytes(MARK_BYTES - len(mark)), MARK_BYTES)
    job_dir, attempt = JobDir(Path(request["job_dir"])), request["attempt"]
    sys.argv = ["tunesmith.worker", str(job_dir.path), "--attempt", str(attempt)]
    shim.run(
        job_dir, attempt, request["timeout_s"], request["hidden"], lambda prepare: _fork_worker(worker_main, prepare)
    )


def _fork_worker(worker_main: Callable[[], None], prepare: Callable[[], None]) -> Forked:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _run_and_exit(_become_worker, parent, worker_main, prepare)
    return Forked(pid)


def _become_worker(parent: int, worker_main: Callable[[], None], prepare: Callable[[], None]) -> None:
    prepare()
    if os.getppid() != parent:
        sys.exit("the shim ended before the kernel knew that its worker ends with it")
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    worker_main()


def _run_and_exit(call: Callable[..., None], *arguments: Any) -> NoReturn:
    """Run `call` as the whole of this process, with Python's own exit codes."""
    code = 1
    try:
        call(*arguments)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            sys.stderr.write(f"{ended.code}\n")
    except BaseException:  # the last line of this process: its log tells
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
