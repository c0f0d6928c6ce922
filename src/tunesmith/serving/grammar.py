"""Answers that are JSON of a schema: tokens that would leave it are never chosen. See github.com/guidance-ai/llguidance."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any

import torch

from tunesmith.core.errors import InvalidInput, Unavailable

OPTIONS = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""One way to write each value: with free white space a model may go on with blanks for ever."""


class Grammar:
    """Of one answer: where in its JSON it is."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` (vocabulary,) with all tokens ruled out that cannot come next."""
        biases = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)[: len(logits)]
        ruled_out = torch.ones(len(logits), dtype=torch.bool)
        ruled_out[: len(biases)] = biases == 0
        return logits.masked_fill(ruled_out.to(logits.device), -torch.inf)

    def take(self, token: int) -> bool:
        """The token was chosen; whether nothing can follow it. Raises `Unavailable` when it cannot be followed."""
        if not self._matcher.consume_token(token):
            raise Unavailable("The answer has left its schema.", hint=str(self._matcher.get_error())[:300])
        return bool(self._matcher.is_stopped())


class Grammars:
    """Of one tokenizer, which is read when the first is asked for. Threads may share it."""

    def __init__(self, tokenizer: Any, end_ids: set[int]) -> None:
        self._tokenizer, self._end_ids = tokenizer, end_ids
        self._read: Any = None
        self._lock = threading.Lock()

    def of(self, response_format: Mapping[str, Any] | None) -> Grammar | None:
        """For a `response_format` of OpenAI's; None for text. Raises `InvalidInput` for a schema that cannot be used."""
        kind = (response_format or {}).get("type", "text")
        if kind == "text" or response_format is None:
            return None
        schema = {"type": "object"} if kind == "json_object" else response_format["json_schema"]["schema"]
        import llguidance

        with self._lock:
            if self._read is None:
                from llguidance.hf import from_tokenizer

                self._read = from_tokenizer(self._tokenizer, eos_token=sorted(self._end_ids) or None)
        told = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=OPTIONS)  # type: ignore[arg-type]
        matcher = llguidance.LLMatcher(self._read, told, log_level=0)
        if matcher.is_error():
            raise InvalidInput(
                "The JSON schema cannot be used.",
                hint=str(matcher.get_error()).partition("\n")[0][:300],
                details=[{"loc": "response_format", "message": "cannot be used"}],
            )
        return Grammar(matcher)
