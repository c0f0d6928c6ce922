"""The collection: models that somebody wants to find again, at hand or not yet."""

from __future__ import annotations

from tunesmith.core.clock import utc_now
from tunesmith.features.catalog import library
from tunesmith.features.catalog.repository import CollectionRepository
from tunesmith.features.catalog.service import check_name
from tunesmith.features.catalog.tables import CollectedRow
from tunesmith.schemas.common import Page
from tunesmith.schemas.models import CollectedCreate, CollectedRead
from tunesmith.settings import Settings
from tunesmith.storage.database import Session


def collect(settings: Settings, session: Session, body: CollectedCreate) -> CollectedRead:
    """Put a model into the collection; one that is there already gets the new note. Raises `InvalidInput` for no name."""
    check_name(body.name)
    rows = CollectionRepository(session)
    row = rows.named(body.name)
    if row is None:
        row = rows.add(CollectedRow(name=body.name, note=body.note, created_at=utc_now()))
    elif body.note:
        row.note = body.note
    return _read(row, _names_at_hand(settings))


def change_note(settings: Settings, session: Session, collected_id: int, note: str) -> CollectedRead:
    """Raises `NotFound`."""
    row = CollectionRepository(session).get(collected_id, for_update=True)
    row.note = note
    return _read(row, _names_at_hand(settings))


def remove(session: Session, collected_id: int) -> None:
    """The model itself stays. Raises `NotFound`."""
    rows = CollectionRepository(session)
    rows.remove(rows.get(collected_id))


def list_collected(settings: Settings, session: Session, *, cursor: int | None, limit: int) -> Page[CollectedRead]:
    """Newest first."""
    rows = CollectionRepository(session)
    found, after = rows.page(rows.query(), cursor=cursor, limit=limit)
    at_hand = _names_at_hand(settings)
    return Page(items=[_read(row, at_hand) for row in found], next_cursor=after)


def ids_by_name(session: Session) -> dict[str, int]:
    """What is in the collection."""
    return CollectionRepository(session).ids_by_name()


def _names_at_hand(settings: Settings) -> set[str]:
    return {*library.base_models(settings), *(model.name for model in library.tuned_models(settings))}


def _read(row: CollectedRow, at_hand: set[str]) -> CollectedRead:
    return CollectedRead(
        id=row.id, name=row.name, note=row.note, at_hand=row.name in at_hand, created_at=row.created_at
    )
