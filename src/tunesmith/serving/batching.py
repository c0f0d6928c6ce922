"""Continuous batching: requests join and leave the batch between two tokens; one thread computes.

See docs/decisions/0012-continuous-batching.md.
"""

from __future__ import annotations

import inspect
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import torch
from transformers import DynamicCache

from tunesmith.core.errors import TunesmithError, Unavailable
from tunesmith.serving.adapters import Adapters
from tunesmith.serving.grammar import Grammar
from tunesmith.serving.rows import RowsCache, rows_of
from tunesmith.serving.sampling import Sampling, biased, choose, logprob
from tunesmith.serving.text import Text

PREFILL_TOKENS = 512
"""Of a newcomer's prompt between two steps of the others: the longest that a running answer is held up."""
P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Piece:
    """Text that has become certain; the last one says why it ended."""

    text: str
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_s: float | None = None
    """From the request to the first token, waiting included; None when there was none."""
    tokens_per_s: float | None = None
    """After the first token; None when there was only one."""
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    """Of the tokens that became certain with it, in OpenAI's form, where they were asked for."""


class Pace:
    """How fast tokens come, from now on."""

    def __init__(self) -> None:
        self._began_s = self._last_s = time.monotonic()
        self._tokens = 0
        self.first_token_s: float | None = None

    def token(self) -> None:
        """One more token is there."""
        self._last_s = time.monotonic()
        self._tokens += 1
        if self.first_token_s is None:
            self.first_token_s = self._last_s - self._began_s

    @property
    def tokens_per_s(self) -> float | None:
        if self.first_token_s is None or self._tokens < 2:
            return None
        return (self._tokens - 1) / max(1e-9, self._last_s - self._began_s - self.first_token_s)


class Answer:
    """One request, its state while it is computed, and the pieces that came of it."""

    def __init__(
        self,
        prompt: torch.Tensor,
        adapter: str | None,
        sampling: Sampling,
        stopped: Callable[[], bool],
        tokenizer: Any,
        end_ids: set[int],
        grammar: Grammar | None = None,
    ) -> None:
        """`prompt` is (1, tokens); what `grammar` rules out is not chosen."""
        self.prompt, self.adapter, self.sampling, self.stopped = prompt, adapter, sampling, stopped
        self.pieces: queue.SimpleQueue[Piece | TunesmithError | None] = queue.SimpleQueue()
        """What became certain; an error ends it, and None when it was cancelled."""
        self.made: list[int] = []
        self.filled = 0
        """Tokens of the prompt that are computed."""
        self.cache: Any = None
        """Of the prompt, until it joins a batch."""
        self._tokenizer, self._end_ids = tokenizer, end_ids
        self._generator = sampling.generator(prompt.device)
        self._text, self._pace = Text(tokenizer, sampling.stop), Pace()
        self._logprobs: list[dict[str, Any]] = []
        self._grammar = grammar

    def take(self, logits: torch.Tensor) -> bool:
        """Choose the next token from `logits` (vocabulary,); whether it was the last one."""
        so_far = self.prompt[0]
        if self.sampling.repetition_penalty != 1.0:
            so_far = torch.cat([so_far, torch.tensor(self.made, dtype=torch.long, device=so_far.device)])
        weighed = biased(logits, self.made, self.sampling)
        if self._grammar is not None:
            weighed = self._grammar.allowed(weighed)
        token = choose(weighed, so_far, self.sampling, self._generator)
        self.made.append(token)
        self._pace.token()
        if self.sampling.logprobs is not None:
            self._logprobs.append(logprob(logits, token, self.sampling.logprobs, self._tokenizer))
        if token in self._end_ids:
            return self._end("stop")
        is_whole = self._grammar is not None and self._grammar.take(token)
        if new := self._text.add(token):
            self.pieces.put(Piece(new, logprobs=self._logprobs))
            self._logprobs = []
        if self._text.stopped or is_whole:
            return self._end("stop")
        most = self.sampling.max_tokens
        return most is not None and len(self.made) >= most and self._end("length")

    def _end(self, reason: str) -> bool:
        tokens, pace = (self.prompt.shape[1], len(self.made)), self._pace
        piece = Piece(self._text.rest(), reason, *tokens, pace.first_token_s, pace.tokens_per_s, self._logprobs)
        self.pieces.put(piece)
        return True

    def fail(self, error: BaseException) -> None:
        """End it with what went wrong."""
        self.pieces.put(error if isinstance(error, TunesmithError) else not_computed(error))


def not_computed(error: BaseException) -> Unavailable:
    """What is told of torch's own errors, memory above all."""
    told = Unavailable("The model could not compute its answer.", hint=str(error).strip().partition("\n")[0][:300])
    told.__cause__ = error
    return told


class Batch:
    """Answers that are computed together: row by row those of the cache."""

    def __init__(self, first: Answer) -> None:
        self.answers, self.cache = [first], first.cache

    def join(self, answer: Answer) -> None:
        self.cache.join(answer.cache)
        self.answers.append(answer)

    def leave(self, answer: Answer) -> None:
        row = self.answers.index(answer)
        if len(self.answers) > 1:
            self.cache.leave(row)
        self.answers[row] = self.answers[-1]
        self.answers.pop()


class Batcher:
    """The thread that computes, and who waits for it. Work is done turn by turn; other work may come between two turns."""

    def __init__(self, adapters: Adapters, device: torch.device, limit: int) -> None:
        """`limit` answers are computed at the same time."""
        self._adapters, self._device, self._limit = adapters, device, limit
        self._layers = rows_of(adapters.base.config) if _places_are_told(adapters.base) else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._lock = threading.Lock()
        self._turning = False
        self._waiting: deque[Answer] = deque()
        self._filling: Answer | None = None
        self._batches: dict[str | int, Batch] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return sum(len(batch.answers) for batch in self._batches.values()) + (self._filling is not None)

    def submit(self, answer: Answer) -> None:
        """Compute it as soon as there is a place."""
        with self._lock:
            self._waiting.append(answer)
            if self._turning:
                return
            self._turning = True
        self._thread.submit(self._turn).add_done_callback(self._after)

    def call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have something else computed between two turns."""
        return self._thread.submit(work, *args, **kwargs).result()

    def _after(self, turn: Future[None]) -> None:
        if error := turn.exception():
            traceback.print_exception(error)
            self._fail_all(error)
        with self._lock:
            self._turning = bool(self._waiting or self.running)
            if not self._turning:
                return
        try:
            self._thread.submit(self._turn).add_done_callback(self._after)
        except RuntimeError as error:  # the process ends
            self._fail_all(error)

    def _fail_all(self, error: BaseException) -> None:
        """After a defect nothing is known of the caches."""
        with self._lock:
            answers = [*self._waiting, *([self._filling] if self._filling else [])]
            answers += [answer for batch in self._batches.values() for answer in batch.answers]
            self._waiting.clear()
            self._batches.clear()
            self._filling = None
        for answer in answers:
            answer.fail(error)

    def _turn(self) -> None:
        """A part of a newcomer's prompt, and one token for each answer that is under way."""
        self._drop_cancelled()
        if self._filling is None and self._waiting and self.running < self._limit:
            self._filling = self._waiting.popleft()
        if self._filling is not None:
            self._fill(self._filling)
        for key, batch in list(self._batches.items()):
            self._step(key, batch)

    def _drop_cancelled(self) -> None:
        with self._lock:
            gone = [answer for answer in self._waiting if answer.stopped()]
            for answer in gone:
                self._waiting.remove(answer)
        for answer in gone:
            answer.pieces.put(None)
        if self._filling is not None and self._filling.stopped():
            self._filling.pieces.put(None)
            self._filling = None
        for key, batch in list(self._batches.items()):
            for answer in [answer for answer in batch.answers if answer.stopped()]:
                answer.pieces.put(None)
                self._leave(key, batch, answer)

    def _fill(self, answer: Answer) -> None:
        """Compute the next part of its prompt; with the last one it gets its first token and joins the others."""
        try:
            if answer.adapter is not None:
                self._adapters.load(answer.adapter)
            if answer.cache is None:
                answer.cache = self._new_cache()
            part = answer.prompt[:, answer.filled :]
            if isinstance(answer.cache, RowsCache):
                part = part[:, :PREFILL_TOKENS]
            logits = self._compute([answer], part, answer.cache)
            answer.filled += part.shape[1]
            if answer.filled == answer.prompt.shape[1]:
                self._filling = None
                if not answer.take(logits[0]):
                    self._join(answer)
        except (TunesmithError, RuntimeError) as error:
            self._filling = None
            answer.fail(error)

    def _step(self, key: str | int, batch: Batch) -> None:
        """One token for each. Where that fails, memory above all, who has least to lose leaves, and the others go on."""
        tokens = torch.tensor([[answer.made[-1]] for answer in batch.answers], device=self._device)
        try:
            logits = self._compute(batch.answers, tokens, batch.cache)
        except RuntimeError as error:
            youngest = min(batch.answers, key=lambda answer: len(answer.made))
            self._leave(key, batch, youngest)
            youngest.fail(error)
            return
        for answer, row in zip(list(batch.answers), logits, strict=True):
            try:
                is_over = answer.take(row)
            except RuntimeError as error:
                is_over = True
                answer.fail(error)
            if is_over:
                self._leave(key, batch, answer)

    def _compute(self, answers: list[Answer], tokens: torch.Tensor, cache: Any) -> torch.Tensor:
        """(rows, vocabulary): the logits after each row's last token."""
        model, told = self._adapters.switch([answer.adapter for answer in answers])
        with torch.inference_mode():
            if isinstance(cache, RowsCache):
                told |= cache.about(self._device)
            out = model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1, **told)
            if isinstance(cache, RowsCache):
                cache.advance(tokens.shape[1])
            logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def _new_cache(self) -> Any:
        return RowsCache(self._layers) if self._layers else DynamicCache(config=self._adapters.base.config)

    def _join(self, answer: Answer) -> None:
        """Put it into the batch of its kind: models whose caches cannot be padded compute each alone, and adapters that do
        not mix have a batch each."""
        key: str | int = id(answer)
        if self._layers:
            key = "" if self._adapters.mixes(answer.adapter) else str(answer.adapter)
        with torch.inference_mode():
            if key in self._batches:
                self._batches[key].join(answer)
            else:
                self._batches[key] = Batch(answer)
        answer.cache = None

    def _leave(self, key: str | int, batch: Batch, answer: Answer) -> None:
        with torch.inference_mode():
            batch.leave(answer)
        if not batch.answers:
            del self._batches[key]


def _places_are_told(model: Any) -> bool:
    """Whether the model can be told the places of tokens, so that rows may be padded."""
    return "position_ids" in inspect.signature(model.forward).parameters
