"""Cursor and limit, the same everywhere: `?limit=50&cursor=<next_cursor of the last page>`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

Limit = Annotated[int, Query(ge=1, le=500, description="Most items in one page.")]
Cursor = Annotated[int | None, Query(ge=1, lt=2**63, description="`next_cursor` of the page before.")]
