"""Battles: one question to two models, side by side, without names. Who is who stays on the server until the vote."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from tunesmith.core.clock import utc_now
from tunesmith.core.errors import BadData, Conflict, InvalidInput, NotFound
from tunesmith.dataprep.conversion import convert
from tunesmith.features.catalog.service import resolve_model
from tunesmith.features.chat.service import Partner, partner
from tunesmith.features.datasets import rows as stored
from tunesmith.features.datasets.service import training_ref
from tunesmith.features.evaluations import elo
from tunesmith.features.evaluations.repository import BattleRepository
from tunesmith.features.evaluations.tables import BattleRow
from tunesmith.schemas.common import Page
from tunesmith.schemas.evaluations import ArenaRating, BattleCreate, BattleRead, Side, Vote
from tunesmith.schemas.jobs import ChatRequest
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

MOST_BATTLES = 20_000
"""Newest battles that ratings are made of."""
MAX_PROMPT_CHARS = 50_000
STRIDE = 2_654_435_761
"""Steps through a dataset, so that questions that stand together do not come one after the other."""


def begin(settings: Settings, session: Session, body: BattleCreate) -> BattleRead:
    """Draw two models and their places. Raises `InvalidInput`, or `NotFound` naming the models that there are."""
    names = list(dict.fromkeys(body.models))
    if len(names) < 2:
        raise InvalidInput(
            "A battle needs two different models.", details=[{"loc": "models", "message": "two different ones"}]
        )
    for name in names:
        resolve_model(settings, session, name)
    if (body.prompt is None) == (body.dataset_id is None):
        raise InvalidInput(
            "Give either a prompt or a dataset.", details=[{"loc": "prompt", "message": "exactly one of the two"}]
        )
    messages, number = _question(settings, session, body)
    draw = secrets.SystemRandom()
    model_a, model_b = draw.sample(names, 2)
    row = BattleRow(
        model_a=model_a, model_b=model_b, prompt=messages[-1]["content"], messages=messages, dataset_id=body.dataset_id,
        row_number=number, sampling={"max_tokens": body.max_tokens, "temperature": body.temperature}, created_at=utc_now(),
    )  # fmt: skip
    return read(BattleRepository(session).add(row))


def _question(settings: Settings, session: Session, body: BattleCreate) -> tuple[list[dict[str, str]], int | None]:
    """What both are asked, and the number of the row that it comes from."""
    system = [{"role": "system", "content": body.system}] if body.system else []
    if body.dataset_id is None:
        return [*system, {"role": "user", "content": body.prompt or ""}], None
    ref = training_ref(settings, session, body.dataset_id, None)
    if not ref.num_rows:
        raise InvalidInput("The dataset has no rows.", details=[{"loc": "dataset_id", "message": "no rows"}])
    number = BattleRepository(session).count_on(body.dataset_id) * STRIDE % ref.num_rows + 1
    found = stored.read_numbers(Path(ref.path), [number]).rows
    try:
        example = convert(found[0] if found else {}, ref.shape, ref.mapping)
    except (BadData, ValueError, KeyError) as error:
        raise InvalidInput(
            f"Row {number} of {ref.name} is no question: {error}",
            hint="Choose a dataset of questions and answers or of conversations.",
            details=[{"loc": "dataset_id", "message": "no conversations"}],
        ) from None
    last = max((place for place, is_learned in enumerate(example.learned) if is_learned), default=0)
    asked = [m for m in example.messages[:last] if m["role"] in ("system", "user", "assistant")]
    if not asked or asked[-1]["role"] != "user" or len(asked[-1]["content"]) > MAX_PROMPT_CHARS:
        raise InvalidInput(
            f"Row {number} of {ref.name} is no question.", details=[{"loc": "dataset_id", "message": "not a question"}]
        )
    return (asked if asked[0]["role"] == "system" else [*system, *asked]), number


def get(session: Session, battle_id: int) -> BattleRead:
    """Raises `NotFound`."""
    return read(BattleRepository(session).get(battle_id))


def list_battles(
    session: Session, *, model: str | None = None, voted: bool | None = True, cursor: int | None = None, limit: int = 50
) -> Page[BattleRead]:
    """Newest first. By the name of a model only those are found that were voted on: the list gives no names away."""
    rows = BattleRepository(session)
    query = rows.filtered(model=model, voted=True if model else voted)
    found, after = rows.page(query, cursor=cursor, limit=limit)
    return Page(items=[read(row) for row in found], next_cursor=after)


def asked(settings: Settings, session: Session, battle_id: int, side: Side) -> tuple[Partner, ChatRequest]:
    """Who answers on a side, under that side's name, and what it is asked. Raises `NotFound`, or `Conflict` when that side has
    answered already: an answer is not drawn until one likes it."""
    row = BattleRepository(session).get(battle_id, for_update=True)
    if getattr(row, f"answer_{side}") is not None:
        raise Conflict("This side has answered already.", hint="Begin another battle.")
    who = partner(settings, session, row.model_a if side == "a" else row.model_b)
    request = ChatRequest(messages=row.messages, stream=True, **row.sampling)
    return who._replace(name=side.upper()), request


def keep_answer(session: Session, battle_id: int, side: Side, text: str) -> None:
    """What a side has said, once; a battle that is gone keeps nothing."""
    try:
        row = BattleRepository(session).get(battle_id, for_update=True)
    except NotFound:
        return
    if getattr(row, f"answer_{side}") is None:
        setattr(row, f"answer_{side}", text.replace("\0", "\N{REPLACEMENT CHARACTER}"))


def vote(session: Session, battle_id: int, choice: Vote) -> BattleRead:
    """Decide, and learn who was who. Raises `NotFound`, or `Conflict` before both have answered and after the vote."""
    row = BattleRepository(session).get(battle_id, for_update=True)
    if row.vote is not None:
        raise Conflict("This battle is decided.", hint="Begin another one.")
    if row.answer_a is None or row.answer_b is None:
        raise Conflict("Both have to answer first.", hint="Wait until both answers are whole.")
    row.vote, row.voted_at = choice, utc_now()
    session.flush()
    return read(row)


def arena_ratings(session: Session) -> list[ArenaRating]:
    """The strongest first."""
    return elo.ratings(BattleRepository(session).results(MOST_BATTLES))


def read(row: BattleRow) -> BattleRead:
    """For the wire: without names before the vote."""
    told = row.vote is not None
    return BattleRead(
        id=row.id, prompt=row.prompt, dataset_id=row.dataset_id, row_number=row.row_number, answer_a=row.answer_a,
        answer_b=row.answer_b, vote=row.vote, model_a=row.model_a if told else None,  # type: ignore[arg-type]
        model_b=row.model_b if told else None, owner=row.owner, created_at=row.created_at, voted_at=row.voted_at,
    )  # fmt: skip


class Listener:
    """Reads along with a stream of events, to keep the answer."""

    def __init__(self) -> None:
        self.text, self.is_whole, self._rest = "", False, b""

    def hear(self, part: bytes) -> None:
        """The next bytes of the stream."""
        *blocks, self._rest = (self._rest + part).split(b"\n\n")
        for block in blocks:
            if not block.startswith(b"data: {"):
                continue
            choice = json.loads(block.removeprefix(b"data: "))["choices"][0]
            self.text += choice["delta"].get("content") or ""
            self.is_whole = self.is_whole or choice["finish_reason"] is not None
