"""One model shared out over several devices by torch's FSDP2: each holds a part of every weight, of its gradient and of the optimizer's
state, and the parts of a layer come together while it computes. docs/decisions/0013 says why it is done so."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.engine.compiling import blocks_of
from tunesmith.engine.ranks import Ranks

T = TypeVar("T")


def check(sharding: str, offload: bool, ranks: Ranks, device: torch.device) -> None:
    """Raises `JobFailure` where `sharding` cannot be had on these devices."""
    if sharding == "none":
        return
    if ranks.count == 1:
        raise JobFailure(
            FailureCode.INVALID_SETTINGS, f"sharding: {sharding} shares a model out over devices and needs more than one.",
            hint="Give the job more GPUs (resources.num_gpus), or set sharding: none.",
        )  # fmt: skip
    if offload and device.type != "cuda":
        raise JobFailure(
            FailureCode.UNSUPPORTED, "sharding_offload moves weights from GPU to CPU memory and needs NVIDIA GPUs.",
            hint="Set sharding_offload: false.",
        )  # fmt: skip


def shard(model: nn.Module, sharding: str, offload: bool, ranks: Ranks, device: torch.device) -> None:
    """Share `model` out over all ranks, layer by layer, onto `device`. Gradients are summed, not averaged.

    Embeddings, the last norm and the head are whole from the first to the last line of `whole_while`. Raises `JobFailure` for a
    model that trains weights of several formats.
    """
    formats = sorted({str(p.dtype) for p in model.parameters() if p.requires_grad})
    if len(formats) > 1:
        raise JobFailure(
            FailureCode.UNSUPPORTED, f"The model's trained weights are of several formats: {', '.join(formats)}.",
            hint="Set sharding: none, or bf16: false.",
        )  # fmt: skip
    mesh = init_device_mesh(device.type, (ranks.count,))
    policy = CPUOffloadPolicy() if offload else OffloadPolicy()
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=sharding == "full_shard", offload_policy=policy)
    root: Any = model
    fully_shard(root, mesh=mesh, offload_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
    root.whole_while = MethodType(lambda self, call: call(), model)
    register_fsdp_forward_method(root, "whole_while")


def whole_while(model: nn.Module, call: Callable[[], T]) -> T:
    """What `call` gives: a forward pass, through the decoder and on to the head's own weight, to whatever `model` is sharded."""
    if isinstance(model, FSDPModule):
        return model.whole_while(call)  # type: ignore[operator,no-any-return]
    return call()


def reset(model: nn.Module) -> None:
    """Share out again what a forward pass without a backward pass, or one that failed, has left whole."""
    if isinstance(model, FSDPModule):
        model.reset_iter_state()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be shared out. Every rank must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def placed_like(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A whole `tensor`, which every rank has, shared out as `other` is."""
    if not isinstance(other, DTensor):
        return tensor
    local = tensor.to(other.to_local().device)
    return distribute_tensor(local, other.device_mesh, other.placements, src_data_rank=None)


@torch.no_grad()
def gather_trained(model: nn.Module, *, keep: bool) -> None:
    """Make `model` a plain one again whose trained weights are whole and in CPU memory, for saving; where `keep` is false it takes
    part and is left without them. Every rank must call it. Frozen weights stay shared out."""
    if not isinstance(model, FSDPModule):
        return
    reset(model)
    gathered: dict[nn.Parameter, nn.Parameter] = {}
    for param in model.parameters():
        if param.requires_grad:
            full = whole(param.detach()).cpu()
            gathered[param] = nn.Parameter(full if keep else full.new_empty(0))
    for module in model.modules():
        for name, param in module.named_parameters(recurse=False):
            if param in gathered:
                module._parameters[name] = gathered[param]
        if isinstance(module, FSDPModule):
            module.__class__ = type(module).__bases__[1]
