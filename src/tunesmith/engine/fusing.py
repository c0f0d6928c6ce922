"""Norms and feed-forward layers as one function with a gradient of its own, for the architectures that have the usual ones.

Fewer passes over the activations and fewer of them kept: a norm keeps its input, a gated feed-forward with LoRA keeps its input and
what comes out of `gate` and `up`. Each module is tried on random numbers first; one that gives other results stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tunesmith.engine.lora import LoraLinear, low_rank_gradients

Call = Callable[[Any, torch.Tensor], torch.Tensor]
"""A module's `forward`."""


class _RmsNorm(torch.autograd.Function):
    """y = x / sqrt(mean(x²) + eps) · (w + offset) over the last dimension (arXiv:1910.07467); the inside in fp32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float) -> torch.Tensor:
        exact = torch.promote_types(x.dtype, torch.float32)
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact).square_()
        scale = squares.div_(x.shape[-1]).add_(eps).rsqrt_()  # (…, 1)
        factor = weight.to(exact) + offset
        ctx.save_for_backward(x, weight, scale)
        ctx.offset = offset
        return (x * scale).mul_(factor).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        x, weight, scale = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        x_grad = weight_grad = None
        straight = x * scale  # (…, size), what the weight multiplies
        if needs_weight:
            weight_grad = (grads[0] * straight).flatten(0, -2).sum(0).to(weight.dtype)
        if needs_x:
            above = grads[0] * (weight.to(scale.dtype) + ctx.offset)
            along = torch.linalg.vecdot(above, straight).unsqueeze(-1).div_(-x.shape[-1])
            x_grad = above.addcmul_(straight, along).mul_(scale).to(x.dtype)
        return x_grad, weight_grad, None, None


class _LoraSwiGlu(torch.autograd.Function):
    """y = down(silu(gate(x)) · up(x)) (arXiv:2002.05202), each of the three with LoRA; x (tokens, size).

    A layer is given as weight (out, in), A (r, in), B (out, r) and scale; there are no biases.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *layers: Any) -> torch.Tensor:
        gate_layer, up_layer, down_layer = layers[0:4], layers[4:8], layers[8:12]
        gate, gate_low = _apply(x, *gate_layer)
        up, up_low = _apply(x, *up_layer)
        y, down_low = _apply(F.silu(gate).mul_(up), *down_layer)
        ctx.scales = gate_layer[3], up_layer[3], down_layer[3]
        weights = [tensor for layer in (gate_layer, up_layer, down_layer) for tensor in layer[:3]]
        ctx.save_for_backward(x, gate, up, gate_low, up_low, down_low, *weights)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        x, gate, up, gate_low, up_low, down_low, wg, ag, bg, wu, au, bu, wd, ad, bd = ctx.saved_tensors
        gate_scale, up_scale, down_scale = ctx.scales
        needs_x = ctx.needs_input_grad[0]
        active = F.silu(gate)
        above, *down = low_rank_gradients(grads[0], active * up, down_low, wd, ad, bd, down_scale)
        up_grad = active.mul_(above)
        gate_grad = torch.ops.aten.silu_backward(above.mul_(up), gate)
        x_grad, *gates = low_rank_gradients(gate_grad, x, gate_low, wg, ag, bg, gate_scale, needs_x=needs_x)
        x_more, *ups = low_rank_gradients(up_grad, x, up_low, wu, au, bu, up_scale, needs_x=needs_x)
        if needs_x:
            x_grad.add_(x_more)
        return x_grad, None, *gates, None, None, *ups, None, None, *down, None


def _apply(
    x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    low = x @ a.to(x.dtype).T
    return (x @ weight.T).addmm_(low, (b * scale).to(x.dtype).T), low


def _norm_of(module: nn.Module) -> Call | None:
    """What `module` would do as one function; None when it is no such norm."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if "RMSNorm" not in type(module).__name__ or not isinstance(weight, nn.Parameter) or not isinstance(eps, float):
        return None
    for offset in (0.0, 1.0):
        fused: Call = lambda self, x, offset=offset: _RmsNorm.apply(x, self.weight, eps, offset)  # type: ignore[misc] # noqa: E731
        if _same(module, fused, weight.shape[-1], weight):
            return fused
    return None


def _swiglu_of(module: nn.Module) -> Call | None:
    """What `module` would do as one function; None when it is not a gated feed-forward with LoRA on all its layers."""
    layers = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(isinstance(layer, LoraLinear) and layer.is_plain and layer.base.bias is None for layer in layers):
        return None

    def fused(self: Any, x: torch.Tensor) -> torch.Tensor:
        """(…, size) → (…, size)"""
        parts: list[Any] = []
        for layer in (self.gate_proj, self.up_proj, self.down_proj):
            parts += [layer.base.weight, layer.lora_a, layer.lora_b, layer.scale]
        y = _LoraSwiGlu.apply(x.reshape(-1, x.shape[-1]), *parts)
        return y.view(x.shape)  # type: ignore[no-any-return]

    first = layers[0]
    assert isinstance(first, LoraLinear)
    return fused if _same(module, fused, first.lora_a.shape[1], first.weight) else None


@torch.no_grad()
def _same(module: nn.Module, fused: Call, size: int, like: torch.Tensor) -> bool:
    """Does `fused` give what the module gives? Without a trace in the random state."""
    x = torch.linspace(-2, 2, 4 * size, device=like.device).sin().to(like.dtype).view(1, 4, size)
    try:
        expected, got = module(x).float(), fused(module, x).float()
    except (TypeError, RuntimeError, AttributeError, ValueError, IndexError):
        return False
    tolerance = 1e-5 if like.dtype == torch.float32 else 2e-2
    return got.shape == expected.shape and bool((got - expected).norm() <= tolerance * expected.norm())


def fuse(model: nn.Module) -> dict[str, int]:
    """Exchange what is known; `{"norms": …, "feed-forwards": …}` says how many. Adapters stand in place already."""
    counts = {"norms": 0, "feed-forwards": 0}
    for module in model.modules():
        for name, find in (("norms", _norm_of), ("feed-forwards", _swiglu_of)):
            if fused := find(module):
                module.forward = MethodType(fused, module)
                counts[name] += 1
    return counts
