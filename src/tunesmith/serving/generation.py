"""One base model, many adapters over it, and answers that share its passes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

from tunesmith.core.errors import BadData, InvalidInput, JobFailure, TooMany, TunesmithError
from tunesmith.core.inference import Message, Prompt, found_limits
from tunesmith.core.job_spec import ModelRef
from tunesmith.engine.precision import pick_device, pick_dtype, set_threads
from tunesmith.recipes.blocks.endings import ends_in
from tunesmith.recipes.blocks.loading import load_causal_lm, load_tokenizer
from tunesmith.recipes.blocks.templates import Renderer
from tunesmith.recipes.chat_template import own_template
from tunesmith.serving.adapters import Adapters
from tunesmith.serving.batching import Answer, Batcher, Piece, not_computed
from tunesmith.serving.grammar import Grammar, Grammars
from tunesmith.serving.sampling import Sampling

MAX_ROWS = 16
"""Most answers computed at the same time, whatever is asked for; others wait."""
MAX_WAITING = 16
"""Requests that may wait for their turn, at least."""


@dataclass
class Model:
    """The base, its tokenizer and its adapters. Up to `parallel` answers are computed together, the others wait."""

    base_path: str
    offline: bool = True
    revision: str | None = None
    threads: int | None = None
    parallel: int = 8
    merged_adapter: str | None = None
    """One that cannot lie over the base beside others: it is in the base from the beginning."""
    most_context_tokens: int | None = None
    """Of one request, prompt and answer together; no more than the model has."""

    def __post_init__(self) -> None:
        set_threads(self.threads)
        self.device = pick_device()
        dtype = pick_dtype(self.device, None, fp16=False)
        self.tokenizer = load_tokenizer(
            self.base_path, revision=self.revision, offline=self.offline, adapter=self.merged_adapter
        )
        self.template = Renderer(self.tokenizer)
        self._own_templates: dict[str, Renderer] = {}
        """Of adapters that were trained with another chat template than the base's, by its text."""
        ref = ModelRef(name="base", path=self.base_path, revision=self.revision, adapter_path=self.merged_adapter)
        base: Any = load_causal_lm(ref, dtype=dtype, device=self.device, offline=self.offline)
        base.eval()
        self.adapters = Adapters(base)
        self.batcher = Batcher(self.adapters, self.device, min(self.parallel, MAX_ROWS))
        config = base.config.get_text_config()
        trained = int(getattr(config, "max_position_embeddings", 2048))
        self.context_tokens = min(trained, self.most_context_tokens or trained)
        ends = base.generation_config.eos_token_id
        self.end_ids = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
        self.grammars = Grammars(self.tokenizer, self.end_ids)
        self.limits = found_limits(self._refuses)

    @property
    def most_waiting(self) -> int:
        """Requests that wait before others are refused: at least as many as are let through to it."""
        return max(MAX_WAITING, self.parallel)

    def _refuses(self, messages: list[Message]) -> bool:
        try:
            self.template.render(messages, prompt=True)
        except (BadData, JobFailure):
            return True
        return False

    def generate(
        self,
        asked: Sequence[Message] | Prompt,
        adapter_path: str | None,
        sampling: Sampling,
        stopped: Callable[[], bool],
        response_format: Mapping[str, Any] | None = None,
    ) -> Iterator[Piece]:
        """Pieces of the answer as they come: to a conversation, or of a text that goes on. Raises `TooMany` when too many
        wait, `InvalidInput` when it cannot fit or the model's chat template refuses it."""
        prompt = self._prompt(asked, adapter_path, answers=True)
        room = self.context_tokens - prompt.shape[1]
        sampling = replace(sampling, max_tokens=min(room, sampling.max_tokens or room))
        if self.batcher.waiting >= self.most_waiting:
            raise TooMany("Too many requests are waiting for this model.", hint="Try again in a moment.")
        return self._pieces(prompt, adapter_path, sampling, stopped, self.grammars.of(response_format))

    def embed(self, texts: Sequence[Prompt], adapter_path: str | None) -> tuple[list[list[float]], int]:
        """One vector a text, of length 1: the mean of the last layer over its tokens; and how many tokens these are. Raises
        `InvalidInput` when one is too long."""

        def vector(ids: torch.Tensor) -> list[float]:
            if adapter_path is not None:
                self.adapters.load(adapter_path)
            model, told = self.adapters.switch([adapter_path])
            with torch.inference_mode():
                out = model(input_ids=ids, output_hidden_states=True, use_cache=False, logits_to_keep=1, **told)
                mean = out.hidden_states[-1][0].float().mean(0)
                return [float(number) for number in torch.nn.functional.normalize(mean, dim=0)]

        try:
            prompts = [self._prompt(text, None, answers=False) for text in texts]
            return [self.batcher.call(vector, prompt) for prompt in prompts], sum(each.shape[1] for each in prompts)
        except RuntimeError as error:
            raise not_computed(error) from error

    def _prompt(self, asked: Sequence[Message] | Prompt, adapter_path: str | None, *, answers: bool) -> torch.Tensor:
        """(1, tokens), with room for an answer of one at least."""
        if isinstance(asked, tuple):
            ids = torch.tensor([asked], dtype=torch.long)
            if ids.numel() and int(ids.max()) >= self.adapters.base.get_input_embeddings().num_embeddings:
                raise InvalidInput("A token's number is over the model's vocabulary.", details=[{"loc": "prompt"}])
        else:
            text = asked if isinstance(asked, str) else self._rendered(asked, adapter_path)
            ids = self.tokenizer(text, add_special_tokens=text is asked, return_tensors="pt")["input_ids"]
        if ids.shape[1] == 0:
            raise InvalidInput("The text is empty.", details=[{"loc": "prompt", "message": "empty"}])
        if ids.shape[1] + answers > self.context_tokens:
            raise InvalidInput(
                f"The prompt has {ids.shape[1]} tokens{' and needs room for an answer' if answers else ''}; that is over the "
                f"model's {self.context_tokens}.",
                hint="Shorten the conversation or the text.",
                details=[{"loc": "messages", "message": "too long", "limit": self.context_tokens}],
            )
        return ids.long().to(self.device)

    def _template_for(self, adapter_path: str | None) -> Renderer:
        own = own_template(adapter_path, self.base_path)
        if not own:
            return self.template
        if own not in self._own_templates:
            tokenizer = copy(self.tokenizer)
            tokenizer.chat_template = own
            self._own_templates[own] = Renderer(tokenizer)
        return self._own_templates[own]

    def _rendered(self, messages: Sequence[Message], adapter_path: str | None) -> str:
        """With the chat template that the adapter was trained with. Raises `InvalidInput` for what the template refuses, and for calls and answers of tools that it leaves out."""
        told = self.limits.fitted(messages)
        try:
            text = self._template_for(adapter_path).render([_for_template(message) for message in told], prompt=True)
        except (BadData, JobFailure) as error:
            hint = error.hint or "Leave out the system message, or let user and assistant take turns."
            raise InvalidInput(error.message, hint=hint, details=[{"loc": "messages", "message": "refused"}]) from None
        for message in told:
            parts = [call["function"]["name"] for call in message.get("tool_calls") or []]
            parts += [message["content"].strip()] if message["role"] == "tool" else []
            if not all(part in text for part in parts):
                raise InvalidInput(
                    "The chat template of this model has no place for tools.",
                    hint="Leave them out, or deploy a model that was trained to call tools.",
                    details=[{"loc": "messages", "message": "no place for tools"}],
                )
        return text

    def _pieces(
        self,
        prompt: torch.Tensor,
        adapter_path: str | None,
        sampling: Sampling,
        stopped: Callable[[], bool],
        grammar: Grammar | None,
    ) -> Iterator[Piece]:
        """Begins when the first piece is asked for; whoever closes it cancels the answer."""
        closed = False

        def over() -> bool:
            return closed or stopped()

        ends = self.end_ids | ends_in(adapter_path)
        answer = Answer(prompt, adapter_path, sampling, over, self.tokenizer, ends, grammar)
        self.batcher.submit(answer)
        try:
            while (piece := answer.pieces.get()) is not None:
                if isinstance(piece, TunesmithError):
                    raise piece
                yield piece
                if piece.finish_reason:
                    return
        finally:
            closed = True


def _for_template(message: Message) -> dict[str, Any]:
    """With the arguments of calls as values, as templates expect them, where they are JSON."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        arguments = call["function"]["arguments"]
        with contextlib.suppress(ValueError):
            arguments = json.loads(arguments)
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**message, "tool_calls": calls}
