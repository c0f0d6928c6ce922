"""One micro-batch → the sum of its losses. Packed where the architecture allows it, padded otherwise, and equal either way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from tunesmith.core.progress import moved
from tunesmith.engine import attention
from tunesmith.engine.loss import CHUNK_TOKENS, head_loss, token_losses
from tunesmith.engine.packing import PackedBatch, pack
from tunesmith.engine.sharding import whole_while

HEAD_TRICKS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")
"""Configuration keys of models that do something to their logits: those go through the model's own head."""


class Forward:
    """Computes losses with `model`. Decides once how; `packed` and `why` say what was decided."""

    def __init__(self, model: nn.Module, *, packing: bool) -> None:
        self.model = model
        self.config: Any = model.config.get_text_config()  # type: ignore[operator,union-attr]
        self.decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else None  # type: ignore[operator]
        head = model.get_output_embeddings()  # type: ignore[operator]
        plain_head = type(head) is nn.Linear and head.bias is None
        self.fused_head = plain_head and not any(getattr(self.config, key, None) for key in HEAD_TRICKS)
        self.head: Any = head
        self.packed, self.why = False, "packing is off"
        if packing:
            self.packed, self.why = self._try_packing()

    def loss_sum(self, batch: PackedBatch) -> torch.Tensor:
        """Summed cross-entropy over the supervised tokens of `batch`, nats, fp32."""
        moved()
        return whole_while(self.model, lambda: self._loss_sum(batch))

    def _loss_sum(self, batch: PackedBatch) -> torch.Tensor:
        hidden = self._hidden(batch)[batch.target_positions]
        if self.fused_head:
            return head_loss(hidden, self.head.weight, batch.targets)
        return F.cross_entropy(self._logits(hidden).float(), batch.targets, reduction="sum")

    def row_losses(self, batch: PackedBatch) -> torch.Tensor:
        """(rows,) fp32, with gradients: summed cross-entropy over each row's supervised tokens, nats."""
        moved()
        return whole_while(self.model, lambda: self._row_losses(batch))

    def _row_losses(self, batch: PackedBatch) -> torch.Tensor:
        hidden = self._hidden(batch)[batch.target_positions]
        if self.fused_head:
            losses = token_losses(hidden, self.head.weight, batch.targets)
        else:
            losses = F.cross_entropy(self._logits(hidden).float(), batch.targets, reduction="none")
        rows = torch.searchsorted(batch.cu_seqlens[1:].long(), batch.target_positions, right=True)
        return losses.new_zeros(batch.num_rows).index_add(0, rows, losses)

    def score(self, batch: PackedBatch) -> tuple[float, int]:
        """Summed cross-entropy over the supervised tokens, nats, and how many of them are the model's first choice."""
        losses, correct = self.score_rows(batch)
        return float(losses.sum()), int(correct.sum())

    @torch.no_grad()
    def score_rows(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """(rows,) each: summed cross-entropy over a row's supervised tokens, nats, and how many are the first choice."""
        moved()
        return whole_while(self.model, lambda: self._score_rows(batch))

    def _score_rows(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self._hidden(batch)[batch.target_positions]
        rows = torch.searchsorted(batch.cu_seqlens[1:].long(), batch.target_positions, right=True)
        losses = torch.zeros(batch.num_rows, dtype=torch.float64, device=hidden.device)
        correct = torch.zeros(batch.num_rows, dtype=torch.long, device=hidden.device)
        for part, targets, where in zip(
            hidden.split(CHUNK_TOKENS), batch.targets.split(CHUNK_TOKENS), rows.split(CHUNK_TOKENS), strict=True
        ):
            logits = self._logits(part).float()
            losses.index_add_(0, where, F.cross_entropy(logits, targets, reduction="none").double())
            correct.index_add_(0, where, (logits.argmax(-1) == targets).long())
        return losses, correct

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(tokens, size) → (tokens, vocabulary), with what the architecture does to its logits."""
        logits = self.head(hidden)
        if (cap := getattr(self.config, "final_logit_softcapping", None)) is not None:
            logits = torch.tanh(logits / cap) * cap
        if (divisor := getattr(self.config, "logits_scaling", None)) is not None:
            logits = logits / divisor
        for key in ("logit_scale", "lm_head_multiplier"):
            if (factor := getattr(self.config, key, None)) is not None:
                logits = logits * factor
        return logits

    def _hidden(self, batch: PackedBatch) -> torch.Tensor:
        """(tokens, size): the last hidden states of every token."""
        return self._packed_hidden(batch) if self.packed else self._padded_hidden(batch)

    def _packed_hidden(self, batch: PackedBatch) -> torch.Tensor:
        with attention.rows_of(batch):
            out = self.decoder(
                input_ids=batch.input_ids.unsqueeze(0), position_ids=batch.position_ids.unsqueeze(0), use_cache=False
            )
        return out.last_hidden_state[0]  # type: ignore[no-any-return]

    def _padded_hidden(self, batch: PackedBatch) -> torch.Tensor:
        rows = batch.input_ids.split(batch.lengths)
        ids = pad_sequence(list(rows), batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        out = self.decoder(input_ids=ids, attention_mask=mask, use_cache=False)
        return out.last_hidden_state.flatten(0, 1)[batch.flat_index]  # type: ignore[no-any-return]

    def _try_packing(self) -> tuple[bool, str]:
        """Turn packed attention on if the model takes it, and check on three short rows that nothing changed."""
        layer_types = set(getattr(self.config, "layer_types", None) or ["full_attention"])
        if not layer_types <= {"full_attention", "sliding_attention"} or getattr(self.model, "_is_stateful", False):
            return False, "it has layers that are not attention over tokens"
        if not getattr(self.model, "_supports_attention_backend", False):
            return False, "its attention cannot be exchanged"
        before = self.config._attn_implementation
        rng = np.random.default_rng(0)
        ids = [rng.integers(0, self.config.vocab_size, n) for n in (5, 9, 2)]
        batch = pack([(row, row) for row in ids]).to(self.head.weight.device)
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            expected = self._padded_hidden(batch).float()
            self.model.set_attn_implementation(attention.NAME)  # type: ignore[operator]
            got = _or_none(lambda: self._packed_hidden(batch).float())
        self.model.train(was_training)
        tolerance = 1e-3 if self.head.weight.dtype == torch.float32 else 0.1
        if got is not None and (got - expected).norm() <= tolerance * expected.norm():
            return True, "rows are laid end to end"
        self.model.set_attn_implementation(before)  # type: ignore[operator]
        return False, "its attention gives other results when rows are laid end to end"


def _or_none(call: Callable[[], torch.Tensor]) -> torch.Tensor | None:
    """What `call` gives, or None when the architecture does not take the packed form."""
    try:
        return call()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return None
