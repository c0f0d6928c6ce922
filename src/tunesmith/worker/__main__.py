"""`python -m tunesmith.worker JOB_DIR --attempt N`: one attempt at one job, from `spec.json` to `exit.json`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path

from tunesmith.core.errors import FAILURE_HINTS, FailureCode
from tunesmith.core.job_dir import JobDir, end_half_line, write_atomic
from tunesmith.core.job_spec import ExitRecord, Failure
from tunesmith.core.recipe import Outcome
from tunesmith.recipes.catalog import get_recipe
from tunesmith.worker.failures import classify
from tunesmith.worker.reporter import Fenced
from tunesmith.worker.resources import sample_resources
from tunesmith.worker.run import Run
from tunesmith.worker.stopping import StopSignals


def work(job_dir: JobDir, attempt: int, signals: StopSignals) -> int:
    """Train, and write `exit.json`. Returns the process's exit code: 0 for any orderly end, 1 when the job failed."""
    spec = job_dir.read_spec()
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0:
        end_half_line(job_dir.events)
    run = Run(job_dir, spec, attempt, signals, rank)
    failure: Failure | None = None
    outcome = "failed"
    stop_sampling = threading.Event()
    try:
        run.start()
        if run.is_main:
            threading.Thread(target=sample_resources, args=(run.report, stop_sampling), daemon=True).start()
        recipe = get_recipe(spec.recipe)
        module, _, function = recipe.train.partition(":")
        params = recipe.params.model_validate(spec.params)
        run.phase("loading")
        outcome = getattr(import_module(module), function)(params, run)
        if outcome == Outcome.PAUSED and run.timed_out:
            outcome = "failed"
            failure = Failure(
                code=FailureCode.TIMEOUT,
                message=f"The job ran longer than its limit of {spec.timeout_s:g} s.",
                hint=FAILURE_HINTS[FailureCode.TIMEOUT],
            )
    except Fenced:
        raise
    except (Exception, KeyboardInterrupt) as error:  # the worker's last line: whatever it was, say it in exit.json
        traceback.print_exc()
        failure = classify(error)
    stop_sampling.set()
    if run.is_main:
        run.finish()
        record = ExitRecord(attempt=attempt, outcome=outcome, failure=failure, metrics=run.final_metrics)
        write_atomic(job_dir.exit, record)
    return 1 if failure else 0


def launch_ranks(job_path: Path, attempt: int, num_ranks: int) -> None:
    """Become torchrun on this machine, with one rank a device."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    command += ["-m", "tunesmith.worker", str(job_path), "--attempt", str(attempt)]
    os.execv(sys.executable, command)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tunesmith.worker")
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    arguments = parser.parse_args()
    job_dir = JobDir(arguments.job_dir.resolve())
    launch = job_dir.read_launch()
    if launch is None or launch.attempt != arguments.attempt:
        raise Fenced
    num_ranks = int(os.environ.get("TUNESMITH_RANKS", len(launch.devices)))
    if num_ranks > 1 and "RANK" not in os.environ:
        launch_ranks(arguments.job_dir, arguments.attempt, num_ranks)
    signals = StopSignals()
    signals.listen()
    code = work(job_dir, arguments.attempt, signals)
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError):
        os.fsync(1)
    # Threads of native libraries must not hold up or spoil an end that exit.json has already told.
    os._exit(code)


if __name__ == "__main__":
    main()
