"""A model with a head for labels: rows → logits. Rows are laid end to end where the architecture allows it, padded otherwise,
and equal either way.

The head is the model's own, whatever it is made of: it is called with the one vector that it reads of each row.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions as _Output

from tunesmith.core.progress import moved
from tunesmith.engine import bidirectional
from tunesmith.engine.packing import IGNORE, PackedBatch, pack

CHECKED_LENGTHS = (5, 9, 2)
"""Tokens of the rows that are computed both ways before anything else."""


def pack_texts(rows: list[np.ndarray]) -> PackedBatch:
    """Rows of token ids, (length,) each, laid end to end."""
    return pack([(ids, np.full(len(ids), IGNORE)) for ids in rows])


class _Features(nn.Module):
    """Stands where the base model does while the head is computed: gives what it would, for rows of one vector each."""

    def __init__(self, features: torch.Tensor, pooler: nn.Module | None) -> None:
        super().__init__()
        self.hidden, self.pooler = features.unsqueeze(1), [pooler]  # in a list, so that it is nobody's child

    def forward(self, *_: Any, **__: Any) -> _Output:
        pooled = self.pooler[0](self.hidden) if self.pooler[0] is not None else None
        return _Output(last_hidden_state=self.hidden, pooler_output=pooled)


class Classifier:
    """Computes logits with `model`, a transformers model for sequence classification. `packed` and `why` say how."""

    def __init__(self, model: Any, *, packing: bool = True) -> None:
        self.model = model
        self.prefix: str = model.base_model_prefix
        self.base: Any = model.base_model
        self.config = model.config.get_text_config()
        self.is_causal = any(getattr(m, "is_causal", False) is True for m in self.base.modules())
        self.pooler: nn.Module | None = getattr(self.base, "pooler", None)
        self.means = getattr(self.config, "classifier_pooling", "") == "mean"
        positions = getattr(getattr(self.base, "embeddings", None), "position_embeddings", None)
        padding = getattr(positions, "padding_idx", None)
        self.first_position = (
            0 if padding is None else padding + 1
        )  # RoBERTa and its like count from behind the padding
        self._takes = set(inspect.signature(self.base.forward).parameters)
        self.has_features = self.packed = False
        self.why = "packing is off"
        self._try(packing)

    def head_parameters(self) -> list[nn.Parameter]:
        """What is not the base model: its pooler belongs to the head."""
        pooler = {id(p) for p in self.pooler.parameters()} if self.pooler is not None else set()
        inside = {id(p) for p in self.base.parameters()} - pooler
        return [p for p in self.model.parameters() if id(p) not in inside]

    def logits(self, batch: PackedBatch) -> torch.Tensor:
        """(rows, labels), fp32."""
        moved()
        found = self.head(self.features(batch)) if self.packed else self._padded_logits(batch)
        return found.float()

    def around(self, batch: PackedBatch) -> contextlib.AbstractContextManager[None]:
        """What must hold while `logits` and its backward pass run."""
        return bidirectional.rows_of(batch) if self.packed else contextlib.nullcontext()

    def features(self, batch: PackedBatch) -> torch.Tensor:
        """(rows, size): the vector of each row that the head reads."""
        if self.packed:
            with bidirectional.rows_of(batch):
                hidden = self.base(**self._packed_inputs(batch)).last_hidden_state[0]
            rows = hidden.split(batch.lengths)
        else:
            ids, mask = self._padded_inputs(batch)
            hidden = self.base(input_ids=ids, attention_mask=mask).last_hidden_state
            rows = tuple(row[:length] for row, length in zip(hidden, batch.lengths, strict=True))
        if self.means:
            return torch.stack([row.mean(0) for row in rows])
        flat = torch.cat(rows) if not self.packed else hidden
        return flat[self._read_positions(batch)]  # type: ignore[no-any-return]

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """(rows, size) → (rows, labels), by the model's own head."""
        count = len(features)
        with self._instead_of_base(_Features(features, self.pooler)):
            ids = torch.zeros(count, 1, dtype=torch.long, device=features.device)
            return self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _instead_of_base(self, other: nn.Module) -> Iterator[None]:
        self.model._modules[self.prefix] = other
        try:
            yield
        finally:
            self.model._modules[self.prefix] = self.base

    def _read_positions(self, batch: PackedBatch) -> torch.Tensor:
        """(rows,): flat position of the token that the head reads. Causal models read the last one that is no padding."""
        borders = batch.cu_seqlens.long()
        if not self.is_causal:
            return borders[:-1]
        pad, last = self.config.pad_token_id, borders[1:] - 1
        if pad is None or not bool((batch.input_ids[last] == pad).any()):
            return last
        found = []
        for begin, row in zip(borders[:-1].tolist(), batch.input_ids.split(batch.lengths), strict=True):
            real = torch.nonzero(row != pad)
            found.append(begin + (int(real[-1]) if len(real) else 0))
        return torch.tensor(found, device=batch.input_ids.device)

    def _packed_inputs(self, batch: PackedBatch) -> dict[str, Any]:
        ids = batch.input_ids.unsqueeze(0)
        given = {"input_ids": ids, "position_ids": batch.position_ids.unsqueeze(0) + self.first_position}
        if "token_type_ids" in self._takes:
            given["token_type_ids"] = torch.zeros_like(ids)
        return given | ({"use_cache": False} if "use_cache" in self._takes else {})

    def _padded_inputs(self, batch: PackedBatch) -> tuple[torch.Tensor, torch.Tensor]:
        rows = batch.input_ids.split(batch.lengths)
        pad = self.config.pad_token_id
        ids = pad_sequence(list(rows), batch_first=True, padding_value=0 if pad is None else pad)
        return ids, pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)

    def _padded_logits(self, batch: PackedBatch) -> torch.Tensor:
        ids, mask = self._padded_inputs(batch)
        return self.model(input_ids=ids, attention_mask=mask).logits  # type: ignore[no-any-return]

    def _try(self, packing: bool) -> None:
        """Compute three short rows by the model's own forward pass, by features and head, and laid end to end."""
        weight = next(self.base.parameters())
        low = 0 if self.config.pad_token_id is None else min(self.config.vocab_size - 1, self.config.pad_token_id + 1)
        rng = np.random.default_rng(0)
        high = self.config.vocab_size
        ids = [rng.integers(low if low < high // 2 else 0, high, n) for n in CHECKED_LENGTHS]
        batch = pack_texts(ids).to(weight.device)
        tolerance = 1e-3 if weight.dtype == torch.float32 else 0.1
        was_training = self.model.training
        self.model.eval()

        def is_equal(compute: Callable[[], torch.Tensor]) -> bool:
            got = _or_none(compute)
            return got is not None and bool((got.float() - expected).norm() <= tolerance * (1e-6 + expected.norm()))

        with torch.no_grad():
            expected = self._padded_logits(batch).float()
            self.has_features = is_equal(lambda: self.head(self.features(batch)))
            if not self.has_features:
                self.why = "its head does not read one vector of each row"
            elif packing:
                self._try_packing(batch, is_equal)
        self.model.train(was_training)

    def _try_packing(self, batch: PackedBatch, is_equal: Callable[[Callable[[], torch.Tensor]], bool]) -> None:
        layer_types = set(getattr(self.config, "layer_types", None) or ["full_attention"])
        if not layer_types <= {"full_attention", "sliding_attention"} or getattr(self.model, "_is_stateful", False):
            self.why = "it has layers that are not attention over tokens"
            return
        before = self.model.config._attn_implementation
        try:
            self.model.set_attn_implementation(bidirectional.NAME)
        except (ValueError, ImportError, AttributeError):
            self.why = "its attention cannot be exchanged"
            return
        self.packed = True
        if is_equal(lambda: self.head(self.features(batch))):
            self.why = "rows are laid end to end"
            return
        self.packed = False
        self.model.set_attn_implementation(before)
        self.why = "its attention gives other results when rows are laid end to end"


def _or_none(call: Callable[[], torch.Tensor]) -> torch.Tensor | None:
    """What `call` gives, or None when the architecture does not take the form."""
    try:
        return call()
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError):
        return None
