"""Server start: from the command to the first answer, next to a bare FastAPI application, alternating; and no torch inside."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

RUNS = 7
BARE = "import uvicorn, fastapi; app = fastapi.FastAPI(); app.get('/api/v1/system/health')(lambda: {{}}); uvicorn.run(app, port={port}, log_level='warning')"


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def first_answer_s(command: list[str], port: int, env: dict[str, str]) -> tuple[float, bool]:
    """Seconds to the first answer, and whether the process has torch mapped."""
    began_s = time.perf_counter()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/api/v1/system/health", timeout=5).raise_for_status()
                break
            if process.poll() is not None:
                raise SystemExit("the server ended before it answered")
            time.sleep(0.005)
        seconds = time.perf_counter() - began_s
        maps = Path(f"/proc/{process.pid}/maps")
        return seconds, maps.exists() and "libtorch" in maps.read_text()
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    times: dict[str, list[float]] = {
        "tunesmith": [],
        "tunesmith, first start (makes the database)": [],
        "bare FastAPI": [],
    }
    torch_seen = False
    with tempfile.TemporaryDirectory() as home:
        for number in range(RUNS + 1):
            for name in times:
                port = free_port()
                place = home if "first" not in name else tempfile.mkdtemp(dir=home)
                env = {**os.environ, "TUNESMITH_HOME": str(place)}
                command = [sys.executable, "-m", "tunesmith", "up", "--port", str(port)]
                if name == "bare FastAPI":
                    command = [sys.executable, "-c", BARE.format(port=port)]
                seconds, torch = first_answer_s(command, port, env)
                torch_seen |= torch
                if number:  # the first round warms the file cache
                    times[name].append(seconds)
    bare = statistics.median(times["bare FastAPI"])
    for name, found in times.items():
        median = statistics.median(found)
        print(
            f"{name}: median {median:.2f} s ({min(found):.2f} to {max(found):.2f}), {median / bare:.2f} x bare FastAPI"
        )
    print("torch in the server:", "yes" if torch_seen else "no")


if __name__ == "__main__":
    main()
