"""The engine of every model that does not chat: loads what its kind names, and answers many requests with one computation."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import queue
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.core.errors import InvalidInput, TunesmithError, Unavailable
from tunesmith.core.model_kind import ModelKind, Predictor
from tunesmith.core.prediction import check_inputs, has_numbers_only
from tunesmith.recipes.catalog import get_kind
from tunesmith.serving.access import Activity, OnlyTheServer, invalid_body
from tunesmith.serving.process import Process

log = logging.getLogger(__name__)

MOST_JOINED = 64
"""Inputs of several requests that are computed together; one request may have more."""
NO_NUMBERS = "The model's weights give no numbers: it is damaged."


class Prediction(BaseModel):
    """The body of `/predict`."""

    model_config = ConfigDict(extra="forbid")

    inputs: list[Any]
    parameters: dict[str, Any] = Field(default_factory=dict)


@dataclass
class Waiting:
    """A request whose turn has not come."""

    inputs: Sequence[Any]
    parameters: dict[str, Any]
    key: str
    """Equal for those that may be computed together."""
    answer: Future[list[Any]] = field(default_factory=Future)


class Batcher:
    """Asks a predictor, one computation at a time. What waits meanwhile is computed together where its parameters are equal; the
    answers are the same as each alone, and what is wrong with one request is said to that one."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._waiting: queue.SimpleQueue[Waiting] = queue.SimpleQueue()
        self._computing = ThreadPoolExecutor(1, "computing")
        self.num_computed = 0
        """Computations so far."""
        threading.Thread(target=self._run, name="predicting", daemon=True).start()

    def submit(self, inputs: Sequence[Any], parameters: dict[str, Any]) -> Future[list[Any]]:
        """The answers, or what the predictor raises, when its turn has come."""
        waiting = Waiting(inputs, parameters, json.dumps(parameters, sort_keys=True))
        self._waiting.put(waiting)
        return waiting.answer

    def _run(self) -> None:
        left: list[Waiting] = []
        while True:
            left = left or [self._waiting.get()]
            while not self._waiting.empty():
                left.append(self._waiting.get())
            joined, left = _joined(left)
            self._compute(joined)

    def _compute(self, joined: list[Waiting]) -> None:
        inputs = [one for waiting in joined for one in waiting.inputs]
        asked = self._computing.submit(self._ask, inputs, joined[0].parameters)
        if error := asked.exception():  # whatever a model does, the others are answered
            if len(joined) > 1:
                for waiting in joined:
                    self._compute([waiting])
            else:
                joined[0].answer.set_exception(error)
            return
        answers = asked.result()
        for waiting in joined:
            own, answers = answers[: len(waiting.inputs)], answers[len(waiting.inputs) :]
            waiting.answer.set_result(own)

    def _ask(self, inputs: list[Any], parameters: dict[str, Any]) -> list[Any]:
        self.num_computed += 1
        answers = self._predictor.predict(inputs, parameters)
        if len(answers) != len(inputs):
            raise RuntimeError(f"{len(answers)} answers to {len(inputs)} inputs")
        return answers


def _joined(waiting: list[Waiting]) -> tuple[list[Waiting], list[Waiting]]:
    """The first with those that fit to it, and the others in their order."""
    first, joined, left = waiting[0], list[Waiting](), list[Waiting]()
    total = 0
    for one in waiting:
        fits = one is first or (one.key == first.key and total + len(one.inputs) <= MOST_JOINED)
        (joined if fits else left).append(one)
        total += len(one.inputs) if fits else 0
    return joined, left


def create_predict_app(batcher: Batcher, task: str, kind: str, token: str, activity: Activity) -> FastAPI:
    """The application around one loaded model."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(OnlyTheServer, token=token)

    @app.exception_handler(TunesmithError)
    def known(_request: Request, error: TunesmithError) -> JSONResponse:
        return JSONResponse(error.body(), status_code=400 if isinstance(error, InvalidInput) else error.status)

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return invalid_body(error)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "ok", "task": task, "kind": kind}

    @app.post("/predict")
    async def predict(body: Prediction) -> JSONResponse:
        check_inputs(body.inputs, body.parameters)
        with activity.busy():
            answer = asyncio.wrap_future(batcher.submit(body.inputs, body.parameters))
            await asyncio.wait([answer])
        if error := answer.exception():
            return _failed(error)
        outputs = answer.result()
        if not has_numbers_only(outputs):
            raise Unavailable(NO_NUMBERS, hint="Train or import it again.")
        return JSONResponse({"outputs": outputs, "task": task})

    return app


def _failed(error: BaseException) -> JSONResponse:
    """What a model raised. Raises it again where it is in our words."""
    if isinstance(error, TunesmithError):
        raise error
    log.error("the model failed", exc_info=error)
    told = Unavailable(f"The model failed: {type(error).__name__}: {str(error)[:300]}", hint="Its log has more.")
    return JSONResponse(told.body(), status_code=500)


def load_predictor(kind: ModelKind, path: Path, threads: int) -> Predictor:
    """What `kind.load` makes of a model's files. Raises `Unavailable` where a library for it is missing."""
    module, _, function = kind.load.partition(":")
    try:
        made: Predictor = getattr(import_module(module), function)(path, threads)
    except ImportError as error:
        raise Unavailable(
            f"{kind.title} models cannot be loaded here: {error}.", hint="Install what is missing."
        ) from None
    return made


def serve(process: Process) -> None:
    """Load the model and answer until the process is told to end."""
    spec, activity = process.spec, Activity()
    kind = get_kind(spec.kind)
    threads = spec.threads or max(1, (os.cpu_count() or 2) - 1)
    batcher = Batcher(load_predictor(kind, Path(spec.base_path), threads))
    listener = socket.create_server(("127.0.0.1", 0))
    process.ready(listener.getsockname()[1], activity.idle_s, tools=False)
    app = create_predict_app(batcher, spec.task or kind.tasks[0], kind.name, process.token, activity)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)).run(sockets=[listener])
