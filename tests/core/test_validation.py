"""No sentence of the validator reaches anybody: each kind of problem has words of our own."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tunesmith.core.validation import message_of


class Inner(BaseModel):
    rate: float = 1.0


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field("x", min_length=1, max_length=5, pattern="^[a-z]+$")
    steps: int = Field(1, ge=1, lt=2_000_000)
    share: float = Field(0.5, gt=0, le=1, allow_inf_nan=False)
    on: bool = True
    method: Literal["lora", "qlora"] = "lora"
    tags: Annotated[list[str], Field(max_length=2)] = []
    when: datetime | None = None
    inner: Inner = Inner()

    @field_validator("name")
    @classmethod
    def not_taken(cls, value: str) -> str:
        if value == "taken":
            raise ValueError("this name is taken")
        return value


CASES: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "must have at least 1 character"),
    ({"name": "abcdef"}, "must have at most 5 characters"),
    ({"name": "A"}, "has characters or a form that are not allowed here"),
    ({"name": 3}, "must be text"),
    ({"name": "taken"}, "this name is taken"),
    ({"steps": 0}, "must be at least 1"),
    ({"steps": 3_000_000}, "must be less than 2,000,000"),
    ({"steps": 1.5}, "must be a whole number"),
    ({"steps": "many"}, "must be a whole number"),
    ({"share": 0}, "must be more than 0"),
    ({"share": 2}, "must be at most 1"),
    ({"share": float("nan")}, "must be a finite number"),
    ({"share": "half"}, "must be a number"),
    ({"on": "perhaps"}, "must be true or false"),
    ({"method": "magic"}, "must be one of 'lora' or 'qlora'"),
    ({"tags": "a"}, "must be a list"),
    ({"tags": ["a", "b", "c"]}, "must have at most 2 items, and has 3"),
    ({"when": "soon"}, "must be a date and time, such as 2026-01-31T14:05:00Z"),
    ({"inner": 1}, "must be an object of names and values"),
    ({"color": "red"}, "is not a known field"),
]


@pytest.mark.parametrize(("given", "said"), CASES, ids=lambda value: str(value)[:30])
def test_each_problem_is_said_plainly(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as found:
        Body.model_validate(given)
    assert [message_of(problem) for problem in found.value.errors()] == [said]
