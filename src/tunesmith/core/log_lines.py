"""The lines of a job's log that its worker writes of itself: a time, a level and a sentence. All else there is output.

2026-11-30T13:46:34Z INFO    Step 10 of 100: loss 1.934, learning rate 0.0002; 1,234 tokens/s.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Literal

from tunesmith.core.clock import utc_now
from tunesmith.core.events import (
    ArtifactEvent,
    CheckpointEvent,
    EvaluationEvent,
    NoticeEvent,
    PhaseEvent,
    StepEvent,
)
from tunesmith.core.job_status import Phase
from tunesmith.core.plain_text import one_line

Level = Literal["info", "warning", "error"]
LogFilter = Literal["info", "warning", "error", "output"]
"""What of a log to read: lines of at least this level, or only what the process printed."""
SEVERITY = {"output": -1, "info": 0, "warning": 1, "error": 2}
LINE = re.compile(rb"(?:^|\r)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO|WARNING|ERROR) +(.*)", re.DOTALL)
"""At the beginning of a line, or over a progress bar that has not ended its own."""
PHASES = {
    Phase.STARTING: "Starting", Phase.LOADING: "Loading the model", Phase.TOKENIZING: "Tokenizing", Phase.COMPILING: "Compiling",
    Phase.TRAINING: "Training", Phase.EVALUATING: "Evaluating", Phase.SAVING: "Saving",
}  # fmt: skip
MOST_NUMBERS = 6
"""Of one line."""
REASONS = {
    "schedule": "on schedule", "request": "as asked for", "pause": "to pause", "best": "the best so far", "final": "the last step",
}  # fmt: skip


def line(level: Level, sentence: str) -> str:
    """One line of the log, with its end."""
    return f"{utc_now():%Y-%m-%dT%H:%M:%SZ} {level.upper():<7} {one_line(sentence)}\n"


def level_of(text: bytes) -> str:
    """`info`, `warning` or `error` of a line that a worker wrote of itself, else `output`."""
    found = LINE.search(text)
    return found[1].decode().lower() if found else "output"


def is_wanted(text: bytes, wanted: LogFilter) -> bool:
    """Whether a line passes the filter."""
    level = level_of(text)
    return level == "output" if wanted == "output" else SEVERITY[level] >= SEVERITY[wanted]


def sentence_of(event: Any) -> tuple[Level, str] | None:
    """What the log says of an event; None for those that it does not tell."""
    if isinstance(event, StepEvent):
        return "info", _step(event)
    if isinstance(event, EvaluationEvent):
        best = ", the best so far" if event.is_best else ""
        return "info", f"Evaluation at step {event.step:,}: held-out {_numbers(event.values)}{best}."
    if isinstance(event, CheckpointEvent):
        size = f"{event.size_bytes / 1e6:,.1f} MB"
        return "info", f"Checkpoint of step {event.step:,} written to {event.path}, {size} ({REASONS[event.reason]})."
    if isinstance(event, NoticeEvent):
        return event.level, f"{event.message} {event.hint}".strip()
    if isinstance(event, ArtifactEvent):
        return "info", f"{event.path} written, {event.size_bytes / 1e6:,.1f} MB."
    if isinstance(event, PhaseEvent):
        return "info", f"{PHASES[event.phase]}{f': {event.detail}' if event.detail else ''}."
    return None


def same_again(sentence: str) -> str:
    """What of a sentence comes out alike when a run that was killed takes a step once more: all but its speed."""
    return sentence.partition(";")[0].rstrip(".")


def _step(event: StepEvent) -> str:
    text = f"Step {event.step:,} of {event.total_steps:,}: {_numbers(event.values)}"
    if event.learning_rate is not None:
        text += f", learning rate {_short(event.learning_rate, 3)}"
    return f"{text}; {event.tokens_per_s:,.0f} tokens/s." if event.tokens_per_s else f"{text}."


def _numbers(values: dict[str, float]) -> str:
    """`loss 1.934, token accuracy 0.61`"""
    told = [f"{name.replace('_', ' ')} {_short(value)}" for name, value in list(values.items())[:MOST_NUMBERS]]
    return ", ".join(told)


def _short(number: float, digits: int = 4) -> str:
    """So many significant digits, never with an exponent."""
    value = Decimal(f"{number:.{digits}g}")
    return f"{value:f}" if value.is_finite() else str(number)
