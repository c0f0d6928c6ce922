"""A job directory and a run in this very process: the worker's own `Run`, without the process around it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.tiny import make_tiny_model
from tunesmith.core.job_dir import JobDir, read_new_events, write_atomic
from tunesmith.core.job_spec import JobSpec, Launch
from tunesmith.recipes.catalog import get_recipe
from tunesmith.worker.run import Run
from tunesmith.worker.stopping import StopSignals

PAIRS = [{"question": f"what is {i} and {i * 7 % 11}" * (1 + i % 3), "answer": f"it is {i * 3} of user"} for i in range(48)]  # fmt: skip


class Ground:
    """Makes runs below one folder. `run(...)` gives a fresh job directory; `again` the next attempt in the same one."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model, self._count = folder, model, 0

    def run(
        self,
        rows: Sequence[dict[str, Any]] = PAIRS,
        *,
        recipe: str = "lora",
        shape: str = "question_answer",
        mapping: dict[str, str] | None = None,
        **params: Any,
    ) -> Run:
        self._count += 1
        folder = self.folder / f"job{self._count}"
        folder.mkdir()
        path = folder / "data.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        mapping = mapping or {"question": "question", "answer": "answer"}
        data = {"name": "rows", "path": str(path), "digest": hashlib.sha256(repr(rows).encode()).hexdigest(),
                "shape": shape, "mapping": mapping, "num_rows": len(rows)}  # fmt: skip
        spec = JobSpec(
            job_id=self._count, name="test", recipe=recipe, params=params, model={"name": "tiny", "path": str(self.model)},
            dataset=data, cache_dir=str(self.folder / "cache"), offline=True,
        )  # fmt: skip
        write_atomic(folder / "spec.json", spec)
        return self._open(JobDir(folder), 1)

    def again(self, run: Run) -> Run:
        return self._open(run.dir, run.attempt + 1)

    @staticmethod
    def _open(job_dir: JobDir, attempt: int) -> Run:
        write_atomic(job_dir.launch, Launch(attempt=attempt))
        run = Run(job_dir, job_dir.read_spec(), attempt, StopSignals())
        run.start()
        return run


def params_of(run: Run) -> Any:
    return get_recipe(run.spec.recipe).params.model_validate(run.spec.params)


def train(run: Run) -> str:
    """As the worker calls it."""
    from importlib import import_module

    module, _, function = get_recipe(run.spec.recipe).train.partition(":")
    call: Callable[..., str] = getattr(import_module(module), function)
    return call(params_of(run), run)


def events(run: Run, kind: str) -> list[Any]:
    run._reporter.flush()
    return [event for event in read_new_events(run.dir.events, 0).events if event.type == kind]


def losses(run: Run) -> list[float]:
    return list({event.step: event.loss for event in events(run, "step")}.values())


def tiny(folder: Path, family: str) -> Path:
    return folder if (folder / "config.json").exists() else make_tiny_model(folder, family)
