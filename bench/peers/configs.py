"""The same piece of work, as each contender wants to be told of it.

What every contender shares: the rows and their order, eight rows an optimizer step, AdamW at a constant rate, no weight
decay, clipping at 1, the adapter, the number format, a loss logged at every step, no evaluation and no checkpoint on the way.
What is left to each is its speed: that is its defaults, or a `Layout` with its best settings.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROWS_A_STEP = 8
LORA_R = 16
LORA_ALPHA = 32
MAX_LENGTH_TOKENS = 1024
SEED = 42
LEARNING_RATES = {"lora": 1e-4, "qlora": 1e-4, "standard": 2e-5}


@dataclass(frozen=True)
class Work:
    """What is trained on what."""

    model: Path
    rows: Path
    """Tokenised rows in the order of the steps: `{"input_ids": […], "labels": […]}` a line."""
    llamafactory_rows: Path
    """The same for `tokenized_path`."""
    raw_rows: Path
    """The same as a user has them, `{"question", "answer"}` a line."""
    steps: int
    method: str
    bf16: bool
    cuda: bool


@dataclass(frozen=True)
class Layout:
    """How a tuned peer lays out a step's eight rows, written `4x2`, `8x1+flat`, `1x8+compile`."""

    micro_batch: int
    accumulation: int
    flat: bool = False
    """Rows of a micro-batch end to end without padding (TRL's `padding_free`)."""
    compiled: bool = False

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Raises `ValueError` naming what was meant to be written."""
        sizes, *extras = text.split("+")
        micro, _, accumulation = sizes.partition("x")
        if not (micro.isdigit() and accumulation.isdigit()) or set(extras) - {"flat", "compile"}:
            raise ValueError(f"{text!r} is no layout; write MICROxACCUMULATION with +flat or +compile, such as 4x2")
        if int(micro) * int(accumulation) != ROWS_A_STEP:
            raise ValueError(f"{text!r} is not {ROWS_A_STEP} rows a step")
        return cls(int(micro), int(accumulation), "flat" in extras, "compile" in extras)

    def __str__(self) -> str:
        return f"{self.micro_batch}x{self.accumulation}{'+flat' * self.flat}{'+compile' * self.compiled}"


def tunesmith_config(work: Work) -> dict[str, Any]:
    """`job.yaml`. Everything that makes it fast is left to Tunesmith."""
    settings = {
        **tunesmith_settings(work.method),
        "max_steps": work.steps,
        "save_steps": work.steps,
        "bf16": work.bf16,
    }
    return {
        "method": work.method,
        "model": {"name": str(work.model)},
        "training_data": {"path": str(work.raw_rows)},
        "hyperparameters": settings,
    }


def tunesmith_settings(method: str) -> dict[str, Any]:
    """Hyperparameters that do not hang on the run's length."""
    adapter = {} if method == "standard" else {"lora_r": LORA_R, "lora_alpha": LORA_ALPHA, "lora_dropout": 0.0}
    return {
        **adapter,
        "batch_size": ROWS_A_STEP,
        "gradient_accumulation_steps": 1,
        "learning_rate": LEARNING_RATES[method],
        "scheduler": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "max_length": MAX_LENGTH_TOKENS,
        "validation_split": 0.0,
        "save_best_model": False,
        "seed": SEED,
    }


def _trainer_arguments(work: Work, out: Path) -> dict[str, Any]:
    """Names that transformers' Trainer, TRL and LLaMA-Factory share."""
    return {
        "output_dir": str(out),
        "max_steps": work.steps,
        "learning_rate": LEARNING_RATES[work.method],
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": SEED,
        "bf16": work.bf16,
        "use_cpu": not work.cuda,
        "per_device_train_batch_size": ROWS_A_STEP,
        "gradient_accumulation_steps": 1,
    }


def _tuned(layout: Layout) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": layout.micro_batch,
        "gradient_accumulation_steps": layout.accumulation,
        "torch_compile": layout.compiled,
    }


def trl_request(work: Work, out: Path, marks: Path, layout: Layout | None) -> dict[str, Any]:
    """What `trl_sft.py` reads; `layout` None means TRL's defaults."""
    sft = {**_trainer_arguments(work, out), "max_length": MAX_LENGTH_TOKENS, "train_sampling_strategy": "sequential"}
    if layout:
        # All weights keep fp32 masters under autocast; a frozen base need not.
        dtype = "bfloat16" if work.bf16 and work.method != "standard" else "float32"
        sft |= _tuned(layout) | {
            "gradient_checkpointing": False,
            "logging_nan_inf_filter": False,
            "model_init_kwargs": {"dtype": dtype, "attn_implementation": "sdpa"},
        }
        if layout.flat:  # the rows are cut already; TRL wants to hear that it need not
            sft |= {"padding_free": True, "max_length": None}
    lora = {"r": LORA_R, "lora_alpha": LORA_ALPHA, "lora_dropout": 0.0, "target_modules": "all-linear"}
    return {
        "model": str(work.model),
        "rows": str(work.rows),
        "marks": str(marks),
        "sft": sft,
        "lora": None if work.method == "standard" else lora,
        "four_bit": work.method == "qlora",
        "bf16_products": bool(layout) and work.bf16,
    }


def llamafactory_config(work: Work, out: Path, layout: Layout | None) -> dict[str, Any]:
    """LLaMA-Factory's configuration file; `layout` None means its defaults."""
    config = {
        **_trainer_arguments(work, out),
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(work.model),
        "template": "smollm2",
        "dataset": "tokenised",  # it wants a name even where tokenized_path has the rows
        "tokenized_path": str(work.llamafactory_rows),
        "cutoff_len": MAX_LENGTH_TOKENS,
        "disable_shuffling": True,
        "finetuning_type": "full" if work.method == "standard" else "lora",
    }
    if work.method != "standard":
        config |= {"lora_rank": LORA_R, "lora_alpha": LORA_ALPHA, "lora_dropout": 0.0, "lora_target": "all"}
    if work.method == "qlora":
        config |= {"quantization_bit": 4, "quantization_method": "bnb"}
    if layout:
        config |= _tuned(layout) | {
            "disable_gradient_checkpointing": True,
            "flash_attn": "sdpa",
            "logging_nan_inf_filter": False,
        }
    return config


def chosen(text: str, contenders: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The contenders named in `--only`, with commas between. Ends the program when one is not known."""
    names = [name.strip() for name in text.split(",")]
    if unknown := set(names) - set(contenders):
        parser.error(f"--only knows {', '.join(contenders)}, not {', '.join(sorted(unknown))}")
    return names
