"""Frozen linear layers in fp8 (e4m3, arXiv:2209.05433): both products of a step, forward and to the input, run in fp8.

A frozen weight is quantised once and not at every step, in both directions that it is multiplied in, so it takes as much memory
as in bf16. Inputs and gradients get a scale of their own a row (a token) when they come. Pays on large matrices only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import ScalingType, scaled_mm

from tunesmith.engine.lora import lora_layers

E4M3 = torch.float8_e4m3fn
LEAST_CAPABILITY = (8, 9)
"""NVIDIA's first generation with fp8 products (Ada; Hopper is 9.0)."""
MULTIPLE = 16
"""Sizes of the matrices must be multiples of it."""


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`x` (rows, size) → (e4m3 (rows, size), scales (rows, 1) fp32) with x ≈ e4m3 · scale."""
    most = x.abs().amax(dim=-1, keepdim=True).float()
    scale = most.clamp_min(1e-12) / torch.finfo(E4M3).max
    return (x.float() / scale).to(E4M3), scale


def product(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x (tokens, k) · Wᵀ with W (n, k) in e4m3 and its scales (n, 1); (tokens, n) in the format of x, sums in fp32."""
    rows, row_scale = quantise(x)
    found: torch.Tensor = scaled_mm(
        rows, weight.T, row_scale, ScalingType.RowWise, scale.T, ScalingType.RowWise, output_dtype=torch.bfloat16
    )
    return found.to(x.dtype)


class _Fp8Product(torch.autograd.Function):
    """y = x Wᵀ with x (tokens, in); W (out, in) is given in both directions."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        weight, scale, *transposed = weights
        ctx.save_for_backward(*transposed)
        return product(x, weight, scale)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        return product(grads[0].contiguous(), *ctx.saved_tensors), None, None, None, None


class Fp8Linear(nn.Module):
    """A frozen dense layer in fp8."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = dense.in_features, dense.out_features
        weight, scale = quantise(dense.weight.detach())
        transposed, transposed_scale = quantise(dense.weight.detach().T.contiguous())
        self.weight = nn.Parameter(weight, requires_grad=False)  # (out, in) e4m3
        self.register_buffer("scale", scale)
        self.register_buffer("transposed", transposed)
        self.register_buffer("transposed_scale", transposed_scale)
        self.bias = dense.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out)"""
        flat = x.reshape(-1, x.shape[-1])
        y = _Fp8Product.apply(flat, self.weight, self.scale, self.transposed, self.transposed_scale)
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], -1)  # type: ignore[no-any-return]


def why_not(device: torch.device) -> str:
    """What stands in the way of fp8 on `device`; empty when nothing does."""
    if device.type != "cuda":
        return "it needs an NVIDIA GPU"
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} has no fp8 products; Ada, Hopper and later GPUs do"
    return ""


def to_fp8(model: nn.Module) -> int:
    """Exchange the frozen dense layers beside adapters, one after the other; returns how many."""
    count = 0
    for _, layer in lora_layers(model):
        dense = layer.base
        if type(dense) is nn.Linear and not (dense.in_features % MULTIPLE or dense.out_features % MULTIPLE):
            layer.base = Fp8Linear(dense)
            count += 1
    return count
