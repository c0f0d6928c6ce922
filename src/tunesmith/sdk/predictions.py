"""Inputs for models that do not chat: of a job, or deployed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tunesmith.core.errors import InvalidInput
from tunesmith.schemas.predictions import PredictAnswer
from tunesmith.sdk.connection import CHUNK_BYTES, Connection, json_of

LONG_S = 600.0


def predict(connection: Connection, path: str, inputs: Any, parameters: dict[str, Any]) -> PredictAnswer:
    """Ask the model at `path`; a list is many inputs. Raises `InvalidInput` naming the input that cannot be read."""
    body = {"inputs": inputs, "parameters": parameters}
    return PredictAnswer.model_validate(
        json_of(connection.request("POST", f"{path}/predict", json=body, timeout=LONG_S))
    )


def predict_file(connection: Connection, path: str, source: Path, target: Path, column: str | None) -> Path:
    """Send a CSV file and write what comes back to `target`, which appears whole or not at all. Raises as `predict`."""
    if not source.is_file():
        raise InvalidInput(f"There is no file {source}.", hint="Check the path.")
    if target.is_dir() or not target.parent.is_dir():
        raise InvalidInput(f"{target} cannot be written.", hint="Give the name of a file in a folder that is there.")
    part = target.with_name(f".{target.name[:200]}.{uuid.uuid4().hex[:8]}.part")
    options: dict[str, Any] = {
        "params": {"column": column} if column else {}, "content": _parts(source), "headers": {"Content-Type": "text/csv"},
        "timeout": httpx.Timeout(10, read=LONG_S, write=LONG_S),
    }  # fmt: skip
    try:
        with connection.stream("POST", f"{path}/predict-file", **options) as answer, part.open("wb") as file:
            for chunk in answer.iter_bytes():
                file.write(chunk)
        part.replace(target)
    except httpx.TransportError as error:
        raise connection._unreachable(error) from None
    finally:
        part.unlink(missing_ok=True)
    return target


def _parts(source: Path) -> Iterator[bytes]:
    with source.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
