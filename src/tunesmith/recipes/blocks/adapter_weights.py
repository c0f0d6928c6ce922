"""A LoRA adapter as changes of its base model's weights, each made while the weight is read. NumPy only.

What PEFT computes: `W + s B A`, with DoRA each row brought to a learned length; rows of the embedding that were trained alone; biases;
modules that were trained whole. A tensor of the adapter that fits none of these is refused by name.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tunesmith.core.errors import BadData, UnsupportedFormat
from tunesmith.recipes.adapter_info import ADAPTER_WEIGHTS, HOW_TO_MERGE, AdapterInfo, read_adapter_info
from tunesmith.recipes.blocks.gguf_weights import Tensor, open_file, transposed

PLAIN_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
"""Of a layer."""
OUTER = frozenset(("base_model", "model", "transformer", "language_model"))
"""Parts before the name of a layer that depend on who wrote the file, not on the model."""
CONV1D_MODELS = ("gpt2", "openai-gpt")
CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
"""GPT-2 keeps these with columns for rows; its adapters do not."""
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "tokens_embed.weight", "embed_in.weight", "word_embeddings.weight")
HEAD = "lm_head.weight"
ALWAYS_TIED = ("gpt2", "gemma", "gemma2", "gemma3", "gemma3_text")
"""Models whose output is their embedding where the configuration says nothing."""
ANOTHER_BASE = "Choose the base model that the adapter was trained on."


class Delta(NamedTuple):
    """What LoRA adds to one linear map: `scale * b @ a`."""

    a: np.ndarray
    """(rank, inputs)"""
    b: np.ndarray
    """(outputs, rank)"""
    alpha: float
    scale: float
    lengths: np.ndarray | None = None
    """(outputs,): with DoRA, what each row of the sum is brought to."""


class Adapter(NamedTuple):
    """A LoRA adapter, by the names of the weights it changes."""

    deltas: dict[str, Delta]
    replaced: dict[str, Tensor]
    """Weights that are in the adapter's file whole."""
    shifts: dict[str, np.ndarray]
    """What is added to biases."""
    rows: dict[str, tuple[np.ndarray, np.ndarray]]
    """Numbers of the rows that were trained alone, and these rows."""
    info: AdapterInfo

    @property
    def names(self) -> set[str]:
        return {*self.deltas, *self.replaced, *self.shifts, *self.rows}

    @property
    def is_plain(self) -> bool:
        """Whether it is nothing but `W + s B A`."""
        return not (self.replaced or self.shifts or self.rows) and all(d.lengths is None for d in self.deltas.values())

    def merged(self, name: str, tensor: Tensor, *, is_turned: bool = False) -> Tensor:
        """The tensor with the adapter in it. `is_turned`: it lies with columns for rows. Raises `BadData` when their shapes do
        not fit."""
        if name in self.replaced:
            if self.replaced[name].shape != tensor.shape:
                raise BadData(f"The adapter holds {name} in another shape than its base model.", hint=ANOTHER_BASE)
            tensor = self.replaced[name]
        if name in self.deltas:
            found = self._summed(name, transposed(tensor) if is_turned else tensor)
            tensor = transposed(found) if is_turned else found
        if name in self.shifts:
            shift = self.shifts[name]
            if shift.shape != tensor.shape:
                raise BadData(
                    f"The adapter's change of {name} has another shape than its base model.", hint=ANOTHER_BASE
                )
            tensor = tensor.map(lambda part: part + shift)
        return self._with_rows(name, tensor) if name in self.rows else tensor

    def _summed(self, name: str, tensor: Tensor) -> Tensor:
        delta = self.deltas[name]
        if (len(delta.b), delta.a.shape[1]) != tensor.shape:
            raise BadData(
                f"The adapter does not fit the model: {name} is {tensor.shape}, its change {len(delta.b), delta.a.shape[1]}.",
                hint=ANOTHER_BASE,
            )

        def read(rows: np.ndarray) -> np.ndarray:
            found: np.ndarray = tensor.rows(rows) + np.float32(delta.scale) * (delta.b[rows] @ delta.a)
            if delta.lengths is not None:
                found *= (delta.lengths[rows] / np.linalg.norm(found, axis=1))[:, None]
            return found

        return Tensor(tensor.shape, read)

    def _with_rows(self, name: str, tensor: Tensor) -> Tensor:
        numbers, values = self.rows[name]
        if values.shape != (len(numbers), tensor.shape[1]) or (len(numbers) and numbers.max() >= tensor.shape[0]):
            raise BadData(f"The adapter's rows of {name} do not fit the model.", hint=ANOTHER_BASE)
        where = np.full(tensor.shape[0], -1)
        where[numbers] = np.arange(len(numbers))

        def read(rows: np.ndarray) -> np.ndarray:
            found = tensor.rows(rows)
            mine = where[rows]
            found[mine >= 0] = values[mine[mine >= 0]]
            return found

        return Tensor(tensor.shape, read)


def open_adapter(folder: Path) -> Adapter:
    """A PEFT adapter. Raises `UnsupportedFormat` for what cannot be merged row by row, naming it, and as `read_adapter_info`."""
    info = read_adapter_info(folder)
    if parameters := info.config.get("target_parameters"):
        raise UnsupportedFormat(f"The adapter changes the parameter {str(parameters[0])[:80]}.", hint=HOW_TO_MERGE)
    tensors = open_file(folder / ADAPTER_WEIGHTS)
    found = Adapter({}, {weight: tensors[key] for weight, key in info.whole.items()}, {}, {}, info)
    for module, keys in info.parts.items():
        parts, weight = {part: tensors[key].all() for part, key in keys.items()}, f"{module}.weight"
        lengths = parts.pop("lora_magnitude_vector", None)
        a, b = parts.pop("lora_A.weight", None), parts.pop("lora_B.weight", None)
        if (
            "lora_embedding_A" in parts and lengths is None
        ):  # (rank, tokens) and (size, rank): the same, the other way round
            a, b = parts.pop("lora_embedding_B").T, parts.pop("lora_embedding_A").T
        if a is not None and b is not None:
            found.deltas[weight] = _delta(module, a, b, info.config)._replace(
                lengths=None if lengths is None else lengths.reshape(-1)
            )
        if (shift := parts.pop("lora_B.bias", None)) is not None:
            found.shifts[f"{module}.bias"] = np.float32(found.deltas[weight].scale) * shift
        if (values := parts.pop("token_adapter.trainable_tokens_delta", None)) is not None:
            found.rows[weight] = (_numbers(module, info.config), values)
        if parts:
            raise UnsupportedFormat(f"The adapter's {keys[min(parts)][:120]} cannot be merged here.", hint=HOW_TO_MERGE)
    return found


def _numbers(module: str, config: dict[str, Any]) -> np.ndarray:
    """Which tokens were trained alone."""
    told = config.get("trainable_token_indices")
    if isinstance(told, dict):
        told = next((value for key, value in told.items() if module == key or module.endswith(f".{key}")), None)
    if not isinstance(told, list) or not all(type(number) is int and number >= 0 for number in told):
        raise BadData(f"The adapter's configuration does not say which tokens of {module[:80]} were trained.")
    return np.asarray(told, dtype=np.int64)


def _names(key: str, module: str) -> bool:
    """Whether a key of `alpha_pattern` means a layer: its name, or the end of it. PEFT takes regular expressions, which come
    with the adapter here; raises `UnsupportedFormat` for one that is more than a name."""
    plain = key.removeprefix("^").replace("\\.", ".")
    if not PLAIN_NAME.fullmatch(plain):
        raise UnsupportedFormat(f"The adapter gives layers their alpha by the pattern {key[:60]!r}.", hint=HOW_TO_MERGE)
    return module == plain or (not key.startswith("^") and module.endswith(f".{plain}"))


def _delta(module: str, a: np.ndarray, b: np.ndarray, config: dict[str, Any]) -> Delta:
    rank = len(a)
    patterns = config.get("alpha_pattern") or {}
    own = next((v for key, v in patterns.items() if _names(key, module)), None)
    alpha = float(own if own is not None else config.get("lora_alpha", rank))
    return Delta(a, b, alpha, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


# -- laid on the files of a base --------------------------------------------------------------------------------------


def fitted(adapter: Adapter, weights: dict[str, Tensor]) -> Adapter:
    """The adapter under the names that the base's files have for its weights: a model's file may leave out the parts before a
    layer's name, or have them in another order. Raises `BadData` for a weight that the base does not have."""
    plain: dict[str, str | None] = {}
    for name in weights:
        plain[_core(name)] = None if _core(name) in plain else name

    def theirs(name: str) -> str:
        found = name if name in weights or name == HEAD else plain.get(_core(name))
        if found is None:
            raise BadData(f"The adapter changes {name}, which the model does not have.", hint=ANOTHER_BASE)
        return found

    def renamed(part: dict[str, Any]) -> dict[str, Any]:
        return {theirs(name): value for name, value in part.items()}

    return Adapter(
        renamed(adapter.deltas), renamed(adapter.replaced), renamed(adapter.shifts), renamed(adapter.rows), adapter.info
    )


def _core(name: str) -> str:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in OUTER:
        parts = parts[1:]
    return ".".join(parts)


def is_tied(config: dict[str, Any], weights: dict[str, Tensor]) -> bool:
    """Whether the model's output is its embedding."""
    text = config.get("text_config")
    told = config.get("tie_word_embeddings", text.get("tie_word_embeddings") if isinstance(text, dict) else None)
    if told is None:
        told = config.get("model_type") in ALWAYS_TIED
    return bool(told) or not any(_core(name) == HEAD for name in weights)


def _untied(config: dict[str, Any]) -> dict[str, Any]:
    text = config.get("text_config")
    inner = {"text_config": {**text, "tie_word_embeddings": False}} if isinstance(text, dict) else {}
    return {**config, **inner, "tie_word_embeddings": False}


def merge(
    weights: dict[str, Tensor], adapter: Adapter, config: dict[str, Any]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All weights with the adapter in them, and the configuration that goes with them: where embedding and output were one and
    the adapter changes one of them only, they no longer are. Raises `BadData`."""
    adapter, weights, config = fitted(adapter, weights), dict(weights), dict(config)
    embedding = next((name for name in weights if name.endswith(EMBEDDINGS)), None)
    if is_tied(config, weights) and embedding is not None:
        for name in [name for name in weights if _core(name) == HEAD]:
            del weights[name]
        if embedding in adapter.rows:  # PEFT trains these rows of both
            adapter = adapter._replace(rows={**adapter.rows, HEAD: adapter.rows[embedding]})
        changed = {name for name in (HEAD, embedding) if name in adapter.deltas or name in adapter.replaced}
        together = adapter.info.config.get("ensure_weight_tying") and changed == {embedding}
        if changed and not together:
            weights[HEAD] = weights[embedding]
            config = _untied(config)
        else:
            adapter.rows.pop(HEAD, None)
    if strangers := sorted(adapter.names - set(weights)):
        raise BadData(f"The adapter changes {strangers[0]}, which the model does not have.", hint=ANOTHER_BASE)
    turns = config.get("model_type") in CONV1D_MODELS
    found = {
        name: adapter.merged(name, tensor, is_turned=turns and name.endswith(CONV1D))
        for name, tensor in weights.items()
    }
    return found, config
