"""From the model's logits to the next token, and what is told about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

GREEDY_BELOW = 1e-5
"""Temperatures under this take the likeliest token: dividing by them would overflow."""
CANDIDATES = 256
"""The likeliest tokens, looked at first: where they hold the nucleus, the vocabulary need not be sorted."""


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

    def generator(self, device: torch.device) -> torch.Generator:
        """One request's own chance: nobody else's draws change it."""
        generator = torch.Generator(device=device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def choose(logits: torch.Tensor, so_far: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token from `logits` (vocabulary,). Temperature 0 takes the likeliest.

    The repetition penalty is that of CTRL (arXiv:1909.05858), top-p nucleus sampling (arXiv:1904.09751).
    """
    if sampling.repetition_penalty != 1.0:
        seen = torch.unique(so_far)
        values = logits[seen]
        logits = logits.index_copy(
            0,
            seen,
            torch.where(values > 0, values / sampling.repetition_penalty, values * sampling.repetition_penalty),
        )
    if sampling.temperature < GREEDY_BELOW:
        return int(logits.argmax())
    logits = torch.nan_to_num(logits)  # an extreme penalty leaves infinities
    probabilities, order = _likeliest((logits - logits.max()) / sampling.temperature, sampling)
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    kept = probabilities.cumsum(-1)
    drawn = torch.rand(1, generator=generator, device=logits.device) * kept[-1]
    place = torch.searchsorted(kept, drawn, right=True).clamp(max=int((kept < kept[-1]).sum()))
    return int(order[place])


def _likeliest(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and the tokens they belong to: at least all that top-k and top-p let through; the greatest first, where
    that matters."""
    if sampling.top_k is not None and sampling.top_k < len(logits):
        values, order = logits.topk(sampling.top_k)
        return values.softmax(-1), order
    if sampling.top_p >= 1:
        return logits.softmax(-1), torch.arange(len(logits), device=logits.device)
    values, order = logits.topk(min(CANDIDATES, len(logits)))
    probabilities = (values - logits.logsumexp(-1)).exp()
    if float(probabilities.sum()) > sampling.top_p:
        return probabilities, order
    probabilities, order = logits.softmax(-1).sort(descending=True)
    return probabilities, order


def logprob(logits: torch.Tensor, token: int, top: int, tokenizer: Any) -> dict[str, Any]:
    """In OpenAI's form; None for what is no number, as damaged weights give."""
    values = logits.log_softmax(-1)

    def about(number: int) -> dict[str, Any]:
        value = float(values[number])
        return {"token": tokenizer.decode([number]), "logprob": value if math.isfinite(value) else None}

    likeliest = [about(int(number)) for number in values.topk(top).indices] if top else []
    return {**about(token), "bytes": None, "top_logprobs": likeliest}
