"""What an adapter of our own stands beside, and that it can be merged, whatever the architecture."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import SIZES, make_tokenizer, tiny_config
from tunesmith.core.job_spec import ModelRef
from tunesmith.engine.lora import lora_layers
from tunesmith.recipes.blocks.adapter import add_adapter, save_adapter, tell_frozen_experts
from tunesmith.recipes.blocks.loading import load_causal_lm
from tunesmith.recipes.blocks.merging import write_merged
from tunesmith.recipes.lora.spec import LoraParams

ROW = torch.tensor([[5, 9, 40, 7, 3, 200]])
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
          "patch_size": 14}  # fmt: skip


def config_of(family: str) -> Any:
    import transformers

    if family == "gemma3-pictures":
        text = {**SIZES, "vocab_size": 400, "sliding_window": 8, "query_pre_attn_scalar": 16}
        return transformers.Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
    if family == "qwen3-moe":
        sizes = {**SIZES, "vocab_size": 400, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        return transformers.Qwen3MoeConfig(**sizes)
    if family == "mixtral":
        return transformers.MixtralConfig(**SIZES, vocab_size=400, num_local_experts=4)
    return tiny_config(family)


def make(folder: Path, family: str) -> Path:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config_of(family), dtype=torch.float32).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    return load_causal_lm(
        ModelRef(name="m", path=str(folder)), dtype=torch.float32, device=torch.device("cpu"), offline=True
    )


def tuned(base: Path, folder: Path) -> Any:
    """A model with an adapter of ours that has learned something, saved as a job saves it."""
    params, model = LoraParams(lora_r=4), load(base).eval()
    add_adapter(model, params, params.seed)
    torch.manual_seed(4)
    with torch.no_grad():
        for _, layer in lora_layers(model):
            layer.lora_b.normal_(0, 0.1)
    folder.mkdir()
    spec: Any = SimpleNamespace(model=ModelRef(name="m", path=str(base)))
    save_adapter(model, folder, spec, params)
    return model


def says(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=ROW, use_cache=False).logits
    return found


def rename(base: Path, family: str) -> None:
    """As the hub has the files of these models."""
    file = base / "model.safetensors"
    held = load_file(file)
    if family == "gpt2":
        held = {name.removeprefix("transformer."): tensor for name, tensor in held.items()}
    save_file(held, file, {"format": "pt"})


@pytest.mark.parametrize("family", ["gpt2", "gemma3-pictures", "qwen3-moe", "mixtral", "phi3", "gemma2"])
def test_an_adapter_of_ours_is_merged_in_every_architecture(tmp_path: Path, family: str) -> None:
    base = make(tmp_path / "base", family)
    rename(base, family)
    model = tuned(base, tmp_path / "adapter")
    expected = says(model)
    assert (expected - says(load(base))).abs().max() > 1e-3
    write_merged(base, tmp_path / "adapter", tmp_path / "merged")
    torch.testing.assert_close(says(load(tmp_path / "merged")), expected, atol=1e-4, rtol=1e-4)
    ref = ModelRef(name="m", path=str(base), adapter_path=str(tmp_path / "adapter"))
    over = load_causal_lm(ref, dtype=torch.float32, device=torch.device("cpu"), offline=True)
    torch.testing.assert_close(says(over), expected, atol=1e-4, rtol=1e-4)


def test_towers_for_pictures_are_left_alone(tmp_path: Path) -> None:
    model = tuned(make(tmp_path / "base", "gemma3-pictures"), tmp_path / "adapter")
    names = [name for name, _ in lora_layers(model)]
    assert len(names) == 2 * 7 and all("language_model" in name for name in names)
    assert not any("vision" in name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))


@pytest.mark.parametrize(("family", "share"), [("qwen3-moe", 0.45), ("llama", 0.0)])
def test_a_job_says_what_share_of_the_experts_stays_frozen(tmp_path: Path, family: str, share: float) -> None:
    said: list[str] = []
    run: Any = SimpleNamespace(notice=lambda message, **_: said.append(message))
    tell_frozen_experts(run, load(make(tmp_path / "base", family)))
    assert bool(said) == bool(share)
    assert not said or "experts of this model" in said[0]
