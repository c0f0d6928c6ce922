"""The automatic check of a finished model: every file there, format valid, loads with plain libraries, generates."""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path
from typing import Any

from tunesmith.core.errors import BadData, FailureCode, JobFailure
from tunesmith.recipes.model_info import read_header

QUESTION = [{"role": "user", "content": "Hello"}]


def validate_model(folder: Path, produces: str, base_path: str) -> dict[str, Any]:
    """`{files, format, loads, generates, sample}`, also written to `validation.json`. Raises `JobFailure`."""
    adapter = (folder / "adapter_config.json").exists()
    needed = ["adapter_model.safetensors", "adapter_config.json"] if adapter else ["config.json"]
    missing = [name for name in [*needed, "tokenizer_config.json", "README.md"] if not (folder / name).is_file()]
    weights = sorted(folder.glob("*.safetensors"))
    if missing or not weights:
        _fail(produces, f"these files are missing: {', '.join(missing) or 'weights'}")
    try:
        num_tensors = sum(len(read_header(path)) for path in weights)
    except BadData as error:
        _fail(produces, error.message)
    sample = _load_and_generate(folder, base_path if adapter else None, produces)
    result = {
        "files": sorted(p.name for p in folder.iterdir()),
        "format": f"safetensors, {num_tensors} tensors",
        "loads": True,
        "generates": True,
        "sample": sample,
    }
    (folder / "validation.json").write_text(json.dumps(result, indent=1))
    return result


def _load_and_generate(folder: Path, base_path: str | None, produces: str) -> str:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        base_path or folder, dtype="auto", trust_remote_code=False, use_safetensors=True
    )
    if base_path:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder))
    for name, tensor in model.state_dict().items():
        if ("lora_" in name or not base_path) and tensor.is_floating_point() and not math.isfinite(float(tensor.sum())):
            _fail(produces, f"{name} holds values that are not finite")
    inputs = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    sample = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    del model
    gc.collect()
    return str(sample)


def _fail(produces: str, why: str) -> None:
    raise JobFailure(
        FailureCode.INTERNAL, f"The finished {produces} did not pass its check: {why}.",
        hint="The last checkpoint is kept; resume the job to try the last part again.",
    )  # fmt: skip
