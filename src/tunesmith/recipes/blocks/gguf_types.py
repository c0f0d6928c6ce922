"""Which number type each tensor of a GGUF file gets: the mixtures that llama.cpp calls `q4_k_m` and the like.

The rules are those of llama.cpp's own quantiser without an importance matrix, so that a file from here has the size and the quality that people
know under the name.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from tunesmith.core.errors import InvalidInput

Type = GGMLQuantizationType

FORMATS: dict[str, tuple[LlamaFileType, Type]] = {
    "f32": (LlamaFileType.ALL_F32, Type.F32),
    "f16": (LlamaFileType.MOSTLY_F16, Type.F16),
    "bf16": (LlamaFileType.MOSTLY_BF16, Type.BF16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, Type.Q8_0),
    "q6_k": (LlamaFileType.MOSTLY_Q6_K, Type.Q6_K),
    "q5_k_m": (LlamaFileType.MOSTLY_Q5_K_M, Type.Q5_K),
    "q5_k_s": (LlamaFileType.MOSTLY_Q5_K_S, Type.Q5_K),
    "q5_1": (LlamaFileType.MOSTLY_Q5_1, Type.Q5_1),
    "q5_0": (LlamaFileType.MOSTLY_Q5_0, Type.Q5_0),
    "q4_k_m": (LlamaFileType.MOSTLY_Q4_K_M, Type.Q4_K),
    "q4_k_s": (LlamaFileType.MOSTLY_Q4_K_S, Type.Q4_K),
    "q4_1": (LlamaFileType.MOSTLY_Q4_1, Type.Q4_1),
    "q4_0": (LlamaFileType.MOSTLY_Q4_0, Type.Q4_0),
    "q3_k_l": (LlamaFileType.MOSTLY_Q3_K_L, Type.Q3_K),
    "q3_k_m": (LlamaFileType.MOSTLY_Q3_K_M, Type.Q3_K),
    "q3_k_s": (LlamaFileType.MOSTLY_Q3_K_S, Type.Q3_K),
    "q2_k": (LlamaFileType.MOSTLY_Q2_K, Type.Q2_K),
}
"""Name of the format → its number in the file's header, and the type that most tensors get. Largest first."""
PLAIN = (Type.F32, Type.F16, Type.BF16)
FALLBACK = {
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
}
"""What a tensor gets whose rows are no multiple of the 256 weights that a K-block holds."""
LAYER = re.compile(r"blk\.(\d+)\.")


class Shape(NamedTuple):
    """What the mixture must know of a model."""

    arch: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    is_tied: bool
    """Output and embedding are one tensor, and so the embedding gets the output's type."""


def check_format(name: str) -> tuple[LlamaFileType, Type]:
    """Number and main type of a format. Raises `InvalidInput` naming those that exist."""
    if name not in FORMATS:
        raise InvalidInput(f"There is no GGUF format {name!r}.", hint=f"Choose one of: {', '.join(FORMATS)}.")
    return FORMATS[name]


def type_of(format_name: str, tensor: str, shape: tuple[int, ...], model: Shape) -> Type:
    """The type of one tensor of the GGUF file. `shape`: rows first. Raises `InvalidInput` for an unknown format."""
    _, main = check_format(format_name)
    if len(shape) < 2 or not tensor.endswith(".weight") or "_norm." in tensor or "position_embd" in tensor:
        return Type.F32
    if main in PLAIN:
        return main
    found = _mixed(format_name, main, tensor, shape[-1], model)
    if shape[-1] % _block(found):
        found = FALLBACK.get(found, Type.F16)
    return found if shape[-1] % _block(found) == 0 else Type.F16


def bytes_of(kind: Type, num_weights: int) -> int:
    """Size of so many weights, bytes; `num_weights` is a multiple of the type's block."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return num_weights // block * block_bytes


def _block(kind: Type) -> int:
    return GGML_QUANT_SIZES[kind][0]


def _mixed(format_name: str, main: Type, tensor: str, columns: int, model: Shape) -> Type:
    found = LAYER.match(tensor)
    layer, layers = int(found[1]) if found else 0, model.num_layers
    if tensor == "output.weight" or (tensor == "token_embd.weight" and model.is_tied):
        return Type.Q8_0 if columns % _block(main) or main == Type.Q8_0 else Type.Q6_K
    if "attn_v.weight" in tensor or "attn_qkv.weight" in tensor:
        return _value(format_name, main, layer, model)
    if "ffn_down" in tensor:
        return _down(format_name, main, layer, layers)
    if "attn_output.weight" in tensor:
        return {"q2_k": Type.Q3_K, "q3_k_m": Type.Q4_K, "q3_k_l": Type.Q5_K}.get(format_name, main)
    return main


def _value(format_name: str, main: Type, layer: int, model: Shape) -> Type:
    """Values of attention, which suffer most, and are small where many heads share them."""
    shared = model.num_heads // max(1, model.num_kv_heads)
    kind = main
    if format_name == "q2_k":
        kind = Type.Q4_K if shared >= 4 else Type.Q3_K
    elif format_name == "q3_k_m":
        kind = Type.Q5_K if layer < 2 else Type.Q4_K
    elif format_name == "q3_k_l" or (format_name == "q4_k_s" and layer < 4):
        kind = Type.Q5_K
    elif format_name in ("q4_k_m", "q5_k_m") and _gets_more(layer, model.num_layers):
        kind = Type.Q6_K
    is_70b = model.arch == "llama" and model.num_layers == 80 and shared > 1
    return Type.Q5_K if is_70b and kind in (Type.Q3_K, Type.Q4_K) else kind


def _down(format_name: str, main: Type, layer: int, layers: int) -> Type:
    """The way out of the feed-forward part."""
    if format_name == "q2_k":
        return Type.Q3_K
    if format_name == "q3_k_m":
        return Type.Q5_K if layer < layers // 16 else Type.Q4_K
    if format_name == "q3_k_l" or (format_name == "q4_k_s" and layer < layers // 8):
        return Type.Q5_K
    if format_name in ("q4_k_m", "q5_k_m") and _gets_more(layer, layers):
        return Type.Q6_K
    return main


def _gets_more(layer: int, layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
