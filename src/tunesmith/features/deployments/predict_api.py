"""Inputs to models that do not chat: the deployment's `predict`, and Hugging Face's inference API at `/models/<name>`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from tunesmith.core.acting import Scope, current
from tunesmith.core.errors import Conflict, TunesmithError
from tunesmith.features.chat.predict_api import Column
from tunesmith.features.chat.prediction_file import BODY, FILE, answered, receive
from tunesmith.features.deployments import predictions, service
from tunesmith.features.deployments.api import NOT_HERE, TAKEN, DeploymentId
from tunesmith.features.deployments.dialects import huggingface
from tunesmith.features.deployments.gateway import Gateway, GatewayState
from tunesmith.features.deployments.gateway_api import ERRORS, answered_at, text_after
from tunesmith.http.errors import hugging_face_answer
from tunesmith.http.policy import declare
from tunesmith.http.session import State
from tunesmith.recipes.model_about import ModelAbout
from tunesmith.schemas.common import ErrorBody
from tunesmith.schemas.deployments import GatewayError
from tunesmith.schemas.predictions import HubError, PredictAnswer, PredictRequest

PREDICT, MODELS = "/predict", "/models"
"""What requests are written down as."""
api = APIRouter(tags=["deployments"])
HUB_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": HubError | GatewayError | ErrorBody, "description": "Wrong, or not allowed."} for status in ERRORS
}
hub = APIRouter(tags=["gateway"], responses=HUB_ERRORS)


@api.post("/deployments/{deployment_id}/predict", responses={**NOT_HERE, **TAKEN}, summary="Ask a deployed model")
async def predict(
    deployment_id: DeploymentId,
    body: PredictRequest,
    request: Request,
    response: Response,
    state: State,
    gateway: GatewayState,
) -> PredictAnswer:
    """Of any task but chat: texts to classify, rows of a table and so on, one input or a list of up to 1,000."""
    name = await run_in_threadpool(_name_of, state, deployment_id)
    session = request.headers.get("x-session-id", "")
    found = await predictions.predict(gateway, PREDICT, name, body.listed, body.parameters, session)
    response.headers.update(found.headers)
    about = found.call.variant.about
    return PredictAnswer(model=found.call.variant.model, task=about.task if about else "", outputs=found.outputs)


@api.post(
    "/deployments/{deployment_id}/predict-file", responses={**NOT_HERE, **TAKEN, **FILE}, response_class=Response,
    openapi_extra=BODY, summary="Ask a deployed model about each row of a file",
)  # fmt: skip
async def predict_file(
    deployment_id: DeploymentId, request: Request, state: State, gateway: GatewayState, column: Column = None
) -> Response:
    """A CSV with a row of names, sent as the body; it comes back with the answer beside each row, and an `error` where a row
    cannot be read."""
    name = await run_in_threadpool(_name_of, state, deployment_id)
    about, ask = await predictions.asker(gateway, PREDICT, name)
    return await answered(await receive(request, state.settings), about, column, ask)


def _name_of(state: State, deployment_id: int) -> str:
    """Raises `NotFound`, and `Conflict` for one that does not answer through this server."""
    with state.database.unit_of_work(readonly=True) as session:
        row = service.seen(session, deployment_id)
        if row.target != service.LOCAL:
            raise Conflict(
                f"{row.name} is served by {row.target}, not by this server.", hint="Ask it at its own address."
            )
        if row.wanted != "running":
            raise Conflict(f"{row.name} is undeployed.", hint="Deploy it again first.")
        return row.name


@hub.post("/models/{name}", summary="Ask a deployed model as Hugging Face's clients do", response_class=Response)
async def infer(name: str, request: Request, gateway: GatewayState) -> Response:
    """`huggingface_hub.InferenceClient(model="<this address>")`: `{"inputs": …, "parameters": …}` for the deployment of that
    name; images and sounds also as they are."""
    try:
        about = _about(gateway, name)
        if about is None:
            return await _generated(request, gateway, name)
        asked = huggingface.parse(await request.body(), request.headers.get("content-type", ""), about)
        session = request.headers.get("x-session-id", "")
        found = await predictions.predict(gateway, MODELS, name, asked.inputs, asked.parameters, session)
        if about.answered == "image":
            return Response(huggingface.image_of(found.outputs), media_type="image/png", headers=found.headers)
        return JSONResponse(huggingface.render(found.outputs, about, is_single=asked.is_single), headers=found.headers)
    except TunesmithError as error:
        return hugging_face_answer(error)


@hub.post(
    "/models/{name}/v1/chat/completions", summary="Chat with a deployed model at its address", response_class=Response
)
async def chat(name: str, request: Request, gateway: GatewayState) -> Response:
    """As `/v1/chat/completions`, whatever `model` says: `InferenceClient(model="…/models/<name>").chat_completion(…)`."""
    return await answered_at(name, request, gateway)


def _about(gateway: Gateway, name: str) -> ModelAbout | None:
    """Of the model in use; None for one that chats. Raises `NotFound`."""
    route = gateway.routes.find(name, current())
    if route is None:
        raise gateway.unknown(name, current())
    ordered = sorted(route.variants, key=lambda variant: variant.role != "live")
    return ordered[0].about if ordered else None


async def _generated(request: Request, gateway: Gateway, name: str) -> Response:
    asked = huggingface.parse_generation(await request.body(), name)
    text, headers = await text_after(gateway, asked.ask)
    prompt: Any = asked.ask.prompts[0]
    return JSONResponse([{"generated_text": prompt + text if asked.with_prompt else text}], headers=headers)


declare(api, read=Scope.READ, write=Scope.READ)
declare(hub, read=Scope.READ, write=Scope.READ)
