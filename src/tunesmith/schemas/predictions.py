"""Predictions on the wire: inputs for a model that does not chat, and its answers."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from tunesmith.schemas.common import Wire


class PredictRequest(Wire):
    """One input, or a list of them."""

    inputs: Any = Field(examples=["Where is my parcel?"])
    """By the model's task: a text, an object of column and value, an image or sound as base64. A list is many inputs, at most
    1,000."""
    parameters: dict[str, Any] = Field(default_factory=dict, examples=[{"top_k": 3}])
    """What the model takes besides: `top_k`, `threshold` and `unsure_below` for labels, and so on."""

    @property
    def listed(self) -> list[Any]:
        """The inputs as a list."""
        return self.inputs if isinstance(self.inputs, list) else [self.inputs]


class PredictAnswer(BaseModel):
    """What a model answered."""

    model: str
    """Who answered: `name@version`, or `job:7`."""
    task: str
    """What it does, such as `text-classification`; it gives the form of the answers."""
    outputs: list[Any]
    """One for each input, in their order: for labels `[{"label": "spam", "score": 0.98}, …]`, the likeliest first; for numbers
    `{"value": 12.5}`; for spans, vectors and others see docs/deployments.md."""


class HubError(BaseModel):
    """What is wrong, as Hugging Face's clients read it."""

    error: str
    """In words, with what to do."""
    error_code: str
    """The stable name of the error."""
    details: list[dict[str, Any]]
    """Where: `loc` and `message`."""
