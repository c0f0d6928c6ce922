"""Models on the wire: base models at hand and models that jobs have made."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel


class ModelRead(BaseModel):
    """A model that can be trained on or talked to."""

    name: str
    """Use it as `model` of a new job or of a chat: a hub id, a local name, or `job:<id>`."""
    kind: Literal["base", "tuned"]
    source: Literal["starter", "hub_cache", "local", "job"]
    job_id: int | None = None
    base_model: str | None = None
    method: str | None = None
    num_parameters: int | None = None
    size_bytes: int | None = None
    architecture: str | None = None
    context_length: int | None = None
    metrics: dict[str, Any] = {}
    created_at: datetime | None = None
