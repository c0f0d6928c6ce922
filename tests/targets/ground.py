"""One model to deploy, as the deployments give it to a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.core.job_spec import ModelRef
from tunesmith.features.deployments.targets.base import TargetWork

FACTS: dict[str, Any] = {
    "kind": "adapter",
    "lineage": {"job_id": 7, "job_name": "support <b>", "method": "lora", "dataset_name": "support | mails", "dataset_digest": "ab" * 32,
                "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct", "base_revision": "main", "code_version": "1.0"},
    "metrics": {"eval_loss": 1.25},
    "scores": {"held out": {"rougeL": {"value": 0.41, "low": 0.38, "high": 0.44, "num_samples": 200, "higher_is_better": True}}},
    "num_parameters": 134_515_008,
    "tuned_with": {"learning_rate": 2e-4, "lora_r": 16},
    "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
}  # fmt: skip


def make_work(folder: Path, model: ModelRef, settings: dict[str, Any], **changes: Any) -> TargetWork:
    said: list[str] = []
    told: dict[str, Any] = {
        "name": "support-bot", "model": model, "title": "support-bot@1.2.0", "facts": FACTS, "settings": settings,
        "system_prompt": 'You help with """mails""".\nBe brief.',
        "sampling": {"temperature": 0.2, "top_p": 0.9, "top_k": None, "max_tokens": 8, "repetition_penalty": 1.1, "stop": ["END"], "seed": 7},
        "folder": folder, "timeout_s": 120.0, "report": lambda message, _share: said.append(message),
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    return TargetWork(**{**told, **changes})


def make_adapter(base: Path, folder: Path) -> Path:
    """An adapter with random weights over `base`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, 0.1)
    tuned.save_pretrained(str(folder))
    return folder
