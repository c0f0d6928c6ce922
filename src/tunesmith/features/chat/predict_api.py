"""Inputs to the model that a finished job made, where it does not chat: through the same process as the playground's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import httpx
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from tunesmith.core.acting import Scope
from tunesmith.core.errors import Unavailable
from tunesmith.core.prediction import check_inputs, outputs_of
from tunesmith.features.chat.api import client_of
from tunesmith.features.chat.prediction_file import BODY, FILE, answered, receive
from tunesmith.features.chat.service import Partner, predictor_of_job
from tunesmith.http.policy import declare
from tunesmith.http.session import AppState, State
from tunesmith.schemas.predictions import PredictAnswer, PredictRequest

router = APIRouter(tags=["chat"])
Column = Annotated[
    str | None, Query(max_length=500, description="The column with the inputs, of a model that takes no rows.")
]


@router.post("/jobs/{job_id}/predict", summary="Ask the model that a job made")
async def predict_with_job(job_id: int, body: PredictRequest, state: State) -> PredictAnswer:
    """Of any task but chat: texts to classify, rows of a table and so on, one input or a list of up to 1,000."""
    check_inputs(body.listed, body.parameters)
    who = await run_in_threadpool(_partner, state, job_id)
    outputs = await predict(state, who, body.listed, body.parameters)
    return PredictAnswer(model=who.name, task=who.about.task if who.about else "", outputs=outputs)


@router.post(
    "/jobs/{job_id}/predict-file", responses=FILE, response_class=Response, openapi_extra=BODY,
    summary="Ask the model that a job made about each row of a file",
)  # fmt: skip
async def predict_file_with_job(job_id: int, request: Request, state: State, column: Column = None) -> Response:
    """A CSV with a row of names, sent as the body; it comes back with the answer beside each row, and an `error` where a row
    cannot be read."""
    who = await run_in_threadpool(_partner, state, job_id)
    assert who.about is not None

    async def ask(inputs: Sequence[Any]) -> list[Any]:
        return await predict(state, who, inputs, {})

    return await answered(await receive(request, state.settings), who.about, column, ask)


def _partner(state: AppState, job_id: int) -> Partner:
    with state.database.unit_of_work(readonly=True) as session:
        return predictor_of_job(state.settings, session, job_id)


async def predict(state: AppState, who: Partner, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
    """One answer for each input; a process that was just ending is started anew once. Raises what the model says is wrong with
    the inputs, and `Unavailable`."""
    for is_last in (False, True):
        endpoint = await run_in_threadpool(state.serving.ensure, who.base)
        try:
            async with client_of(endpoint) as client:
                answer = await client.post("/predict", json={"inputs": list(inputs), "parameters": dict(parameters)})
            return outputs_of(answer.status_code, answer.content)
        except httpx.TransportError:
            if is_last:
                break
    raise Unavailable("The model's process ended while it answered.", hint="Try again.")


declare(router, read=Scope.READ, write=Scope.READ)
