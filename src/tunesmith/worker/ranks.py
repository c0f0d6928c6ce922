"""One process a device, on this machine, with the variables that `torch.distributed` reads (`env://`).

torchrun would do the same but for what matters here: it turns every exit code into 1 (a fenced or killed worker must stay
recognisable), and gives ranks that wait for a dead one 30 seconds before it ends them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

POLL_S = 0.1
END_WAIT_S = 60.0
"""Seconds that the other ranks have to end after the first has ended well."""


def launch_ranks(command: list[str], num_ranks: int, cpu_threads: int | None = None) -> int:
    """Run `command` as `num_ranks` ranks. Returns 0 when all end well, else the exit code of the first that failed
    (negative: its signal); the others are killed then. SIGTERM and SIGINT go on to every rank."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    threads = cpu_threads or os.cpu_count() or num_ranks
    env = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the ranks join this store, so nobody can take the port in between
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
    }
    env.setdefault("OMP_NUM_THREADS", str(max(1, threads // num_ranks)))
    ranks: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    for index in range(num_ranks):
        ranks.append(subprocess.Popen(command, env={**env, "RANK": str(index), "LOCAL_RANK": str(index)}))
    try:
        return _wait(ranks)
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
            rank.wait()


def _wait(ranks: list[subprocess.Popen[bytes]]) -> int:
    deadline = None
    while True:
        codes = [rank.poll() for rank in ranks]
        failed = [code for code in codes if code]
        if failed:
            return int(failed[0])
        if None not in codes:
            return 0
        if codes[0] == 0:
            deadline = deadline or time.monotonic() + END_WAIT_S
            if time.monotonic() > deadline:
                return 0
        time.sleep(POLL_S)


def die_with_parent() -> None:
    """Ask Linux to end this process when the launcher is killed, so that no rank waits for ever. Elsewhere: nothing."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
