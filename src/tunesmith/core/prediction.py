"""What models are asked that do not chat, and how their answers are told: the same for engines, pages and public APIs."""

from __future__ import annotations

import base64
import io
import json
import math
import wave
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tunesmith.core.errors import BadRequest, InvalidInput, Unavailable
from tunesmith.core.tasks import TASKS
from tunesmith.core.validation import message_of

MOST_INPUTS = 1000
"""Inputs of one request."""
UNSURE = "unsure"
"""The label where a model would rather not say."""
SENTENCE = "This is a short sentence."
BLACK = (
    "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAIAAAD8GO2jAAAAGUlEQVR42u3BMQEAAADCoPVP7WENoAAAAG4MIAABITLN7AAAAABJRU5ErkJggg=="
)
"""A PNG of 32 × 32 as base64."""

P = TypeVar("P", bound=BaseModel)


def read_parameters(kind: type[P], given: Mapping[str, Any]) -> P:
    """The parameters of a request; null is the same as left out. Raises `InvalidInput` naming each that is not known or not
    possible, and those that there are."""
    try:
        return kind.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        details = [
            {"loc": ".".join(["parameters", *map(str, problem["loc"])]), "message": message_of(problem)}
            for problem in error.errors()
        ]
        told = "; ".join(f"{detail['loc']}: {detail['message']}" for detail in details[:5])
        raise InvalidInput(f"{told}.", hint=f"There are: {', '.join(kind.model_fields)}.", details=details) from None


def check_inputs(inputs: Sequence[Any], parameters: Mapping[str, Any]) -> None:
    """Raises `InvalidInput` for none and for too many, `BadRequest` for what is no JSON."""
    try:
        json.dumps([inputs, parameters], allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise BadRequest(
            "The request has numbers that are none, or broken text.", hint="Send null for a missing value."
        ) from None
    if not inputs:
        raise InvalidInput("Send at least one input.", details=[{"loc": "inputs", "message": "is empty"}])
    if len(inputs) > MOST_INPUTS:
        raise InvalidInput(
            f"{len(inputs):,} inputs are more than the {MOST_INPUTS:,} that one request may have.",
            hint="Send them in parts, or as a CSV file.",
            details=[{"loc": "inputs", "message": f"more than {MOST_INPUTS}", "limit": MOST_INPUTS}],
        )


def outputs_of(status: int, content: bytes) -> list[Any]:
    """What a serving process has answered. Raises `InvalidInput` for what it says is wrong with the request, `Unavailable` for
    what is wrong with the model."""
    try:
        told = json.loads(content)
    except ValueError:
        told = {}
    if status == 200:
        return list(told["outputs"])
    message, hint = str(told.get("message") or "The model could not answer."), str(told.get("hint") or "")
    if status == 400:
        raise InvalidInput(message, hint=hint, details=list(told.get("details") or []))
    raise Unavailable(message, hint=hint)


def with_unsure(labels: list[dict[str, Any]], best: float, below: float | None) -> list[dict[str, Any]]:
    """`labels` with `unsure` before them where the `best` score is lower than `below`; its score is what the best one lacks."""
    return [{"label": UNSURE, "score": 1.0 - best}, *labels] if below is not None and best < below else labels


def has_numbers_only(answer: Any) -> bool:
    """Whether every number in an answer is one: damaged weights answer with NaN."""
    if isinstance(answer, Mapping):
        return all(has_numbers_only(value) for value in answer.values())
    if isinstance(answer, list | tuple):
        return all(has_numbers_only(value) for value in answer)
    return not isinstance(answer, float) or math.isfinite(answer)


def example_of(task: str, columns: Sequence[Mapping[str, Any]] = ()) -> Any:
    """An input that any model for the task can answer, to try whether it does; None for a task that is not known. Of a row's
    `columns` those with choices get the first, others a value of their type."""
    asked = TASKS[task].asked if task in TASKS else ""
    if asked == "row":
        return {str(column["name"]): _example_value(column) for column in columns}
    if asked == "texts":
        return {"query": SENTENCE, "texts": [SENTENCE]}
    return {"text": SENTENCE, "image": BLACK, "audio": _silence()}.get(asked)


def _example_value(column: Mapping[str, Any]) -> Any:
    if "example" in column or column.get("choices"):
        return column.get("example", next(iter(column.get("choices") or ()), None))
    return {"number": 0, "text": SENTENCE, "date": "2025-01-01"}.get(str(column.get("type")))


def _silence() -> str:
    """A tenth of a second at 16 kHz as a WAV in base64."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(bytes(3200))
    return base64.b64encode(file.getvalue()).decode()
