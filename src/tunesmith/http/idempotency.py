"""`Idempotency-Key` on POST (draft-ietf-httpapi-idempotency-key-header-07): a request sent again is not done again.

Same key and body: the stored answer. Same key while the first is still at work: 409. Same key, other body: 422.
The answer is stored in the transaction of the work itself, so a server that dies in between has done both or neither.
Only answers of work that was done are kept; a refused request may be mended and sent again under its key.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Annotated

from fastapi import Header
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from tunesmith.core.acting import owner_id
from tunesmith.core.errors import Conflict, InvalidInput
from tunesmith.http.session import AppState
from tunesmith.storage.idempotency import IdempotencyRepository

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x20-\x7e]+$",
        description="Your own name for this request. Sent again within a day, it gives the same answer and does nothing.",
    ),
]

_lock = threading.Lock()
_in_flight: set[tuple[int, str, str]] = set()


def once(
    state: AppState,
    scope: str,
    key: str | None,
    request: BaseModel,
    work: Callable[[Session], BaseModel],
    *,
    status: int = 201,
) -> Response:
    """Do `work` in one unit of work and answer with what it returns; with a `key`, at most once.

    `scope` names the operation and what it acts on. Raises `Conflict` (in flight) and `InvalidInput` (other body).
    """
    if key is None:
        with state.database.unit_of_work() as session:
            return _answer(work(session).model_dump_json(), status)
    scope = scope if owner_id() is None else f"{owner_id()} {scope}"  # each account has keys of its own
    fingerprint = hashlib.sha256(_canonical(request)).hexdigest()
    with _at_work((id(state.database), scope, key)), state.database.unit_of_work() as session:
        answers = IdempotencyRepository(session)
        if not answers.claim(scope, key):
            raise _still_at_work()
        found = answers.find(scope, key)
        if found is None:
            body = work(session).model_dump_json()
            answers.remember(scope, key, fingerprint, status, body)
            return _answer(body, status)
        if found.fingerprint != fingerprint:
            raise InvalidInput(
                "This Idempotency-Key was used for another request.",
                hint="Use a new key for each new request.",
                details=[{"loc": "header.Idempotency-Key", "message": "the body differs from the first request's"}],
            )
        return _answer(found.body, found.status, replayed=True)


@contextlib.contextmanager
def _at_work(name: tuple[int, str, str]) -> Iterator[None]:
    with _lock:
        if name in _in_flight:
            raise _still_at_work()
        _in_flight.add(name)
    try:
        yield
    finally:
        with _lock:
            _in_flight.discard(name)


def _still_at_work() -> Conflict:
    return Conflict(
        "The first request with this Idempotency-Key is still at work.",
        hint="Send it again in a moment to get its answer.",
    )


def _canonical(request: BaseModel) -> bytes:
    return json.dumps(request.model_dump(mode="json", exclude_unset=True), sort_keys=True).encode()


def _answer(body: str, status: int, *, replayed: bool = False) -> Response:
    headers = {"Idempotency-Replayed": "true"} if replayed else None
    return Response(body, status_code=status, media_type="application/json", headers=headers)
