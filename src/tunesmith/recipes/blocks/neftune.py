"""Noise on the input embeddings while training (NEFTune, arXiv:2310.05914)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tunesmith.engine.attention import current_rows


def apply_neftune(model: nn.Module, alpha: float) -> Callable[[], None]:
    """Noise on the input embeddings from now on; call the result to take it away.

    The noise is uniform, of magnitude alpha / sqrt(length of the row · size), however rows are laid.
    """

    def add_noise(module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        batch = current_rows()
        if not module.training or batch is None:
            return output
        lengths = batch.cu_seqlens.diff()
        if output.shape[0] == 1:  # rows end to end: (1, tokens, size)
            lengths = lengths.repeat_interleave(lengths, output_size=output.shape[1]).unsqueeze(0)
        reach = alpha / (lengths * output.shape[-1]).sqrt().to(output.dtype)
        return output + torch.empty_like(output).uniform_(-1, 1) * reach.view(*lengths.shape, *[1] * (3 - lengths.ndim))

    return model.get_input_embeddings().register_forward_hook(add_noise).remove  # type: ignore[operator,no-any-return]
