"""Inputs to the model that a finished job made, where it does not chat: through the same process as the playground's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool

from tunesmith.core.acting import Scope
from tunesmith.core.errors import Unavailable
from tunesmith.core.prediction import check_inputs, outputs_of
from tunesmith.features.chat.api import client_of
from tunesmith.features.chat.service import Partner, predictor_of_job
from tunesmith.http.policy import declare
from tunesmith.http.session import AppState, State
from tunesmith.schemas.predictions import PredictAnswer, PredictRequest

router = APIRouter(tags=["chat"])


@router.post("/jobs/{job_id}/predict", summary="Ask the model that a job made")
async def predict_with_job(job_id: int, body: PredictRequest, state: State) -> PredictAnswer:
    """Of any task but chat: texts to classify, rows of a table and so on, one input or a list of up to 1,000."""
    check_inputs(body.listed, body.parameters)

    def find() -> Partner:
        with state.database.unit_of_work(readonly=True) as session:
            return predictor_of_job(state.settings, session, job_id)

    who = await run_in_threadpool(find)
    outputs = await predict(state, who, body.listed, body.parameters)
    return PredictAnswer(model=who.name, task=who.about.task if who.about else "", outputs=outputs)


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
