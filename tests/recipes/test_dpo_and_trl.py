"""The losses of DPO are those of TRL's `DPOTrainer`, step by step, on the same tokens in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.recipes.ground import Ground, losses, params_of, train
from tests.recipes.test_dpo import MAPPING, PAIRS
from tunesmith.core.job_spec import ModelRef
from tunesmith.engine.lora import peft_state
from tunesmith.recipes.blocks.adapter import add_adapter
from tunesmith.recipes.blocks.loading import load_causal_lm, load_tokenizer
from tunesmith.recipes.blocks.row_order import RowOrder
from tunesmith.recipes.dpo.pairs import load_pairs
from tunesmith.worker.run import Run

trl = pytest.importorskip("trl", reason="TRL is not installed: pip install --no-deps trl")
STEPS, ROWS_A_STEP = 50, 4
PARAMS: dict[str, Any] = {
    "max_steps": STEPS, "batch_size": ROWS_A_STEP, "learning_rate": 1e-3, "scheduler": "constant", "warmup_steps": 0,
    "weight_decay": 0.0, "max_grad_norm": 1.0, "validation_split": 0.0, "bf16": False, "max_length": 64, "save_steps": STEPS,
    "comparison_questions": 0, "lora_r": 4,
}  # fmt: skip


def tokens_in_order(run: Run) -> list[dict[str, list[int]]]:
    """The pairs that our run reads, one step after the other, as TRL keeps them."""
    data, params = run.spec.dataset, params_of(run)
    pairs = load_pairs(run, data, load_tokenizer(run.spec.model.path), params)  # type: ignore[arg-type,union-attr]
    order = RowOrder(len(pairs), ROWS_A_STEP, params.seed, data.digest)  # type: ignore[union-attr]
    found = []
    for place in np.concatenate([order.rows_of(step) for step in range(STEPS)]):
        (good, labels), (bad, _) = pairs.rows(np.array([place]))
        begin = int(np.argmax(labels != -100))
        found.append({"prompt_ids": good[:begin].tolist(), "chosen_ids": good[begin:].tolist(),
                      "rejected_ids": bad[begin:].tolist()})  # fmt: skip
    return found


def trl_losses(
    folder: Path, model: Path, rows: list[dict[str, list[int]]], *, adapter: bool, alone: bool, **settings: Any
) -> list[float]:
    """`alone`: one pair at a time."""
    from peft import LoraConfig, set_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    from datasets import Dataset

    class TokensAreGiven(trl.DPOTrainer):  # type: ignore[misc,name-defined]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    size = 1 if alone else ROWS_A_STEP
    args = trl.DPOConfig(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=size, gradient_accumulation_steps=ROWS_A_STEP // size,
        learning_rate=PARAMS["learning_rate"], lr_scheduler_type="constant", weight_decay=0.0, max_grad_norm=1.0, bf16=False,
        use_cpu=True, gradient_checkpointing=False, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
        train_sampling_strategy="sequential", max_length=None, **settings,
    )  # fmt: skip
    config = LoraConfig(r=4, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = TokensAreGiven(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), args=args,
        train_dataset=Dataset.from_list(rows), processing_class=load_tokenizer(str(model)),
        peft_config=config if adapter else None,
    )  # fmt: skip
    if adapter:  # the same numbers to begin with
        ref = ModelRef(name="tiny", path=str(model))
        ours = load_causal_lm(ref, dtype=torch.float32, device=torch.device("cpu"), offline=True)
        from tunesmith.recipes.dpo.spec import DpoParams

        add_adapter(ours, DpoParams(lora_r=4), DpoParams().seed)
        set_peft_model_state_dict(trainer.model, peft_state(ours))
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {"loss_type": ["sigmoid"]}),
        ({"adapter": True}, {"loss_type": ["sigmoid"]}),
        ({"loss": "ipo", "beta": 0.5}, {"loss_type": ["ipo"], "beta": 0.5}),
        ({"loss": "hinge", "beta": 0.3}, {"loss_type": ["hinge"], "beta": 0.3}),
        ({"loss": "robust", "label_smoothing": 0.1}, {"loss_type": ["robust"], "label_smoothing": 0.1}),
        ({"rpo_alpha": 0.5}, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}),
    ],
    ids=["sigmoid", "sigmoid-lora", "ipo", "hinge", "robust", "rpo"],
)
def test_losses_are_those_of_trl(ground: Ground, tmp_path: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    settings = {"adapter": False, **ours}
    run = ground.run(PAIRS, recipe="dpo", shape="preference", mapping=MAPPING, **PARAMS, **settings)
    rows = tokens_in_order(run)
    assert train(run) == "completed"
    alone = "rpo_alpha" in ours  # TRL's part of the chosen answers depends on which pairs share a micro-batch
    expected = trl_losses(tmp_path / "trl", ground.model, rows, adapter=settings["adapter"], alone=alone, **theirs)
    found = losses(run)
    assert len(found) == len(expected) == STEPS
    assert found == pytest.approx(expected, abs=1e-4, rel=0)
    assert abs(found[-1] - found[0]) > 0.01, "something was learned"
