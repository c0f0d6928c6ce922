"""Shapes that all resources share on the wire."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

ItemT = TypeVar("ItemT")


class Wire(BaseModel):
    """Base of what clients send: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


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
    message: str = Field(examples=["1 value(s) cannot be used: hyperparameters.learning_rate."])
    hint: str = Field("", examples=["Each problem is named in details, with its place."])
    details: list[dict[str, Any]] = Field(
        default_factory=list,
        examples=[[{"loc": "hyperparameters.learning_rate", "message": "Input should be greater than 0"}]],
    )
