"""What a checkpoint of a training run holds: weights, optimizer, random states and `state.json`, in safetensors and JSON.

Tensors are whole, however many devices hold parts of them, so a run may go on with another sharding or number of devices.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tunesmith.core.recipe import RunContext
from tunesmith.engine.optim import Masters, flatten_state, load_optimizer, unflatten_state
from tunesmith.engine.sharding import placed_like


@dataclass
class State:
    """Where a run is. With weights, optimizer and random states, all that a checkpoint holds."""

    step: int = 0
    micro_batch: int = 1
    peak_learning_rate: float = 0.0
    learning_rate_seq: int = 0
    checkpoint_seq: int = 0
    best_score: float | None = None
    """Of the task's primary metric."""
    best_step: int | None = None
    evaluations_without_gain: int = 0
    tokens_seen: int = 0
    rows_seen: int = 0
    elapsed_s: float = 0.0
    evaluation_s: float = 0.0
    checkpoint_s: float = 0.0
    """Of `elapsed_s`: what evaluations and checkpoints took."""
    loss_scale: float = 1.0
    """Of fp16 only."""
    since_log: dict[str, float] = field(default_factory=lambda: {"loss": 0.0, "steps": 0})


class Checkpoints:
    """Writes and reads those of one run. Every rank must call the same methods; rank 0 alone writes."""

    def __init__(self, run: RunContext, masters: Masters, optimizer: Any, device: torch.device, keep: int) -> None:
        """`keep`: how many are kept besides the best."""
        self.run, self.masters, self.optimizer, self.device, self.keep = run, masters, optimizer, device, keep
        self._last_step: int | None = None

    def write(self, state: State, reason: str) -> None:
        """One of `state.step`. On schedule and at the end only unless there is one already."""
        if self._last_step == state.step and reason in ("schedule", "final"):
            return
        self._last_step = state.step
        tensors: dict[str, torch.Tensor] = {}
        weights: dict[str, torch.Tensor] = {}
        optimizer = flatten_state(self.optimizer.state_dict(), "optimizer", tensors, keep=self.run.is_main)
        for index, master in enumerate(self.masters.masters):
            flatten_state(master, str(index), weights, keep=self.run.is_main)
        if self.run.is_main:
            with self.run.checkpoint(state.step, reason=reason) as folder:
                save_file(weights, folder / "weights.safetensors")
                save_file(tensors, folder / "optimizer.safetensors")
                save_file(random_states(self.device), folder / "random.safetensors")
                text = json.dumps({"state": asdict(state), "optimizer": optimizer})
                (folder / "state.json").write_text(text)
        best = () if state.best_step is None else (self._folder(state.best_step),)
        self.run.prune_checkpoints(self.keep, also=best)

    def resume(self) -> State | None:
        """Go on from the last complete one, if there is one."""
        folder = self.run.latest_checkpoint()
        if folder is None:
            return None
        told = json.loads((folder / "state.json").read_text())
        self._load_weights(folder)
        tensors = load_file(folder / "optimizer.safetensors")
        load_optimizer(self.optimizer, unflatten_state(told["optimizer"], tensors))
        set_random_states(load_file(folder / "random.safetensors"), self.device)
        if "best_loss" in told["state"]:  # a checkpoint of before
            told["state"]["best_score"] = told["state"].pop("best_loss")
        state = State(**told["state"])
        self._last_step = state.step
        return state

    def load_weights(self, step: int) -> None:
        """The weights of `step`, and nothing else of it."""
        self._load_weights(self._folder(step))

    def _load_weights(self, folder: Path) -> None:
        weights = load_file(folder / "weights.safetensors")
        with torch.no_grad():
            for index, master in enumerate(self.masters.masters):
                master.copy_(placed_like(weights[str(index)], master))
        self.masters.give_back()

    def _folder(self, step: int) -> Path:
        return self.run.dir.checkpoints / f"step-{step:06d}"


def random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """Of the processor and of `device`."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Put back what `random_states` gave."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
