"""One base model, many adapters over it, and a decoding loop that can be stopped at any token."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import BadData, InvalidInput, JobFailure, TooMany, Unavailable
from tunesmith.core.job_spec import ModelRef
from tunesmith.engine.precision import pick_device, pick_dtype, set_threads
from tunesmith.recipes.blocks.loading import load_causal_lm, load_tokenizer
from tunesmith.recipes.blocks.templates import Renderer

MAX_ADAPTERS = 32
"""Adapters kept over the base; the one used longest ago goes first."""
MAX_WAITING = 16
"""Requests that may wait for their turn."""
GREEDY_BELOW = 1e-5
"""Temperatures under this take the likeliest token: dividing by them would overflow."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    max_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int | None = None
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """Tell the logarithm of each token's probability, and those of this many likeliest ones; None: do not."""


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


@dataclass
class Model:
    """The base, its tokenizer and its adapters. One token is computed at a time; requests take turns, token by token."""

    base_path: str
    offline: bool = True
    revision: str | None = None
    threads: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _waiting: int = 0
    _adapters: OrderedDict[str, str] = field(default_factory=OrderedDict)
    _set: str | None = None
    """The adapter that is switched on."""

    def __post_init__(self) -> None:
        set_threads(self.threads)
        self.device = pick_device()
        dtype = pick_dtype(self.device, None, fp16=False)
        self.tokenizer = load_tokenizer(self.base_path, revision=self.revision, offline=self.offline)
        self.template = Renderer(self.tokenizer)
        ref = ModelRef(name="base", path=self.base_path, revision=self.revision)
        self.model: Any = load_causal_lm(ref, dtype=dtype, device=self.device, offline=self.offline)
        self.model.eval()
        config = self.model.config.get_text_config()
        self.context_tokens = int(getattr(config, "max_position_embeddings", 2048))
        ends = self.model.generation_config.eos_token_id
        self.end_ids = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

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
        if self._waiting >= MAX_WAITING:
            raise TooMany("Too many chats are waiting for this model.", hint="Try again in a moment.")
        return self._in_turn(prompt, adapter_path, sampling, stopped)

    def embed(self, texts: list[str], adapter_path: str | None) -> list[list[float]]:
        """One vector a text, of length 1: the mean of the last layer over its tokens. Raises `InvalidInput` when one is too
        long."""
        found = []
        for text in texts:
            ids = self._prompt(text, 0)
            with self._lock, self._with_adapter(adapter_path) as model, torch.inference_mode():
                states = model(
                    input_ids=ids, output_hidden_states=True, use_cache=False, logits_to_keep=1
                ).hidden_states
            found.append(torch.nn.functional.normalize(states[-1][0].float().mean(0), dim=0).tolist())
        return found

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

    def _in_turn(
        self, prompt: torch.Tensor, adapter_path: str | None, sampling: Sampling, stopped: Callable[[], bool]
    ) -> Iterator[Piece]:
        self._waiting += 1
        try:
            yield from self._decode(prompt, adapter_path, sampling, stopped)
        except RuntimeError as error:  # torch's own, memory above all
            raise Unavailable(
                "The model could not compute its answer.", hint=str(error).strip().partition("\n")[0][:300]
            ) from error
        finally:
            self._waiting -= 1

    def _with_adapter(self, adapter_path: str | None) -> Any:
        """A context that gives the model with that adapter, loaded over the one base, or with none."""
        peft_model = self.model if self._adapters else None
        if adapter_path is None:
            if peft_model is None:
                return nullcontext(self.model)
            return _Disabled(peft_model)
        if adapter_path not in self._adapters:
            self._load(adapter_path)
        self._adapters.move_to_end(adapter_path)
        if self._set != self._adapters[adapter_path]:
            self._set = self._adapters[adapter_path]
            self.model.set_adapter(self._set)
        return nullcontext(self.model)

    def _load(self, adapter_path: str) -> None:
        from peft import PeftModel

        if not (Path(adapter_path) / "adapter_model.safetensors").is_file():
            raise InvalidInput("The adapter has no adapter_model.safetensors.")
        name = f"adapter{len(self._adapters)}_{abs(hash(adapter_path))}"
        if not self._adapters:
            self.model = PeftModel.from_pretrained(self.model, adapter_path, adapter_name=name)
        else:
            self.model.load_adapter(adapter_path, adapter_name=name)
        self.model.eval()
        self._set = None  # loading may have switched it on or not
        self._adapters[adapter_path] = name
        while len(self._adapters) > MAX_ADAPTERS:
            _, oldest = self._adapters.popitem(last=False)
            self.model.delete_adapter(oldest)

    def _decode(
        self, prompt: torch.Tensor, adapter_path: str | None, sampling: Sampling, stopped: Callable[[], bool]
    ) -> Iterator[Piece]:
        from transformers import DynamicCache

        generator = torch.Generator(device=self.device)
        if sampling.seed is not None:
            generator.manual_seed(sampling.seed)
        else:
            generator.seed()
        made: list[int] = []
        cache, ids = DynamicCache(config=self.model.config), prompt
        text, pace = _Text(self.tokenizer, sampling.stop), _Pace()
        reason, told = "length", list[dict[str, Any]]()
        for _ in range(sampling.max_tokens):
            if stopped():
                return
            # Entered anew for each token: the mode belongs to a thread, and the next token may be asked for by another.
            with self._lock, self._with_adapter(adapter_path) as model, torch.inference_mode():
                out = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                so_far = torch.cat([prompt[0], torch.tensor(made, dtype=torch.long, device=self.device)])
                logits = out.logits[0, -1].float()
                token = choose(logits.clone(), so_far, sampling, generator)
            made.append(token)
            if sampling.logprobs is not None:
                told.append(self._logprob(logits, token, sampling.logprobs))
            pace.token()
            if token in self.end_ids:
                reason = "stop"
                break
            new = text.add(token)
            if new:
                yield Piece(new, logprobs=told)
                told = []
            if text.stopped:
                reason = "stop"
                break
            ids = torch.tensor([[token]], device=self.device)
        yield Piece(text.rest(), reason, prompt.shape[1], len(made), pace.first_token_s, pace.tokens_per_s, told)

    def _logprob(self, logits: torch.Tensor, token: int, top: int) -> dict[str, Any]:
        """In OpenAI's form; None for what is no number, as damaged weights give."""
        values = logits.log_softmax(-1)

        def about(number: int) -> dict[str, Any]:
            value = float(values[number])
            return {"token": self.tokenizer.decode([number]), "logprob": value if math.isfinite(value) else None}

        likeliest = [about(int(number)) for number in values.topk(top).indices] if top else []
        return {**about(token), "bytes": None, "top_logprobs": likeliest}


class _Pace:
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


class _Disabled:
    """The base alone, while adapters stay loaded."""

    def __init__(self, model: Any) -> None:
        self._model, self._context = model, model.disable_adapter()

    def __enter__(self) -> Any:
        self._context.__enter__()
        return self._model

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


def choose(logits: torch.Tensor, so_far: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token from `logits` (vocabulary,). Temperature 0 takes the likeliest.

    The repetition penalty is that of CTRL (arXiv:1909.05858), top-p nucleus sampling (arXiv:1904.09751).
    """
    if sampling.repetition_penalty != 1.0:
        seen = torch.unique(so_far)
        values = logits[seen]
        logits[seen] = torch.where(
            values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty
        )
    if sampling.temperature < GREEDY_BELOW:
        return int(logits.argmax())
    logits = torch.nan_to_num(logits)  # an extreme penalty leaves infinities
    logits = (logits - logits.max()) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], float("-inf"))
    probabilities, order = torch.softmax(logits, dim=-1).sort(descending=True)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])


class _Text:
    """Tokens → text that is certain: whole characters, and nothing that may turn out to begin a stop string."""

    def __init__(self, tokenizer: Any, stop: tuple[str, ...]) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._tokens: list[int] = []
        self._told = 0
        self.stopped = False

    def add(self, token: int) -> str:
        self._tokens.append(token)
        text = self._whole()
        ends = [place for stop in self._stop if (place := text.find(stop, max(0, self._told - len(stop)))) >= 0]
        if ends:
            self.stopped = True
            return self._tell(text, min(ends))
        held = max((n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        if text.endswith("\ufffd"):
            return ""  # the bytes of a character that is not whole yet
        return self._tell(text, len(text) - held)

    def rest(self) -> str:
        """What was held back and is certain now that no more comes."""
        return "" if self.stopped else self._tell(self._whole(), None)

    def _whole(self) -> str:
        return str(self._tokenizer.decode(self._tokens, skip_special_tokens=True))

    def _tell(self, text: str, end: int | None) -> str:
        new = text[self._told : end]
        self._told += len(new)
        return new
