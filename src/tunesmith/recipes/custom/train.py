"""Runs a user's Python file in a process of its own, with limits, and turns what it prints into events.

The script is called as `script.py CONFIG.json`. The config holds `config` (what the user set), `output_dir` (what is saved there
is the result), `state_dir` (kept when the job is paused or restarted), and the paths of model and datasets. It has no network
unless the server's settings allow it, and it sees no other files (`isolation.py`). It runs as the server's user all the same,
which is why only administrators may send one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

from tunesmith.core.clock import monotonic_s
from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.recipe import Outcome, RunContext
from tunesmith.recipes.custom import isolation
from tunesmith.recipes.custom.activity import Activity
from tunesmith.recipes.custom.namespaces import LAUNCHER
from tunesmith.recipes.custom.output import ScriptOutput
from tunesmith.recipes.custom.spec import CustomParams
from tunesmith.recipes.model_info import PICKLE_SUFFIXES

KEPT_VARIABLES = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "TUNESMITH_LAUNCH",
)
"""All that a script learns of the worker's environment; secrets live in the others. By the last, what a script leaves
running is found."""
REFUSED_SUFFIXES = (*PICKLE_SUFFIXES, ".joblib", ".npy", ".npz")
"""Formats that can hold pickled objects, which run code when they are read."""
MAX_FILE_BYTES = 64 * 1024**3
MAX_FILES = 10_000
GRACE_S = 5.0
"""Seconds between SIGTERM and SIGKILL."""
MEMORY_WORDS = ("MemoryError", "Cannot allocate memory", "out of memory", "bad_alloc", "can't allocate memory")


def train(params: CustomParams, run: RunContext) -> str:
    """Run the script to its end and keep what it saved. Returns an `Outcome`; raises `JobFailure`."""
    if not run.is_main:
        return Outcome.COMPLETED
    folder = run.dir.path / "script"
    output_dir = _prepare(folder, params, run)
    run.phase("training")
    process = _start(folder, params, run)
    output = ScriptOutput(process, run)
    activity = Activity(process.pid)
    outcome = None
    deadline_s = monotonic_s() + params.timeout_s
    try:
        while output.read(timeout_s=0.2):
            activity.look()
            control = run.control()
            if control.stop or control.pause:
                outcome = Outcome.CANCELLED if control.stop else Outcome.PAUSED
                break
            if monotonic_s() > deadline_s:
                message = f"The script ran longer than its limit of {params.timeout_s} s."
                raise JobFailure(FailureCode.TIMEOUT, message, hint="Raise timeout_s, or let the script do less.")
    finally:
        _end(process)
    if outcome:
        return outcome
    output.drain()
    if code := _exit_code(process):
        raise _failure(code, output.last_errors(), params)
    if output.metrics:
        run.metrics(output.metrics)
    run.phase("saving", "custom_model")
    _keep(output_dir, run)
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome.COMPLETED


def _prepare(folder: Path, params: CustomParams, run: RunContext) -> Path:
    """Write script and config to a private folder; returns the new, empty output folder."""
    output_dir = folder / "output"
    if output_dir.is_symlink():
        output_dir.unlink()
    shutil.rmtree(output_dir, ignore_errors=True)
    for path in (folder, output_dir, folder / "state", folder / "tmp"):
        path.mkdir(mode=0o700, exist_ok=True)
    spec = run.spec
    config: dict[str, Any] = {
        "config": params.config,
        "output_dir": str(output_dir),
        "state_dir": str(folder / "state"),
        "job_name": spec.name,
        "model_path": spec.model.path if spec.model else None,
        "dataset_path": spec.dataset.path if spec.dataset else None,
        "dataset_shape": spec.dataset.shape if spec.dataset else None,
        "dataset_mapping": spec.dataset.mapping if spec.dataset else {},
        "eval_dataset_path": spec.eval_dataset.path if spec.eval_dataset else None,
    }
    _write(folder / "script.py", params.script)
    _write(folder / "config.json", json.dumps(config, indent=1))
    return output_dir


def _write(path: Path, text: str) -> None:
    """As a new file: an earlier attempt of the script may have left a link there, which must not be followed."""
    path.unlink(missing_ok=True)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)


def _start(folder: Path, params: CustomParams, run: RunContext) -> subprocess.Popen[bytes]:
    memory_bytes = params.memory_mb * 1024**2
    if run.spec.resources.memory_bytes:
        memory_bytes = min(memory_bytes, run.spec.resources.memory_bytes)
    wraps = isolation.way() == "bubblewrap"
    how = "wrapped" if wraps else "online" if run.spec.custom_network else "offline"
    view = [] if wraps else isolation.view(folder, run.spec)
    limits = [os.getpid(), params.cpu_seconds, memory_bytes, MAX_FILE_BYTES, len(view)]
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    script = [str(folder / "script.py"), str(folder / "config.json")]
    command = [sys.executable, "-I", "-c", LAUNCHER, how, *map(str, limits), *view, *script]
    return subprocess.Popen(
        isolation.wrapped(command, folder, run.spec) if wraps else command,
        cwd=folder,
        env={**kept, "HOME": str(folder), "TMPDIR": str(folder / "tmp")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )


def _exit_code(process: subprocess.Popen[bytes]) -> int:
    """Negative for a signal, also where a program in between tells it as a shell does."""
    code = process.returncode
    return 128 - code if 128 < code <= 128 + signal.NSIG else code


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the script and all that it started in its process group, politely first."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says "not permitted" of a group of zombies
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _failure(code: int, last_errors: list[str], params: CustomParams) -> JobFailure:
    """Why the script failed, from its exit code and the end of what it said on stderr."""
    text = "\n".join(last_errors)
    details = [{"loc": "script", "message": text}] if text else []
    if code == -signal.SIGXCPU:
        message = f"The script used more than its limit of {params.cpu_seconds} s of CPU time."
        return JobFailure(FailureCode.TIMEOUT, message, hint="Raise cpu_seconds.", details=details)
    if code == -signal.SIGKILL or any(words in text for words in MEMORY_WORDS):
        message = f"The script needed more memory than there is; its limit is {params.memory_mb} MB."
        hint = "Raise memory_mb, or let the script work on smaller pieces."
        return JobFailure(FailureCode.OUT_OF_MEMORY, message, hint=hint, details=details)
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    said = f": {last_errors[-1][:500]}" if last_errors else "."
    return JobFailure(FailureCode.SCRIPT_FAILED, f"The script {how}{said}", details=details)


def _keep(output_dir: Path, run: RunContext) -> None:
    """Move what the script saved to `artifacts/custom_model/`. Raises `JobFailure` for links, devices and pickles."""
    files = []
    if output_dir.is_symlink() or not output_dir.is_dir():
        raise _refused(
            "output_dir", "is not the folder that the script was given", "Save files in it, and let it stay."
        )
    for root, folders, names in os.walk(output_dir):
        for name in [*folders, *names]:
            path = Path(root, name)
            mode = path.lstat().st_mode
            shown = path.relative_to(output_dir).as_posix()
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise _refused(shown, "is a link or a device, not a file", "Save plain files only.")
            if stat.S_ISREG(mode):
                files.append(path)
                if path.suffix.lower() in REFUSED_SUFFIXES:
                    raise _refused(
                        shown,
                        "is of a format that can run code when it is read",
                        "Save weights as .safetensors and other things as JSON, CSV or Parquet.",
                    )
    if not files:
        raise _refused(
            "output_dir", "is empty: the script saved nothing", "Save the result under config['output_dir']."
        )
    if len(files) > MAX_FILES:
        raise _refused("output_dir", f"holds {len(files)} files", f"Save at most {MAX_FILES} files.")
    with run.artifact("custom_model") as folder:
        for path in files:
            target = folder / path.relative_to(output_dir)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, target)


def _refused(name: str, why: str, hint: str) -> JobFailure:
    return JobFailure(
        FailureCode.SCRIPT_FAILED,
        f"The script's result cannot be kept: {name} {why}.",
        hint=hint,
        details=[{"loc": name, "message": why}],
    )
