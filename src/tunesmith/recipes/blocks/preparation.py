"""Making a model ready for its training: layers that are recomputed to fit the memory, and layers that are compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from transformers.modeling_layers import GradientCheckpointingLayer

from tunesmith.core.recipe import RunContext
from tunesmith.engine import compiling, sharding
from tunesmith.recipes.blocks.checkpointing import random_states, set_random_states
from tunesmith.recipes.blocks.memory import SHARE_OF_FREE_MEMORY, free_bytes, kept_bytes, layers_to_recompute
from tunesmith.recipes.blocks.trainer import Trainer
from tunesmith.recipes.hyperparameters import TrainerParams

PROBE_TOKENS = 32
"""Length of a row that tells what a token costs: what does not grow with the tokens hardly weighs."""


def use_checkpointing(run: RunContext, params: TrainerParams, trainer: Trainer) -> None:
    """Recompute activations of all layers when asked to, else of as many as the largest micro-batch needs to fit.

    What is kept for the backward pass grows with the tokens, so a forward pass over one short row tells what a large
    micro-batch will keep.
    """
    model: Any = trainer.model
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    wanted = len(layers) if params.gradient_checkpointing else 0
    if params.gradient_checkpointing is None and layers:
        per_token = kept_bytes_a_token(trainer) / len(layers)
        tokens = max(sum(lengths) for lengths in micro_batches(trainer, epoch=0))
        input_bytes = model.config.get_text_config().hidden_size * next(model.parameters()).element_size()
        (room,) = trainer.ranks.least(SHARE_OF_FREE_MEMORY * (free_bytes(trainer.device) - bytes_to_come(trainer)))
        wanted = layers_to_recompute(len(layers), tokens * per_token, tokens * input_bytes, room)
        if wanted:
            run.notice(
                f"The activations of {wanted} of {len(layers)} layers are recomputed to fit the memory; "
                "a smaller batch_size would be faster."
            )
    if wanted:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
        for layer in layers[wanted:]:
            layer.gradient_checkpointing = False


def micro_batches(trainer: Trainer, epoch: int) -> Iterator[list[int]]:
    """The lengths, tokens, of the rows of each micro-batch of an epoch, of this rank."""
    order, share = trainer.order, trainer.share
    for step in range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch):
        mine = order.rows_of(step)[share.ranks.rank :: share.ranks.count]
        lengths: list[int] = np.sort(trainer.task.lengths[mine]).tolist()
        for start in range(0, len(lengths), share.micro_batch):
            yield lengths[start : start + share.micro_batch]


def kept_bytes_a_token(trainer: Trainer) -> float:
    """What the backward pass keeps of each token, found with one short row. Leaves no trace."""
    task = trainer.task
    long_enough = np.flatnonzero(task.lengths >= min(PROBE_TOKENS, int(task.lengths.max())))
    place = long_enough[np.argmin(task.lengths[long_enough])]
    batch, length = task.probe(int(place), next(task.model.parameters()).device)
    before = random_states(trainer.device)
    task.model.train()
    kept = kept_bytes(task.model, lambda: task.loss(batch).sum)
    set_random_states(before, trainer.device)
    return kept / length


def bytes_to_come(trainer: Trainer) -> int:
    """What the weights will take on the device when they are shared out; 0 when they are there already."""
    weights = list(trainer.model.parameters())
    if weights[0].device == trainer.device:
        return 0
    num_bytes = sum(weight.nbytes for weight in weights)
    return num_bytes // trainer.ranks.count if trainer.params.sharding == "full_shard" else num_bytes


def use_compiling(run: RunContext, params: TrainerParams, trainer: Trainer) -> None:
    """Compile the layers when asked to, or when the run is long. What cannot be compiled runs as it is, and says so."""
    model, graphs = trainer.model, getattr(params, "cuda_graphs", False)
    wanted = True if graphs else params.torch_compile
    if wanted is None:
        tokens = trainer.total_steps * trainer.rows_per_step * float(trainer.task.lengths.mean())
        wanted = compiling.pays(trainer.device, tokens * trainer.speed.flop_per_token)
    if not wanted:
        return
    why_not = compiling.why_not(trainer.device)
    if not why_not:
        run.phase("compiling")
        compiling.compile_layers(model, graphs=graphs)
        why_not = try_out(trainer)
    if why_not:
        compiling.undo(model)
        run.notice(
            f"The layers are not compiled: {why_not}. The training is slower, its result the same.", code="not_compiled"
        )


def try_out(trainer: Trainer) -> str:
    """One step that leaves no trace: the rows of the first step, so that compiled code comes out the same whenever a run
    is begun or resumed. Returns what went wrong, empty when all is well."""
    before = random_states(trainer.device)
    trainer.model.train()
    try:
        rows = trainer.state.micro_batch * trainer.ranks.count
        trainer.within_memory(lambda: trainer.accumulate(trainer.order.rows_of(0)[:rows], 1))
    except (RuntimeError, TypeError, AttributeError) as error:
        return str(error).strip().partition("\n")[0][:300] or type(error).__name__
    finally:
        set_random_states(before, trainer.device)
        sharding.reset(trainer.model)
        trainer.model.zero_grad(set_to_none=True)
    return ""
