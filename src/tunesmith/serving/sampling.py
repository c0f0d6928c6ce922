"""From the model's logits to the next token, and what is told about it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

GREEDY_BELOW = 1e-5
"""Temperatures under this take the likeliest token: dividing by them would overflow."""
CANDIDATES = 256
"""The likeliest tokens, looked at first: where they hold the nucleus, the vocabulary need not be sorted."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    max_tokens: int | None = 256
    """None: as many as the context has room for."""
    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int | None = None
    min_p: float = 0.0
    """Least probability of a token as a share of the likeliest one's."""
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    """Taken from a token's logit for each time that the answer has it already."""
    presence_penalty: float = 0.0
    """Taken once from that of each token that the answer has already."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
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
    logits = torch.nan_to_num(logits)  # an extreme penalty leaves infinities, and a grammar rules tokens out with them
    probabilities, order = _likeliest((logits - logits.max()) / sampling.temperature, sampling)
    if sampling.min_p > 0:
        probabilities = probabilities.masked_fill(probabilities < sampling.min_p * probabilities.max(), 0.0)
    if sampling.top_p < 1:
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= sampling.top_p, 0.0)
    kept = probabilities.cumsum(-1)
    drawn = torch.rand(1, generator=generator, device=logits.device) * kept[-1]
    place = torch.searchsorted(kept, drawn, right=True).clamp(max=int((kept < kept[-1]).sum()))
    return int(order[place])


def biased(logits: torch.Tensor, made: Sequence[int], sampling: Sampling) -> torch.Tensor:
    """`logits` (vocabulary,) with what the request adds to single tokens, and takes from those that the answer, `made`, has."""
    tokens = {token: bias for token, bias in sampling.logit_bias.items() if token < len(logits)}
    if sampling.frequency_penalty or sampling.presence_penalty:
        for token, times in Counter(made).items():
            taken = sampling.frequency_penalty * times + sampling.presence_penalty
            tokens[token] = tokens.get(token, 0.0) - taken
    if not tokens:
        return logits
    places = torch.tensor(list(tokens), device=logits.device)
    return logits.index_add(0, places, torch.tensor(list(tokens.values()), dtype=logits.dtype, device=logits.device))


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
