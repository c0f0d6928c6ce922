"""REST routes of evaluations and of the arena."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from tunesmith.core.acting import Scope
from tunesmith.features.chat.api import stream
from tunesmith.features.chat.service import Partner
from tunesmith.features.evaluations import arena, comparing, service
from tunesmith.features.jobs import inspection
from tunesmith.http.idempotency import IdempotencyKey, once
from tunesmith.http.pagination import Cursor, Limit
from tunesmith.http.policy import declare, needs
from tunesmith.http.session import AppState, DbSession, State
from tunesmith.schemas.common import ErrorBody, Page
from tunesmith.schemas.evaluations import (
    ArenaRating,
    BattleCreate,
    BattleRead,
    BattleVote,
    EvaluationComparison,
    EvaluationCreate,
    EvaluationDetail,
    EvaluationRead,
    EvaluationsToCompare,
    SampleRead,
    Side,
)
from tunesmith.schemas.jobs import ChatRequest
from tunesmith.storage.database import Session, after_commit

router = APIRouter(prefix="/evaluations", tags=["evaluations"])

EvaluationId = Annotated[
    int, Path(ge=1, lt=2**63, description="The evaluation's number, which is its job's.", examples=[1])
]
BattleId = Annotated[int, Path(ge=1, lt=2**63, description="The battle's number.", examples=[1])]
NOT_HERE: dict[int | str, dict[str, Any]] = {404: {"model": ErrorBody, "description": "There is none."}}
CONFLICT: dict[int | str, dict[str, Any]] = {
    **NOT_HERE, 409: {"model": ErrorBody, "description": "Not in the state it is in."},
}  # fmt: skip
REFUSED: dict[int | str, dict[str, Any]] = {403: {"model": ErrorBody, "description": "Not allowed."}}


@router.post("/", status_code=201, response_model=EvaluationRead, responses=REFUSED, summary="Evaluate a model")
def create_evaluation(body: EvaluationCreate, state: State, key: IdempotencyKey = None) -> Response:
    """Makes a job of the method `evaluate`. With an `Idempotency-Key`, once at most."""
    inspection.look_for(state.settings, state.database, body.model)

    def work(session: Session) -> EvaluationRead:
        made = service.create(state.settings, session, state.bus, body)
        after_commit(session, state.wake_scheduler)
        return made

    return once(state, "POST /evaluations/", key, body, work)


@router.get("/", summary="List evaluations")
def list_evaluations(
    state: State,
    session: DbSession,
    model: Annotated[str | None, Query(max_length=500, description="Of this model only.")] = None,
    dataset_id: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
    q: Annotated[str | None, Query(max_length=200, description="Part of the name or of the model's.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[EvaluationRead]:
    """Newest first."""
    return service.list_evaluations(
        state.settings, session, model=model, dataset_id=dataset_id, text=q, cursor=cursor, limit=limit
    )


@router.post("/compare", responses=CONFLICT, summary="Evaluations side by side")
@needs(Scope.READ)
def compare_evaluations(body: EvaluationsToCompare, state: State, session: DbSession) -> EvaluationComparison:
    """Each with the first, on the samples that both have: by McNemar's test where a sample is right or wrong, else by the
    paired bootstrap."""
    return comparing.compare(state.settings, session, body.evaluations)


# -- the arena --------------------------------------------------------------------------------------------------------


@router.post("/arena/battles", status_code=201, summary="Begin a battle")
def begin_battle(body: BattleCreate, state: State, session: DbSession) -> BattleRead:
    """Two of the models are drawn, and who answers as A."""
    return arena.begin(state.settings, session, body)


@router.get("/arena/battles", summary="List battles")
def list_battles(
    session: DbSession,
    model: Annotated[str | None, Query(max_length=500, description="With this model only.")] = None,
    voted: Annotated[bool | None, Query(description="Only those with a vote, or without.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[BattleRead]:
    """Newest first; names are told of those that were voted on."""
    return arena.list_battles(session, model=model, voted=voted, cursor=cursor, limit=limit)


@router.get("/arena/ratings", summary="How strong models are")
def read_ratings(session: DbSession) -> list[ArenaRating]:
    """The strongest first."""
    return arena.arena_ratings(session)


@router.get("/arena/battles/{battle_id}", responses=NOT_HERE, summary="One battle")
def get_battle(battle_id: BattleId, session: DbSession) -> BattleRead:
    return arena.get(session, battle_id)


@router.post("/arena/battles/{battle_id}/answers/{side}", responses=CONFLICT, summary="Let one side answer")
async def answer_battle(battle_id: BattleId, side: Side, state: State) -> StreamingResponse:
    """Server-sent events in the style of OpenAI. The model is called A or B in them."""

    def find() -> tuple[Partner, ChatRequest]:
        with state.database.unit_of_work() as session:
            return arena.asked(state.settings, session, battle_id, side)

    who, request = await run_in_threadpool(find)
    return StreamingResponse(
        _kept(state, battle_id, side, who, request),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache"},
    )


async def _kept(
    state: AppState, battle_id: int, side: Side, who: Partner, request: ChatRequest
) -> AsyncIterator[bytes]:
    """The stream, whose answer is kept before its end is told."""
    listener = arena.Listener()

    def keep() -> None:
        with state.database.unit_of_work() as session:
            arena.keep_answer(session, battle_id, side, listener.text)

    async for part in stream(state, who, request):
        was_whole = listener.is_whole
        listener.hear(part)
        if listener.is_whole and not was_whole:
            await run_in_threadpool(keep)
        yield part


@router.post("/arena/battles/{battle_id}/vote", responses=CONFLICT, summary="Decide a battle")
def vote_battle(battle_id: BattleId, body: BattleVote, session: DbSession) -> BattleRead:
    """Once, after both have answered; the answer tells who was who."""
    return arena.vote(session, battle_id, body.vote)


# -- one evaluation ---------------------------------------------------------------------------------------------------


@router.get("/{evaluation_id}", responses=NOT_HERE, summary="One evaluation")
def get_evaluation(evaluation_id: EvaluationId, state: State, session: DbSession) -> EvaluationDetail:
    """Scores with their intervals, each label, the confusion, and what was left out."""
    return service.detail(state.settings, session, evaluation_id)


@router.get("/{evaluation_id}/samples", responses=CONFLICT, summary="What the model answered")
def list_samples(
    evaluation_id: EvaluationId,
    state: State,
    session: DbSession,
    only: Annotated[Literal["right", "wrong"] | None, Query(description="Only these.")] = None,
    q: Annotated[str | None, Query(max_length=200, description="Part of question, answer or expected answer.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[SampleRead]:
    """In the order of the data."""
    return service.samples(state.settings, session, evaluation_id, right=only, text=q, cursor=cursor, limit=limit)


declare(router, read=Scope.READ, write=Scope.TRAIN)
