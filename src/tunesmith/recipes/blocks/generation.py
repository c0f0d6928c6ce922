"""The likeliest answer of a model that is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList


@torch.inference_mode()
def generate(
    model: Any, tokenizer: Any, prompts: Sequence[np.ndarray], most: int, watch: StoppingCriteria
) -> list[list[int]]:
    """The likeliest continuation of each prompt, without the token that ends it. Prompts are padded on the left."""
    longest = max(map(len, prompts))
    device = next(model.parameters()).device
    ids = torch.full((len(prompts), longest), int(tokenizer.pad_token_id))
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        mask[row, longest - len(prompt) :] = 1
    ends = end_ids(model, tokenizer)
    context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2**31)
    config = GenerationConfig(
        do_sample=False, num_beams=1, repetition_penalty=1.0, use_cache=True, eos_token_id=sorted(ends),
        pad_token_id=int(tokenizer.pad_token_id), max_new_tokens=max(1, min(most, context - longest)),
    )  # fmt: skip
    out = model.generate(
        input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config,
        stopping_criteria=StoppingCriteriaList([watch]),
    )  # fmt: skip
    return [_until_end(row, ends) for row in out[:, longest:].tolist()]


def end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer."""
    told = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(told if isinstance(told, list) else [told])} - {None}


def _until_end(ids: list[int], ends: set[int]) -> list[int]:
    return ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))]
