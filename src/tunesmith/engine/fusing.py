"""Norms and feed-forward layers as one function with a gradient of its own, for the architectures that have the usual ones.

Fewer passes over the activations and fewer of them kept: a norm keeps its input, a gated feed-forward with LoRA keeps its input and
what comes out of `gate` and `up`. Each module is tried on random numbers first; one that gives other results stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tunesmith.engine import kernels
from tunesmith.engine.lora import LoraLinear, adapter_gradients, dense, input_gradient

Call = Callable[[Any, torch.Tensor], torch.Tensor]
"""A module's `forward`."""
Rotary = Callable[..., Any]
"""(q, k, cos, sin) → (q, k), turned."""


class _RmsNorm(torch.autograd.Function):
    """y = x / sqrt(mean(x²) + eps) · (w + offset) over the last dimension (arXiv:1910.07467); the inside in fp32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float) -> torch.Tensor:
        ctx.offset = offset
        if kernels.usable(x, weight):
            y, scale = kernels.norm(x, weight, eps, offset)
            ctx.save_for_backward(x, weight, scale)
            return y
        exact = torch.promote_types(x.dtype, torch.float32)
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact).square_()
        scale = squares.div_(x.shape[-1]).add_(eps).rsqrt_()  # (…, 1)
        factor = weight.to(exact) + offset
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(factor).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        x, weight, scale = ctx.saved_tensors
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        x_grad = weight_grad = None
        if kernels.usable(grads[0], x, weight):
            found = kernels.norm_backward(grads[0], x, weight, scale, ctx.offset, needs_x, needs_weight)
            return (*found, None, None)
        straight = x * scale  # (…, size), what the weight multiplies
        if needs_weight:
            weight_grad = (grads[0] * straight).flatten(0, -2).sum(0).to(weight.dtype)
        if needs_x:
            above = grads[0] * (weight.to(scale.dtype) + ctx.offset)
            along = torch.linalg.vecdot(above, straight).unsqueeze(-1).div_(-x.shape[-1])
            x_grad = above.addcmul_(straight, along).mul_(scale).to(x.dtype)
        return x_grad, weight_grad, None, None


class _SwiGlu(torch.autograd.Function):
    """silu(gate) · up (arXiv:2002.05202); keeps both and not what is between."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return kernels.swiglu(gate, up) if kernels.usable(gate, up) else F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, gate_grad, up_grad = _swiglu_gradients(grads[0].contiguous(), *ctx.saved_tensors)
        return gate_grad, up_grad


def _swiglu_gradients(
    above: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """silu(gate) · up again, and from its gradient those of gate and up."""
    if kernels.usable(above, gate, up):
        return kernels.swiglu_backward(above, gate, up)
    active = F.silu(gate)
    return active * up, torch.ops.aten.silu_backward(above * up, gate), active.mul_(above)


class _LoraSwiGlu(torch.autograd.Function):
    """y = down(silu(gate(x)) · up(x)) (arXiv:2002.05202), each of the three with LoRA; x (tokens, size).

    A layer is given as weight (out, in), A (r, in), B (out, r) and scale; there are no biases.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, *layers: Any) -> torch.Tensor:
        gate_layer, up_layer, down_layer = layers[0:4], layers[4:8], layers[8:12]
        ctx.packed = [getattr(layer[0], "quant_state", None) for layer in (gate_layer, up_layer, down_layer)]
        gate, gate_low = _apply(x, *gate_layer)
        up, up_low = _apply(x, *up_layer)
        active = kernels.swiglu(gate, up) if kernels.usable(gate, up) else F.silu(gate).mul_(up)
        y, down_low = _apply(active, *down_layer)
        ctx.scales = gate_layer[3], up_layer[3], down_layer[3]
        weights = [tensor for layer in (gate_layer, up_layer, down_layer) for tensor in layer[:3]]
        ctx.save_for_backward(x, gate, up, gate_low, up_low, down_low, *weights)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        x, gate, up, gate_low, up_low, down_low, wg, ag, bg, wu, au, bu, wd, ad, bd = ctx.saved_tensors
        gate_scale, up_scale, down_scale = ctx.scales
        needs_x = ctx.needs_input_grad[0]
        wg, wu, wd = (dense(weight, packed) for weight, packed in zip((wg, wu, wd), ctx.packed, strict=True))
        above, down_grad = input_gradient(grads[0], wd, ad, bd, down_scale)
        active, gate_grad, up_grad = _swiglu_gradients(above, gate, up)
        downs = adapter_gradients(grads[0], active, down_low, down_grad, down_scale)
        x_grad, low_grad = input_gradient(gate_grad, wg, ag, bg, gate_scale, needs_x=needs_x)
        gates = adapter_gradients(gate_grad, x, gate_low, low_grad, gate_scale)
        x_grad, low_grad = input_gradient(up_grad, wu, au, bu, up_scale, needs_x=needs_x, onto=x_grad)
        ups = adapter_gradients(up_grad, x, up_low, low_grad, up_scale)
        return x_grad, None, *gates, None, None, *ups, None, None, *downs, None


class _Rotate(torch.autograd.Function):
    """Rotary position embedding (arXiv:2104.09864): x (1, heads, tokens, size), cos and sin (1, tokens, size)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return kernels.rotate(x[0].transpose(0, 1), cos[0], sin[0]).transpose(0, 1).unsqueeze(0)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        grad = grads[0] if grads[0].stride(-1) == 1 else grads[0].contiguous()
        turned = kernels.rotate(grad[0].transpose(0, 1), cos[0], sin[0], back=True)
        return turned.transpose(0, 1).unsqueeze(0), None, None


def _rotary(original: Rotary) -> Rotary:
    """The same as transformers' `apply_rotary_pos_emb`, in one pass where kernels can; else the original itself."""

    def rotated(q: torch.Tensor, k: torch.Tensor, cos: Any, sin: Any, *rest: Any, **named: Any) -> Any:
        alike = all(x.dim() == 4 and len(x) == 1 and x.stride(-1) == 1 and x.dtype == cos.dtype for x in (q, k))
        fits = cos.dim() == 3 and len(cos) == 1 and cos.shape[-1] == q.shape[-1]
        if rest or named.get("unsqueeze_dim", 1) != 1 or not alike or not fits or not kernels.usable(cos, sin):
            return original(q, k, cos, sin, *rest, **named)
        return _Rotate.apply(q, cos, sin), _Rotate.apply(k, cos, sin)

    angles = torch.linspace(0, 3, 12).view(1, 3, 4).repeat(1, 1, 2)
    q, k = torch.linspace(-1, 1, 48).sin().view(1, 2, 3, 8), torch.linspace(-1, 2, 24).cos().view(1, 1, 3, 8)
    given = q, k, angles.cos(), angles.sin()
    try:
        same = all(torch.allclose(a, b, atol=1e-5) for a, b in zip(rotated(*given), original(*given), strict=True))
    except (TypeError, RuntimeError, ValueError):
        return original
    return rotated if same else original


def fuse_rotary(model: nn.Module) -> None:
    """Exchange `apply_rotary_pos_emb` in the Python modules that the model's classes come from."""
    for source in {sys.modules[type(module).__module__] for module in model.modules()}:
        original = getattr(source, "apply_rotary_pos_emb", None)
        if original is not None and original.__module__ != __name__:
            source.apply_rotary_pos_emb = _rotary(original)  # type: ignore[attr-defined]


def _apply(
    x: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    low = x @ a.to(x.dtype).T
    weight = dense(weight, getattr(weight, "quant_state", None))
    return (x @ weight.T).addmm_(low, (b * scale).to(x.dtype).T), low


def _norm_of(module: nn.Module) -> Call | None:
    """What `module` would do as one function; None when it is no such norm."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if "RMSNorm" not in type(module).__name__ or not isinstance(weight, nn.Parameter) or not isinstance(eps, float):
        return None
    for offset in (0.0, 1.0):
        fused: Call = lambda self, x, offset=offset: _RmsNorm.apply(x, self.weight, eps, offset)  # type: ignore[misc] # noqa: E731
        if _same(module, fused, weight.shape[-1], weight.device, weight.dtype):
            return fused
    return None


def _gated_of(module: nn.Module) -> Call | None:
    """A gated feed-forward whose layers are what they are, with one function between them; None when it is none."""
    names = "gate_proj", "up_proj", "down_proj"
    if not all(isinstance(getattr(module, name, None), nn.Module) for name in names):
        return None

    def fused(self: Any, x: torch.Tensor) -> torch.Tensor:
        """(…, size) → (…, size)"""
        return self.down_proj(_SwiGlu.apply(self.gate_proj(x), self.up_proj(x)))  # type: ignore[no-any-return]

    weight: Any = module.gate_proj.weight  # type: ignore[union-attr]
    if not weight.is_floating_point():
        return None
    return fused if _same(module, fused, weight.shape[1], weight.device, weight.dtype) else None


def _swiglu_of(module: nn.Module) -> Call | None:
    """What `module` would do as one function; None when it is not a gated feed-forward with LoRA on all its layers."""
    layers = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if not all(
        isinstance(layer, LoraLinear) and layer.is_plain and not layer.dropout and layer.base.bias is None
        for layer in layers
    ):
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
    packed = getattr(first.weight, "quant_state", None)
    dtype = packed.dtype if packed else first.weight.dtype
    return fused if _same(module, fused, first.lora_a.shape[1], first.weight.device, dtype) else None


@torch.no_grad()
def _same(module: nn.Module, fused: Call, size: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Does `fused` give what the module gives? Without a trace in the random state."""
    x = torch.linspace(-2, 2, 4 * size, device=device).sin().to(dtype).view(1, 4, size)
    try:
        expected, got = module(x).float(), fused(module, x).float()
    except (TypeError, RuntimeError, AttributeError, ValueError, IndexError):
        return False
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    return got.shape == expected.shape and bool((got - expected).norm() <= tolerance * expected.norm())


def fuse(model: nn.Module) -> dict[str, int]:
    """Exchange what is known; `{"norms": …, "feed-forwards": …}` says how many. Adapters stand in place already."""
    fuse_rotary(model)
    counts = {"norms": 0, "feed-forwards": 0}
    for module in model.modules():
        for name, find in (("norms", _norm_of), ("feed-forwards", _swiglu_of), ("feed-forwards", _gated_of)):
            if fused := find(module):
                module.forward = MethodType(fused, module)
                counts[name] += 1
                break
    return counts
