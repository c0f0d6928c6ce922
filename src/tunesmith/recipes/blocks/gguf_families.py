"""What differs between the families of models: numbers in the header, names and order of weights.

Every family here is computed by llama.cpp as transformers computes it; one that is not listed is left to llama.cpp's own converter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, RopeScalingType, get_tensor_name_map
from gguf.tensor_mapping import TensorNameMap

from tunesmith.core.errors import BadData, UnsupportedFormat
from tunesmith.recipes.blocks.adapter_weights import CONV1D, Delta, is_tied
from tunesmith.recipes.blocks.gguf_limits import check_config, context_within
from tunesmith.recipes.blocks.gguf_types import Shape
from tunesmith.recipes.blocks.gguf_weights import Tensor, of_array, transposed
from tunesmith.recipes.model_info import read_json

NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Constants that some files hold and llama.cpp computes itself."""
PICTURES = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")


class Family(NamedTuple):
    """One family."""

    arch: MODEL_ARCH
    activation: tuple[str, ...] = ("silu", "swish")
    turns: bool = False
    """Rotary pairs lie side by side in llama.cpp and half a head apart in transformers."""
    norm_offset: float = 0.0
    """What the model adds to the weights of its norms."""


FAMILIES = {
    "llama": Family(MODEL_ARCH.LLAMA, turns=True),
    "mistral": Family(MODEL_ARCH.LLAMA, turns=True),
    "smollm3": Family(MODEL_ARCH.SMOLLM3, turns=True),
    "qwen2": Family(MODEL_ARCH.QWEN2),
    "qwen3": Family(MODEL_ARCH.QWEN3),
    "gemma": Family(MODEL_ARCH.GEMMA, ("gelu_pytorch_tanh", "gelu"), norm_offset=1.0),
    "gemma2": Family(MODEL_ARCH.GEMMA2, ("gelu_pytorch_tanh",), norm_offset=1.0),
    "gemma3": Family(MODEL_ARCH.GEMMA3, ("gelu_pytorch_tanh",), norm_offset=1.0),
    "gemma3_text": Family(MODEL_ARCH.GEMMA3, ("gelu_pytorch_tanh",), norm_offset=1.0),
    "phi3": Family(MODEL_ARCH.PHI3),
    "gpt2": Family(MODEL_ARCH.GPT2, ("gelu_new", "gelu_pytorch_tanh")),
}
"""By `model_type` of the configuration."""


def is_known(folder: Path) -> bool:
    """Whether the model is of a family that is converted here."""
    return read_json(folder / "config.json").get("model_type") in FAMILIES


class Architecture:
    """A model folder's configuration, as the family it belongs to."""

    def __init__(self, whole: dict[str, Any]) -> None:
        """`whole`: what is in config.json. Raises `UnsupportedFormat` for a family that is not converted here."""
        text = whole.get("text_config")
        self.config: dict[str, Any] = {**whole, **text} if isinstance(text, dict) else whole
        kind = str(self.config.get("model_type"))
        if kind not in FAMILIES or self.config.get("quantization_config"):
            what = "models that are compressed already" if kind in FAMILIES else f"models of the family {kind!r}"
            raise UnsupportedFormat(
                f"GGUF files of {what} are not made here.",
                hint=f"Families: {', '.join(FAMILIES)}. For others install llama.cpp and set LLAMA_CPP_DIR to its folder.",
            )
        self.kind, self.family = kind, FAMILIES[kind]
        activation = self.get(
            "hidden_activation", "hidden_act", "activation_function", default=self.family.activation[0]
        )
        if activation not in self.family.activation:
            raise UnsupportedFormat(f"llama.cpp does not compute {kind} with {activation}.")
        self.num_layers = int(self.get("num_hidden_layers", "n_layer"))
        self.num_heads = int(self.get("num_attention_heads", "n_head"))
        self.num_kv_heads = int(self.get("num_key_value_heads", default=self.num_heads))
        self.hidden_size = int(self.get("hidden_size", "n_embd"))
        self.head_size = int(self.get("head_dim", default=self.hidden_size // self.num_heads))
        self.names: TensorNameMap = get_tensor_name_map(self.family.arch, self.num_layers)
        self.rope = rope_of(self.config)
        check_config(kind, self.config, self.rope)

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of these settings that is there. Raises `BadData` without one and without a default."""
        for name in names:
            if self.config.get(name) is not None:
                return self.config[name]
        if default is None:
            raise BadData(f"config.json does not say {names[0]}.", hint="Download the model again.")
        return default

    def shape(self, is_tied: bool) -> Shape:
        """For choosing the tensors' types."""
        name = "llama" if self.family.arch == MODEL_ARCH.LLAMA else self.kind
        return Shape(name, self.num_layers, self.num_heads, self.num_kv_heads, is_tied)

    def write(self, writer: GGUFWriter, num_tokens: int) -> None:
        """Everything in the header that describes the computation."""
        writer.add_vocab_size(num_tokens)
        context = int(self.get("max_position_embeddings", "n_positions", default=2048))
        writer.add_context_length(context_within(self.kind, self.config, context))
        writer.add_embedding_length(self.hidden_size)
        writer.add_block_count(self.num_layers)
        inner = self.config.get("intermediate_size") or self.config.get("n_inner") or 4 * self.hidden_size
        writer.add_feed_forward_length(int(inner))
        writer.add_head_count(self.num_heads)
        if self.kind == "gpt2":
            writer.add_layer_norm_eps(float(self.get("layer_norm_epsilon", default=1e-5)))
            return
        writer.add_head_count_kv(self.num_kv_heads)
        writer.add_layer_norm_rms_eps(float(self.get("rms_norm_eps", default=1e-6)))
        writer.add_key_length(self.head_size)
        writer.add_value_length(self.head_size)
        self._write_rope(writer)
        self._write_window(writer)

    def _write_rope(self, writer: GGUFWriter) -> None:
        rope = self.rope
        partial = float(rope.get("partial_rotary_factor") or self.config.get("partial_rotary_factor") or 1.0)
        writer.add_rope_dimension_count(int(self.head_size * partial))
        writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
        kind = rope.get("rope_type", "default")
        if kind == "linear":
            writer.add_rope_scaling_type(RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope["factor"]))
        elif kind == "yarn":
            writer.add_rope_scaling_type(RopeScalingType.YARN)
            writer.add_rope_scaling_factor(float(rope["factor"]))
            writer.add_rope_scaling_orig_ctx_len(self._original_context())
        elif kind == "longrope":
            writer.add_rope_scaling_orig_ctx_len(self._original_context())
            writer.add_rope_scaling_attn_factors(self._long_factor())
        elif kind not in ("default", "llama3", "dynamic"):
            raise UnsupportedFormat(f"Positions of the kind {str(kind)[:40]!r} are not known to this converter.")
        local = (self.config.get("rope_parameters") or {}).get("sliding_attention") or {}
        if base := local.get("rope_theta") or self.config.get("rope_local_base_freq"):
            writer.add_rope_freq_base_swa(float(base))

    def _original_context(self) -> int:
        own = self.rope.get("original_max_position_embeddings") or self.config.get("original_max_position_embeddings")
        return int(own or self.get("max_position_embeddings"))

    def _long_factor(self) -> float:
        """How much attention is sharpened for contexts that are longer than those of the training."""
        given = self.rope.get("attention_factor")
        scale = int(self.get("max_position_embeddings")) / self._original_context()
        return float(
            given or (math.sqrt(1 + math.log(scale) / math.log(self._original_context())) if scale > 1 else 1.0)
        )

    def _write_window(self, writer: GGUFWriter) -> None:
        if self.kind.startswith("gemma2"):
            writer.add_attn_logit_softcapping(float(self.get("attn_logit_softcapping", default=50.0)))
            writer.add_final_logit_softcapping(float(self.get("final_logit_softcapping", default=30.0)))
        if self.kind.startswith(("gemma2", "gemma3")) or self.kind == "phi3":
            writer.add_sliding_window(int(self.config.get("sliding_window") or 0))

    def name(self, theirs: str) -> str | None:
        """What the weight is called in a GGUF file; None for what llama.cpp does not read. Raises `UnsupportedFormat`."""
        plain = theirs.replace("model.language_model.", "model.").replace("language_model.model.", "model.")
        plain = plain.replace("language_model.lm_head", "lm_head")
        if plain.endswith(NOT_WEIGHTS) or plain.startswith(PICTURES):
            return None
        found = self.names.get_name(plain, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise UnsupportedFormat(f"{theirs[:120]} is not a weight that llama.cpp knows in {self.kind} models.")
        return str(found)

    def tensors(self, weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """All weights under their names in the file, in llama.cpp's order of rows."""
        tied = is_tied(self.config, weights)
        for theirs, tensor in weights.items():
            ours = self.name(theirs)
            if ours is None or (ours == "output.weight" and tied):
                continue
            if self.kind == "gpt2" and theirs.endswith(CONV1D):
                tensor = transposed(tensor)
            yield ours, self._arranged(ours, tensor)
        yield from self._factors()

    def _arranged(self, name: str, tensor: Tensor) -> Tensor:
        if self.family.norm_offset and name.endswith("norm.weight"):
            return tensor.map(lambda part: part + self.family.norm_offset)
        order = self.order(name)
        if order is None:
            return tensor
        return tensor.entries(order) if len(tensor.shape) == 1 else tensor.picked(order)

    def order(self, name: str) -> np.ndarray | None:
        """Which row of transformers' weight is each row of llama.cpp's; None where they are the same."""
        heads = (
            {"attn_q": self.num_heads, "attn_k": self.num_kv_heads}.get(name.split(".")[-2]) if "." in name else None
        )
        if not self.family.turns or heads is None:
            return None
        rows = np.arange(heads * self.head_size)
        return rows.reshape(heads, 2, self.head_size // 2).swapaxes(1, 2).reshape(-1)

    def delta(self, name: str, delta: Delta) -> Delta:
        """An adapter's change in llama.cpp's order of rows."""
        order = self.order(name)
        return delta if order is None else delta._replace(b=delta.b[order])

    def _factors(self) -> Iterator[tuple[str, Tensor]]:
        """What positions are divided by, where the model does not turn all frequencies alike."""
        kind = self.rope.get("rope_type")
        if kind == "llama3":
            yield "rope_freqs.weight", of_array(self._llama3())
        if kind == "longrope":
            for name in ("long", "short"):
                values = np.asarray(self.rope[f"{name}_factor"], dtype=np.float32)
                yield f"rope_factors_{name}.weight", of_array(values)

    def _llama3(self) -> np.ndarray:
        """Long wavelengths are stretched by `factor`, short ones not at all, those between by something between."""
        rope, size = self.rope, self.head_size
        length = 2 * math.pi * float(rope.get("rope_theta", 10_000.0)) ** (np.arange(0, size, 2) / size)
        factor, low, high = (float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
        share = (self._original_context() / length - low) / (high - low)
        return (1 / ((1 - np.clip(share, 0, 1)) / factor + np.clip(share, 0, 1))).astype(np.float32)


def rope_of(config: dict[str, Any]) -> dict[str, Any]:
    """How the model turns positions, in transformers' present form whichever form the configuration has."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    rope = dict(rope.get("full_attention") or rope)
    rope.setdefault("rope_theta", config.get("rope_theta") or 10_000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    rope["rope_type"] = "longrope" if kind == "su" else kind
    return rope
