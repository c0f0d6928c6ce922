"""The training loop of every task. It owns the order of the rows and every random state, so that a run that is killed at
any instant and goes on from its last checkpoint takes exactly the steps that it would have taken (to the last digit on CPUs)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from tunesmith.core.clock import monotonic_s
from tunesmith.core.events import EvaluationEvent, StepEvent
from tunesmith.core.job_spec import Control
from tunesmith.core.recipe import Outcome, RunContext
from tunesmith.engine import compiling, sharding
from tunesmith.engine.optim import Masters, build_optimizer, learning_rate_factor
from tunesmith.engine.ranks import Ranks
from tunesmith.recipes.blocks.checkpointing import Checkpoints, State
from tunesmith.recipes.blocks.control import agreed
from tunesmith.recipes.blocks.micro_batch import Halving
from tunesmith.recipes.blocks.numbers import Place, StepNumbers
from tunesmith.recipes.blocks.row_order import RowOrder
from tunesmith.recipes.blocks.speed import Speed
from tunesmith.recipes.blocks.task import Share, Task
from tunesmith.recipes.hyperparameters import TrainerParams

T = TypeVar("T")

LEAST_LOSS_SCALE = 2.0**-6
"""When fp16 gradients overflow even at this scale, they are not small numbers lost to the format but wrong."""


def reads_late(device: torch.device, params: TrainerParams) -> bool:
    """Whether the numbers of a step are read while the next one runs, so that the GPU never waits for this process. A step that
    came out as no number is then followed by one more before the job fails; no checkpoint is made of either.

    With fp16 the norm decides at once whether the step counts.
    """
    return device.type == "cuda" and not params.fp16


class Trainer:
    """Trains what `task.model` has to train. `take_up` comes before `fit`."""

    def __init__(
        self, run: RunContext, params: TrainerParams, task: Task, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.run, self.params, self.task, self.device, self.ranks = run, params, task, device, ranks or Ranks()
        self.model = task.model
        self.is_sharded = params.sharding != "none"
        self.reads_late = reads_late(device, params)
        self._unread: StepNumbers | None = None
        self.rows_per_step = params.batch_size * params.gradient_accumulation_steps * self.ranks.count
        digest = run.spec.dataset.digest if run.spec.dataset else ""
        self.order = RowOrder(len(task.lengths), self.rows_per_step, params.seed, digest)
        self.total_steps = params.max_steps or max(1, round(self.order.steps_per_epoch * params.epochs))
        warmup = params.warmup_steps
        self.warmup_steps = round(self.total_steps * params.warmup_ratio) if warmup is None else warmup
        tenth = max(1, self.total_steps // 10)
        self.eval_steps, self.save_steps = params.eval_steps or tenth, params.save_steps or tenth
        self.halving = Halving(run, params, device)
        self.state = State(micro_batch=params.batch_size, peak_learning_rate=params.learning_rate)
        self.state.loss_scale = 2.0**14 if params.fp16 else 1.0
        for _ in range(int(os.environ.get("TUNESMITH_OOM_KILLS", "0"))):
            self.halving.halve(self.state, "The kernel ended the last attempt for want of memory")
        self.speed = Speed(self.model, device)
        self._scored: dict[int, dict[str, float]] = {}
        """What the weights of the best and of the last evaluated step scored in this attempt."""

    def take_up(self) -> None:
        """Share the model out where that is asked for; then make masters and optimizer of what is trained."""
        params, model = self.params, self.model
        if self.is_sharded:
            sharding.shard(model, params.sharding, params.sharding_offload, self.ranks, self.device)
        self.masters = masters = Masters(p for p in model.parameters() if p.requires_grad)
        self.optimizer = build_optimizer(params.optimizer, masters.masters, params.learning_rate, params.weight_decay)
        keep = params.save_total_limit
        self.checkpoints = Checkpoints(self.run, self.masters, self.optimizer, self.device, keep)

    # -- the run, told from the top ---------------------------------------------------------------------------------

    def fit(self) -> str:
        """Train to the end, or until asked to stop. Returns an `Outcome`."""
        self._resume()
        self.run.phase("training")
        self.model.train()
        self.speed.start(self.state.elapsed_s)
        while self.state.step < self.total_steps and not self._patience_is_over():
            control = agreed(self.run.control(), self.ranks)
            if control.stop:
                self._settle()
                return Outcome.CANCELLED
            if control.pause:
                self._checkpoint("pause")
                return Outcome.PAUSED
            self._obey(control)
            self._step()
            if self._due(self.eval_steps) and self.task.num_held_out:
                self._evaluate_and_judge()
            if self._due(self.save_steps) and self.state.step < self.total_steps:
                self._checkpoint("schedule")
        if self.state.step < self.total_steps:
            stopping = self.params.early_stopping
            why = f"no better {self.task.watched(stopping)} in {stopping.patience} evaluations"
            self.run.notice(f"Stopped early at step {self.state.step}: {why}.")
        self._checkpoint("final")
        if self.params.save_best_model and self.state.best_step not in (None, self.state.step):
            self.checkpoints.load_weights(self.state.best_step)
            self.run.notice(f"Kept the weights of step {self.state.best_step}, the best on the held-out rows.")
        return Outcome.COMPLETED

    def _patience_is_over(self) -> bool:
        stopping = self.params.early_stopping
        return stopping.enabled and self.state.evaluations_without_gain >= stopping.patience

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.total_steps

    def _obey(self, control: Control) -> None:
        if control.learning_rate_seq > self.state.learning_rate_seq and control.learning_rate is not None:
            self.state.learning_rate_seq = control.learning_rate_seq
            self.state.peak_learning_rate = control.learning_rate
            self.run.notice(f"The peak learning rate is {control.learning_rate:g} from step {self.state.step + 1} on.")
        if control.checkpoint_seq > self.state.checkpoint_seq:
            self.state.checkpoint_seq = control.checkpoint_seq
            self._checkpoint("request")

    # -- one optimizer step -----------------------------------------------------------------------------------------

    def _step(self) -> None:
        places, task = self.order.rows_of(self.state.step), self.task
        weight = task.weight_of(places)
        values = self.within_memory(lambda: self.accumulate(places, weight)).double()
        self.ranks.sum_tensor(values)
        if not self.is_sharded:
            self.ranks.sum_gradients(self.masters.params)
        norm = self.masters.take_gradients(1.0 / self.state.loss_scale)
        factor = learning_rate_factor(self.params.scheduler, self.state.step, self.total_steps, self.warmup_steps)
        place = Place(
            self.state.step + 1,
            self.state.peak_learning_rate * factor,
            self.state.tokens_seen + int(task.lengths[places].sum()),
            self.state.rows_seen + len(places),
        )
        numbers = StepNumbers.of(place, values, norm)
        self._apply(numbers, norm)
        self.masters.give_back()
        self.state.step, _, self.state.tokens_seen, self.state.rows_seen = place
        self._settle()
        self._unread = numbers
        if not self.reads_late:
            self._settle()

    def _apply(self, numbers: StepNumbers, norm: torch.Tensor) -> None:
        """Let the optimizer take the step, unless its numbers are read at once and are none."""
        if not self.reads_late:
            numbers.check(norm_too=not self.params.fp16)
        if self.params.fp16 and not math.isfinite(numbers.read()[1]):
            self.state.loss_scale /= 2  # fp16 overflowed: this step is left out
            if self.state.loss_scale < LEAST_LOSS_SCALE:
                numbers.check()
            return
        self.masters.clip(self.params.max_grad_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = numbers.place.learning_rate
        self.optimizer.step()

    def _settle(self) -> None:
        """Read, check and tell the numbers of the last step, if nobody has yet. Raises `JobFailure` when they are none."""
        numbers, self._unread = self._unread, None
        if numbers is not None:
            numbers.check(norm_too=not self.params.fp16)
            self._log(numbers)

    def within_memory(self, compute: Callable[[], T]) -> T:
        """What `compute` gives, begun again with half the micro-batch whenever memory runs out."""
        return self.halving.within(self.state, self.masters.params, compute)

    @property
    def share(self) -> Share:
        """This rank's part of the rows, in micro-batches of the present size."""
        return Share(self.ranks, self.state.micro_batch, self.is_sharded)

    def accumulate(self, places: np.ndarray, weight: float) -> torch.Tensor:
        """Leave gradients of the loss over the rows at `places`, divided by `weight`. Returns this rank's share of it and of what
        else the task measures, (1 + step values,) fp32."""
        task = self.task
        total = torch.zeros(1 + len(task.step_values), dtype=torch.float32, device=self.device)
        for part, counts in self.share.split(places, task.lengths):
            batch = task.batch(part, self.device)
            with task.around(batch):
                losses = task.loss(batch)
                loss = losses.sum * counts / (weight or 1)
                (loss * self.state.loss_scale).backward()
            total[0] += loss.detach()
            if task.step_values:
                others = torch.stack([losses.values[name].detach().float() for name in task.step_values])
                total[1:] += others * counts / (weight or 1)
        return total

    def _log(self, numbers: StepNumbers) -> None:
        (step, learning_rate, tokens_seen, rows_seen), (values, norm) = numbers.place, numbers.read()
        since, names = self.state.since_log, ("loss", *self.task.step_values)
        for name, value in zip(names, values, strict=True):
            since[name] = since.get(name, 0.0) + value
        since["steps"] += 1
        self.speed.step(tokens_seen, rows_seen)
        self.state.elapsed_s = self.speed.elapsed_s
        if step % self.params.logging_steps and step != self.total_steps:
            return
        self.run.report(
            StepEvent(
                step=step,
                total_steps=self.total_steps,
                epoch=step / self.order.steps_per_epoch,
                values={name: since[name] / since["steps"] for name in names},
                learning_rate=learning_rate,
                grad_norm=norm,
                tokens_seen=tokens_seen,
                elapsed_s=self.state.elapsed_s,
                **self.speed.read(self.total_steps - step),
            )
        )
        self.state.since_log = {"loss": 0.0, "steps": 0}

    # -- the held-out rows ------------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, float]:
        """The task's scores on the held-out rows, by names of its metrics."""
        self.model.eval()
        with compiling.eager():
            scores = self.within_memory(lambda: self.task.evaluate(self.share, self.device))
        sharding.reset(self.model)
        self.model.train()
        return scores

    def final_scores(self) -> dict[str, float]:
        """As `evaluate`, of the weights that `fit` has left and under the names of final numbers; not computed again where
        these weights were evaluated in the run."""
        step = self.state.step
        if self.params.save_best_model and self.state.best_step is not None:
            step = self.state.best_step
        if step not in self._scored:
            self.run.phase("evaluating")
            began_s = monotonic_s()
            self._scored[step] = self.evaluate()
            self.state.evaluation_s += monotonic_s() - began_s
        return self.task.final_names(self._scored[step])

    def _evaluate_and_judge(self) -> None:
        """Evaluate, keep the best, and count evaluations that brought too little."""
        self._settle()
        self.run.phase("evaluating")
        pause_s = monotonic_s()
        scores = self.evaluate()
        self._scored = {step: told for step, told in self._scored.items() if step == self.state.best_step}
        self._scored[self.state.step] = scores
        better = self._judge(scores[self.task.primary.name])
        self.run.report(EvaluationEvent(step=self.state.step, values=scores, is_best=better))
        took_s = monotonic_s() - pause_s
        self.state.evaluation_s += took_s
        self.speed.skip(took_s)
        if better and self.params.save_best_model and self.state.step < self.total_steps:
            self._checkpoint("best")
        self.run.phase("training")

    def _judge(self, score: float) -> bool:
        """Whether `score`, of the primary metric, is the best so far; counts how often it was not better by enough."""
        state, metric, best = self.state, self.task.primary, self.state.best_score
        gain = math.inf if best is None else (best - score) if metric.better == "lower" else (score - best)
        if metric.better is None or not math.isfinite(score):
            gain = -math.inf
        enough = gain > self.task.least_gain(best, self.params.early_stopping)
        state.evaluations_without_gain = 0 if enough else state.evaluations_without_gain + 1
        if gain > 0:
            state.best_score, state.best_step = score, state.step
        return gain > 0

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _checkpoint(self, reason: str) -> None:
        self._settle()
        began_s = monotonic_s()
        self.checkpoints.write(self.state, reason)
        took_s = monotonic_s() - began_s
        self.state.checkpoint_s += took_s
        self.speed.skip(took_s)

    def _resume(self) -> None:
        """Go on from the last complete checkpoint, if there is one."""
        found = self.checkpoints.resume()
        if found is None:
            return
        found.micro_batch = min(self.state.micro_batch, found.micro_batch)
        self.state = found
        self.run.notice(f"Going on from the checkpoint of step {self.state.step}.", code="resumed")
