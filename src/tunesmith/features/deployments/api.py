"""REST routes of deployments: put a model in use, share out its traffic, look after it, take it back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from tunesmith.core.acting import Scope
from tunesmith.features.deployments import conversations, reading, service
from tunesmith.features.deployments.gateway import GatewayState
from tunesmith.http.pagination import Cursor, Limit
from tunesmith.http.policy import declare, needs
from tunesmith.http.session import DbSession, State
from tunesmith.schemas.common import ErrorBody, Page
from tunesmith.schemas.datasets import DatasetRead
from tunesmith.schemas.deployments import (
    DeploymentCreate,
    DeploymentMetrics,
    DeploymentRead,
    DeploymentUpdate,
    HistoryRead,
    RequestRating,
    RequestRead,
    RevisionRead,
    Rollout,
    TargetName,
    TargetRead,
    ToDataset,
)
from tunesmith.storage.database import after_commit

router = APIRouter(prefix="/deployments", tags=["deployments"])

DeploymentId = Annotated[int, Path(ge=1, lt=2**63, description="The deployment's number.", examples=[1])]
NOT_HERE: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "No such deployment."}}
TAKEN: dict[int | str, dict[str, Any]] = {409: {"model": ErrorBody, "description": "Not in this state."}}


@router.get("/", summary="List deployments")
def list_deployments(
    request: Request,
    session: DbSession,
    q: Annotated[str | None, Query(max_length=80, description="Part of the name.")] = None,
    target: Annotated[TargetName | None, Query(description="In this place only.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[DeploymentRead]:
    """Newest first, each with the models in use."""
    return reading.list_deployments(session, base_url(request), target=target, text=q, cursor=cursor, limit=limit)


@router.get("/targets", summary="Where models can be deployed to")
def list_targets() -> list[TargetRead]:
    """And why not, where this machine cannot."""
    return reading.list_targets()


@router.post("/", status_code=201, responses=TAKEN, summary="Deploy a model")
def create_deployment(
    body: DeploymentCreate, request: Request, state: State, session: DbSession, gateway: GatewayState
) -> DeploymentRead:
    """Under a name of its own. It is being started when this returns; see `status`."""
    row = service.create(state.settings, session, body)
    after_commit(session, gateway.routes.wake)
    return reading.read(session, row, base_url(request))


@router.get("/{deployment_id}", responses=NOT_HERE, summary="One deployment")
def get_deployment(deployment_id: DeploymentId, request: Request, session: DbSession) -> DeploymentRead:
    """With the models in use."""
    return reading.read(session, service.seen(session, deployment_id), base_url(request))


@router.patch("/{deployment_id}", responses=NOT_HERE, summary="Change a deployment")
def change_deployment(
    deployment_id: DeploymentId, body: DeploymentUpdate, request: Request, session: DbSession, gateway: GatewayState
) -> DeploymentRead:
    """Settings key by key, prompt, sampling, who may use it."""
    row = service.update(session, deployment_id, body)
    after_commit(session, gateway.routes.wake)
    return reading.read(session, row, base_url(request))


@router.delete("/{deployment_id}", status_code=204, responses={**NOT_HERE, **TAKEN}, summary="Forget a deployment")
def delete_deployment(deployment_id: DeploymentId, session: DbSession) -> None:
    """Once it is undeployed, with its history."""
    service.remove(session, deployment_id)


@router.post(
    "/{deployment_id}/rollouts", status_code=201, responses={**NOT_HERE, **TAKEN}, summary="Roll out another model"
)
def roll_out(
    deployment_id: DeploymentId, body: Rollout, state: State, session: DbSession, gateway: GatewayState
) -> RevisionRead:
    """At once, as a canary, as an A/B test, or as a shadow that gets copies."""
    revision = service.rollout(state.settings, session, deployment_id, body)
    after_commit(session, gateway.routes.wake)
    return RevisionRead.model_validate(revision)


@router.post("/{deployment_id}/promote", responses={**NOT_HERE, **TAKEN}, summary="Make the candidate live")
def promote(deployment_id: DeploymentId, session: DbSession, gateway: GatewayState) -> RevisionRead:
    """All traffic to it, now."""
    revision = service.promote(session, deployment_id)
    after_commit(session, gateway.routes.wake)
    return RevisionRead.model_validate(revision)


@router.post("/{deployment_id}/rollback", responses={**NOT_HERE, **TAKEN}, summary="Go back")
def roll_back(deployment_id: DeploymentId, session: DbSession, gateway: GatewayState) -> RevisionRead:
    """Take back the candidate; without one, go back to the model that was live before."""
    revision = service.roll_back(session, deployment_id)
    after_commit(session, gateway.routes.wake)
    return RevisionRead.model_validate(revision)


@router.post("/{deployment_id}/undeploy", responses=NOT_HERE, summary="Undeploy")
def undeploy(
    deployment_id: DeploymentId, request: Request, session: DbSession, gateway: GatewayState
) -> DeploymentRead:
    """The model is taken away; name, settings and history stay."""
    row = service.stop(session, deployment_id)
    after_commit(session, gateway.routes.wake)
    return reading.read(session, row, base_url(request))


@router.post("/{deployment_id}/start", responses=NOT_HERE, summary="Deploy again")
def start(deployment_id: DeploymentId, request: Request, session: DbSession, gateway: GatewayState) -> DeploymentRead:
    """What was live when it was undeployed."""
    row = service.start(session, deployment_id)
    after_commit(session, gateway.routes.wake)
    return reading.read(session, row, base_url(request))


@router.get("/{deployment_id}/revisions", responses=NOT_HERE, summary="Every model that it had")
def list_revisions(deployment_id: DeploymentId, request: Request, session: DbSession) -> list[RevisionRead]:
    """Newest first."""
    row = service.seen(session, deployment_id)
    return reading.read(session, row, base_url(request), all_revisions=True).revisions


@router.get("/{deployment_id}/history", responses=NOT_HERE, summary="What happened to it")
def list_history(
    deployment_id: DeploymentId, session: DbSession, cursor: Cursor = None, limit: Limit = 50
) -> Page[HistoryRead]:
    """Newest first."""
    return reading.history(session, deployment_id, cursor=cursor, limit=limit)


@router.get("/{deployment_id}/metrics", responses=NOT_HERE, summary="How it does")
def get_metrics(
    deployment_id: DeploymentId,
    session: DbSession,
    window_s: Annotated[float, Query(ge=10, le=30 * 86_400, description="Of the last so many seconds.")] = 3600.0,
) -> DeploymentMetrics:
    """Requests, errors, latencies, by model and over time; candidates against the live model; drift."""
    return reading.metrics(session, deployment_id, window_s)


@router.get("/{deployment_id}/requests", responses=NOT_HERE, summary="What it was asked")
def list_requests(
    deployment_id: DeploymentId,
    session: DbSession,
    failed: Annotated[bool | None, Query(description="Only those that failed, or only those that did not.")] = None,
    rating: Annotated[str | None, Query(pattern="^(up|down)$")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[RequestRead]:
    """Newest first. Texts are there where `record_conversations` is on."""
    return reading.requests(session, deployment_id, failed=failed, rating=rating, cursor=cursor, limit=limit)


@router.put("/{deployment_id}/requests/{uid}/rating", status_code=204, responses=NOT_HERE, summary="Rate an answer")
@needs(Scope.READ, changes=True)
def rate_request(
    deployment_id: DeploymentId,
    uid: Annotated[str, Path(max_length=40)],
    body: RequestRating,
    state: State,
    gateway: GatewayState,
) -> None:
    """By the `X-Request-Id` that it carried. Ratings decide A/B tests and what is trained on."""
    gateway.recorder.flush()  # it may have been answered a moment ago
    with state.database.unit_of_work() as session:
        conversations.rate(session, deployment_id, uid, body.verdict)


@router.post(
    "/{deployment_id}/dataset", status_code=201, responses={**NOT_HERE, **TAKEN}, summary="Conversations as a dataset"
)
@needs(Scope.TRAIN)
def make_dataset(deployment_id: DeploymentId, body: ToDataset, state: State) -> DatasetRead:
    """Those that were liked, or all but the disliked, for the next training."""
    made = conversations.make_dataset(state.settings, state.database, state.bus, deployment_id, body)
    state.wake_datasets()
    return made


def base_url(request: Request) -> str:
    """Under which this server is reached, as the settings say."""
    settings = request.app.state.tunesmith.settings
    return (settings.public_url or f"http://{settings.host}:{settings.port}").rstrip("/")


declare(router, read=Scope.READ, write=Scope.DEPLOY)
