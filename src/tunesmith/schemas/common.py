"""Shapes that all resources share on the wire."""

from __future__ import annotations

import math
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

ItemT = TypeVar("ItemT")
MAX_DEPTH = 50
"""Deepest nesting of what clients send."""


def why_not_storable(value: Any, depth: int = 0) -> str | None:
    """What no database can keep: NUL and halves of surrogate pairs in text, infinite numbers, numbers beyond 64 bits."""
    if isinstance(value, str):
        if "\0" in value:
            return "text must not hold NUL characters"
        return "text must be valid Unicode" if any("\ud800" <= char <= "\udfff" for char in value) else None
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**63 else "the number does not fit into 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else "the number must be finite"
    if depth > MAX_DEPTH:
        return f"nested more than {MAX_DEPTH} levels deep"
    items = [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((why for item in items if (why := why_not_storable(item, depth + 1))), None)


class Wire(BaseModel):
    """Base of what clients send: unknown keys are refused, and so is what no database can keep."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, data: Any) -> Any:
        for name, value in data.items() if isinstance(data, dict) else ():
            if why := why_not_storable(value):
                raise ValueError(f"{str(name)[:80]!r}: {why}")
            if why := why_not_storable(name):
                raise ValueError(f"a key: {why}")
        return data


class Page(BaseModel, Generic[ItemT]):
    """One page of a list, newest first."""

    items: list[ItemT]
    next_cursor: int | None = None
    """Pass as `cursor` to get the next page; null at the end."""
    total: int | None = None
    """How many there are in all, where that is cheap to know."""


class ErrorBody(BaseModel):
    """Every error of the API."""

    error: str = Field(examples=["invalid_input"])
    message: str = Field(examples=["1 value cannot be used: hyperparameters.learning_rate."])
    hint: str = Field("", examples=["Each problem is named with its place."])
    details: list[dict[str, Any]] = Field(
        default_factory=list,
        examples=[[{"loc": "hyperparameters.learning_rate", "message": "must be more than 0"}]],
    )
