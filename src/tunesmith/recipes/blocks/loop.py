"""The training loop. It owns the order of the rows and every random state, so that a run that is killed at any instant and
goes on from its last checkpoint takes exactly the steps that it would have taken (to the last digit on CPUs)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch

from tunesmith.core.clock import monotonic_s
from tunesmith.core.errors import FailureCode, JobFailure, is_out_of_memory
from tunesmith.core.events import EvaluationEvent, StepEvent
from tunesmith.core.job_spec import Control
from tunesmith.core.recipe import Outcome, RunContext
from tunesmith.engine import compiling, sharding
from tunesmith.engine.attention import rows_of
from tunesmith.engine.forward import Forward
from tunesmith.engine.optim import Masters, build_optimizer, learning_rate_factor
from tunesmith.engine.packing import PackedBatch, pack
from tunesmith.engine.ranks import Ranks
from tunesmith.recipes.blocks.checkpointing import Checkpoints, State, random_states, set_random_states
from tunesmith.recipes.blocks.memory import kept_bytes
from tunesmith.recipes.blocks.numbers import Place, StepNumbers
from tunesmith.recipes.blocks.speed import Speed
from tunesmith.recipes.blocks.token_rows import TokenRows
from tunesmith.recipes.hyperparameters import SftParams

T = TypeVar("T")

PROBE_TOKENS = 32
"""Length of a row that tells what a token costs: what does not grow with the tokens hardly weighs."""
LEAST_LOSS_SCALE = 2.0**-6
"""When fp16 gradients overflow even at this scale, they are not small numbers lost to the format but wrong."""


def reads_late(device: torch.device, params: SftParams) -> bool:
    """Whether the numbers of a step are read while the next one runs, so that the GPU never waits for this process. A step that
    came out as no number is then followed by one more before the job fails; no checkpoint is made of either.

    With fp16 the norm decides at once whether the step counts.
    """
    return device.type == "cuda" and not params.fp16


class Loop:
    """Trains what `forward.model` has to train on `rows[train]`, evaluating on `held_out`. `take_up` comes before `fit`."""

    def __init__(
        self,
        run: RunContext,
        params: SftParams,
        forward: Forward,
        rows: TokenRows,
        train: np.ndarray,
        held_out: tuple[TokenRows, np.ndarray],
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.run, self.params, self.forward, self.device, self.ranks = run, params, forward, device, ranks
        self.rows, self.train, self.held_out = rows, train, held_out
        self.is_sharded = params.sharding != "none"
        self.reads_late = reads_late(device, params)
        self._unread: StepNumbers | None = None
        self.rows_per_step = params.batch_size * params.gradient_accumulation_steps * self.ranks.count
        steps_per_epoch = max(1, math.ceil(len(train) / self.rows_per_step))
        self.total_steps = params.max_steps or max(1, round(steps_per_epoch * params.epochs))
        self.steps_per_epoch = steps_per_epoch
        if params.warmup_steps is not None:
            self.warmup_steps = params.warmup_steps
        else:
            self.warmup_steps = round(self.total_steps * params.warmup_ratio)
        tenth = max(1, self.total_steps // 10)
        self.eval_steps, self.save_steps = params.eval_steps or tenth, params.save_steps or tenth
        self.state = State(micro_batch=params.batch_size, peak_learning_rate=params.learning_rate)
        self.state.loss_scale = 2.0**14 if params.fp16 else 1.0
        for _ in range(int(os.environ.get("TUNESMITH_OOM_KILLS", "0"))):
            self._halve("The kernel ended the last attempt for want of memory")
        self.speed = Speed(forward.model, device)
        self.num_supervised, self.lengths = rows.num_supervised[train], rows.lengths[train]
        self._order: tuple[int, np.ndarray] = (-1, train)
        self._scored: dict[int, dict[str, float]] = {}
        """What the weights of the best and of the last evaluated step scored in this attempt."""

    def take_up(self) -> None:
        """Share the model out where that is asked for; then make masters and optimizer of what is trained."""
        params, model = self.params, self.forward.model
        if self.is_sharded:
            sharding.shard(model, params.sharding, params.sharding_offload, self.ranks, self.device)
        self.masters = Masters(p for p in model.parameters() if p.requires_grad)
        self.optimizer = build_optimizer(
            params.optimizer, self.masters.masters, params.learning_rate, params.weight_decay
        )
        self.checkpoints = Checkpoints(
            self.run, self.masters, self.optimizer, self.device, keep=params.save_total_limit
        )

    # -- the run, told from the top ---------------------------------------------------------------------------------

    def fit(self) -> str:
        """Train to the end, or until asked to stop. Returns an `Outcome`."""
        self._resume()
        self.run.phase("training")
        self.forward.model.train()
        self.speed.start(self.state.elapsed_s)
        while self.state.step < self.total_steps and not self._patience_is_over():
            control = self._agreed(self.run.control())
            if control.stop:
                self._settle()
                return Outcome.CANCELLED
            if control.pause:
                self._checkpoint("pause")
                return Outcome.PAUSED
            self._obey(control)
            self._step()
            if self._due(self.eval_steps) and len(self.held_out[1]):
                self._evaluate_and_judge()
            if self._due(self.save_steps) and self.state.step < self.total_steps:
                self._checkpoint("schedule")
        if self.state.step < self.total_steps:
            self.run.notice(
                f"Stopped early at step {self.state.step}: no better "
                f"{self.params.early_stopping.metric} in {self.params.early_stopping.patience} evaluations."
            )
        self._checkpoint("final")
        if self.params.save_best_model and self.state.best_step not in (None, self.state.step):
            self.checkpoints.load_weights(self.state.best_step)
            self.run.notice(f"Kept the weights of step {self.state.best_step}, the best on the held-out rows.")
        return Outcome.COMPLETED

    def _agreed(self, control: Control) -> Control:
        """What every rank knows of by now: all of them must act at the same step."""
        if self.ranks.count == 1:
            return control
        seen = (float(control.stop), float(control.pause), control.checkpoint_seq, control.learning_rate_seq)
        stop, pause, checkpoint, learning_rate = self.ranks.least(*seen)
        return control.model_copy(
            update={
                "stop": bool(stop),
                "pause": bool(pause),
                "checkpoint_seq": int(checkpoint),
                "learning_rate_seq": int(learning_rate),
            }
        )

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

    def _rows_of_step(self, step: int) -> np.ndarray:
        """Places in `train` of the rows of `step`, counted from 0: a function of seed, data and step alone."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if self._order[0] != epoch:
            digest = int(self.run.spec.dataset.digest[:16] or "0", 16) if self.run.spec.dataset else 0
            order = np.random.default_rng([self.params.seed, epoch, digest]).permutation(len(self.train))
            self._order = (epoch, order)
        order = self._order[1]
        return order[within * self.rows_per_step : (within + 1) * self.rows_per_step]

    def micro_batches(self, epoch: int) -> Iterator[list[int]]:
        """The lengths, tokens, of the rows of each micro-batch of an epoch, of this rank."""
        for step in range(epoch * self.steps_per_epoch, (epoch + 1) * self.steps_per_epoch):
            mine = self._rows_of_step(step)[self.ranks.rank :: self.ranks.count]
            lengths: list[int] = np.sort(self.lengths[mine]).tolist()
            for start in range(0, len(lengths), self.state.micro_batch):
                yield lengths[start : start + self.state.micro_batch]

    def kept_bytes_a_token(self) -> float:
        """What the backward pass keeps of each token, found with one short row. Leaves no trace."""
        long_enough = np.flatnonzero(self.lengths >= min(PROBE_TOKENS, int(self.lengths.max())))
        place = long_enough[np.argmin(self.lengths[long_enough])]
        batch = pack([self.rows.row(int(self.train[place]))]).to(next(self.forward.model.parameters()).device)
        before = random_states(self.device)
        self.forward.model.train()
        kept = kept_bytes(self.forward.model, lambda: self.forward.loss_sum(batch))
        set_random_states(before, self.device)
        return kept / len(batch.input_ids)

    def bytes_to_come(self) -> int:
        """What the weights will take on the device when they are shared out; 0 when they are there already."""
        weights = list(self.forward.model.parameters())
        if weights[0].device == self.device:
            return 0
        num_bytes = sum(weight.nbytes for weight in weights)
        return num_bytes // self.ranks.count if self.params.sharding == "full_shard" else num_bytes

    def _step(self) -> None:
        places = self._rows_of_step(self.state.step)
        supervised = int(self.num_supervised[places].sum())
        loss = self._within_memory(lambda: self._accumulate(places, supervised)).double()
        self.ranks.sum_tensor(loss)
        if not self.is_sharded:
            self.ranks.sum_gradients(self.masters.params)
        norm = self.masters.take_gradients(1.0 / self.state.loss_scale)
        factor = learning_rate_factor(self.params.scheduler, self.state.step, self.total_steps, self.warmup_steps)
        place = Place(
            self.state.step + 1,
            self.state.peak_learning_rate * factor,
            self.state.tokens_seen + int(self.lengths[places].sum()),
            self.state.rows_seen + len(places),
        )
        numbers = StepNumbers.of(place, loss, norm)
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

    def try_out(self) -> str:
        """One step that leaves no trace: the rows of the first step, so that compiled code comes out the same whenever a run
        is begun or resumed. Returns what went wrong, empty when all is well."""
        before = random_states(self.device)
        self.forward.model.train()
        try:
            self._within_memory(
                lambda: self._accumulate(self._rows_of_step(0)[: self.state.micro_batch * self.ranks.count], 1)
            )
        except (RuntimeError, TypeError, AttributeError) as error:
            return str(error).strip().partition("\n")[0][:300] or type(error).__name__
        finally:
            set_random_states(before, self.device)
            sharding.reset(self.forward.model)
            self.forward.model.zero_grad(set_to_none=True)
        return ""

    def _within_memory(self, compute: Callable[[], T]) -> T:
        """What `compute` gives, begun again with half the micro-batch whenever memory runs out."""
        while True:
            before = random_states(self.device)
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.state.micro_batch == 1:
                    raise JobFailure(FailureCode.OUT_OF_MEMORY, "Memory is not enough for a single row.") from error
                if self.is_sharded:  # the other ranks are in the middle of it
                    raise JobFailure(
                        FailureCode.OUT_OF_MEMORY, f"Memory is not enough for {self.state.micro_batch} rows at a time.",
                        hint="Use a smaller batch_size and more gradient_accumulation_steps, or sharding: full_shard.",
                    ) from error  # fmt: skip
            for param in self.masters.params:
                param.grad = None
            set_random_states(before, self.device)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._halve("Memory ran out")

    def _halve(self, why: str) -> None:
        if self.state.micro_batch > 1:
            self.state.micro_batch = math.ceil(self.state.micro_batch / 2)
            per_step = self.params.batch_size * self.params.gradient_accumulation_steps
            self.run.notice(
                f"{why}: going on with batch_size {self.state.micro_batch} and gradient_accumulation_steps "
                f"{math.ceil(per_step / self.state.micro_batch)}; the result is the same.",
                level="warning",
                code="micro_batch_halved",
            )

    def _accumulate(self, places: np.ndarray, supervised: int) -> torch.Tensor:
        """Leave gradients of the mean loss over `supervised` tokens; returns this rank's share of it."""
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        for batch, counts in self._batches(self.rows, self.train[places], fill=self.params.cuda_graphs):
            if self.params.cuda_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            with rows_of(batch):  # the backward pass too: recomputed layers must see the same rows
                loss = self.forward.loss_sum(batch) * counts / max(1, supervised)
                (loss * self.state.loss_scale).backward()
            total += loss.detach()
        return total

    def _batches(
        self, rows: TokenRows, numbers: np.ndarray, *, fill: bool = False
    ) -> Iterator[tuple[PackedBatch, int]]:
        """This rank's part of the rows `numbers` in micro-batches, and whether each counts, 1 or 0.

        Rows of like length stand together: blocks of attention hold less padding. Sharded layers are computed by all ranks at
        once, so a rank that has fewer micro-batches than another goes through a row of no account.
        """
        mine, size = numbers[self.ranks.rank :: self.ranks.count], self.state.micro_batch
        by_length = mine[np.argsort(rows.lengths[mine], kind="stable")]
        most = math.ceil(len(numbers) / self.ranks.count) if self.is_sharded else len(mine)
        for start in range(0, most, size):
            part = by_length[start : start + size]
            picked = part if len(part) else numbers[:1]
            yield pack([rows.row(int(i)) for i in picked], fill=fill).to(self.device), int(len(part) > 0)

    def _log(self, numbers: StepNumbers) -> None:
        (step, learning_rate, tokens_seen, rows_seen), (loss, norm) = numbers.place, numbers.read()
        since = self.state.since_log
        since["loss"] += loss
        since["steps"] += 1
        self.speed.step(tokens_seen, rows_seen)
        self.state.elapsed_s = self.speed.elapsed_s
        if step % self.params.logging_steps and step != self.total_steps:
            return
        self.run.report(
            StepEvent(
                step=step,
                total_steps=self.total_steps,
                epoch=step / self.steps_per_epoch,
                values={"loss": since["loss"] / since["steps"]},
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
        """Loss (nats a token), perplexity and token accuracy on the held-out rows."""
        rows, places = self.held_out
        self.forward.model.eval()
        with compiling.eager():
            loss, correct = self._within_memory(lambda: self._score(rows, places))
        sharding.reset(self.forward.model)
        self.forward.model.train()
        count = int(rows.num_supervised[places].sum())
        loss, correct = self.ranks.sum(loss, correct)
        mean = loss / max(1, count)
        return {
            "eval_loss": mean,
            "perplexity": math.exp(min(mean, 700.0)),
            "token_accuracy": correct / max(1, count),
        }

    def final_scores(self) -> dict[str, float]:
        """As `evaluate`, of the weights that `fit` has left; not computed again where they were evaluated in the run."""
        step = self.state.step
        if self.params.save_best_model and self.state.best_step is not None:
            step = self.state.best_step
        if step not in self._scored:
            self.run.phase("evaluating")
            began_s = monotonic_s()
            self._scored[step] = self.evaluate()
            self.state.evaluation_s += monotonic_s() - began_s
        return self._scored[step]

    def _score(self, rows: TokenRows, places: np.ndarray) -> tuple[float, float]:
        """Of this rank's part of the rows at `places`: summed loss, and how many of their tokens were the first choice."""
        loss = correct = 0.0
        for batch, counts in self._batches(rows, places):
            some_loss, some_correct = self.forward.score(batch)
            loss, correct = loss + counts * some_loss, correct + counts * some_correct
        return loss, correct

    def _evaluate_and_judge(self) -> None:
        """Evaluate, keep the best, and count evaluations that brought too little."""
        self._settle()
        self.run.phase("evaluating")
        pause_s = monotonic_s()
        scores = self.evaluate()
        self._scored = {step: told for step, told in self._scored.items() if step == self.state.best_step}
        self._scored[self.state.step] = scores
        gain = math.inf if self.state.best_loss is None else self.state.best_loss - scores["eval_loss"]
        better = gain > 0
        enough = gain > self._least_gain()
        self.state.evaluations_without_gain = 0 if enough else self.state.evaluations_without_gain + 1
        if better:
            self.state.best_loss, self.state.best_step = scores["eval_loss"], self.state.step
        self.run.report(
            EvaluationEvent(
                step=self.state.step,
                values={
                    "loss": scores["eval_loss"],
                    **{name: scores[name] for name in ("perplexity", "token_accuracy")},
                },
                is_best=better,
            )
        )
        took_s = monotonic_s() - pause_s
        self.state.evaluation_s += took_s
        self.speed.skip(took_s)
        if better and self.params.save_best_model and self.state.step < self.total_steps:
            self._checkpoint("best")
        self.run.phase("training")

    def _least_gain(self) -> float:
        """`min_delta` as a difference of losses, whatever the metric is."""
        stopping = self.params.early_stopping
        if stopping.metric == "eval_loss" or self.state.best_loss is None or not stopping.min_delta:
            return stopping.min_delta
        best = math.exp(self.state.best_loss)
        return self.state.best_loss - math.log(max(1e-9, best - stopping.min_delta))

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
