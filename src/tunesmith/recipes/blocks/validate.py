"""The automatic check of a finished model: every file there, format valid, loads with plain libraries, generates."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tunesmith.core.clock import monotonic_s
from tunesmith.core.errors import BadData, FailureCode, JobFailure
from tunesmith.recipes.blocks.endings import ends_in, join_ends
from tunesmith.recipes.blocks.overlay import lay_over
from tunesmith.recipes.model_info import read_header

QUESTION = [{"role": "user", "content": "Hello"}]
CHECK_TOKENS = 8


class Finished:
    """A model that has passed its check, as plain libraries load it."""

    def __init__(self, model: Any, tokenizer: Any, laid: Any, load_s: float) -> None:
        self.model, self.tokenizer = model, tokenizer
        """The causal language model, with an adapter's layers in it."""
        self.without_adapter: Callable[[], AbstractContextManager[None]] | None = laid.disable_adapter if laid else None
        """While it lasts the model answers as its base; None where there is no adapter."""
        self.load_s = load_s
        """How long loading took, seconds."""

    def give_up(self) -> None:
        """Let its memory go."""
        self.model = self.without_adapter = None


def validate_model(folder: Path, produces: str, base_path: str) -> Finished:
    """Write `{files, format, loads, generates, sample}` to `validation.json`. Raises `JobFailure`."""
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
    finished = _load(folder, base_path if adapter else None, produces)
    result = {
        "files": sorted(p.name for p in folder.iterdir()),
        "format": f"safetensors, {num_tensors} tensors",
        "loads": True,
        "generates": True,
        "sample": _sample(finished),
    }
    (folder / "validation.json").write_text(json.dumps(result, indent=1))
    return finished


def _load(folder: Path, base_path: str | None, produces: str) -> Finished:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    began_s = monotonic_s()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        base_path or folder, dtype="auto", trust_remote_code=False, use_safetensors=True
    )
    join_ends(model, sorted(ends_in(folder)))
    laid = lay_over(model, folder, may_replace=True) if base_path else None
    checked = laid or model
    for name, tensor in checked.state_dict().items():
        if ("lora_" in name or not base_path) and tensor.is_floating_point() and not math.isfinite(float(tensor.sum())):
            _fail(produces, f"{name} holds values that are not finite")
    return Finished(laid.get_base_model() if laid else model, tokenizer, laid, monotonic_s() - began_s)


def _sample(finished: Finished) -> str:
    """What it says to "Hello"."""
    import torch

    tokenizer = finished.tokenizer
    inputs = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = inputs["input_ids"]
    with torch.no_grad():
        out = finished.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=CHECK_TOKENS, do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def _fail(produces: str, why: str) -> None:
    raise JobFailure(
        FailureCode.INTERNAL, f"The finished {produces} did not pass its check: {why}.",
        hint="The last checkpoint is kept; resume the job to try the last part again.",
    )  # fmt: skip
