"""OpenAI's `/v1/embeddings`."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from typing import Any, Literal

from tunesmith.core.inference import EmbeddingAsk
from tunesmith.features.deployments.dialects.base import Body, Fields, Refused, prompts, read

REFUSED = {"dimensions": Refused("vectors have the length that the model gives them.")}
MAX_INPUTS = 2048


class EmbeddingFields(Fields):
    input: Any = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None


def parse(body: Body) -> EmbeddingAsk:
    """Raises `InvalidInput`."""
    told = read(body, EmbeddingFields, REFUSED)
    return EmbeddingAsk(
        model=told.model,
        inputs=prompts(told.input, "input", MAX_INPUTS),
        as_base64=told.encoding_format == "base64",
        user=told.user or "",
    )


def render(ask: EmbeddingAsk, vectors: Sequence[Sequence[float]], prompt_tokens: int) -> dict[str, Any]:
    """In base64, a vector's numbers are float32, little-endian."""
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            if ask.as_base64
            else list(vector),
        }
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return {"object": "list", "model": ask.model, "data": data, "usage": usage}
