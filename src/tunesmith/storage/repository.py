"""What every repository does: get one or say it is not there, add, page by cursor."""

from __future__ import annotations

import json
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Select, Text, cast, or_, select, tuple_, type_coerce
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute, Session

from tunesmith.core.acting import current
from tunesmith.core.errors import BadRequest, NotFound, PermissionDenied
from tunesmith.storage.tables import Base, Owned

RowT = TypeVar("RowT", bound=Base)


class Repository(Generic[RowT]):
    """Queries on one table. Never commits: the unit of work does."""

    row: type[RowT]
    noun: str

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, row_id: int, *, for_update: bool = False) -> RowT:
        """The row. Raises `NotFound`. `for_update` locks it until the transaction ends (PostgreSQL), and raises
        `PermissionDenied` for what is another's."""
        # Ids outside 64 bits would be an error inside the driver; they are simply not there.
        found = None if not 0 < row_id < 2**63 else self.session.get(self.row, row_id, with_for_update=for_update)
        if found is None:
            raise NotFound(f"There is no {self.noun} {row_id}.", hint=f"List them to see which {self.noun}s exist.")
        if for_update and isinstance(found, Owned) and not current().may_change(found.owner_id):
            raise PermissionDenied(
                f"This {self.noun} is {found.owner or 'somebody'}'s; you may look at it, not change it.",
                hint="Ask its owner or an administrator, or make a copy of your own.",
            )
        return found

    def find(self, row_id: int) -> RowT | None:
        """The row, or None."""
        return self.session.get(self.row, row_id)

    def add(self, row: RowT) -> RowT:
        self.session.add(row)
        self.session.flush()
        return row

    def page(
        self,
        query: Select[Any],
        *,
        cursor: int | None,
        limit: int,
        by: ColumnElement[Any] | None = None,
        descending: bool = True,
    ) -> tuple[list[RowT], int | None]:
        """Newest first by id, or in the order of `by`, which is never null and indexed together with the id.

        The cursor is the id of the last row of the page before; the second value is that of the next page, or None at
        the end. Raises `BadRequest` when the cursor's row is gone, so that its place in the order is not known.
        """
        key = self.row.id  # type: ignore[attr-defined]
        if by is None:
            if cursor is not None:
                query = query.where(key < cursor if descending else key > cursor)
            order = [key]
        else:
            if cursor is not None:
                place = tuple_(*self._place(by, cursor))
                query = query.where(tuple_(by, key) < place if descending else tuple_(by, key) > place)
            order = [by, key]
        query = query.order_by(*[part.desc() if descending else part.asc() for part in order])
        rows = list(self.session.scalars(query.limit(limit + 1)))
        more = len(rows) > limit
        rows = rows[:limit]
        return rows, rows[-1].id if more else None  # type: ignore[attr-defined]

    def _place(self, by: ColumnElement[Any], cursor: int) -> tuple[Any, int]:
        key = self.row.id  # type: ignore[attr-defined]
        found = self.session.execute(select(by, key).where(key == cursor)).one_or_none()
        if found is None:
            raise BadRequest("The list has changed.", hint="Begin again at its first page, without a cursor.")
        return found[0], found[1]

    def query(self) -> Select[Any]:
        return select(self.row)

    def has_tag(self, column: InstrumentedAttribute[list[str]], tag: str) -> ColumnElement[bool]:
        """Whether a JSON list of strings holds `tag`."""
        if self.session.get_bind().dialect.name == "postgresql":
            return type_coerce(column, JSONB).contains([tag])
        return cast(column, Text).like(f"%{like_text(json.dumps(tag))}%", escape="\\")


def like_text(text: str) -> str:
    """`text` for LIKE with escape "\\": its own percent signs and underscores mean themselves."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def contains(text: str, *columns: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    """Whether any of `columns` holds `text`, whatever the case."""
    return or_(*[column.ilike(f"%{like_text(text)}%", escape="\\") for column in columns])
