"""Whatever adapter somebody brings: the base and the adapters of others go on to say what they said, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import make_tiny_model
from tunesmith.core.errors import InvalidInput
from tunesmith.serving import adapters as serving
from tunesmith.serving.adapters import Adapters

ROW = torch.tensor([[5, 9, 40, 7, 3, 200]])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: make_tiny_model(folder / family, family) for family in ("llama", "gpt2")}


def load(base: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def make_adapter(base: Path, folder: Path, seed: int = 1, **settings: Any) -> Any:
    """An adapter as PEFT saves it after some training, and the model that it makes of its base."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    tuned: Any = get_peft_model(load(base), LoraConfig(**({"r": 4, "task_type": "CAUSAL_LM"} | settings))).eval()
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if weight.requires_grad or "lora_" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
    tuned.save_pretrained(folder)
    return tuned


def says(adapters: Adapters, path: Path | None) -> torch.Tensor:
    if path is not None:
        adapters.load(str(path))
    model, told = adapters.switch([None if path is None else str(path)])
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ROW, use_cache=False, **told).logits
    return found


LINEAR = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"]}
USED = [
    ("llama", {"init_lora_weights": "gaussian"}),
    ("llama", {"init_lora_weights": "eva"}),
    ("llama", {"init_lora_weights": "orthogonal"}),
    ("llama", {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3}}),
    ("llama", {"use_dora": True}),
    ("llama", {"trainable_token_indices": [5, 9]}),
    ("llama", {"modules_to_save": ["embed_tokens"]}),
    ("llama", {"modules_to_save": ["lm_head", "input_layernorm"]}),
    ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
    ("gpt2", {"lora_bias": True, "fan_in_fan_out": True}),
]
REFUSED = [
    ("llama", {"init_lora_weights": "pissa"}, "pissa"),
    ("llama", {"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
    ("llama", {"init_lora_weights": "olora"}, "olora"),
    ("gpt2", {"bias": "all", "fan_in_fan_out": True}, "bias"),
    ("gpt2", {"bias": "lora_only", "fan_in_fan_out": True}, "bias"),
    ("llama", {"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    ("llama", {"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
]


@pytest.mark.parametrize(("family", "settings"), USED)
def test_an_adapter_says_what_peft_says_and_changes_nobody(
    bases: dict[str, Path], tmp_path: Path, family: str, settings: dict[str, Any]
) -> None:
    settings = {"target_modules": LINEAR[family]} | settings
    make_adapter(bases[family], tmp_path / "other", seed=9, target_modules=LINEAR[family])
    tuned = make_adapter(bases[family], tmp_path / "odd", **settings)
    alone = load(bases[family])(input_ids=ROW, use_cache=False).logits
    adapters = Adapters(load(bases[family]))
    base, other = says(adapters, None), says(adapters, tmp_path / "other")
    assert torch.equal(base, alone)
    with torch.inference_mode():
        expected = tuned(input_ids=ROW, use_cache=False).logits
    assert not torch.allclose(base, expected, atol=1e-4), "an adapter that does nothing shows nothing"
    torch.testing.assert_close(says(adapters, tmp_path / "odd"), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(says(adapters, None), base) and torch.equal(says(adapters, tmp_path / "other"), other)


@pytest.mark.parametrize(("family", "settings", "named"), REFUSED)
def test_an_adapter_that_would_change_the_base_is_refused_by_name(
    bases: dict[str, Path], tmp_path: Path, family: str, settings: dict[str, Any], named: str
) -> None:
    make_adapter(bases[family], tmp_path / "other", seed=9, target_modules=LINEAR[family])
    make_adapter(bases[family], tmp_path / "odd", target_modules=LINEAR[family], **settings)
    adapters = Adapters(load(bases[family]))
    base = says(adapters, None)
    with pytest.raises(InvalidInput, match=named):
        says(adapters, tmp_path / "odd")
    assert adapters.model is adapters.base, "nothing was put around the base"
    other = says(adapters, tmp_path / "other")
    with pytest.raises(InvalidInput, match=named):
        says(adapters, tmp_path / "odd")
    assert torch.equal(says(adapters, None), base) and torch.equal(says(adapters, tmp_path / "other"), other)


def test_another_embedding_than_the_bases_is_refused(bases: dict[str, Path], tmp_path: Path) -> None:
    """PEFT saves the base's embedding beside an adapter of it, and loading writes it into the base."""
    make_adapter(bases["llama"], tmp_path / "odd", target_modules=["embed_tokens"])
    file = tmp_path / "odd" / "adapter_model.safetensors"
    held = load_file(file)
    held["base_model.model.model.embed_tokens.base_layer.weight"][7] += 1.0
    save_file(held, file)
    adapters = Adapters(load(bases["llama"]))
    base = says(adapters, None)
    with pytest.raises(InvalidInput, match=r"model\.embed_tokens\.weight"):
        says(adapters, tmp_path / "odd")
    assert torch.equal(says(adapters, None), base)


@pytest.mark.parametrize("change", ["shape", "missing", "stranger", "half"])
def test_one_that_does_not_fit_leaves_the_base_as_it_was(bases: dict[str, Path], tmp_path: Path, change: str) -> None:
    make_adapter(bases["llama"], tmp_path / "odd", target_modules=["q_proj"])
    file = tmp_path / "odd" / "adapter_model.safetensors"
    held = load_file(file)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    if change == "shape":
        held[name] = torch.zeros(4, 63)
    elif change == "missing":
        held = {key: tensor for key, tensor in held.items() if "layers.0" not in key}
    elif change == "stranger":
        held |= {key.replace("q_proj", "z_proj"): tensor.clone() for key, tensor in held.items()}
    else:
        del held[name]
    save_file(held, file)
    adapters = Adapters(load(bases["llama"]))
    base = says(adapters, None)
    with pytest.raises(InvalidInput):
        says(adapters, tmp_path / "odd")
    assert torch.equal(says(adapters, None), base)
    assert not any("lora" in name for name, _ in adapters.base.named_modules())


def test_a_process_whose_base_was_changed_ends(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever way into the base is found next: here one that leaves no trace but other numbers."""
    make_adapter(bases["llama"], tmp_path / "odd", target_modules=["q_proj"])
    adapters = Adapters(load(bases["llama"]))
    plain = serving.lay_over

    def writes(model: Any, folder: Path, name: str) -> Any:
        adapters.base.model.layers[0].mlp.up_proj.weight.data[0] += 1e-3
        return plain(model, folder, name)

    def ended(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(serving, "lay_over", writes)
    monkeypatch.setattr("os._exit", ended)
    with pytest.raises(SystemExit):
        adapters.load(str(tmp_path / "odd"))
    assert "changed the base model" in capsys.readouterr().err


def test_settings_of_a_later_peft_are_refused_by_name(bases: dict[str, Path], tmp_path: Path) -> None:
    make_adapter(bases["llama"], tmp_path / "odd", target_modules=["q_proj"])
    file = tmp_path / "odd" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_tomorrow": True}))
    with pytest.raises(InvalidInput, match="use_tomorrow"):
        Adapters(load(bases["llama"])).load(str(tmp_path / "odd"))
