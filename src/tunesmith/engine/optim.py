"""Optimizers, learning rates as a pure function of the step, and optimizer state without pickle."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.engine.sharding import placed_like, whole


def build_optimizer(name: str, params: list[nn.Parameter], learning_rate: float, weight_decay: float) -> Any:
    """A torch optimizer over `params`. Raises `JobFailure` naming the alternative where it cannot run.

    Matrices decay; norms and biases, which have one dimension, do not.
    """
    on_cuda = params[0].device.type == "cuda"
    decay = "decoupled_decay" if name == "sgd" else "weight_decay"
    groups = [
        {"params": [p for p in params if p.ndim >= 2], decay: weight_decay},
        {"params": [p for p in params if p.ndim < 2], decay: 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    if name == "sgd":
        return DecoupledSgd(groups, lr=learning_rate, momentum=0.9)
    if name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, lr=learning_rate, scale_parameter=False, relative_step=False, warmup_init=False)
    if name == "paged_adamw_8bit" and not on_cuda:
        raise JobFailure(
            FailureCode.UNSUPPORTED, "paged_adamw_8bit pages between GPU and CPU memory and needs an NVIDIA GPU.",
            hint="Use adamw, or adamw_8bit to save memory.",
        )  # fmt: skip
    import bitsandbytes

    classes = {
        "adamw_8bit": bitsandbytes.optim.AdamW8bit,
        "paged_adamw_8bit": bitsandbytes.optim.PagedAdamW8bit,
        "lion": bitsandbytes.optim.Lion,
    }
    return classes[name](groups, lr=learning_rate)


class DecoupledSgd(torch.optim.SGD):
    """SGD whose weight decay does not go through the momentum (arXiv:1711.05101), as with the other optimizers."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            kept = 1.0 - group["lr"] * group["decoupled_decay"]
            for param in group["params"] if kept != 1.0 else ():
                param.mul_(kept)
        return super().step(closure)


def learning_rate_factor(scheduler: str, step: int, total_steps: int, warmup_steps: int) -> float:
    """What the peak learning rate is multiplied by at `step`, counted from 0."""
    if scheduler != "constant" and step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if scheduler in ("constant", "constant_with_warmup"):
        return 1.0
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    if scheduler in ("linear", "polynomial"):  # of power 1, as in transformers
        return 1.0 - done
    cosine = 0.5 * (1.0 + math.cos(math.pi * done))
    return 0.1 + 0.9 * cosine if scheduler == "cosine_with_min_lr" else cosine


class Masters:
    """fp32 copies of parameters that compute in a shorter format: small updates are not lost to rounding.

    Parameters that are fp32 already (LoRA's) are their own masters.
    """

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        self.params = list(params)
        self.masters = [p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for p in self.params]

    def take_gradients(self, scale: float = 1.0) -> torch.Tensor:
        """Move the gradients, times `scale`, to the masters; returns their global norm."""
        for param, master in zip(self.params, self.masters, strict=True):
            if param.grad is None:
                param.grad = torch.zeros_like(param)
            if master is not param:
                master.grad = param.grad.float()
                param.grad = None
            if scale != 1.0:
                master.grad.mul_(scale)  # type: ignore[union-attr]
        return whole(torch.nn.utils.get_total_norm([m.grad for m in self.masters if m.grad is not None]))

    def clip(self, max_norm: float, norm: torch.Tensor) -> None:
        """Scale the gradients down to `max_norm`; 0 leaves them."""
        if max_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(self.masters, max_norm, norm)

    def give_back(self) -> None:
        """Write the masters' new values to the parameters that compute."""
        with torch.no_grad():
            for param, master in zip(self.params, self.masters, strict=True):
                if master is not param:
                    param.copy_(master)
                master.grad = None


def flatten_state(value: Any, prefix: str, tensors: dict[str, torch.Tensor], *, keep: bool = True) -> Any:
    """`value` with its tensors taken out, whole, into `tensors` by path, ready for JSON and safetensors.

    Unless `keep`, they are only made whole, in which every rank takes part.
    """
    if isinstance(value, torch.Tensor):
        full = whole(value.detach())
        if keep:
            tensors[prefix] = full.cpu().contiguous().clone()
        return {"__tensor__": prefix}
    if isinstance(value, dict):
        return {
            "__dict__": [
                [key, flatten_state(item, f"{prefix}.{key}", tensors, keep=keep)] for key, item in value.items()
            ]
        }
    if isinstance(value, list | tuple):
        return [flatten_state(item, f"{prefix}.{index}", tensors, keep=keep) for index, item in enumerate(value)]
    return value


def unflatten_state(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """What `flatten_state` was given. Tuples come back as lists."""
    if isinstance(value, dict):
        if "__tensor__" in value:
            return tensors[value["__tensor__"]]
        return {key: unflatten_state(item, tensors) for key, item in value["__dict__"]}
    if isinstance(value, list):
        return [unflatten_state(item, tensors) for item in value]
    return value


def load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Load what `state_dict()` gave, with whole tensors; each device takes its part of what belongs to a sharded parameter."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == params[index].shape:
                values[name] = placed_like(value, params[index])
    optimizer.load_state_dict(state)
