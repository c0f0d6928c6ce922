"""The worker's own lines in `output.log`, between what libraries and scripts print. A line is one write and is never flushed to
the disk by itself, so it costs a training step nothing.

A run that was killed takes some steps once more. The log tells each once: what it holds already is not written again.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import Any

from tunesmith.core.events import CheckpointEvent, EvaluationEvent, PhaseEvent, StepEvent
from tunesmith.core.job_dir import JobDir, open_plain
from tunesmith.core.job_status import Phase
from tunesmith.core.log_lines import LINE, Level, line, same_again, sentence_of

LOOKED_AT_BYTES = 4 * 1024 * 1024
"""Of the log's end, for what earlier attempts have written."""
REPEATED = re.compile(r"Step |Evaluation at step |Checkpoint of step ")


class WorkerLog:
    """Writes to this process's output, which is the job's log."""

    def __init__(self, job_dir: JobDir, attempt: int) -> None:
        self._known = _written(job_dir) if attempt > 1 else set()
        self._repeats = self._trains = False

    def tell(self, event: Any) -> None:
        """Write the line of an event, if it has one."""
        found = sentence_of(event)
        if found is None or self._is_noise(event):
            return
        level, sentence = found
        if isinstance(event, StepEvent | EvaluationEvent | CheckpointEvent) and same_again(sentence) in self._known:
            if not self._repeats:
                self._repeats = True
                self.write("info", "Repeating steps since the checkpoint; their lines are above.")
            return
        self.write(level, sentence)

    def write(self, level: Level, sentence: str) -> None:
        """Write one line. A disk that takes no more stops nobody."""
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stdout.write(line(level, sentence))
            sys.stdout.flush()

    def _is_noise(self, event: Any) -> bool:
        """Whether it only says that training and evaluating take turns; the evaluation has a line of its own."""
        if not isinstance(event, PhaseEvent) or event.detail or event.phase not in (Phase.TRAINING, Phase.EVALUATING):
            return False
        trained, self._trains = self._trains, True
        return trained or event.phase == Phase.EVALUATING


def _written(job_dir: JobDir) -> set[str]:
    """What earlier attempts wrote of steps, evaluations and checkpoints."""
    try:
        with open_plain(job_dir.log) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOOKED_AT_BYTES))
            data = file.read()
    except FileNotFoundError:
        return set()
    sentences = (found[2].decode(errors="replace") for text in data.split(b"\n") if (found := LINE.search(text)))
    return {same_again(sentence) for sentence in sentences if REPEATED.match(sentence)}
