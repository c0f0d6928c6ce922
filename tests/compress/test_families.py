"""Every family of models, written as GGUF and computed by llama.cpp, gives what transformers computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import FAMILIES, make_tokenizer, tiny_config
from tunesmith.core.errors import BadData, InvalidInput, UnsupportedFormat
from tunesmith.recipes.blocks.llama_cpp import greedy, look
from tunesmith.recipes.blocks.to_gguf import write_gguf, write_lora_gguf

TEXT = "the question and the answer of user"
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip


def make(folder: Path, family: str, **changes: Any) -> tuple[Any, Any]:
    """A model with weights large enough that a mistake shows, and its tokenizer; saved to `folder`."""
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer()
    config = tiny_config(family, len(tokenizer))
    for name, value in changes.items():
        setattr(config, name, value)
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0 if weight.dim() > 1 else 0.5 * (config.model_type != "gemma2"), 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def transformers_says(model: Any, ids: list[int]) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    scored = torch.log_softmax(logits, -1)[range(len(ids) - 1), ids[1:]]
    return float(np.exp(-scored.mean().item()))


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_computes_what_transformers_computes(tmp_path: Path, family: str) -> None:
    model, tokenizer = make(tmp_path / "model", family)
    # llama.cpp gives Mistral no sliding window, as its own converter says; so the row stays within it
    ids = tokenizer(TEXT)["input_ids"][: 8 if family == "mistral" else 24]
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", "f32")
    found = look(tmp_path / "model.gguf", rows=[ids], texts=[TEXT])
    assert list(found.tokens[0]) == tokenizer(TEXT)["input_ids"]
    assert found.perplexity == pytest.approx(transformers_says(model, ids), rel=2e-3)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("llama", {"rope_parameters": LLAMA3}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}}),
        ("qwen2", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}}),
        ("llama", {"attention_bias": True, "mlp_bias": True}),
        ("llama", {"tie_word_embeddings": False}),
    ],
)  # fmt: skip
def test_what_models_of_one_family_differ_in(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    model, tokenizer = make(tmp_path / "model", family, **changes)
    ids = tokenizer(TEXT * 2)["input_ids"][:48]
    write_gguf(tmp_path / "model", tmp_path / "model.gguf", "f32")
    found = look(tmp_path / "model.gguf", rows=[ids])
    assert found.perplexity == pytest.approx(transformers_says(model, ids), rel=2e-3)


def add_adapter(model: Any, folder: Path, **settings: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=12, target_modules="all-linear", task_type="CAUSAL_LM", **settings)
    )
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, 0.2)
    tuned.save_pretrained(str(folder))
    return tuned.eval()


@pytest.mark.parametrize(
    ("family", "settings"), [("llama", {}), ("gpt2", {"fan_in_fan_out": True}), ("qwen3", {"use_rslora": True})]
)
def test_an_adapter_merged_or_laid_over_is_the_tuned_model(
    tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    model, tokenizer = make(tmp_path / "model", family)
    ids = tokenizer(TEXT)["input_ids"]
    tuned = add_adapter(model, tmp_path / "adapter", **settings)
    expected = transformers_says(tuned, ids)
    write_gguf(tmp_path / "model", tmp_path / "merged.gguf", "f32", adapter=tmp_path / "adapter")
    assert look(tmp_path / "merged.gguf", rows=[ids]).perplexity == pytest.approx(expected, rel=2e-3)
    write_gguf(tmp_path / "model", tmp_path / "base.gguf", "f32")
    write_lora_gguf(tmp_path / "adapter", tmp_path / "model", tmp_path / "adapter.gguf", kind="f32")
    over = look(tmp_path / "base.gguf", rows=[ids], questions=[TEXT], adapter=tmp_path / "adapter.gguf", max_tokens=12)
    assert over.perplexity == pytest.approx(expected, rel=2e-3)
    assert over.answers[0] == greedy(tmp_path / "merged.gguf", TEXT, 12)
    assert look(tmp_path / "base.gguf", rows=[ids]).perplexity != pytest.approx(expected, rel=2e-2)


def test_what_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path, tiny_model: Path) -> None:
    make(tmp_path / "model", "llama")
    target = tmp_path / "out" / "model.gguf"
    with pytest.raises(InvalidInput, match="no GGUF format 'q9'"):
        write_gguf(tmp_path / "model", target, "q9")
    config = tmp_path / "model" / "config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps({**told, "model_type": "mamba"}))
    with pytest.raises(UnsupportedFormat, match="family 'mamba'"):
        write_gguf(tmp_path / "model", target, "f16")
    config.write_text(json.dumps(told))
    model, _ = make(tmp_path / "other", "llama", intermediate_size=128)
    add_adapter(model, tmp_path / "adapter")
    with pytest.raises(BadData, match="does not fit"):
        write_gguf(tmp_path / "model", target, "f16", adapter=tmp_path / "adapter")
    assert not target.parent.exists() or not list(target.parent.iterdir())


def test_a_file_that_llama_cpp_cannot_load_ends_its_child_only(tmp_path: Path) -> None:
    make(tmp_path / "model", "llama")
    path = tmp_path / "model.gguf"
    write_gguf(tmp_path / "model", path, "q8_0")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"llama.block_count", b"llama.block_coint"))
    with pytest.raises(BadData, match=r"cannot use model\.gguf"):
        greedy(path, TEXT)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadData, match="beyond the file"):
        greedy(path, TEXT)


def test_llama_cpps_own_tools_are_used_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With programs of their names that write down how they were called; the converter makes a real file all the same."""
    make(tmp_path / "model", "llama")
    tools = tmp_path / "llama.cpp"
    tools.mkdir()
    converter = (
        "import os, sys\nfrom pathlib import Path\n"
        "Path(__file__).with_name('called').write_text(' '.join(sys.argv[1:]))\n"
        "os.environ.pop('LLAMA_CPP_DIR')\n"
        "from tunesmith.recipes.blocks.to_gguf import write_gguf\n"
        "write_gguf(Path(sys.argv[1]), Path(sys.argv[3]), sys.argv[5])\n"
    )
    (tools / "convert_hf_to_gguf.py").write_text(converter)
    (tools / "llama-quantize").write_text('#!/bin/sh\necho "$3" > "$(dirname "$0")/quantized"\ncp "$1" "$2"\n')
    (tools / "llama-quantize").chmod(0o755)
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tools))
    write_gguf(tmp_path / "model", tmp_path / "a.gguf", "q8_0")
    assert (tools / "called").read_text().endswith("--outtype q8_0") and not (tools / "quantized").exists()
    write_gguf(tmp_path / "model", tmp_path / "b.gguf", "q4_k_m")
    assert (tools / "quantized").read_text() == "Q4_K_M\n"
    assert sorted(path.name for path in tmp_path.glob("*.gguf*")) == ["a.gguf", "b.gguf"]
    (tools / "convert_hf_to_gguf.py").write_text("import sys\nsys.exit('no such architecture')\n")
    with pytest.raises(BadData, match="no such architecture"):
        write_gguf(tmp_path / "model", tmp_path / "c.gguf", "q8_0")
    assert not (tmp_path / "c.gguf").exists()
