"""What a custom script prints: JSON lines become events, everything else goes to the job's log. Both are bounded."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections import deque
from typing import IO, Any

from pydantic import ValidationError

from tunesmith.core.events import EvaluationEvent, MetricsEvent, StepEvent
from tunesmith.core.progress import moved
from tunesmith.core.recipe import RunContext

MAX_LINE_BYTES = 64 * 1024
"""Longer lines are cut."""
MAX_LOG_BYTES = 16 * 1024 * 1024
"""Most that one script adds to the log."""
MAX_EVENTS = 200_000
"""Most events that one script may report."""
MAX_STEP = 2**53
MAX_VALUES = 64
"""Most metrics in one line."""
ERROR_LINES = 20
"""Last lines of stderr that are kept for the failure's details."""
STEP_FIELDS = (
    "epoch",
    "learning_rate",
    "grad_norm",
    "tokens_per_s",
    "samples_per_s",
    "tokens_seen",
    "elapsed_s",
    "remaining_s",
)


class ScriptOutput:
    """Reads both pipes of a script as they fill."""

    def __init__(self, process: subprocess.Popen[bytes], run: RunContext) -> None:
        assert process.stdout and process.stderr
        self.metrics: dict[str, float] = {}
        self._run = run
        self._selector = selectors.DefaultSelector()
        self._half: dict[IO[bytes], bytes] = {}
        self._errors: deque[str] = deque(maxlen=ERROR_LINES)
        self._stderr = process.stderr
        self._process = process
        self._log_bytes = self._num_events = 0
        for pipe in (process.stdout, process.stderr):
            os.set_blocking(pipe.fileno(), False)
            self._half[pipe] = b""
            self._selector.register(pipe, selectors.EVENT_READ)

    def last_errors(self) -> list[str]:
        """The last lines of stderr, oldest first."""
        return list(self._errors)

    def read(self, timeout_s: float) -> bool:
        """Take in what is there, waiting up to `timeout_s` for it. False once the script has ended."""
        if not self._selector.get_map():  # it closed both pipes and goes on
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                return True
            return False
        for key, _ in self._selector.select(timeout_s):
            self._take(key.fileobj)  # type: ignore[arg-type]
        return self._process.poll() is None

    def drain(self) -> None:
        """Take in what is left in the pipes of a script that has ended, then close them."""
        while self._selector.get_map() and (ready := self._selector.select(0)):
            for key, _ in ready:
                self._take(key.fileobj)  # type: ignore[arg-type]
        for pipe, half in self._half.items():
            if half:
                self._line(pipe, half)
            pipe.close()
        self._selector.close()

    def _take(self, pipe: IO[bytes]) -> None:
        data = os.read(pipe.fileno(), 65536)
        if not data:
            self._selector.unregister(pipe)
            return
        moved()
        *lines, half = (self._half[pipe] + data).split(b"\n")
        for line in lines:
            self._line(pipe, line)
        self._half[pipe] = half[:MAX_LINE_BYTES]

    def _line(self, pipe: IO[bytes], line: bytes) -> None:
        text = line[:MAX_LINE_BYTES].decode(errors="replace").rstrip()
        if pipe is self._stderr:
            self._errors.append(text)
        elif text.startswith("{") and self._event(text):
            return
        if self._log_bytes < MAX_LOG_BYTES:
            self._log_bytes += len(line) + 1
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
            if self._log_bytes >= MAX_LOG_BYTES:
                self._run.notice(
                    f"The script printed more than {MAX_LOG_BYTES >> 20} MB; the rest is not kept.", level="warning"
                )

    def _event(self, text: str) -> bool:
        """Report the event in a line; False when there is none in it."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return False
        numbers = {
            key[:64]: float(value)
            for key, value in found.items()
            if isinstance(value, float) or (type(value) is int and abs(value) < 2**63)
        }
        if not numbers:
            return False
        self._num_events += 1
        if self._num_events == MAX_EVENTS:
            self._run.notice(f"The script reported {MAX_EVENTS} times; later lines are not kept.", level="warning")
        if self._num_events >= MAX_EVENTS:
            return True
        try:
            self._report(numbers)
        except ValidationError:
            return False
        return True

    def _report(self, numbers: dict[str, float]) -> None:
        step = int(numbers.pop("step")) if 0 <= numbers.get("step", -1.0) < MAX_STEP else None
        total_steps = int(numbers.pop("total_steps")) if 0 <= numbers.get("total_steps", -1.0) < MAX_STEP else 0
        if step is not None and "loss" in numbers:
            fields: dict[str, Any] = {name: numbers.pop(name) for name in STEP_FIELDS if name in numbers}
            values = {"loss": numbers.pop("loss")}
            self._run.report(StepEvent(step=step, total_steps=max(step, total_steps), values=values, **fields))
        if step is not None and "eval_loss" in numbers:
            values = {"loss": numbers["eval_loss"]}
            values |= {"perplexity": numbers["perplexity"]} if "perplexity" in numbers else {}
            self._run.report(EvaluationEvent(step=step, values=values))
        rest = dict(list(numbers.items())[:MAX_VALUES])
        for name, value in rest.items():
            if name in self.metrics or len(self.metrics) < MAX_VALUES:
                self.metrics[name] = value
        if rest:
            self._run.report(MetricsEvent(step=step, values=rest))
