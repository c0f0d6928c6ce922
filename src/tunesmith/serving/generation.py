"""One base model, many adapters over it, and answers that share its passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tunesmith.core.errors import BadData, InvalidInput, JobFailure, TooMany, TunesmithError
from tunesmith.core.job_spec import ModelRef
from tunesmith.engine.precision import pick_device, pick_dtype, set_threads
from tunesmith.recipes.blocks.endings import ends_in
from tunesmith.recipes.blocks.loading import load_causal_lm, load_tokenizer
from tunesmith.recipes.blocks.templates import Renderer
from tunesmith.serving.adapters import Adapters
from tunesmith.serving.batching import Answer, Batcher, Piece, not_computed
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

    def __post_init__(self) -> None:
        set_threads(self.threads)
        self.device = pick_device()
        dtype = pick_dtype(self.device, None, fp16=False)
        self.tokenizer = load_tokenizer(self.base_path, revision=self.revision, offline=self.offline)
        self.template = Renderer(self.tokenizer)
        ref = ModelRef(name="base", path=self.base_path, revision=self.revision, adapter_path=self.merged_adapter)
        base: Any = load_causal_lm(ref, dtype=dtype, device=self.device, offline=self.offline)
        base.eval()
        self.adapters = Adapters(base)
        self.batcher = Batcher(self.adapters, self.device, min(self.parallel, MAX_ROWS))
        config = base.config.get_text_config()
        self.context_tokens = int(getattr(config, "max_position_embeddings", 2048))
        ends = base.generation_config.eos_token_id
        self.end_ids = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    @property
    def most_waiting(self) -> int:
        """Requests that wait before others are refused: at least as many as are let through to it."""
        return max(MAX_WAITING, self.parallel)

    def generate(
        self,
        asked: list[dict[str, str]] | str,
        adapter_path: str | None,
        sampling: Sampling,
        stopped: Callable[[], bool],
    ) -> Iterator[Piece]:
        """Pieces of the answer as they come: to a conversation, or of a text that goes on. Raises `TooMany` when too many
        wait, `InvalidInput` when it cannot fit or the model's chat template refuses it."""
        prompt = self._prompt(asked, sampling.max_tokens)
        if self.batcher.waiting >= self.most_waiting:
            raise TooMany("Too many requests are waiting for this model.", hint="Try again in a moment.")
        return self._pieces(prompt, adapter_path, sampling, stopped)

    def embed(self, texts: list[str], adapter_path: str | None) -> list[list[float]]:
        """One vector a text, of length 1: the mean of the last layer over its tokens. Raises `InvalidInput` when one is too
        long."""

        def vector(ids: torch.Tensor) -> list[float]:
            if adapter_path is not None:
                self.adapters.load(adapter_path)
            model, told = self.adapters.switch([adapter_path])
            with torch.inference_mode():
                out = model(input_ids=ids, output_hidden_states=True, use_cache=False, logits_to_keep=1, **told)
                mean = out.hidden_states[-1][0].float().mean(0)
                return [float(number) for number in torch.nn.functional.normalize(mean, dim=0)]

        try:
            return [self.batcher.call(vector, self._prompt(text, 0)) for text in texts]
        except RuntimeError as error:
            raise not_computed(error) from error

    def _prompt(self, asked: list[dict[str, str]] | str, max_tokens: int) -> torch.Tensor:
        """(1, tokens)"""
        try:
            text = asked if isinstance(asked, str) else self.template.render(asked, prompt=True)
        except (BadData, JobFailure) as error:
            hint = error.hint or "Leave out the system message, or let user and assistant take turns."
            raise InvalidInput(error.message, hint=hint, details=[{"loc": "messages", "message": "refused"}]) from None
        ids: torch.Tensor = self.tokenizer(text, add_special_tokens=text is asked, return_tensors="pt")["input_ids"]
        if ids.shape[1] == 0:
            raise InvalidInput("The text is empty.", details=[{"loc": "prompt", "message": "empty"}])
        if ids.shape[1] + max_tokens > self.context_tokens:
            raise InvalidInput(
                f"The conversation has {ids.shape[1]} tokens; with max_tokens {max_tokens} that is over the model's "
                f"{self.context_tokens}.",
                hint="Shorten the conversation or lower max_tokens.",
                details=[{"loc": "messages", "message": "too long"}],
            )
        return ids.to(self.device)

    def _pieces(
        self, prompt: torch.Tensor, adapter_path: str | None, sampling: Sampling, stopped: Callable[[], bool]
    ) -> Iterator[Piece]:
        """Begins when the first piece is asked for; whoever closes it cancels the answer."""
        closed = False
        answer = Answer(
            prompt,
            adapter_path,
            sampling,
            lambda: closed or stopped(),
            self.tokenizer,
            self.end_ids | ends_in(adapter_path),
        )
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
