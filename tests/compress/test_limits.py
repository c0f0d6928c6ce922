"""What a GGUF file cannot carry is refused by name, and what it carries is read by llama.cpp as transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.compress.test_families import TEXT, make
from tests.tiny import CHATML
from tunesmith.core.errors import JobFailure, UnsupportedFormat
from tunesmith.recipes.blocks.llama_cpp import check_tokens, look
from tunesmith.recipes.blocks.to_gguf import write_gguf
from tunesmith.recipes.compress.checking import Probe, measure_gguf
from tunesmith.recipes.compress.train import check_lossless

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
SETTINGS = [
    ("qwen2", "use_sliding_window", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}),
    ("gemma2", "query_pre_attn_scalar", {"query_pre_attn_scalar": 64}),
    ("gemma3", "layer_types", {"layer_types": ["full_attention", "sliding_attention"]}),
    ("gemma2", "attn_logit_softcapping", {"attn_logit_softcapping": None}),
    ("llama", "attention_factor", {"rope_parameters": YARN | {"attention_factor": 1.0}}),
    ("llama", "beta_fast", {"rope_parameters": YARN | {"beta_fast": 16}}),
    ("gpt2", "scale_attn_weights", {"scale_attn_weights": False}),
    ("gpt2", "scale_attn_by_inverse_layer_idx", {"scale_attn_by_inverse_layer_idx": True}),
]


@pytest.mark.parametrize(("family", "named", "changes"), SETTINGS)
def test_a_setting_that_llama_cpp_does_not_heed_is_refused(
    tmp_path: Path, family: str, named: str, changes: dict[str, Any]
) -> None:
    make(tmp_path / "m", family)
    write_gguf(tmp_path / "m", tmp_path / "usual.gguf", "f16")
    file = tmp_path / "m" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(UnsupportedFormat, match=named):
        write_gguf(tmp_path / "m", tmp_path / "odd.gguf", "f16")
    assert not (tmp_path / "odd.gguf").exists()


@pytest.mark.parametrize("family", ["mistral", "phi3"])
def test_a_window_that_llama_cpp_has_not_bounds_the_context(tmp_path: Path, family: str) -> None:
    from tunesmith.serving.llama_cpp import trained_context

    make(tmp_path / "m", family, sliding_window=24)
    write_gguf(tmp_path / "m", tmp_path / "m.gguf", "f16")
    assert trained_context(tmp_path / "m.gguf") == 24


def tokenizer_of(folder: Path, change: dict[str, Any]) -> None:
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text())
    tokens = {token["content"]: token for token in told["added_tokens"]}
    for name, flags in change.pop("tokens", {}).items():
        tokens[name].update(flags)
    file.write_text(json.dumps(told | change))


@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("NFC", {"normalizer": {"type": "NFC"}}),
        ("NFKC", {"normalizer": {"type": "NFKC"}}),
        ("Lowercase", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}}),
        ("Replace", {"normalizer": {"type": "Replace", "pattern": {"String": "the"}, "content": "a"}}),
        ("single_word", {"tokens": {"<|im_end|>": {"single_word": True}}}),
        ("lstrip", {"tokens": {"<|im_end|>": {"lstrip": True}}}),
        ("rstrip", {"tokens": {"<|im_end|>": {"rstrip": True}}}),
        ("add_prefix_space", {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}}),
    ],
)  # fmt: skip
def test_a_step_of_the_tokenizer_that_llama_cpp_has_not_is_refused(
    tmp_path: Path, named: str, change: dict[str, Any]
) -> None:
    make(tmp_path / "m", "llama")
    tokenizer_of(tmp_path / "m", dict(change))
    with pytest.raises(UnsupportedFormat, match=named):
        write_gguf(tmp_path / "m", tmp_path / "odd.gguf", "f16")


PHI3 = {name: {"rstrip": True} for name in ("<|im_start|>", "<|im_end|>", "</s>")}
"""As Phi-3 has them: blanks after special tokens belong to these, but for the end of a text."""


@pytest.mark.parametrize("strips", [True, False])
@pytest.mark.parametrize("name", ["my model", "phi3 of mine", "Phi-3-mini"])
def test_blanks_after_special_tokens_are_read_alike_whatever_the_name(tmp_path: Path, strips: bool, name: str) -> None:
    from transformers import AutoTokenizer

    _, tokenizer = make(tmp_path / "m", "phi3", vocab_size=320)
    tokenizer.add_special_tokens({"unk_token": "<unk>", "sep_token": "<s>", "mask_token": "</s>"})
    tokenizer.save_pretrained(tmp_path / "m")
    if strips:
        tokenizer_of(tmp_path / "m", {"tokens": PHI3})
    texts = ["<|im_start|>user\n  the question<|im_end|>\n<|im_start|> and <|endoftext|> the answer", " the question"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    write_gguf(tmp_path / "m", tmp_path / "m.gguf", "f16", name=name)
    found = look(tmp_path / "m.gguf", texts=texts).tokens
    assert [list(row) for row in found] == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def test_a_conversation_that_is_cut_otherwise_fails_the_format(tmp_path: Path) -> None:
    """Here the source's tokenizer joins what stands beside a special token; plain text it cuts like the file."""
    from transformers import AutoTokenizer

    _, tokenizer = make(tmp_path / "m", "llama")
    tokenizer.chat_template = CHATML
    write_gguf(tmp_path / "m", tmp_path / "m.gguf", "f16")
    ids = tokenizer(TEXT)["input_ids"][:16]
    probe = Probe([ids], [], tokenizer, "the question", 4, 64)
    assert measure_gguf(tmp_path / "m.gguf", probe).same_tokens
    tokenizer.save_pretrained(tmp_path / "plain")
    tokenizer_of(tmp_path / "m", {"tokens": {"<|im_end|>": {"rstrip": True}}})
    other = AutoTokenizer.from_pretrained(tmp_path / "m")
    other.chat_template = CHATML
    with pytest.raises(UnsupportedFormat, match="other tokens"):
        measure_gguf(tmp_path / "m.gguf", probe._replace(tokenizer=other))
    check_tokens(tmp_path / "m.gguf", tmp_path / "plain")
    with pytest.raises(UnsupportedFormat, match="other tokens"):
        check_tokens(tmp_path / "m.gguf", tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "ratio", "is_whole", "fails"),
    [("merged", 1.0, True, False), ("merged", 1.02, True, True), ("f32", 0.98, True, True), ("merged", 1.02, False, False),
     ("merged", float("nan"), False, True), ("q4_k_m", 1.2, True, False)],
)  # fmt: skip
def test_a_lossless_format_that_is_another_model_fails_the_job(
    name: str, ratio: float, is_whole: bool, fails: bool
) -> None:
    if not fails:
        check_lossless(name, ratio, is_whole=is_whole)
        return
    with pytest.raises(JobFailure, match="loses nothing"):
        check_lossless(name, ratio, is_whole=is_whole)
