"""The real worker around a training that adds numbers: its reserve, its events, checkpoints, artifact and last word are
those of every job. `params`: `steps`, `pause_s`, and `weights_bytes`, the size of each checkpoint and of the artifact;
`greedy` asks for more memory than there is; `prints_bytes` is printed at the start; it rests for `rests_s` and
holds `holds_bytes` of memory; at step `stuck_at` the first `stuck_attempts`
wait for a lock that nobody opens.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from tests.reliability.payload import expected, next_sum
from tunesmith.core.events import StepEvent
from tunesmith.core.job_spec import JobSpec
from tunesmith.core.recipe import Outcome
from tunesmith.worker import __main__ as worker
from tunesmith.worker.run import Run

COMMAND = (
    sys.executable, "-c",
    f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); from {__name__} import main; main()",
)  # fmt: skip


def train(spec: JobSpec, run: Run) -> str:
    params = spec.params
    run.phase("training")
    if params.get("greedy"):
        bytearray(2**62)
    print("p" * params.get("prints_bytes", 0))
    time.sleep(params.get("rests_s", 0))
    held = b"h" * params.get("holds_bytes", 0)
    latest = run.latest_checkpoint()
    step, value = (int(latest.name[5:]), (latest / "sum").read_text()) if latest else (0, "")
    assert value == expected(step), "a checkpoint was not whole"
    while step < params["steps"]:
        step, value = step + 1, next_sum(value, step + 1)
        run.report(StepEvent(step=step, total_steps=params["steps"], epoch=0.0, loss=1.0, learning_rate=0.1))
        if step % 5 == 0:
            with run.checkpoint(step) as folder:
                (folder / "sum").write_text(value)
                (folder / "weights").write_bytes(bytes(params["weights_bytes"]))
            run.prune_checkpoints(1)
        if run.control().stop:
            return Outcome.CANCELLED
        time.sleep(params["pause_s"])
        if step == params.get("stuck_at") and run.attempt <= params["stuck_attempts"]:
            stand_still()
    with run.artifact("model") as folder:
        (folder / "sum").write_text(value)
        (folder / "weights").write_bytes(bytes(params["weights_bytes"]))
    del held
    return Outcome.COMPLETED


def stand_still() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def main() -> None:
    worker.train = train
    worker.main()
