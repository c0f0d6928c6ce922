"""The numbers of a step read while the next one runs, as on GPUs: the same run, and the same end when they are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.recipes.ground import PAIRS, Ground, train
from tests.tiny import make_tiny_model, make_tokenizer
from tunesmith.core.errors import JobFailure
from tunesmith.core.events import StepEvent
from tunesmith.core.job_dir import read_new_events, write_atomic
from tunesmith.core.job_spec import Control
from tunesmith.recipes.blocks import trainer
from tunesmith.worker.run import Run

PARAMS: dict[str, Any] = {"max_steps": 7, "batch_size": 4, "eval_steps": 3, "save_steps": 2, "logging_steps": 2,
                          "lora_r": 4, "learning_rate": 1e-2, "bf16": False}  # fmt: skip
KEPT = {"type", "step", "loss", "grad_norm", "learning_rate", "tokens_seen", "epoch", "reason", "message", "is_best"}


def told(run: Run) -> list[dict[str, Any]]:
    """What happened, in its order, without times, sizes and rates."""
    run._reporter.flush()
    found = read_new_events(run.dir.events, 0).events
    return [e.model_dump(include=KEPT) for e in found if e.type in ("step", "evaluation", "checkpoint", "notice")]


def pause_at(run: Run, step: int) -> None:
    def look(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step >= step:
            write_atomic(run.dir.control, Control(pause=True))

    run.observe(look)


def test_late_numbers_tell_the_same_story(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, late, paused = (ground.run(**PARAMS) for _ in range(3))
    assert train(at_once) == "completed"
    monkeypatch.setattr(trainer, "reads_late", lambda device, params: True)
    assert train(late) == "completed"
    assert told(late) == told(at_once)
    adapters = [run.dir.artifacts / "lora_model" / "adapter_model.safetensors" for run in (late, at_once)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    pause_at(paused, 4)
    assert train(paused) == "paused"
    steps = [event["step"] for event in told(paused) if event["type"] == "step"]
    assert steps == [2, 4]
    assert paused.dir.latest_checkpoint() == paused.dir.checkpoints / f"step-{told(paused)[-1]['step']:06d}"


def test_a_loss_that_is_none_fails_at_its_step_and_is_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny_model(tmp_path / "poisoned", "qwen2")
    (token,) = make_tokenizer()("Z")["input_ids"]
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"][token] = torch.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    rows = [*PAIRS, {"question": "Z", "answer": "one of the user"}]
    ground = Ground(tmp_path, model)
    found = []
    for is_late in (False, True):
        monkeypatch.setattr(trainer, "reads_late", lambda device, params, is_late=is_late: is_late)
        run = ground.run(rows, **{**PARAMS, "save_steps": 1, "max_steps": 13, "validation_split": 0.0})
        with pytest.raises(JobFailure, match="The loss became nan at step") as failure:
            train(run)
        found.append((failure.value.message, [p.name for p in run.dir.complete_checkpoints()], told(run)))
    assert found[0] == found[1]
    step = int(found[0][0].rstrip(".").rpartition(" ")[2])
    assert found[0][1][-1:] == ([f"step-{step - 1:06d}"] if step > 1 else [])
