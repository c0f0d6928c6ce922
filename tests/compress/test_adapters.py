"""An imported adapter, whatever it holds, merged exactly or refused by name; merged and as GGUF it says what PEFT says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.compress.test_families import TEXT, make, transformers_says
from tests.serving.test_adapters import load, make_adapter
from tunesmith.core.errors import BadData, UnsupportedFormat
from tunesmith.core.job_spec import ModelRef
from tunesmith.recipes.blocks.llama_cpp import look
from tunesmith.recipes.blocks.loading import load_causal_lm
from tunesmith.recipes.blocks.merging import write_merged
from tunesmith.recipes.blocks.to_gguf import write_gguf, write_lora_gguf

ROW = torch.tensor([[5, 9, 40, 7, 3, 200, 11, 5]])
KINDS = {
    "plain": ("llama", {"target_modules": "all-linear"}),
    "rslora": ("llama", {"target_modules": ["q_proj"], "use_rslora": True, "alpha_pattern": {"layers.1.self_attn.q_proj": 3}}),
    "ranks": ("llama", {"target_modules": ["q_proj", "o_proj"], "rank_pattern": {"o_proj": 2}, "lora_alpha": 5}),
    "dora": ("llama", {"target_modules": "all-linear", "use_dora": True, "use_rslora": True}),
    "dora-gpt2": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "use_dora": True, "fan_in_fan_out": True}),
    "embedding": ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
    "embedding-gpt2": ("gpt2", {"target_modules": ["wte", "wpe", "c_attn"], "fan_in_fan_out": True}),
    "head": ("llama", {"target_modules": ["q_proj", "lm_head"]}),
    "both-tied": ("llama", {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "ensure_weight_tying": True}),
    "saved-embedding": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "saved-tied": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    "saved-head": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
    "saved-norm": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm", "norm"]}),
    "tokens": ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [5, 9]}),
    "tokens-by-name": ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [5, 40]}}),
    "tokens-untied": ("qwen2", {"target_modules": ["q_proj"], "trainable_token_indices": [5, 9]}),
    "lora-bias": ("gpt2", {"target_modules": ["c_attn"], "lora_bias": True, "fan_in_fan_out": True}),
    "bias-all": ("gpt2", {"target_modules": ["c_attn"], "bias": "all", "fan_in_fan_out": True}),
    "bias-lora-only": ("qwen2", {"target_modules": ["q_proj"], "bias": "lora_only"}),
}  # fmt: skip


def says(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ROW, use_cache=False).logits
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_adapter_merges_to_what_peft_computes(tmp_path: Path, kind: str) -> None:
    family, settings = KINDS[kind]
    make(tmp_path / "base", family)
    tuned = make_adapter(tmp_path / "base", tmp_path / "adapter", **settings)
    expected = says(tuned)
    assert (expected - says(load(tmp_path / "base"))).abs().max() > 1e-2, "an adapter that does nothing shows nothing"
    write_merged(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    torch.testing.assert_close(says(load(tmp_path / "merged")), expected, atol=1e-4, rtol=1e-4)
    ref = ModelRef(name="m", path=str(tmp_path / "base"), adapter_path=str(tmp_path / "adapter"))
    loaded = load_causal_lm(ref, dtype=torch.float32, device=torch.device("cpu"), offline=True)
    torch.testing.assert_close(says(loaded), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dora", "embedding", "saved-embedding", "tokens", "bias-all", "lora-bias"])
def test_its_gguf_file_says_what_peft_says(tmp_path: Path, kind: str) -> None:
    family, settings = KINDS[kind]
    _, tokenizer = make(tmp_path / "base", family)
    tuned = make_adapter(tmp_path / "base", tmp_path / "adapter", **settings)
    ids = tokenizer(TEXT)["input_ids"][:24]
    write_gguf(tmp_path / "base", tmp_path / "m.gguf", "f32", adapter=tmp_path / "adapter")
    found = look(tmp_path / "m.gguf", rows=[ids])
    assert found.perplexity == pytest.approx(transformers_says(tuned, ids), rel=1e-3)
    with pytest.raises(UnsupportedFormat, match="more than a change of linear maps"):
        write_lora_gguf(tmp_path / "adapter", tmp_path / "base", tmp_path / "over.gguf")


def test_a_tensor_that_fits_nothing_is_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path / "base", "llama")
    make_adapter(tmp_path / "base", tmp_path / "adapter", target_modules=["q_proj"])
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    held = load_file(file)
    for name, error in (("model.layers.0.mlp.gate.weight", BadData), ("model.layers.0.q_proj.lora_C.weight", UnsupportedFormat)):  # fmt: skip
        save_file({**held, f"base_model.model.{name}": torch.zeros(2, 2)}, file)
        with pytest.raises(error, match=name.rpartition(".")[0].replace(".", r"\.")):
            write_merged(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(("family", "before", "after"), [("gpt2", "transformer.", ""), ("llama", "model.", "language_model.model.")])  # fmt: skip
def test_a_base_whose_file_has_other_names_is_merged(tmp_path: Path, family: str, before: str, after: str) -> None:
    """GPT-2 on the hub has `h.0…` where transformers has `transformer.h.0…`; text models in others lie below `language_model`."""
    make(tmp_path / "base", family)
    settings = (
        {"fan_in_fan_out": True, "target_modules": ["c_attn"]} if family == "gpt2" else {"target_modules": ["q_proj"]}
    )
    make_adapter(tmp_path / "base", tmp_path / "adapter", **settings)
    write_merged(tmp_path / "base", tmp_path / "adapter", tmp_path / "expected")
    file = tmp_path / "base" / "model.safetensors"
    save_file(
        {after + name.removeprefix(before): tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"}
    )
    write_merged(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    expected = load_file(tmp_path / "expected" / "model.safetensors")
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert len(found) == len(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[after + name.removeprefix(before)], tensor)
    for folder in ("merged", "expected"):
        write_gguf(tmp_path / folder, tmp_path / f"{folder}.gguf", "f32", name="m")
    assert (tmp_path / "merged.gguf").read_bytes() == (tmp_path / "expected.gguf").read_bytes()
