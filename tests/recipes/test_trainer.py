"""The `Trainer` knows nothing of language: a linear regression whose score is better when it is higher."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.recipes.ground import Ground, events
from tunesmith.core.events import StepEvent
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.job_spec import Control
from tunesmith.core.recipe import MetricSpec
from tunesmith.recipes.blocks import checkpointing
from tunesmith.recipes.blocks.task import Losses, Share, Task
from tunesmith.recipes.blocks.trainer import Trainer
from tunesmith.recipes.hyperparameters import TrainerParams
from tunesmith.worker.run import Run

METRICS = (
    MetricSpec(name="loss", title="Squared error"),
    MetricSpec(name="r2", title="Explained variance", better="higher", is_primary=True),
)
PARAMS: dict[str, Any] = {"learning_rate": 0.05, "batch_size": 8, "max_steps": 12, "eval_steps": 1, "save_steps": 4,
                          "scheduler": "constant", "warmup_steps": 0}  # fmt: skip


class Regression(Task):
    """y = x · w over four columns; rows cost the same."""

    def __init__(self, scores: list[float] | None = None) -> None:
        numbers = np.random.default_rng(0)
        self.x = torch.from_numpy(numbers.normal(size=(64, 4)).astype(np.float32))
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5, 3.0])
        torch.manual_seed(0)
        super().__init__(nn.Linear(4, 1), METRICS, np.ones(48, np.int64), step_values=("mean_error",))
        self.scores = scores
        """What evaluations are made to find, one after the other."""

    @property
    def num_held_out(self) -> int:
        return 16

    def batch(self, places: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[places].to(device), self.y[places].to(device)

    def loss(self, batch: tuple[torch.Tensor, torch.Tensor]) -> Losses:
        errors = self.model(batch[0])[:, 0] - batch[1]
        return Losses((errors**2).sum(), {"mean_error": errors.sum()})

    def evaluate(self, share: Share, device: torch.device) -> dict[str, float]:
        wrong = 0.0
        with torch.no_grad():
            for part, counts in share.split(np.arange(16), np.ones(16)):
                wrong += counts * float(((self.model(self.x[48 + part])[:, 0] - self.y[48 + part]) ** 2).sum())
        (wrong,) = share.sum(wrong)
        r2 = 1 - wrong / float(((self.y[48:] - self.y[48:].mean()) ** 2).sum())
        return {"loss": wrong / 16, "r2": self.scores.pop(0) if self.scores else r2}


def trainer(run: Run, scores: list[float] | None = None, **params: Any) -> Trainer:
    made = Trainer(run, TrainerParams(**{**PARAMS, **params}), Regression(scores), torch.device("cpu"))
    made.take_up()
    return made


def weights(made: Trainer) -> np.ndarray:
    return made.model.weight.detach().numpy().copy()  # type: ignore[union-attr,operator]


def test_numbers_of_a_step_are_means_over_its_rows(ground: Ground) -> None:
    whole, parts = trainer(ground.run()), trainer(ground.run(), batch_size=3, gradient_accumulation_steps=4)
    other = trainer(ground.run(), batch_size=12)
    places = whole.order.rows_of(0)
    errors = whole.model(whole.task.x[places])[:, 0].detach() - whole.task.y[places]  # type: ignore[attr-defined]
    assert whole.fit() == "completed"
    first = events(whole.run, "step")[0]
    assert first.values == pytest.approx({"loss": float((errors**2).mean()), "mean_error": float(errors.mean())})
    assert parts.fit() == other.fit() == "completed"
    assert weights(parts) == pytest.approx(weights(other), rel=1e-5), "accumulation changes nothing"


def test_the_best_is_the_highest(ground: Ground) -> None:
    scores = [0.1, 0.5, 0.9, 0.3, float("nan"), 0.2]
    made = trainer(ground.run(), scores, max_steps=6)
    seen: list[np.ndarray] = []
    made.run.observe(lambda event: seen.append(weights(made)) if isinstance(event, StepEvent) else None)
    assert made.fit() == "completed"
    assert [event.is_best for event in events(made.run, "evaluation")] == [True, True, True, False, False, False]
    assert (made.state.best_score, made.state.best_step) == (0.9, 3)
    assert np.array_equal(weights(made), seen[2]), "the weights of the best step are left"
    assert made.final_scores()["r2"] == 0.9 and "eval_loss" in made.final_scores()


def test_it_stops_when_the_score_no_longer_rises(ground: Ground) -> None:
    stopping = {"enabled": True, "patience": 2, "min_delta": 0.05}
    made = trainer(ground.run(), [0.1, 0.5, 0.52, 0.51, 0.9], early_stopping=stopping)
    assert made.fit() == "completed"
    assert made.state.step == 4 and made.state.best_step == 3
    assert any("no better r2 in 2 evaluations" in event.message for event in events(made.run, "notice"))


def test_a_paused_run_goes_on_to_the_last_digit(ground: Ground) -> None:
    whole = trainer(ground.run())
    assert whole.fit() == "completed"
    paused = trainer(ground.run())

    def look(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == 5:
            write_atomic(paused.run.dir.control, Control(pause=True))

    paused.run.observe(look)  # type: ignore[attr-defined]
    assert paused.fit() == "paused" and paused.state.step == 5
    write_atomic(paused.run.dir.control, Control())
    again = trainer(ground.again(paused.run))  # type: ignore[arg-type]
    assert again.fit() == "completed" and again.state.best_score == whole.state.best_score
    assert np.array_equal(weights(again), weights(whole))
    steps = {event.step: event.values for event in events(again.run, "step")}
    assert steps == {event.step: event.values for event in events(whole.run, "step")}


def test_a_checkpoint_of_before_is_read(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer(ground.run(), max_steps=4)

    def as_before(state: checkpointing.State) -> dict[str, Any]:
        told = asdict(state)
        return {("best_loss" if name == "best_score" else name): value for name, value in told.items()}

    monkeypatch.setattr(checkpointing, "asdict", as_before)
    assert made.fit() == "completed"
    assert '"best_loss"' in (made.run.dir.latest_checkpoint() / "state.json").read_text()  # type: ignore[operator]
    again = trainer(ground.again(made.run))  # type: ignore[arg-type]
    found = again.checkpoints.resume()
    assert found and (found.best_score, found.best_step) == (made.state.best_score, made.state.best_step)
    assert found.best_score is not None


def test_memory_that_runs_out_halves_the_micro_batch(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    made, whole = trainer(ground.run(), max_steps=3), trainer(ground.run(), max_steps=3)
    lossless = made.task.loss

    def loss(batch: Any) -> Losses:
        if len(batch[0]) > 2:
            raise MemoryError
        return lossless(batch)

    monkeypatch.setattr(made.task, "loss", loss)
    assert made.fit() == whole.fit() == "completed" and made.state.micro_batch == 2
    assert weights(made) == pytest.approx(weights(whole), rel=1e-5)
