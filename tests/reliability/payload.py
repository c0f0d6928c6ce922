"""A worker that obeys the job directory's contract and trains nothing: it adds numbers, one a step, and keeps checkpoints.

The sum after the last step depends on every step before it, in order, so a step lost, repeated or done by two workers at
once shows in the result. Written against the contract with the standard library alone: it starts in a thirtieth of a
second, and hundreds are killed here. `params` of the spec: `steps`, `pause_s`, `save_steps`, `marks` (a file that tells
who ran when), `outcome` (`failed`; or `lying`: it says completed and ends with code 5), `stubborn` (ignore SIGTERM and
every request to stop, and leave behind a child that has forked twice; its number is added to the file `left`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any


def next_sum(value: str, step: int) -> str:
    return hashlib.sha256(f"{value}{step}".encode()).hexdigest()


def expected(steps: int) -> str:
    value = ""
    for step in range(1, steps + 1):
        value = next_sum(value, step)
    return value


class Payload:
    """One attempt at one job."""

    def __init__(self, job_dir: Path, attempt: int) -> None:
        self.dir, self.attempt = job_dir, attempt
        self.params: dict[str, Any] = json.loads((job_dir / "spec.json").read_text())["params"]
        self.stubborn = bool(self.params.get("stubborn"))
        self.step, self.value = 0, ""

    def run(self) -> None:
        self.fence()
        self.mark("begin")
        if self.stubborn:
            self.fork_twice()
        (self.dir / "checkpoints").mkdir(exist_ok=True)
        (self.dir / "artifacts").mkdir(exist_ok=True)
        self.cut_half_line()
        self.tell(type="phase", phase="training")
        self.load()
        steps = self.params["steps"]
        while self.step < steps:
            self.obey()
            self.step, self.value = self.step + 1, next_sum(self.value, self.step + 1)
            self.tell(type="step", step=self.step, total_steps=steps, epoch=0.0, loss=1.0, learning_rate=0.1)
            if self.step % self.params.get("save_steps", 10) == 0:
                self.save()
            time.sleep(self.params.get("pause_s", 0.0))
        self.folder(self.dir / "artifacts" / "model")
        self.end(self.params.get("outcome", "completed"))

    def obey(self) -> None:
        try:
            control = json.loads((self.dir / "control.json").read_text())
        except FileNotFoundError:
            return
        if control["stop"] and not self.stubborn:
            self.end("cancelled")
        if control["pause"]:
            self.save()
            self.end("paused")

    def fence(self) -> None:
        if json.loads((self.dir / "launch.json").read_text())["attempt"] != self.attempt:
            sys.exit(78)

    def tell(self, **event: Any) -> None:
        self.fence()
        line = json.dumps({**event, "attempt": self.attempt}) + "\n"
        append(self.dir / "events.jsonl", line)

    def cut_half_line(self) -> None:
        """What a killed predecessor had only begun."""
        path = self.dir / "events.jsonl"
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)

    def load(self) -> None:
        whole = (p.parent for p in (self.dir / "checkpoints").glob("step-*/complete.json"))
        latest = max(whole, key=lambda p: int(p.name[5:]), default=None)
        if latest:
            self.step, self.value = int(latest.name[5:]), (latest / "sum").read_text()

    def save(self) -> None:
        name = f"step-{self.step:06d}"
        self.folder(self.dir / "checkpoints" / name)
        self.tell(type="checkpoint", step=self.step, path=f"checkpoints/{name}", size_bytes=64)

    def folder(self, final: Path) -> None:
        """The sum so far in a folder that is whole or not there."""
        temporary = final.with_name(f".{final.name}.{os.getpid()}")
        temporary.mkdir()
        (temporary / "sum").write_text(self.value)
        (temporary / "complete.json").write_text("{}")
        self.fence()
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)

    def mark(self, what: str) -> None:
        if self.params.get("marks"):
            append(self.params["marks"], f"{what} {self.dir.name} {self.attempt} {os.getpid()}\n")

    def end(self, outcome: str) -> None:
        self.mark("end")
        record: dict[str, Any] = {"attempt": self.attempt, "outcome": "completed" if outcome == "lying" else outcome}
        if outcome == "failed":
            record["failure"] = {"code": "bad_data", "message": "a row is bad", "hint": "mend it"}
        temporary = self.dir / ".exit"
        temporary.write_text(json.dumps(record))
        temporary.rename(self.dir / "exit.json")
        os._exit({"failed": 1, "lying": 5}.get(outcome, 0))

    def fork_twice(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:  # its environment says nothing of the job
                append(self.dir / "left", f"{os.getpid()}\n")
                os.execve("/bin/sleep", ["sleep", "120"], {})
            os._exit(0)


def append(path: Path | str, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, line.encode())
    os.close(fd)


if __name__ == "__main__":
    assert sys.argv[2] == "--attempt"
    Payload(Path(sys.argv[1]), int(sys.argv[3])).run()
