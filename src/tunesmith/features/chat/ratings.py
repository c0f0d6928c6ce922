"""What people think of answers: kept as human evaluation, counted by model, given out for use elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from tunesmith.core.clock import utc_now
from tunesmith.core.errors import InvalidInput
from tunesmith.core.spreadsheet import csv_rows
from tunesmith.features.catalog.service import check_seen
from tunesmith.features.chat.repository import RatingRepository
from tunesmith.features.chat.tables import RatingRow
from tunesmith.features.jobs import versions
from tunesmith.features.registry import service as registry
from tunesmith.features.registry.tables import VersionRow
from tunesmith.schemas.common import Page
from tunesmith.schemas.jobs import ChatMessage
from tunesmith.schemas.models import RatingCount, RatingCreate, RatingRead, RatingUpdate
from tunesmith.settings import Settings
from tunesmith.storage.database import Database, Session

HUMAN_RATINGS = "Human ratings (playground)"
"""What they are called among a version's evaluations."""
COLUMNS = ("id", "model", "verdict", "prompt", "answer", "note", "messages", "sampling", "created_at")


def rate(settings: Settings, session: Session, body: RatingCreate) -> RatingRead:
    """Keep a judgement. One of `bot@champion` is of the version that has the alias now. Raises `InvalidInput` for what is no
    model's name, `NotFound` for a model that its author may not see."""
    check_seen(settings, session, body.model)
    version = _version_of(session, body.model)
    named = {"model": f"{version.name}@{version.version}"} if version and "@" in body.model else {}
    row = RatingRepository(session).add(RatingRow(**body.model_dump() | named, created_at=utc_now()))
    _tell_version(session, version)
    return _read(row)


def change(session: Session, rating_id: int, body: RatingUpdate) -> RatingRead:
    """Raises `NotFound`, or `InvalidInput` for null."""
    given = body.model_dump(exclude_unset=True)
    empty = [name for name, value in given.items() if value is None]
    if empty:
        raise InvalidInput(details=[{"loc": name, "message": "must not be null; leave it out"} for name in empty])
    row = RatingRepository(session).get(rating_id, for_update=True)
    for name, value in given.items():
        setattr(row, name, value)
    _tell_version(session, _version_of(session, row.model))
    return _read(row)


def withdraw(session: Session, rating_id: int) -> None:
    """Raises `NotFound`."""
    rows = RatingRepository(session)
    row = rows.get(rating_id)
    rows.remove(row)
    _tell_version(session, _version_of(session, row.model))


def _version_of(session: Session, model: str) -> VersionRow | None:
    """The version of the registry that was rated; None for a base model."""
    return versions.evaluated_version(session, model) if "@" in model or model.startswith("job:") else None


def _tell_version(session: Session, version: VersionRow | None) -> None:
    """Keep among the version's scores what everybody thinks of its answers: the share of thumbs up."""
    if version is None:
        return
    session.flush()
    registry.lock_scores(session, version)
    own = registry.of_job(session, version.job_id) if version.job_id is not None else None
    counts = RatingRepository(session).counts_of_version(
        f"{version.name}@{version.version}",
        version.job_id if own and own.id == version.id else None,
        version.created_at,
    )
    registry.put_scores(session, version, HUMAN_RATINGS, _scores(counts.get("up", 0), counts.get("down", 0)))


def _scores(up: int, down: int) -> dict[str, Any] | None:
    """As an evaluation's, or None when nobody has rated."""
    from tunesmith.recipes.blocks.scoring import wilson

    if not up + down:
        return None
    low, high = wilson(up, up + down)
    score = {
        "title": "Human rating", "unit": "share", "value": up / (up + down), "num_samples": up + down, "low": low,
        "high": high, "higher_is_better": True,
    }  # fmt: skip
    return {"scores": {"human_rating": score}}


def get(session: Session, rating_id: int) -> RatingRead:
    """Raises `NotFound`."""
    return _read(RatingRepository(session).get(rating_id))


def list_ratings(
    session: Session, *, model: str | None, verdict: str | None, text: str | None, cursor: int | None, limit: int
) -> Page[RatingRead]:
    """Newest first."""
    rows = RatingRepository(session)
    query = rows.filtered(model=model, verdict=verdict, text_like=text)
    found, after = rows.page(query, cursor=cursor, limit=limit)
    return Page(items=[_read(row) for row in found], next_cursor=after)


def counts(session: Session, model: str | None = None) -> list[RatingCount]:
    """By model, those with the most first."""
    found: dict[str, dict[str, int]] = {}
    for name, verdict, count in RatingRepository(session).counts(model):
        found.setdefault(name, {"up": 0, "down": 0})[verdict] = count
    read = [
        RatingCount(model=name, up=n["up"], down=n["down"], share_up=n["up"] / (n["up"] + n["down"]))
        for name, n in found.items()
    ]
    return sorted(read, key=lambda count: (-(count.up + count.down), count.model))


def export(
    database: Database, kind: Literal["jsonl", "csv"], *, model: str | None, verdict: str | None
) -> Iterator[bytes]:
    """Oldest first, a part at a time. JSON Lines is exact; in CSV, cells that would start a formula get a quote."""
    if kind == "csv":
        yield csv_rows([COLUMNS]).encode()
    last = 0
    while True:
        with database.unit_of_work(readonly=True) as session:  # a short one each: the client may be slow
            rows = RatingRepository(session)
            part = [_read(row) for row in rows.after(rows.filtered(model=model, verdict=verdict), last)]
        if not part:
            return
        last = part[-1].id
        for rating in part:
            yield _csv_rating(rating) if kind == "csv" else (rating.model_dump_json() + "\n").encode()


def _csv_rating(rating: RatingRead) -> bytes:
    cells = rating.model_dump(mode="json") | {"prompt": prompt_of(rating.messages)}
    return csv_rows([[_cell(cells[name]) for name in COLUMNS]]).encode()


def prompt_of(messages: list[ChatMessage]) -> str:
    """The last thing that the person said."""
    return next((message.content for message in reversed(messages) if message.role == "user"), "")


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value


def _read(row: RatingRow) -> RatingRead:
    return RatingRead.model_validate({name: getattr(row, name) for name in RatingRead.model_fields})
