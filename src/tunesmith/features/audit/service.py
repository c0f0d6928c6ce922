"""The audit log: every change in the transaction that makes it, each line chained to the one before.

A line's hash is an HMAC over the line and the hash before it, with a key that is not in the database. Who changes a line,
or takes one out, cannot make the rest fit. The last hash is also kept in a file beside the database, so that lines missing
at the end are found.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.core.acting import Act, current_act, everything_seen
from tunesmith.core.clock import utc_now
from tunesmith.core.plain_text import one_line
from tunesmith.core.spreadsheet import csv_rows
from tunesmith.features.audit.repository import AuditRepository, made_now
from tunesmith.features.audit.tables import AuditRow
from tunesmith.schemas.accounts import AuditCheck, AuditEntry
from tunesmith.schemas.common import Page
from tunesmith.storage.database import Database, Session, after_commit

HEAD = "audit.head"
"""File in the home folder: number and hash of the last line that this server has written."""
FIELDS = ("seq", "at", "user_id", "username", "via", "credential", "action", "objects", "address", "result", "status")
NO_LINE = "0" * 64
MAX_OBJECTS = 50


class AuditLog:
    """One for the server; thread-safe."""

    def __init__(self, database: Database, home: Path, key: bytes) -> None:
        self.database, self._key, self._head = database, key, home / HEAD
        self._moving = threading.Lock()

    def before_commit(self, session: Session) -> None:
        """Write down what the transaction of a request has done, within it."""
        act = current_act()
        if act.action and not act.is_recorded:
            self._append(session, act, list(made_now(session)), 200)
            after_commit(session, lambda: setattr(act, "is_recorded", True))

    def record(self, act: Act, status: int) -> None:
        """What has come of a request whose transaction did not tell: it was refused, failed, or changed files alone."""
        is_nobody = act.who.via == "anonymous"
        if not act.action or status == 429 or (is_nobody and status not in (401, 403)):
            return  # whom nobody knows must not be able to fill the log: those two answers are limited by address
        with everything_seen(), self.database.unit_of_work() as session:
            self._append(session, act, [], status)

    def _append(self, session: Session, act: Act, made: list[str], status: int) -> None:
        lines = AuditRepository(session)
        lines.lock()
        last = lines.last()
        row = AuditRow(
            seq=(last.seq if last else 0) + 1, at=utc_now(), user_id=act.who.user_id or None, username=act.who.name,
            via=act.who.via, credential=act.who.credential, action=act.action,
            objects=list(dict.fromkeys([*act.objects, *made]))[:MAX_OBJECTS], address=act.address[:64],
            result="done" if status < 400 else "refused" if status < 500 else "failed", status=status,
        )  # fmt: skip
        row.hash = self._hash(row, last.hash if last else NO_LINE)
        lines.add(row)
        seq, value = row.seq, row.hash
        after_commit(session, lambda: self._keep_head(seq, value))

    def _hash(self, row: AuditRow, before: str) -> str:
        told: dict[str, Any] = {name: getattr(row, name) for name in FIELDS}
        told["at"] = row.at.isoformat()
        text = json.dumps([before, told], sort_keys=True, ensure_ascii=True)
        return hmac.new(self._key, text.encode(), "sha256").hexdigest()

    def _keep_head(self, seq: int, value: str) -> None:
        """Lines are committed one after another, but threads may come here in another order: the file only moves on."""
        with self._moving, contextlib.suppress(OSError):  # a full disk: the log itself is whole
            if seq > self._read_head()[0]:
                temporary = self._head.with_suffix(".tmp")  # not flushed: after a crash an older head still finds most
                temporary.write_text(json.dumps({"seq": seq, "hash": value}))
                os.replace(temporary, self._head)

    def _read_head(self) -> tuple[int, str]:
        try:
            told = json.loads(self._head.read_bytes())
            return int(told["seq"]), str(told["hash"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0, ""

    # -- reading ----------------------------------------------------------------------------------------------------

    def verify(self) -> AuditCheck:
        """Go through the whole log."""
        head_seq, head_hash = self._read_head()
        before, expected = NO_LINE, 1
        for row in self._all():
            if row.seq != expected:
                return self._broken(expected, f"Line {expected} is missing.")
            if not hmac.compare_digest(self._hash(row, before), row.hash):
                return self._broken(expected, f"Line {row.seq} is not as it was written.")
            if row.seq == head_seq and row.hash != head_hash:
                return self._broken(expected, f"Line {row.seq} is another than the one that was written.")
            before, expected = row.hash, expected + 1
        if head_seq >= expected:
            return self._broken(expected, f"Lines {expected} to {head_seq} are missing at the end.")
        return AuditCheck(ok=True, entries=expected - 1, message=f"All {expected - 1} lines are as they were written.")

    def _broken(self, seq: int, message: str) -> AuditCheck:
        with self.database.unit_of_work(readonly=True) as session:
            return AuditCheck(ok=False, entries=AuditRepository(session).count(), broken_at=seq, message=message)

    def _all(self, **filters: Any) -> Iterator[AuditRow]:
        for rows in self._parts(**filters):
            yield from rows

    def _parts(self, **filters: Any) -> Iterator[list[AuditRow]]:
        """Oldest first, each part in a short transaction of its own; no more than one is held at a time."""
        after = 0
        while True:
            with self.database.unit_of_work(readonly=True) as session:
                lines = AuditRepository(session)
                rows = lines.part(lines.filtered(**filters), after)
            if not rows:
                return
            after = rows[-1].seq
            yield rows

    def export(self, form: str, **filters: Any) -> Iterator[str]:
        """JSON Lines or CSV, oldest first, a part at a time. Each entry is one line of ASCII or, in the CSV, of text without
        control characters whose cells cannot start formulas."""
        if form == "csv":
            yield csv_rows([[*FIELDS, "hash"]])
        for rows in self._parts(**filters):
            entries = [AuditEntry.model_validate(row) for row in rows]
            if form == "jsonl":
                yield "".join(json.dumps(entry.model_dump(mode="json")) + "\n" for entry in entries)
            else:
                yield csv_rows([_cells(entry) for entry in entries])


def _cells(entry: AuditEntry) -> list[Any]:
    told = entry.model_dump(mode="json") | {"objects": "; ".join(entry.objects)}
    values = (told[name] for name in (*FIELDS, "hash"))
    return [one_line(value) if isinstance(value, str) else value for value in values]


def read_page(session: Session, cursor: int | None, limit: int, **filters: Any) -> Page[AuditEntry]:
    """Newest first."""
    lines = AuditRepository(session)
    rows, after = lines.page(lines.filtered(**filters), cursor, limit)
    return Page(items=[AuditEntry.model_validate(row) for row in rows], next_cursor=after)
