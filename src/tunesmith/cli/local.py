"""Training with no server: the same child processes, the same job directory, in a folder of the user's choice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.cli.config import TrainConfig
from tunesmith.core.errors import Conflict, InvalidInput, NotFound, TunesmithError, Unavailable
from tunesmith.core.job_dir import JobDir, read_new_events, write_atomic
from tunesmith.core.job_spec import DatasetRef, ExitRecord, JobSpec, Launch, ModelRef
from tunesmith.core.words import plural
from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.model_info import ModelInfo
from tunesmith.recipes.plans import Facts, Lengths, read_machine
from tunesmith.recipes.plans import plan as plan_of
from tunesmith.recipes.row_check import OPTIONS, BadRows, RowFacts, checks, known_bad_rows, rated_problem
from tunesmith.sdk.connection import error_from
from tunesmith.settings import Settings

if TYPE_CHECKING:
    from tunesmith.storage.database import Session

LOOK_EVERY_S = 0.2
NEWEST = "main"
"""The revision of the hub that is taken when none is named."""
OF_A_RANK = ("RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
             "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")  # fmt: skip
"""What torchrun tells the processes that it starts."""


def num_ranks() -> int | None:
    """How many processes torchrun has started; None without it. Raises `InvalidInput` on several machines."""
    if "RANK" not in os.environ:
        return None
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if int(os.environ.get("LOCAL_WORLD_SIZE", count)) != count:
        raise InvalidInput("A job trains on the devices of one machine.", hint="Leave --nnodes of torchrun out.")
    return count


def is_first() -> bool:
    """Whether this is the first process of torchrun, or the only one. The others have nothing to do: the worker starts the ranks."""
    return os.environ.get("RANK", "0") == "0"


def prepare(config: TrainConfig, folder: Path, *, resume: bool) -> tuple[JobDir, int]:
    """The job directory, ready to start, and its next attempt. Raises `Conflict` when the folder holds another run."""
    job_dir = JobDir(folder.resolve())
    if job_dir.spec.exists():
        if not resume:
            raise Conflict(
                f"{folder} holds a run already.", hint="Add --resume to go on with it, or choose another --output."
            )
        last = job_dir.read_launch()
        return job_dir, (last.attempt if last else 0) + 1
    if resume:
        raise InvalidInput(f"There is no run in {folder} to resume.", hint="Leave --resume out.")
    job_dir.path.mkdir(parents=True, exist_ok=True)
    recipe = get_recipe(config.method)
    if reason := recipe.unavailable_reason():
        raise InvalidInput(reason)
    if config.training_data and config.training_data.validation_dataset is not None:
        raise InvalidInput(
            "validation_dataset names a dataset of a server, and this run has none.",
            hint="Leave it out: validation_split holds rows of the file out.",
            details=[{"loc": "training_data.validation_dataset", "message": "needs a server"}],
        )
    model, info = find_model(config)
    data, lengths, bad = read_data(config, folder)
    skips = config.settings().get("skip_bad_rows") is True
    refuse_bad_rows(data, bad, skips=skips)
    rows = count_rows(config, model, data, folder)
    lengths = (rows and rows.row_lengths()) or lengths
    facts = Facts(
        machine=read_machine(), model=info, num_rows=data.num_rows - (bad.count if bad and skips else 0), lengths=lengths,
        num_held_out=data.num_held_out, num_file_rows=data.num_rows,
    )  # fmt: skip
    choice = plan_of(recipe, config.settings(), facts, auto=config.auto)
    refuse_harm(recipe.name, data.shape, rows, choice.params)
    spec = JobSpec(
        job_id=0, name=config.name or folder.name, recipe=recipe.name, params=choice.params, model=model, dataset=data,
        cache_dir=str(Settings().cache_dir.absolute()), offline=Settings().hub_offline,
    )  # fmt: skip
    Path(spec.cache_dir).mkdir(parents=True, exist_ok=True)
    write_atomic(job_dir.spec, spec)
    return job_dir, 1


def find_model(config: TrainConfig) -> tuple[ModelRef, ModelInfo | None]:
    """A folder, or what a server with this home would find under that name: models of its folders, of the hub's cache, of its
    jobs and its registry; else the hub id for the worker to fetch. Raises as a server does for what is nowhere."""
    if config.model is None:
        raise InvalidInput(f"Method {config.method} needs a server.", hint="Start one with: tunesmith up")
    from tunesmith.features.catalog import existence
    from tunesmith.features.catalog import service as catalog

    settings, name = Settings(), config.model.name
    folder = Path(name).expanduser()
    if (folder / catalog.WHOLE_MODEL_FILE).is_file() or (folder.suffix.lower() == ".gguf" and folder.is_file()):
        model = ModelRef(name=name, path=str(folder.resolve()))
    elif name.startswith(("/", "./", "../", "~")):
        raise NotFound(f"There is no model in {name}.", hint="A model's folder has config.json and safetensors.")
    else:
        with _registry(settings, name) as session:
            model = catalog.resolve_model(settings, session, name)
        if config.model.revision and config.model.revision != NEWEST:
            model = _at_revision(model, config.model.revision)
        existence.check(settings, model.path, model.revision)
    catalog.check_trainable(model)
    return model, catalog.model_info(model)


def _at_revision(model: ModelRef, revision: str) -> ModelRef:
    """The snapshot of that revision where the hub's cache has it, else the hub id for the worker to fetch. Raises `InvalidInput` for
    a model that is no hub's."""
    found = Path(model.path)
    if not found.is_absolute():
        return model.model_copy(update={"revision": revision})
    if found.parent.name != "snapshots" or model.adapter_path:
        raise InvalidInput(
            f"{model.name} is not a model of the hub here, so it has no revision {revision}.",
            hint="Leave the revision out.",
            details=[{"loc": "model.revision", "message": "the model is no hub's"}],
        )
    named = found.parent.parent / "refs" / revision
    folder = found.parent / (named.read_text().strip() if named.is_file() else revision)
    here = (folder / "config.json").is_file()
    return ModelRef(name=model.name, path=str(folder) if here else model.name, revision=None if here else revision)


@contextlib.contextmanager
def _registry(settings: Settings, name: str) -> Generator[Session | None, None, None]:
    """A look into the database of this home for registered models; None where there is none, and for names of other kinds."""
    from tunesmith.storage.database import Database, DatabaseError

    if "/" in name or not (settings.database_url or (settings.home / "tunesmith.db").is_file()):
        yield None
        return
    database = Database(settings.sqlalchemy_url)
    try:
        with database.unit_of_work(readonly=True) as session:
            yield session
    except DatabaseError:
        raise Unavailable(
            f"The registry of {settings.home} cannot be read.",
            hint="Start the server once, which brings its database up to date, or name the model's folder.",
        ) from None
    finally:
        database.close()


def count_rows(config: TrainConfig, model: ModelRef, data: DatasetRef, folder: Path) -> RowFacts | None:
    """What the model makes of the rows, counted in a child process; None when its tokenizer is not here yet."""
    if not Path(model.path).is_dir():
        return None
    out = folder.resolve() / "rows"
    settings = config.settings()
    options = {name: settings[name] for name in OPTIONS if name in settings}
    request = {
        "action": "facts", "data": data.model_dump(), "model": model.model_dump(), "out_dir": str(out),
        "options": {"tool_calls": "template", **options},
    }  # fmt: skip
    request_path = folder / "rows-request.json"
    write_atomic(request_path, request)
    command = [sys.executable, "-m", "tunesmith.recipes.inspection", str(request_path)]
    child = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    request_path.unlink()
    if child.returncode:
        return None  # the worker says what is wrong with the model
    found = RowFacts.model_validate_json((out / "facts.json").read_bytes())
    shutil.rmtree(out)
    return found


def refuse_harm(method: str, shape: str, rows: RowFacts | None, params: dict[str, Any]) -> None:
    """Raises `InvalidInput` when too many rows would lose something, or rate answers that all would be learned."""
    if rated := rated_problem(shape, params, method):
        raise InvalidInput(f"The rows cannot be used: {rated[0]}.", hint=rated[1])
    for remark in checks(rows, params) if rows else ():
        if remark.is_refused:
            raise InvalidInput(remark.message, hint=remark.hint)


def refuse_bad_rows(data: DatasetRef, bad: BadRows | None, *, skips: bool) -> None:
    """Raises `InvalidInput` when there are some and they are not to be skipped, or when there are no others."""
    if bad and not skips:
        details = [{"loc": "training_data", "message": plural(bad.count, "bad row"), "rows": list(bad.rows)}]
        hint = "Add --skip-bad-rows to train without them, or fix the file."
        raise InvalidInput(bad.problem(data.name), hint=hint, details=details)
    if bad and bad.count >= data.num_rows:
        raise InvalidInput(f"No row of {data.name} can be used for training. {bad.why}", hint="Fix the file.")


def read_data(config: TrainConfig, folder: Path) -> tuple[DatasetRef, Lengths | None, BadRows | None]:
    """Read the file in a child process. Raises what is wrong with it, but for single rows."""
    data = config.training_data
    path = data.path if data else None
    if data is None or path is None:
        raise InvalidInput(
            "Without a server, training_data needs a path.",
            details=[{"loc": "training_data.path", "message": "missing"}],
        )
    if not path.is_file():
        raise InvalidInput(
            f"There is no file {path}.", details=[{"loc": "training_data.path", "message": "no such file"}]
        )
    out = folder.resolve() / "data"
    request = {
        "action": "ingest", "source": str(path.resolve()), "file_name": path.name, "out_dir": str(out),
        "options": data.given(),
    }  # fmt: skip
    request_path = folder / "data-request.json"
    write_atomic(request_path, request)
    command = [sys.executable, "-m", "tunesmith.dataprep", str(request_path)]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, start_new_session=True)  # Ctrl-C is ours alone
    request_path.unlink()
    if child.returncode:
        lines = child.stdout.strip().splitlines()
        raise (
            error_from(json.loads(lines[-1])["error"], 422) if lines else TunesmithError("The file could not be read.")
        )
    about = json.loads((out / "version.json").read_bytes())
    report = json.loads((out / "report.json").read_bytes())
    missing = [f["message"] for f in report["findings"] if f["code"] == "missing_column"]
    recipe = get_recipe(config.method)
    if missing or about["shape"] not in recipe.data.shapes:
        raise InvalidInput(
            missing[0]
            if missing
            else f"The rows are of shape {about['shape']}; {recipe.name} cannot learn from those.",
            hint=f"Set training_data.shape and mapping. Columns: {', '.join(about['columns'][:20])}.",
        )
    tokens = [role["tokens"] for role in report["lengths"].values()]
    median, p99, longest = (16 + sum(int(t.get(key) or 0) for t in tokens) for key in ("p50", "p99", "max"))
    ref = DatasetRef(
        name=path.name, path=str(out / "data.parquet"), digest=about["digest"], shape=about["shape"], mapping=about["mapping"],
        num_rows=about["num_rows"], split_column=about["layout"]["split_column"],
        num_held_out=about["layout"]["num_held_out"],
    )  # fmt: skip
    bad = known_bad_rows(report["findings"])
    return ref, Lengths(median, p99, longest) if tokens else None, bad


class Worker:
    """The training process of one attempt. Ctrl-C or SIGTERM pauses it at a checkpoint; a second one kills it.

    The signals are taken over while it lives, so it makes no difference what this process is doing when they come.
    """

    def __init__(self, job_dir: JobDir, attempt: int) -> None:
        self.asks = 0
        """How often it was asked to end."""
        self._process: subprocess.Popen[bytes] | None = None
        self._handlers = {number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)}
        command = [sys.executable, "-m", "tunesmith.worker", str(job_dir.path), "--attempt", str(attempt)]
        env = {name: value for name, value in os.environ.items() if name not in OF_A_RANK}
        if ranks := num_ranks():
            env["TUNESMITH_RANKS"] = str(ranks)
        with job_dir.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=env
            )
        if self.asks:
            self._end(signal.SIGTERM)

    def code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.poll() if self._process else None

    def close(self) -> None:
        """Pause it if it still trains, wait for its end, and give the signals back."""
        if self._process and self._process.poll() is None:
            if not self.asks:
                self._asked(signal.SIGTERM)
            self._process.wait()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _asked(self, _number: int, _frame: object = None) -> None:
        self.asks += 1
        self._end(signal.SIGTERM if self.asks == 1 else signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def run(job_dir: JobDir, attempt: int) -> Generator[dict[str, Any], None, None]:
    """Start the worker and yield its events, then a status event that tells the end.

    Closing the iterator, whatever for, pauses the worker at a checkpoint, as Ctrl-C does. Main thread only.
    """
    offset = job_dir.events.stat().st_size if job_dir.events.exists() else 0
    write_atomic(job_dir.launch, Launch(attempt=attempt))
    worker, told = Worker(job_dir, attempt), False
    try:
        while True:
            ended = worker.code() is not None
            found = read_new_events(job_dir.events, offset)
            offset = found.next_offset
            for event in found.events:
                yield event.model_dump(mode="json")
            if ended and not found.events:
                break
            if worker.asks and not told:
                told = True
                text = "Pausing at a checkpoint. Ctrl-C once more ends it at once."
                yield {"type": "notice", "level": "info", "message": text, "hint": ""}
            time.sleep(LOOK_EVERY_S)
    finally:
        worker.close()
    yield _end(job_dir.read_exit(), attempt, worker)


def _end(record: ExitRecord | None, attempt: int, worker: Worker) -> dict[str, Any]:
    """The last word as a status event."""
    if record is None or record.attempt != attempt:
        if worker.asks == 1:
            return {"type": "status", "new": "paused", "reason": "stopped before the training began", "hint": ""}
        if worker.asks:
            hint = "--resume goes on from the last checkpoint."
            return {"type": "status", "new": "cancelled", "reason": "ended at once", "hint": hint}
        reason = f"the worker ended with code {worker.code()} and no last word"
        hint = "output.log in its folder has more; --resume goes on."
        return {"type": "status", "new": "failed", "reason": reason, "hint": hint}
    failure = record.failure
    return {
        "type": "status", "new": record.outcome, "reason": failure.message if failure else "", "hint": failure.hint if failure else "",
    }  # fmt: skip


def sized_name(config: TrainConfig, path: Path) -> str:
    """A folder name for a run without one: the same file, the same name."""
    return config.name or f"{path.stem}-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
