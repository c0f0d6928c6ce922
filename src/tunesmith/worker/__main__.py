"""`python -m tunesmith.worker JOB_DIR --attempt N`: one attempt at one job, from `spec.json` to `exit.json`."""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path

from tunesmith.core import progress
from tunesmith.core.errors import FAILURE_HINTS, FailureCode, JobFailure
from tunesmith.core.job_dir import JobDir, end_half_line, read_model
from tunesmith.core.job_spec import DUMP_SIGNAL, ExitRecord, Failure, JobSpec, Launch, ModelRef
from tunesmith.core.log_lines import Level
from tunesmith.core.recipe import Outcome
from tunesmith.recipes.catalog import find_kind, get_recipe
from tunesmith.recipes.model_info import refuse_unsafe_files
from tunesmith.worker.failures import classify
from tunesmith.worker.last_word import LastWord
from tunesmith.worker.ranks import die_with_parent, launch_ranks
from tunesmith.worker.reporter import Fenced
from tunesmith.worker.resources import sample_resources
from tunesmith.worker.run import Run
from tunesmith.worker.stopping import StopSignals


def work(job_dir: JobDir, launch: Launch, rank: int, signals: StopSignals) -> int:
    """Train, and write `exit.json`. Returns the process's exit code: 0 for any orderly end, 1 when the job failed."""
    last_word = LastWord(job_dir, launch.attempt, rank)
    run: Run | None = None
    stop_sampling = threading.Event()
    outcome, failure = "failed", None
    try:
        last_word.reserve()
        spec = job_dir.read_spec()
        prepare_environment(spec)
        if rank == 0:
            end_half_line(job_dir.events)
        run = Run(job_dir, spec, launch.attempt, signals, rank)
        run.start()
        if run.is_main:
            arguments = (run.report, stop_sampling, launch.devices)
            threading.Thread(target=sample_resources, args=arguments, daemon=True).start()
        outcome = train(spec, run)
        if outcome == Outcome.PAUSED and run.timed_out:
            message = f"The job ran longer than its limit of {spec.timeout_s:g} s; a checkpoint was kept."
            hint = FAILURE_HINTS[FailureCode.TIMEOUT]
            outcome, failure = "failed", Failure(code=FailureCode.TIMEOUT, message=message, hint=hint)
    except Fenced:
        raise
    except (
        Exception,
        KeyboardInterrupt,
        SystemExit,
    ) as error:  # the worker's last line: whatever it was, exit.json tells
        traceback.print_exc()
        outcome, failure = "failed", classify(error)
    stop_sampling.set()
    if run and run.is_main:
        run.log.write(*last_line(outcome, failure))
    metrics = run.final_metrics if run else {}
    last_word.write(run, ExitRecord(attempt=launch.attempt, outcome=outcome, failure=failure, metrics=metrics))
    return 1 if failure else 0


def last_line(outcome: str, failure: Failure | None) -> tuple[Level, str]:
    """How the log ends."""
    if failure:
        return "error", f"Failed: {failure.message} {failure.hint}".strip()
    return "info", f"The job is {outcome}."


def prepare_environment(spec: JobSpec) -> None:
    """Settings that libraries read when they are imported."""
    if spec.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(spec.cache_dir) / "compiled"))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if spec.resources.cpu_threads:
        os.environ.setdefault("OMP_NUM_THREADS", str(spec.resources.cpu_threads))


def train(spec: JobSpec, run: Run) -> str:
    """Call the recipe's `train`. Returns its `Outcome`."""
    run.phase("starting")
    recipe = get_recipe(spec.recipe)
    why_not = recipe.unavailable_reason()
    if why_not:
        raise JobFailure(FailureCode.UNSUPPORTED, why_not)
    params = recipe.params.model_validate(spec.params)
    if spec.model:
        check_model(spec.model)
    module, _, function = recipe.train.partition(":")
    run.phase("loading")
    outcome = getattr(import_module(module), function)(params, run)
    if outcome not in (Outcome.COMPLETED, Outcome.PAUSED, Outcome.CANCELLED):
        raise TypeError(f"{recipe.train} returned {outcome!r}, which is no outcome")
    return str(outcome)


def check_model(model: ModelRef) -> None:
    """Refuse early, before any library reads the folder, what may not be loaded. Raises `JobFailure` or `TunesmithError`."""
    for path in map(Path, filter(None, (model.path, model.adapter_path))):
        kind = find_kind(path)
        if path.is_dir() and kind and "predict" in kind.engines:
            kind.describe(path, None)
        elif path.is_dir():
            refuse_unsafe_files(path)
        elif path.is_absolute():
            raise JobFailure(FailureCode.MODEL_NOT_FOUND, f"The folder of the model {model.name} is gone: {path}.")


def work_as_ranks(job_dir: JobDir, launch: Launch, num_ranks: int) -> int:
    """Run this very command once a device. Returns the exit code of the job; a rank ended by a signal ends us likewise."""
    command = [sys.executable, "-m", "tunesmith.worker", str(job_dir.path), "--attempt", str(launch.attempt)]
    code = launch_ranks(command, num_ranks, job_dir.read_spec().resources.cpu_threads)
    told = job_dir.read_exit()
    known = told if told and told.attempt == launch.attempt else None
    if code and (known is None or (known.failure and known.failure.code == FailureCode.INTERNAL)):
        # Rank 0 only saw its partner go; the partner knows why.
        for path in sorted(job_dir.path.glob("exit.rank-*.json")):
            record = read_model(path, ExitRecord)
            if record and record.attempt == launch.attempt:
                LastWord(job_dir, launch.attempt, 0).write(None, record)
                return 1
    if code < 0 and known is None:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return abs(code)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tunesmith.worker")
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--attempt", type=int, required=True)
    arguments = parser.parse_args()
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True)
    job_dir = JobDir(arguments.job_dir.resolve())
    launch = job_dir.read_launch()
    if launch is None or launch.attempt != arguments.attempt:
        raise Fenced
    num_ranks = int(os.environ.get("TUNESMITH_RANKS", len(launch.devices)))
    if num_ranks > 1 and "RANK" not in os.environ:
        sys.exit(work_as_ranks(job_dir, launch, num_ranks))
    if "RANK" in os.environ:
        die_with_parent()
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0:
        progress.begin(job_dir.progress, launch.attempt)
    signals = StopSignals()
    signals.listen()
    code = work(job_dir, launch, rank, signals)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of native libraries must not hold up or spoil an end that exit.json has already told.
    os._exit(code)


if __name__ == "__main__":
    main()
