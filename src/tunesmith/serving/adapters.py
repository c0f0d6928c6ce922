"""Many adapters over one base: loaded when first asked for, switched, and mixed in one batch. None of them may change the base."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from tunesmith.core.errors import InvalidInput, TunesmithError
from tunesmith.recipes.blocks.overlay import lay_over
from tunesmith.serving.process import end_at_once

MAX_ADAPTERS = 32
"""Adapters kept over the base; the one used longest ago goes first."""
BASE = "__base__"
"""PEFT's name for a row without an adapter."""
UNMIXED = ("use_dora", "modules_to_save", "target_parameters", "trainable_token_indices", "alora_invocation_tokens")
"""What PEFT cannot compute for some rows of a batch only."""
PROBE_TOKENS = 8
"""Length of the row that the base is asked before and after each load."""


class _State(NamedTuple):
    """What of the base must not change."""

    tensors: list[tuple[int, int]]
    """Of each weight: where it lies, and how often it was written to."""
    logits: torch.Tensor
    """What it says to a fixed row."""


class Adapters:
    """The base and what lies over it. Only the thread that computes may touch it."""

    def __init__(self, base: Any) -> None:
        self.base = self.model = base
        self._names: OrderedDict[str, str] = OrderedDict()
        self._loaded = 0
        self._weights = list(base.parameters())
        self._on: str | None = None
        """What is switched on: an adapter, `BASE` when none is, empty when rows name theirs; None: not known."""

    def load(self, path: str) -> None:
        """Have it ready. Raises `InvalidInput` for what is no adapter of this base, and ends the process where the base is no
        longer what it was: others would get wrong answers."""
        if path in self._names:
            return
        before = self._seen()
        self._loaded += 1
        name = f"adapter{self._loaded}"
        self._on = None  # loading switches as it likes
        try:
            self.model = lay_over(self.model, Path(path), name)
        except TunesmithError as error:
            raise InvalidInput(error.message, hint=error.hint) from error
        except (RuntimeError, ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
            raise InvalidInput("The adapter cannot be laid over this base model.", hint=str(error)[:300]) from error
        finally:
            after = self._seen()
            if after.tensors != before.tensors or not torch.equal(after.logits, before.logits):
                end_at_once(
                    f"Loading the adapter {Path(path).name} changed the base model that others share, so this process ends. "
                    "Merge that adapter into its base model and import the merged model."
                )
        self._names[path] = name
        while len(self._names) > MAX_ADAPTERS:
            _, oldest = self._names.popitem(last=False)
            self.model.delete_adapter(oldest)

    def _seen(self) -> _State:
        """The base with every adapter switched off."""
        model, told = self.switch([None])
        vocab_size = self.base.config.get_text_config().vocab_size
        row = torch.linspace(0, vocab_size - 1, PROBE_TOKENS, device=self._weights[0].device).long()
        with torch.inference_mode():
            logits = model(input_ids=row[None], use_cache=False, **told).logits
        return _State([(weight.data_ptr(), weight._version) for weight in self._weights], logits)

    def mixes(self, path: str | None) -> bool:
        """Whether rows with this adapter may share a batch with rows of others."""
        if path is None:
            return True
        config = self.model.peft_config[self._names[path]]
        return not any(getattr(config, name, None) for name in UNMIXED)

    def switch(self, paths: Sequence[str | None]) -> tuple[Any, dict[str, Any]]:
        """The model for rows with these adapters, and what it must be told besides. They must have been loaded."""
        for path in paths:
            if path is not None:
                self._names.move_to_end(path)
        if self.model is self.base:
            return self.base, {}
        names = [BASE if path is None else self._names[path] for path in paths]
        one = names[0] if len(set(names)) == 1 else ""
        if self._on != one:
            if one == BASE:
                self.model.base_model.disable_adapter_layers()
            else:
                self.model.base_model.enable_adapter_layers()
                self.model.set_adapter(next(name for name in names if name != BASE))
            self._on = one
        return (self.base, {}) if one else (self.model, {"adapter_names": names})
