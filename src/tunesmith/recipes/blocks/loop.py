"""The training loop. It owns the order of the rows and every random state, so that a run that is killed at any instant and
goes on from its last checkpoint takes exactly the steps that it would have taken (to the last digit on CPUs)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tunesmith.core.clock import monotonic_s
from tunesmith.core.errors import FailureCode, JobFailure, is_out_of_memory
from tunesmith.core.events import EvaluationEvent, StepEvent
from tunesmith.core.job_spec import Control
from tunesmith.core.recipe import Outcome, RunContext
from tunesmith.engine import compiling
from tunesmith.engine.attention import current_rows, rows_of
from tunesmith.engine.forward import Forward
from tunesmith.engine.optim import Masters, build_optimizer, flatten_state, learning_rate_factor, unflatten_state
from tunesmith.engine.packing import pack
from tunesmith.engine.ranks import Ranks
from tunesmith.recipes.blocks.data import TokenRows
from tunesmith.recipes.blocks.memory import kept_bytes
from tunesmith.recipes.blocks.speed import Speed
from tunesmith.recipes.hyperparameters import SftParams

PROBE_TOKENS = 32
"""Length of a row that tells what a token costs: what does not grow with the tokens hardly weighs."""
LEAST_LOSS_SCALE = 2.0**-6
"""When fp16 gradients overflow even at this scale, they are not small numbers lost to the format but wrong."""


@dataclass
class State:
    """Where a run is. With weights, optimizer and random states, all that a checkpoint holds."""

    step: int = 0
    micro_batch: int = 1
    peak_learning_rate: float = 0.0
    learning_rate_seq: int = 0
    checkpoint_seq: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    evaluations_without_gain: int = 0
    tokens_seen: int = 0
    rows_seen: int = 0
    elapsed_s: float = 0.0
    loss_scale: float = 1.0
    """Of fp16 only."""
    since_log: dict[str, float] = field(default_factory=lambda: {"loss": 0.0, "steps": 0})


class Loop:
    """Trains `params_to_train` of `forward.model` on `rows[train]`, evaluating on `held_out`."""

    def __init__(
        self,
        run: RunContext,
        params: SftParams,
        forward: Forward,
        rows: TokenRows,
        train: np.ndarray,
        held_out: tuple[TokenRows, np.ndarray],
        device: torch.device,
    ) -> None:
        self.run, self.params, self.forward, self.device = run, params, forward, device
        self.rows, self.train, self.held_out = rows, train, held_out
        self.ranks = Ranks()
        trained = [p for p in forward.model.parameters() if p.requires_grad]
        self.masters = Masters(trained)
        self.optimizer = build_optimizer(
            params.optimizer, self.masters.masters, params.learning_rate, params.weight_decay
        )
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
        self.num_supervised, self.lengths = rows.num_supervised()[train], np.diff(rows.offsets)[train]
        self._order: tuple[int, np.ndarray] = (-1, train)

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
            self._load_weights(self._best_folder())
            self.run.notice(f"Kept the weights of step {self.state.best_step}, the best on the held-out rows.")
        return Outcome.COMPLETED

    def _agreed(self, control: Control) -> Control:
        """What every rank knows of by now: all of them must act at the same step."""
        if self.ranks.count == 1:
            return control
        seen = (float(control.stop), float(control.pause), control.checkpoint_seq, control.learning_rate_seq)
        stop, pause, checkpoint, learning_rate = (self.ranks.least(value) for value in seen)
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
        batch = pack([self.rows.row(int(self.train[place]))]).to(self.device)
        random_states = self._random_states()
        self.forward.model.train()
        kept = kept_bytes(self.forward.model, lambda: self.forward.loss_sum(batch))
        self._set_random_states(random_states)
        return kept / len(batch.input_ids)

    def _step(self) -> None:
        places = self._rows_of_step(self.state.step)
        supervised = int(self.num_supervised[places].sum())
        mine = places[self.ranks.rank :: self.ranks.count]
        loss, num_tokens = self._within_memory(lambda: self._accumulate(mine, supervised))
        loss = self.ranks.sum(loss)
        self.ranks.sum_gradients(self.masters.params)
        norm_tensor = self.masters.take_gradients(1.0 / self.state.loss_scale)
        norm = float(norm_tensor)
        if not math.isfinite(loss):
            raise JobFailure(FailureCode.NAN_LOSS, f"The loss became {loss} at step {self.state.step + 1}.")
        if not math.isfinite(norm) and not self.params.fp16:
            raise JobFailure(FailureCode.NAN_LOSS, f"The gradients became {norm} at step {self.state.step + 1}.")
        factor = learning_rate_factor(self.params.scheduler, self.state.step, self.total_steps, self.warmup_steps)
        learning_rate = self.state.peak_learning_rate * factor
        if math.isfinite(norm):
            self.masters.clip(self.params.max_grad_norm, norm_tensor)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.optimizer.step()
        else:
            self.state.loss_scale /= 2  # fp16 overflowed: this step is left out
            if self.state.loss_scale < LEAST_LOSS_SCALE:
                raise JobFailure(FailureCode.NAN_LOSS, f"The gradients became {norm} at step {self.state.step + 1}.")
        self.masters.give_back()
        self.state.step += 1
        self.state.tokens_seen += int(self.ranks.sum(num_tokens))
        self.state.rows_seen += len(places)
        self._log(loss, learning_rate, norm)

    def try_out(self) -> str:
        """One step that leaves no trace: the rows of the first step, so that compiled code comes out the same whenever a run
        is begun or resumed. Returns what went wrong, empty when all is well."""
        random_states = self._random_states()
        self.forward.model.train()
        try:
            self._within_memory(lambda: self._accumulate(self._rows_of_step(0)[: self.state.micro_batch], 1))
        except (RuntimeError, TypeError, AttributeError) as error:
            return str(error).strip().partition("\n")[0][:300] or type(error).__name__
        finally:
            self._set_random_states(random_states)
            self.forward.model.zero_grad(set_to_none=True)
        return ""

    def _within_memory(self, compute: Callable[[], tuple[float, int]]) -> tuple[float, int]:
        """What `compute` gives, begun again with half the micro-batch whenever memory runs out."""
        while True:
            random_states = self._random_states()
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.state.micro_batch == 1:
                    raise JobFailure(FailureCode.OUT_OF_MEMORY, "Memory is not enough for a single row.") from error
            for param in self.masters.params:
                param.grad = None
            self._set_random_states(random_states)
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

    def _accumulate(self, places: np.ndarray, supervised: int) -> tuple[float, int]:
        """Leave gradients of the mean loss over `supervised` tokens; returns this rank's share of it, and its tokens."""
        total, num_tokens = torch.zeros((), dtype=torch.float32, device=self.device), 0
        # Rows of like length stand together: blocks of attention hold less padding.
        by_length = places[np.argsort(self.lengths[places], kind="stable")]
        for start in range(0, len(by_length), self.state.micro_batch):
            part = [
                self.rows.row(int(self.train[place])) for place in by_length[start : start + self.state.micro_batch]
            ]
            batch = pack(part).to(self.device)
            with rows_of(batch):  # the backward pass too: recomputed layers must see the same rows
                loss = self.forward.loss_sum(batch) / max(1, supervised)
                (loss * self.state.loss_scale).backward()
            total += loss.detach()
            num_tokens += len(batch.input_ids)
        return float(total), num_tokens

    def _log(self, loss: float, learning_rate: float, norm: float) -> None:
        since = self.state.since_log
        since["loss"] += loss
        since["steps"] += 1
        self.speed.step(self.state.tokens_seen, self.state.rows_seen)
        self.state.elapsed_s = self.speed.elapsed_s
        if self.state.step % self.params.logging_steps and self.state.step != self.total_steps:
            return
        self.run.report(
            StepEvent(
                step=self.state.step,
                total_steps=self.total_steps,
                epoch=self.state.step / self.steps_per_epoch,
                loss=since["loss"] / since["steps"],
                learning_rate=learning_rate,
                grad_norm=norm,
                tokens_seen=self.state.tokens_seen,
                elapsed_s=self.state.elapsed_s,
                **self.speed.read(self.total_steps - self.state.step),
            )
        )
        self.state.since_log = {"loss": 0.0, "steps": 0}

    # -- the held-out rows ------------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, float]:
        """Loss (nats a token), perplexity and token accuracy on the held-out rows."""
        rows, places = self.held_out
        mine = places[self.ranks.rank :: self.ranks.count]
        self.forward.model.eval()
        with compiling.eager():
            loss, correct = self._within_memory(lambda: self._score(rows, mine))
        self.forward.model.train()
        count = int(rows.num_supervised()[places].sum())
        mean, correct = self.ranks.sum(loss) / max(1, count), int(self.ranks.sum(correct))
        return {
            "eval_loss": mean,
            "perplexity": math.exp(min(mean, 700.0)),
            "token_accuracy": correct / max(1, count),
        }

    def _score(self, rows: TokenRows, places: np.ndarray) -> tuple[float, int]:
        """Summed loss of the rows at `places`, and how many of their tokens were the first choice."""
        by_length = sorted(places, key=lambda place: rows.length(int(place)))
        loss, correct = 0.0, 0
        for start in range(0, len(by_length), self.state.micro_batch):
            part = by_length[start : start + self.state.micro_batch]
            some_loss, some_correct = self.forward.score(pack([rows.row(int(i)) for i in part]).to(self.device))
            loss, correct = loss + some_loss, correct + some_correct
        return loss, correct

    def _evaluate_and_judge(self) -> None:
        """Evaluate, keep the best, and count evaluations that brought too little."""
        self.run.phase("evaluating")
        pause_s = monotonic_s()
        scores = self.evaluate()
        gain = math.inf if self.state.best_loss is None else self.state.best_loss - scores["eval_loss"]
        better = gain > 0
        enough = gain > self._least_gain()
        self.state.evaluations_without_gain = 0 if enough else self.state.evaluations_without_gain + 1
        if better:
            self.state.best_loss, self.state.best_step = scores["eval_loss"], self.state.step
        self.run.report(
            EvaluationEvent(
                step=self.state.step,
                loss=scores["eval_loss"],
                perplexity=scores["perplexity"],
                metrics={"token_accuracy": scores["token_accuracy"]},
                is_best=better,
            )
        )
        if better and self.params.save_best_model and self.state.step < self.total_steps:
            self._checkpoint("best")
        self.run.phase("training")
        self.speed.skip(monotonic_s() - pause_s)

    def _least_gain(self) -> float:
        """`min_delta` as a difference of losses, whatever the metric is."""
        stopping = self.params.early_stopping
        if stopping.metric == "eval_loss" or self.state.best_loss is None or not stopping.min_delta:
            return stopping.min_delta
        best = math.exp(self.state.best_loss)
        return self.state.best_loss - math.log(max(1e-9, best - stopping.min_delta))

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _checkpoint(self, reason: str) -> None:
        """Weights, optimizer, random states and `state.json`; safetensors and JSON only."""
        latest = self.run.dir.latest_checkpoint()
        if latest and latest.name == f"step-{self.state.step:06d}" and reason in ("schedule", "final"):
            return
        began_s = monotonic_s()
        tensors: dict[str, torch.Tensor] = {}
        optimizer = flatten_state(self.optimizer.state_dict(), "optimizer", tensors)
        with self.run.checkpoint(self.state.step, reason=reason) as folder:
            save_file(self._weights(), folder / "weights.safetensors")
            save_file(tensors, folder / "optimizer.safetensors")
            save_file(self._random_states(), folder / "random.safetensors")
            text = json.dumps({"state": asdict(self.state), "optimizer": optimizer})
            (folder / "state.json").write_text(text)
        keep = tuple(p for p in (self._best_folder(),) if p is not None)
        self.run.prune_checkpoints(self.params.save_total_limit, also=keep)
        self.speed.skip(monotonic_s() - began_s)

    def _best_folder(self) -> Path | None:
        if self.state.best_step is None:
            return None
        return self.run.dir.checkpoints / f"step-{self.state.best_step:06d}"

    def _weights(self) -> dict[str, torch.Tensor]:
        return {str(i): m.detach().cpu().contiguous() for i, m in enumerate(self.masters.masters)}

    def _load_weights(self, folder: Path | None) -> None:
        if folder is None:
            return
        weights = load_file(folder / "weights.safetensors")
        with torch.no_grad():
            for index, master in enumerate(self.masters.masters):
                master.copy_(weights[str(index)])
        self.masters.give_back()

    def _resume(self) -> None:
        """Go on from the last complete checkpoint, if there is one."""
        folder = self.run.latest_checkpoint()
        if folder is None:
            return
        told = json.loads((folder / "state.json").read_text())
        micro_batch = min(self.state.micro_batch, told["state"]["micro_batch"])
        self.state = State(**told["state"])
        self.state.micro_batch = micro_batch
        self._load_weights(folder)
        tensors = load_file(folder / "optimizer.safetensors")
        self.optimizer.load_state_dict(unflatten_state(told["optimizer"], tensors))
        self._set_random_states(load_file(folder / "random.safetensors"))
        self.run.notice(f"Going on from the checkpoint of step {self.state.step}.", code="resumed")

    def _random_states(self) -> dict[str, torch.Tensor]:
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _set_random_states(self, states: dict[str, torch.Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if "cuda" in states and self.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], self.device)


def apply_neftune(model: nn.Module, alpha: float) -> Callable[[], None]:
    """Noise on the input embeddings while training (arXiv:2310.05914); call the result to take it away.

    The noise is uniform, of magnitude alpha / sqrt(length of the row · size), however rows are laid.
    """

    def add_noise(module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        batch = current_rows()
        if not module.training or batch is None:
            return output
        lengths = torch.tensor(batch.lengths, device=output.device)
        if output.shape[0] == 1:  # rows end to end: (1, tokens, size)
            lengths = lengths.repeat_interleave(lengths).unsqueeze(0)
        reach = alpha / (lengths * output.shape[-1]).sqrt().to(output.dtype)
        return output + torch.empty_like(output).uniform_(-1, 1) * reach.view(*lengths.shape, *[1] * (3 - lengths.ndim))

    return model.get_input_embeddings().register_forward_hook(add_noise).remove  # type: ignore[operator,no-any-return]
