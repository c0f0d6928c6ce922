"""Evaluations and checkpoints of a run: none is computed twice, and what they took is told."""

from __future__ import annotations

import pytest

from tests.recipes.ground import Ground, events, train
from tunesmith.recipes.blocks.trainer import Trainer
from tunesmith.worker.run import Run


def told(run: Run) -> dict[str, float]:
    return {name: value for event in events(run, "metrics") for name, value in event.values.items()}


def test_the_last_evaluation_is_not_computed_again(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[int] = []
    evaluate = Trainer.evaluate

    def counted(trainer: Trainer) -> dict[str, float]:
        evaluated.append(trainer.state.step)
        return evaluate(trainer)

    monkeypatch.setattr(Trainer, "evaluate", counted)
    run = ground.run(max_steps=3, batch_size=4, max_length=64, eval_steps=1, save_steps=3, learning_rate=0.5)
    assert train(run) == "completed" and evaluated == [1, 2, 3]
    found = {event.step: event.loss for event in events(run, "evaluation")}
    metrics = told(run)
    assert metrics["eval_loss"] == min(found.values())
    assert metrics["evaluation_s"] > 0 and metrics["checkpoint_s"] > 0
    again = ground.again(run)
    assert train(again) == "completed" and evaluated[3:] == [3], "what another attempt has computed is not known"
    assert told(again)["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-6), "and it was of the same weights"
