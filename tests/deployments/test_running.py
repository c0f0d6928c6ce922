"""How an adapter is put to work: over its base beside others, in it, or not by that engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.catalog.ground import make_base
from tests.rows.chat_templates import CHATML
from tunesmith.core.job_spec import ModelRef
from tunesmith.features.deployments import running
from tunesmith.schemas.deployments import LocalSettings
from tunesmith.settings import Settings

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
PAIR = (f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight")


def ref_of(home: Path, names: tuple[str, ...], **settings: Any) -> ModelRef:
    folder = home / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, **settings}))
    save_file({name: np.zeros((2, 2), np.float32) for name in names}, folder / "adapter_model.safetensors")
    return ModelRef(name="m", path=str(make_base(home / "base")), adapter_path=str(folder))


@pytest.mark.parametrize(
    ("names", "settings", "in_llama_cpp", "in_transformers"),
    [
        (PAIR, {}, False, False),
        ((*PAIR, "base_model.model.lm_head.weight"), {"modules_to_save": ["lm_head"]}, True, False),
        ((*PAIR, f"{LAYER}.lora_magnitude_vector"), {"use_dora": True}, True, False),
        ((*PAIR, f"{LAYER}.base_layer.bias"), {"bias": "lora_only"}, True, True),
        ((*PAIR, "base_model.model.model.embed_tokens.weight"), {}, True, True),
    ],
)
def test_what_cannot_lie_beside_others_is_merged(
    tmp_path: Path, names: tuple[str, ...], settings: dict[str, Any], in_llama_cpp: bool, in_transformers: bool
) -> None:
    ref, home = ref_of(tmp_path, names, **settings), Settings(home=tmp_path / "home", hub_offline=True)
    for engine, merges in (("llama.cpp", in_llama_cpp), ("transformers", in_transformers)):
        spec = running.spec_of(home, LocalSettings(engine=engine), ref, ())
        assert (spec.merged_adapter, spec.adapters) == (
            (ref.adapter_path, ()) if merges else (None, (ref.adapter_path,))
        )
        number = None if merges else 0
        body = running.with_adapter({}, engine, number, ref.adapter_path, len(spec.adapters))
        assert merges == (not any(body.values())), "a merged adapter is not asked for again"


def test_one_that_was_registered_before_it_was_refused_fails_alone(tmp_path: Path) -> None:
    ref, home = ref_of(tmp_path, PAIR, init_lora_weights="pissa"), Settings(home=tmp_path / "home", hub_offline=True)
    assert running.spec_of(home, LocalSettings(engine="transformers"), ref, ()).adapters == (ref.adapter_path,)
    assert "'pissa'" in running.why_not("transformers", ref)


@pytest.mark.parametrize(
    ("template", "end", "is_merged"),
    [
        (None, None, False),
        (CHATML, "<|im_end|>", False),
        (f"ready {CHATML}", "<|im_end|>", True),
        (CHATML, "<<stop>>", True),
    ],
)
def test_every_engine_talks_to_an_adapter_as_it_was_trained(
    tmp_path: Path, template: str | None, end: str | None, is_merged: bool
) -> None:
    ref, home = ref_of(tmp_path, PAIR), Settings(home=tmp_path / "home", hub_offline=True)
    base, adapter = Path(ref.path), Path(str(ref.adapter_path))
    (base / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    if template and end:
        (adapter / "chat_template.jinja").write_text(template)
        (adapter / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
        (adapter / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": 7, "content": end}]}))
    spec = running.spec_of(home, LocalSettings(engine="llama.cpp"), ref, ())
    assert bool(spec.merged_adapter) == is_merged, "llama.cpp takes template and ends from the file of the base"
    spec = running.spec_of(home, LocalSettings(engine="vllm"), ref, ())
    own = template if template and template != CHATML else ""
    assert spec.adapters == (ref.adapter_path,) and spec.chat_template == own
    told = running.with_adapter({"messages": []}, "vllm", 0, ref.adapter_path, 1)
    assert told.get("stop_token_ids") == ([2, 7] if end else None)
    assert "stop_token_ids" not in running.with_adapter({"messages": []}, "vllm", None, ref.adapter_path, 1)
    assert "stop_token_ids" not in running.with_adapter({"input": []}, "vllm", 0, ref.adapter_path, 1)
