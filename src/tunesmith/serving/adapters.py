"""Many adapters over one base: loaded when first asked for, switched, and mixed in one batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tunesmith.core.errors import InvalidInput

MAX_ADAPTERS = 32
"""Adapters kept over the base; the one used longest ago goes first."""
BASE = "__base__"
"""PEFT's name for a row without an adapter."""
UNMIXED = ("use_dora", "modules_to_save", "target_parameters", "trainable_token_indices", "alora_invocation_tokens")
"""What PEFT cannot compute for some rows of a batch only."""


class Adapters:
    """The base and what lies over it. Only the thread that computes may touch it."""

    def __init__(self, base: Any) -> None:
        self.base = self.model = base
        self._names: OrderedDict[str, str] = OrderedDict()
        self._loaded = 0
        self._on: str | None = None
        """What is switched on: an adapter, `BASE` when none is, empty when rows name theirs; None: not known."""

    def load(self, path: str) -> None:
        """Have it ready. Raises `InvalidInput` for what is no adapter of this base."""
        from peft import PeftConfig, PeftModel

        if path in self._names:
            return
        if not (Path(path) / "adapter_model.safetensors").is_file():
            raise InvalidInput("The adapter has no adapter_model.safetensors.")
        self._loaded += 1
        name = f"adapter{self._loaded}"
        self._on = None  # loading switches as it likes
        try:
            if self.model is self.base:
                self.model = PeftModel(self.base, PeftConfig.from_pretrained(path), adapter_name=name)  # type: ignore[arg-type]
            self.model.load_adapter(path, adapter_name=name)
        except (RuntimeError, ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
            if self.model is not self.base and name in self.model.peft_config:
                self.model.delete_adapter(name)
            raise InvalidInput("The adapter cannot be laid over this base model.", hint=str(error)[:300]) from error
        self.model.eval()
        self._names[path] = name
        while len(self._names) > MAX_ADAPTERS:
            _, oldest = self._names.popitem(last=False)
            self.model.delete_adapter(oldest)

    def mixes(self, path: str | None) -> bool:
        """Whether rows with this adapter may share a batch with rows of others."""
        if path is None:
            return True
        config = self.model.peft_config[self._names[path]]
        return config.peft_type == "LORA" and not any(getattr(config, name, None) for name in UNMIXED)

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
