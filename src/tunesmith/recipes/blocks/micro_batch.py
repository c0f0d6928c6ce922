"""What becomes of a micro-batch that does not fit the memory: half of it, with the same result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from tunesmith.core.errors import FailureCode, JobFailure, is_out_of_memory
from tunesmith.core.recipe import RunContext
from tunesmith.recipes.blocks.checkpointing import State, random_states, set_random_states
from tunesmith.recipes.hyperparameters import TrainerParams

T = TypeVar("T")


class Halving:
    """Computes within the memory of one device."""

    def __init__(self, run: RunContext, params: TrainerParams, device: torch.device) -> None:
        self._run, self._params, self._device = run, params, device

    def within(self, state: State, trained: Sequence[torch.nn.Parameter], compute: Callable[[], T]) -> T:
        """What `compute` gives, begun again from the same random states, without gradients of `trained` and with half the
        micro-batch of `state`, whenever memory runs out. Raises `JobFailure` when it is not enough for one row."""
        while True:
            before = random_states(self._device)
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if state.micro_batch == 1:
                    raise JobFailure(FailureCode.OUT_OF_MEMORY, "Memory is not enough for a single row.") from error
                if self._params.sharding != "none":  # the other ranks are in the middle of it
                    raise JobFailure(
                        FailureCode.OUT_OF_MEMORY, f"Memory is not enough for {state.micro_batch} rows at a time.",
                        hint="Use a smaller batch_size and more gradient_accumulation_steps, or sharding: full_shard.",
                    ) from error  # fmt: skip
            for param in trained:
                param.grad = None
            set_random_states(before, self._device)
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            self.halve(state, "Memory ran out")

    def halve(self, state: State, why: str) -> None:
        """Half the micro-batch, and say so; one row stays one row."""
        if state.micro_batch > 1:
            state.micro_batch = math.ceil(state.micro_batch / 2)
            per_step = self._params.batch_size * self._params.gradient_accumulation_steps
            self._run.notice(
                f"{why}: going on with batch_size {state.micro_batch} and gradient_accumulation_steps "
                f"{math.ceil(per_step / state.micro_batch)}; the result is the same.",
                level="warning",
                code="micro_batch_halved",
            )
