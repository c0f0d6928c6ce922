"""Measuring models that do not chat: what they predict for each row against what the data says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tunesmith.core.errors import FailureCode, InvalidInput, JobFailure
from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.model_kind import Description, ModelKind, Predictor
from tunesmith.core.prediction import UNSURE
from tunesmith.core.recipe import RunContext
from tunesmith.core.tasks import TASKS
from tunesmith.core.words import rows_named
from tunesmith.recipes.blocks import scoring
from tunesmith.recipes.evaluate import counting
from tunesmith.recipes.evaluate.journal import Journal, Steps, check_control
from tunesmith.recipes.evaluate.spec import EvaluateParams

MOST_CONFUSED = 200_000_000
"""Numbers (samples × labels²) up to which scores over classes get an interval."""
MEASURED = ("labels", "value")
"""Forms of answers that can be compared with a cell."""


def measure(
    run: RunContext, params: EvaluateParams, kind: ModelKind, told: dict[str, Any], steps: Steps
) -> list[dict[str, Any]]:
    """Fill in `told`; one sample for each row. Raises `Halted`, or `JobFailure` for data that does not fit the model."""
    base, data = run.spec.model, run.spec.dataset
    assert base is not None and data is not None  # the plan refuses a job without them
    path = Path(base.path)
    described = kind.describe(path, None)
    task = TASKS.get(described.task or kind.tasks[0])
    if task is None or task.answered not in MEASURED:
        raise JobFailure(FailureCode.UNSUPPORTED, f"A {kind.title.lower()} cannot be measured on rows.")
    if described.architecture.get("problem_type") == "multi_label_classification":
        raise JobFailure(FailureCode.UNSUPPORTED, "Models that give a text several labels cannot be measured here yet.")
    target = target_column(params, data, described)
    numbers = drawn(data.num_rows, params)
    module, _, function = kind.load.partition(":")
    run.phase("loading", base.name)
    predictor: Predictor = getattr(import_module(module), function)(path, run.spec.resources.cpu_threads or 1)
    journal = Journal(run.dir.path / "evaluation" / "predictions.jsonl")
    steps.expect(predictions=len(numbers))
    run.phase("evaluating", data.name)
    for batch in batches(data, numbers, target, task.asked, params.batch_size):
        check_control(run)
        rows = [(number, asked, right) for number, asked, right in batch if number not in journal.entries]
        journal.add(answered(predictor, rows))
        steps.tell("predictions", len(journal.entries))
    told |= {"task": task.name, "target": target, "dataset": about(data, len(numbers))}
    samples = [entry for _, entry in sorted(journal.entries.items())]
    left = [entry["row"] + 1 for entry in samples if "failed" in entry]
    if left:
        first = next(entry["failed"] for entry in samples if "failed" in entry)
        run.notice(
            f"{len(left)} rows could not be asked: {rows_named(left)}. The first: {first}",
            hint="Fix them in the dataset.", level="warning", code="rows_skipped", rows=left[:10_000],
        )  # fmt: skip
    samples = [entry for entry in samples if "failed" not in entry]
    told["scores"] |= scores_of(samples, task.answered, described.labels, told, params.seed)
    return samples


def target_column(params: EvaluateParams, data: DatasetRef, described: Description) -> str:
    """The column with the right answers: as asked for, as the data's mapping says, as the model was trained. Raises
    `JobFailure`."""
    with pq.ParquetFile(data.path) as file:
        columns = file.schema_arrow.names
    for name in (params.target, data.mapping.get("label"), described.target):
        if name and name in columns:
            return name
        if name and name == params.target:
            break
    raise JobFailure(
        FailureCode.INVALID_SETTINGS, f"{data.name} has no column with the right answers.",
        hint=f"Name it in target; there are {', '.join(columns[:10])}.",
    )  # fmt: skip


def drawn(num_rows: int, params: EvaluateParams) -> np.ndarray:
    """Numbers of the rows that are measured, from 0, ascending; the same for every model on the same data."""
    if num_rows <= params.max_samples:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng([params.seed, 0xE7A1]).choice(num_rows, params.max_samples, replace=False))


def batches(
    data: DatasetRef, numbers: np.ndarray, target: str, asked: str, size: int
) -> Iterator[list[tuple[int, Any, Any]]]:
    """`(number of the row, what is asked, the right answer)` of the rows `numbers`, `size` at a time."""
    wanted, start, part = set(map(int, numbers)), 0, list[tuple[int, Any, Any]]()
    text = data.mapping.get("text", "text")
    with pq.ParquetFile(data.path) as file:
        if asked == "text" and text not in file.schema_arrow.names:
            raise JobFailure(
                FailureCode.BAD_DATA, f"{data.name} has no column with texts.", hint="Map its column to the role text."
            )
        for table in file.iter_batches():
            for place, row in enumerate(_rows(table)):
                if start + place in wanted:
                    right = row.pop(target, None)
                    part.append((start + place, row.get(text) if asked == "text" else row, right))
                if len(part) == size:
                    yield part
                    part = []
            start += table.num_rows
    if part:
        yield part


def _rows(table: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Cells as JSON has them: times become text."""
    for row in table.to_pylist():
        yield {name: value if _is_plain(value) else str(value) for name, value in row.items()}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def answered(predictor: Predictor, rows: Sequence[tuple[int, Any, Any]]) -> list[dict[str, Any]]:
    """One entry a row; rows that cannot be asked are asked again one by one and say why."""
    asked = [row for row in rows if row[2] is not None]
    found = [{"row": number, "failed": "the right answer is missing"} for number, _, right in rows if right is None]
    try:
        answers = predictor.predict([what for _, what, _ in asked], {}) if asked else []
    except InvalidInput as error:
        if len(asked) == 1:
            return [*found, {"row": asked[0][0], "failed": error.message}]
        return [*found, *(entry for row in asked for entry in answered(predictor, [row]))]
    return found + [_entry(row, answer) for row, answer in zip(asked, answers, strict=True)]


def _entry(row: tuple[int, Any, Any], answer: Any) -> dict[str, Any]:
    """A sample as the page of an evaluation shows it."""
    number, asked, right = row
    prompt = asked if isinstance(asked, str) else json.dumps(asked, ensure_ascii=False)
    entry = {"row": number, "prompt": prompt, "expected": str(right)}
    if isinstance(answer, Mapping):  # a value
        off = float(answer["value"]) - float(right)
        stats = {"squared_error": [off * off, float(right), float(right) ** 2], "absolute_error": [abs(off)]}
        return entry | {"answer": f"{answer['value']:.6g}", "right": None, "stats": stats}
    best = next((one for one in answer if one["label"] != UNSURE), {"label": "", "score": 0.0})
    is_right = best["label"] == str(right)
    told = {"answer": best["label"], "score": best["score"], "label": str(right), "said": best["label"]}
    return entry | told | {"right": is_right, "stats": {"accuracy": [float(is_right)]}}


def scores_of(
    samples: Sequence[dict[str, Any]], answered: str, known: Sequence[str], told: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Every score with its interval; of labels also the confusion, which goes to `told`."""
    if not samples:
        raise JobFailure(FailureCode.BAD_DATA, "No row could be measured.", hint="Look at the notices of the job.")
    if answered == "value":
        names: tuple[str, ...] = ("rmse", "mae", "r2")
        return {name: scoring.score(name, scoring.counted(samples, name)[1], seed).as_json() for name in names}
    labels = list(dict.fromkeys([*known, *(sample["label"] for sample in samples)]))
    found = counting.Plan(("classification",), labels, "", f"The model tells {len(labels)} labels apart.")
    told |= {"metrics": ["classification"], "reason": found.reason}
    names = ("accuracy",)
    if len(samples) * len(labels) ** 2 <= MOST_CONFUSED:
        names = counting.NAMES["classification"]
        told |= counting.per_class(found, samples)
    return {name: scoring.score(name, scoring.counted(samples, name, labels)[1], seed).as_json() for name in names}


def about(data: DatasetRef, num_rows: int) -> dict[str, Any]:
    """Which rows of which data."""
    return {
        "name": data.name,
        "digest": data.digest,
        "shape": data.shape,
        "num_rows": num_rows,
        "num_prompts": num_rows,
    }
