"""What a model has that a GGUF file or llama.cpp cannot carry, refused by name rather than left out.

llama.cpp reads a model's sizes and fixes the rest in its code for each family; what a configuration sets otherwise, and steps of
a tokenizer that it does not have, would be dropped without a word.
"""

from __future__ import annotations

import math
import re
from typing import Any

from tunesmith.core.errors import UnsupportedFormat

HINT = "Serve it with engine transformers, or use one of the formats that are folders of safetensors."
SPACE = "\u2581"
WINDOWED = ("mistral", "phi3")
"""Families whose sliding window llama.cpp does not compute: their files are for contexts within the window, where it does nothing."""
PATTERNS = {"gemma2": 2, "gemma3": 6, "gemma3_text": 6}
"""Each how-manieth layer sees everything, the others a window."""
BIG_GEMMA = {"gemma2": 46, "gemma3": 62, "gemma3_text": 62}
"""Layers of those that llama.cpp takes for the largest of their family, which scale attention in another way."""
NAMED_PHI3 = re.compile(r"phi-?3", re.IGNORECASE)
"""llama.cpp strips blanks after special tokens where a model's name has this in it, and nowhere else."""
PHI3_PLAIN = ("<unk>", "<s>", "<|endoftext|>")
"""Special tokens after which it does not strip even then."""


def check_config(kind: str, config: dict[str, Any], rope: dict[str, Any]) -> None:
    """Raise `UnsupportedFormat` naming a setting of the configuration that llama.cpp would not heed."""
    for name, trouble in (
        *_windows(kind, config), *_attention(kind, config), *_positions(config, rope), *_scales(kind, config),
    ):  # fmt: skip
        if trouble:
            raise UnsupportedFormat(f"llama.cpp does not compute {name} as this {kind} model sets it.", hint=HINT)


def context_within(kind: str, config: dict[str, Any], context: int) -> int:
    """The longest context for which llama.cpp computes what transformers computes, tokens."""
    window = config.get("sliding_window")
    return min(context, window) if kind in WINDOWED and type(window) is int and window > 0 else context


def _windows(kind: str, config: dict[str, Any]) -> list[tuple[str, bool]]:
    layers = int(config.get("num_hidden_layers") or 0)
    types = config.get("layer_types")
    found = [("use_sliding_window", kind.startswith("qwen") and bool(config.get("use_sliding_window")))]
    if isinstance(types, list):
        every = PATTERNS.get(kind)
        usual = ["sliding_attention" if every and (n + 1) % every else "full_attention" for n in range(layers)]
        windowed = kind in WINDOWED and set(types) <= {"sliding_attention", "full_attention"}
        found.append(("layer_types", types != usual and not windowed))
    pattern = config.get("sliding_window_pattern", config.get("_sliding_window_pattern"))
    found.append(("sliding_window_pattern", kind in PATTERNS and pattern not in (None, PATTERNS[kind])))
    if kind == "smollm3":
        turned = config.get("no_rope_layers")
        found.append(("no_rope_layers", turned not in (None, [int((n + 1) % 4 != 0) for n in range(layers)])))
        found.append(
            ("no_rope_layer_interval", turned is None and config.get("no_rope_layer_interval") not in (None, 4))
        )
    return found


def _attention(kind: str, config: dict[str, Any]) -> list[tuple[str, bool]]:
    found = [
        ("use_bidirectional_attention", bool(config.get("use_bidirectional_attention"))),
        ("is_causal", config.get("is_causal") is False),
    ]
    if kind == "gpt2":
        found += [
            ("scale_attn_weights", config.get("scale_attn_weights") is False),
            ("scale_attn_by_inverse_layer_idx", bool(config.get("scale_attn_by_inverse_layer_idx"))),
            ("add_cross_attention", bool(config.get("add_cross_attention"))),
        ]
    if kind in PATTERNS:
        heads = int(config.get("num_attention_heads") or 1)
        size = int(config.get("head_dim") or 256)
        if int(config.get("num_hidden_layers") or 0) == BIG_GEMMA[kind]:
            size = int(config.get("hidden_size") or 0) // heads
        found.append(("query_pre_attn_scalar", float(config.get("query_pre_attn_scalar") or 256) != size))
    return found


def _positions(config: dict[str, Any], rope: dict[str, Any]) -> list[tuple[str, bool]]:
    if rope.get("rope_type") != "yarn":
        return []
    usual = 0.1 * math.log(float(rope["factor"])) + 1.0 if float(rope["factor"]) > 1 else 1.0
    given = rope.get("attention_factor")
    return [
        ("attention_factor", given is not None and not math.isclose(float(given), usual, rel_tol=1e-4)),
        ("mscale", bool(rope.get("mscale") or rope.get("mscale_all_dim"))),
        ("beta_fast", rope.get("beta_fast") not in (None, 32, 32.0)),
        ("beta_slow", rope.get("beta_slow") not in (None, 1, 1.0)),
        ("truncate", rope.get("truncate") is False),
    ]


def _scales(kind: str, config: dict[str, Any]) -> list[tuple[str, bool]]:
    """Numbers that this family has in its code, or does not have at all."""
    soft = ("attn_logit_softcapping", "final_logit_softcapping")
    found = [(name, kind == "gemma2" and name in config and not config[name]) for name in soft]
    found += [(name, kind != "gemma2" and bool(config.get(name))) for name in soft]
    none = ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling", "clip_qkv")
    return found + [(name, config.get(name) not in (None, 1, 1.0)) for name in none]


# -- tokenizers -------------------------------------------------------------------------------------------------------


def check_tokenizer(told: dict[str, Any], config: dict[str, Any], *, is_pieces: bool, pre: str) -> list[str]:
    """What of `tokenizer.json` is carried for nearly all text only, as sentences. Raises `UnsupportedFormat` naming a step that
    is not carried at all. `pre`: llama.cpp's name for how the text is cut."""
    notes = []
    for step in parts(told.get("normalizer"), "normalizers"):
        kind = str(step.get("type"))[:40]
        if is_pieces and (kind == "Prepend" or (kind == "Replace" and _is_space(step))):
            continue
        if kind == "NFC" and pre.startswith("qwen"):  # as in every GGUF file of these families
            notes.append("Text that is not in Unicode's normal form C is cut otherwise by llama.cpp: it has no NFC.")
            continue
        what = f"{kind} of {str(step.get('pattern'))[:40]}" if kind == "Replace" else kind
        raise _refused(f"the normalizer {what}")
    for step in parts(told.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") == "ByteLevel" and (step.get("add_prefix_space") or config.get("add_prefix_space")):
            raise _refused("add_prefix_space")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if told["model"].get(name):
            raise _refused(name)
    for token in told.get("added_tokens") or ():
        for flag in ("single_word", "lstrip"):
            if token.get(flag):
                raise _refused(f"{flag} of the token {token['content'][:40]}")
    return notes


def fitting_name(name: str, told: dict[str, Any]) -> str:
    """The name to write into the file, changed where llama.cpp would read the tokenizer by it, or would not. Raises
    `UnsupportedFormat` for tokens that swallow the blanks after them in a way that no name tells."""
    added = told.get("added_tokens") or ()
    stripped = {token["content"] for token in added if token.get("rstrip")}
    if not stripped:
        return NAMED_PHI3.sub("phi_3", name)
    contents = {token["content"] for token in added}
    if absent := {*PHI3_PLAIN, "</s>"} - contents - set(told["model"]["vocab"]):  # llama.cpp asks for each
        raise _refused(f"rstrip of the token {min(stripped)[:40]} without {min(absent)}")
    as_phi3 = (contents | {"</s>"}) - set(PHI3_PLAIN)
    if other := sorted(stripped ^ as_phi3):
        raise _refused(
            f"rstrip of the token {other[0][:40]}" if other[0] in stripped else f"rstrip of others than {other[0][:40]}"
        )
    return name if NAMED_PHI3.search(name) else f"phi3 {name}"


def parts(value: Any, inner: str) -> list[dict[str, Any]]:
    """The steps of a tokenizer's part: one, or those of a sequence."""
    if not value:
        return []
    return list(value[inner]) if value.get("type") == "Sequence" else [value]


def _is_space(step: dict[str, Any]) -> bool:
    return step.get("pattern") == {"String": " "} and step.get("content") == SPACE


def _refused(what: str) -> UnsupportedFormat:
    return UnsupportedFormat(f"llama.cpp does not have {what}, so it would cut text into other tokens.", hint=HINT)
