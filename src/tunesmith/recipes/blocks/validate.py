"""The automatic check of a finished model: every file there, format valid, loads with plain libraries, generates."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tunesmith.core.errors import BadData, FailureCode, JobFailure
from tunesmith.recipes.blocks.overlay import lay_over
from tunesmith.recipes.model_info import read_header

QUESTION = [{"role": "user", "content": "Hello"}]


MAX_SAMPLE_TOKENS = 32
MAX_PROMPT_TOKENS = 512


class Question(NamedTuple):
    """The beginning of a row, for the finished model to go on."""

    prompt_ids: np.ndarray
    expected_ids: np.ndarray


def question_of(ids: np.ndarray, learnt: np.ndarray) -> Question:
    """A row cut where its first answer begins; in the middle when all of it is learnt. `learnt`: (tokens,) bool."""
    first = int(np.argmax(learnt)) if learnt.any() else 0
    cut = first if first > 1 else len(ids) // 2
    end = cut + int(np.argmin(learnt[cut:])) if not learnt[cut:].all() else len(ids)
    return Question(ids[max(0, cut - MAX_PROMPT_TOKENS) : cut], ids[cut:end])


def validate_model(folder: Path, produces: str, base_path: str, questions: Sequence[Question] = ()) -> dict[str, Any]:
    """`{files, format, loads, generates, sample, samples}`, also written to `validation.json`. Raises `JobFailure`.

    `samples` are what the model makes of `questions`: prompt, the row's own answer, and the model's, cut after
    `MAX_SAMPLE_TOKENS`.
    """
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
    sample, samples = _load_and_generate(folder, base_path if adapter else None, produces, questions)
    gc.collect()  # models hold themselves in circles
    result = {
        "files": sorted(p.name for p in folder.iterdir()),
        "format": f"safetensors, {num_tensors} tensors",
        "loads": True,
        "generates": True,
        "sample": sample,
        "samples": samples,
    }
    (folder / "validation.json").write_text(json.dumps(result, indent=1))
    return result


def _load_and_generate(
    folder: Path, base_path: str | None, produces: str, questions: Sequence[Question]
) -> tuple[str, list[dict[str, str]]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(
        base_path or folder, dtype="auto", trust_remote_code=False, use_safetensors=True
    )
    if base_path:
        model = lay_over(model, folder, may_replace=True)
    for name, tensor in model.state_dict().items():
        if ("lora_" in name or not base_path) and tensor.is_floating_point() and not math.isfinite(float(tensor.sum())):
            _fail(produces, f"{name} holds values that are not finite")
    inputs = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)

    def go_on(ids: torch.Tensor, most: int) -> str:
        with torch.no_grad():
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))

    def told(ids: np.ndarray) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

    sample = go_on(inputs["input_ids"], 8)
    samples = [
        {
            "prompt": told(question.prompt_ids),
            "expected": told(question.expected_ids),
            "answer": go_on(torch.tensor(question.prompt_ids[None].astype(np.int64)), MAX_SAMPLE_TOKENS).strip(),
        }
        for question in questions
        if len(question.prompt_ids)
    ]
    return sample, samples


def _fail(produces: str, why: str) -> None:
    raise JobFailure(
        FailureCode.INTERNAL, f"The finished {produces} did not pass its check: {why}.",
        hint="The last checkpoint is kept; resume the job to try the last part again.",
    )  # fmt: skip
