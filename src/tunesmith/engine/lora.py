"""LoRA (arXiv:2106.09685) as one autograd function a layer: no fp32 copy of the input, no gradient for frozen weights.

The adapter's masters A and B are fp32; products run in the layer's own format. Saved under PEFT's names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def dense(weight: torch.Tensor, packed: Any) -> torch.Tensor:
    """(out, in): the weight itself, or what bitsandbytes' `QuantState` `packed` says that its four bits are."""
    if packed is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight, packed)  # type: ignore[no-any-return]


def input_gradient(
    grad: torch.Tensor,
    weight: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
    *,
    needs_x: bool = True,
    onto: torch.Tensor | None = None,
) -> tuple[Any, torch.Tensor]:
    """The gradients of x (tokens, in) and of low (tokens, r) for y = x Wᵀ + s low Bᵀ with low = x Aᵀ; None for x unless `needs_x`.

    That of x is added onto `onto`, where that is given.
    """
    low_grad = grad @ (b * scale).to(grad.dtype)
    if not needs_x:
        return None, low_grad
    x_grad = grad @ weight if onto is None else onto.addmm_(grad, weight)
    return x_grad.addmm_(low_grad, a.to(grad.dtype)), low_grad


def adapter_gradients(
    grad: torch.Tensor, x: torch.Tensor, low: torch.Tensor, low_grad: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of A (r, in) and B (out, r), fp32 or finer."""
    exact = torch.promote_types(x.dtype, torch.float32)
    # this way round the product is two to three times as fast on CPUs
    return (low_grad.T @ x).to(exact), (low.T @ grad).T.to(exact) * scale


class _LoraLinear(torch.autograd.Function):
    """y = x Wᵀ + b + s (x Aᵀ) Bᵀ, with x (tokens, in), W (out, in), A (r, in), B (out, r)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        ctx.packed = getattr(weight, "quant_state", None)
        low = x @ a.to(x.dtype).T  # (tokens, r)
        y = F.linear(x, dense(weight, ctx.packed), bias)
        y.addmm_(low, (b * scale).to(x.dtype).T)
        ctx.save_for_backward(x, weight, low, a, b)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        x, weight, low, a, b = ctx.saved_tensors
        needs_x = ctx.needs_input_grad[0]
        weight = dense(weight, ctx.packed) if needs_x else weight
        x_grad, low_grad = input_gradient(grads[0], weight, a, b, ctx.scale, needs_x=needs_x)
        return x_grad, None, None, *adapter_gradients(grads[0], x, low, low_grad, ctx.scale), None


class LoraLinear(nn.Module):
    """A frozen linear layer (dense, 4-bit, or GPT-2's transposed one) with an adapter beside it."""

    def __init__(self, base: nn.Module, r: int, alpha: int, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.scale, self.dropout = alpha / r, dropout
        device = base.weight.device  # type: ignore[union-attr]
        inputs, outputs = base.weight.shape if isinstance(base, Conv1D) else (base.in_features, base.out_features)
        self.lora_a = nn.Parameter(torch.empty(r, int(inputs), device=device))  # type: ignore[arg-type]
        self.lora_b = nn.Parameter(torch.zeros(int(outputs), r, device=device))  # type: ignore[arg-type]
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    @property
    def weight(self) -> torch.Tensor:
        return self.base.weight  # type: ignore[return-value]

    @property
    def is_plain(self) -> bool:
        """A dense or 4-bit layer whose adapter drops nothing now: it can be computed as one function."""
        return type(self.base).__name__ in ("Linear", "Linear4bit") and not (self.training and self.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out)"""
        if self.is_plain:
            flat = x.reshape(-1, x.shape[-1])
            y = _LoraLinear.apply(flat, self.weight, self.base.bias, self.lora_a, self.lora_b, self.scale)
            return y.view(*x.shape[:-1], -1)  # type: ignore[no-any-return]
        dropped = F.dropout(x, self.dropout, self.training)
        low = F.linear(F.linear(dropped, self.lora_a.to(x.dtype)), self.lora_b.to(x.dtype))
        return self.base(x) + low * self.scale  # type: ignore[no-any-return,operator]


def linear_names(model: nn.Module) -> list[str]:
    """Every linear layer of the text model but the head, by full name; GPT-2 has its own class for them. Towers for pictures
    and sound, which text never passes, are left alone."""
    inner = _text_model(model)
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not head
        and not name.endswith("lm_head")
        and module in inner
    ]


def _text_model(model: nn.Module) -> set[nn.Module]:
    """The modules that text passes: those of the decoder, where the model tells which that is."""
    decoder = model.get_decoder() if isinstance(model, PreTrainedModel) else None
    return set((decoder if isinstance(decoder, nn.Module) else model).modules())


def expert_share(model: nn.Module) -> float:
    """Which share of the weights are a mixture's experts that stand in no linear layer: tensors of three dimensions."""
    counts = [(weight.numel(), "expert" in name and weight.dim() == 3) for name, weight in model.named_parameters()]
    return sum(count for count, is_expert in counts if is_expert) / max(1, sum(count for count, _ in counts))


def add_lora(model: nn.Module, names: list[str], r: int, alpha: int, dropout: float) -> None:
    """Freeze `model` and put an adapter on each layer in `names`."""
    model.requires_grad_(False)
    for name in names:
        parent_name, _, child = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        setattr(parent, child, LoraLinear(getattr(parent, child), r, alpha, dropout))


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """`(name of the layer it stands for, layer)`."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Within this block the model computes as if it had no adapter; nothing is trained in it."""
    layers = [layer for _, layer in lora_layers(model)]
    kept = [(layer.scale, layer.dropout) for layer in layers]
    for layer in layers:
        layer.scale = layer.dropout = 0.0
    try:
        yield
    finally:
        for layer, (scale, dropout) in zip(layers, kept, strict=True):
            layer.scale, layer.dropout = scale, dropout


def peft_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The adapter under PEFT's names: `base_model.model.<layer>.lora_A.weight` (r, in) and `lora_B` (out, r)."""
    state = {}
    for name, layer in lora_layers(model):
        state[f"base_model.model.{name}.lora_A.weight"] = layer.lora_a.detach().cpu().contiguous()
        state[f"base_model.model.{name}.lora_B.weight"] = layer.lora_b.detach().cpu().contiguous()
    return state
