"""What torch takes many passes for, in C++ for CPUs: norms, activations, softmaxes (`rows.cpp`) and attention (`attention.cpp`).

Built on the machine that runs them, which takes two or three seconds, once; the library is kept under `TUNESMITH_KERNELS`,
`~/.cache/tunesmith/kernels` unless that says otherwise. Without a C++
compiler `usable` is False and torch computes everything, equally right and slower. Inside is fp32, fp64 for fp64.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from ctypes import c_double, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path

import torch

from tunesmith.core.processor import compiler_flags, read_processor

SOURCES = [Path(__file__).with_name(name) for name in ("rows.cpp", "attention.cpp")]
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-fPIC",
    "-shared",
)
KINDS = {torch.bfloat16: 0, torch.float32: 1, torch.float64: 2}
BUILD_TIMEOUT_S = 120
_log = logging.getLogger(__name__)
_SIGNATURES = {
    "norm_forward": (c_int, *[c_void_p] * 4, c_long, c_long, c_double, c_double),
    "norm_backward": (c_int, *[c_void_p] * 6, c_long, c_long, c_double),
    "swiglu_forward": (c_int, *[c_void_p] * 3, c_long),
    "swiglu_backward": (c_int, *[c_void_p] * 6, c_long),
    "rotate": (c_int, *[c_void_p] * 4, *[c_long] * 5, c_int),
    "softmax_forward": (c_int, c_void_p, *[c_long] * 5, c_double),
    "softmax_backward": (c_int, c_void_p, c_void_p, *[c_long] * 5, c_double),
    "cross_entropy": (c_int, *[c_void_p] * 3, c_long, c_long, c_int),
    "attention_ready": (),
    "attention_forward": (*[c_void_p] * 5, *[c_long] * 4, c_double, c_long),
    "attention_backward": (*[c_void_p] * 8, *[c_long] * 4, c_double, c_long),
}


def usable(*tensors: torch.Tensor) -> bool:
    """Whether the kernels take these: all on the CPU, of one format they know, contiguous, and nothing is being traced."""
    kind = tensors[0].dtype
    return (
        kind in KINDS
        and all(x.device.type == "cpu" and x.dtype == kind and x.is_contiguous() for x in tensors)
        and not torch.compiler.is_compiling()
        and _library() is not None
    )


def why_not() -> str:
    """What stands in the way of the kernels; empty when nothing does."""
    if _library() is not None:
        return ""
    return "there is no C++ compiler" if _compiler() is None else "they could not be built here"


def exact(dtype: torch.dtype) -> torch.dtype:
    """What is computed in."""
    return torch.promote_types(dtype, torch.float32)


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float, offset: float) -> tuple[torch.Tensor, torch.Tensor]:
    """RMSNorm of `x` (…, size), and by what each row was scaled (…, 1)."""
    y, scales = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1, dtype=exact(x.dtype))
    _call("norm_forward", x, weight, y, scales, scales.numel(), x.shape[-1], eps, offset)
    return y, scales


def norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    offset: float,
    needs_x: bool,
    needs_weight: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The gradients of x and of the weight."""
    x_grad = torch.empty_like(x) if needs_x else None
    weight_grad = torch.empty_like(weight, dtype=scales.dtype) if needs_weight else None
    _call("norm_backward", grad, x, weight, scales, x_grad, weight_grad, scales.numel(), x.shape[-1], offset)
    return x_grad, None if weight_grad is None else weight_grad.to(weight.dtype)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up"""
    y = torch.empty_like(gate)
    _call("swiglu_forward", gate, up, y, gate.numel())
    return y


def swiglu_backward(
    above: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """silu(gate) · up again, and the gradients of gate and up from that of it."""
    y, gate_grad, up_grad = torch.empty_like(gate), torch.empty_like(gate), torch.empty_like(gate)
    _call("swiglu_backward", above, gate, up, y, gate_grad, up_grad, gate.numel())
    return y, gate_grad, up_grad


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, back: bool = False) -> torch.Tensor:
    """Rotary embedding of `x` (tokens, heads, size), whose last dimension is contiguous; `cos` and `sin` (tokens, size).

    `back` gives the gradient of x from that of the result.
    """
    tokens, heads, size = x.shape
    y = torch.empty(x.shape, dtype=x.dtype)
    _call("rotate", x, cos, sin, y, tokens, heads, size, x.stride(0), x.stride(1), int(back))
    return y


def softmax_(scores: torch.Tensor, queries: int, back: int, window: int, scale: float) -> None:
    """Scores (batch, queries, keys) become softmax(scale · scores) over the keys a query may see, and 0 elsewhere.

    `back` keys stand before the first of the `queries` queries that repeat along the rows; `window`: how many keys back a query sees.
    """
    keys = scores.shape[-1]
    _call("softmax_forward", scores, scores.numel() // (queries * keys), queries, keys, back, window, scale)


def softmax_backward_(
    grad: torch.Tensor, weights: torch.Tensor, queries: int, back: int, window: int, scale: float
) -> None:
    """The gradient of the weights becomes that of the scores."""
    keys = grad.shape[-1]
    _call("softmax_backward", grad, weights, grad.numel() // (queries * keys), queries, keys, back, window, scale)


def cross_entropy_(logits: torch.Tensor, targets: torch.Tensor, *, to_grad: bool) -> torch.Tensor:
    """(rows,): the cross-entropy of `logits` (rows, vocabulary) and `targets` (rows,), nats; `to_grad`: the logits become its gradient."""
    losses = torch.empty(len(logits), dtype=exact(logits.dtype))
    _call("cross_entropy", logits, targets, losses, *logits.shape, int(to_grad))
    return losses


def attends(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rows: int) -> bool:
    """Whether the attention kernels take these (tokens, heads, size): bf16 where the processor multiplies it, and enough heads for
    its threads, each of which takes a key head of a row."""
    even = v.shape[-1] == q.shape[-1] and q.shape[-1] % 2 == 0
    enough = 2 * rows * k.shape[1] >= torch.get_num_threads()
    return q.dtype == torch.bfloat16 and even and enough and usable(q, k, v) and _attention_ready()


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, borders: torch.Tensor, scale: float, window: int
) -> torch.Tensor:
    """See `engine.causal.causal_rows`; `borders` is int32."""
    out = torch.empty_like(q)
    _run("attention_forward", q, k, v, out, borders, len(borders) - 1, q.shape[1], *k.shape[1:], scale, window)
    return out


def attention_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    borders: torch.Tensor,
    scale: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of q, k and v."""
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    sizes = len(borders) - 1, q.shape[1], *k.shape[1:]
    _run("attention_backward", grad, q, k, v, *grads, borders, *sizes, scale, window)
    return grads


@cache
def _attention_ready() -> bool:
    library = _library()
    return library is not None and read_processor().multiplies_bf16 and bool(library.tunesmith_attention_ready())


def _call(name: str, first: torch.Tensor, *arguments: torch.Tensor | float | None) -> None:
    """A kernel of `rows.cpp`, for the format of its first tensor."""
    _run(name, KINDS[first.dtype], first, *arguments)


def _run(name: str, *arguments: torch.Tensor | float | None) -> None:
    library = _library()
    assert library is not None  # `usable` was asked
    given = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in arguments]
    getattr(library, f"tunesmith_{name}")(*given)


@cache
def _library() -> ctypes.CDLL | None:
    """The kernels, built first where they are not there yet; None where that cannot be."""
    compiler = _compiler()
    if compiler is None or not torch.backends.openmp.is_available() or platform.system() != "Linux":
        return None
    try:
        library = ctypes.CDLL(str(_built(compiler)))
        for name, signature in _SIGNATURES.items():
            function = getattr(library, f"tunesmith_{name}")
            function.argtypes, function.restype = signature, c_int if name.endswith("ready") else None
    except (OSError, AttributeError, RuntimeError, subprocess.SubprocessError) as error:
        _log.warning("the kernels for CPUs could not be built, torch computes in their place: %s", error)
        return None
    return library


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("g++", "c++"))), None)


def _built(compiler: str) -> Path:
    """The library's file: of this source, this compiler and this processor."""
    folder = Path(os.environ.get("TUNESMITH_KERNELS") or Path.home() / ".cache" / "tunesmith" / "kernels")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = hashlib.sha256(b"".join(source.read_bytes() for source in SOURCES))
    flags = (*FLAGS, *compiler_flags())
    says = [compiler, "-march=native", "-dM", "-E", "-x", "c++", os.devnull]  # its version, and what the processor can
    known.update(subprocess.run(says, check=True, capture_output=True, timeout=BUILD_TIMEOUT_S).stdout)
    known.update(" ".join(flags).encode())
    library = folder / f"kernels-{known.hexdigest()[:16]}.so"
    if not library.is_file():
        for left in folder.glob("tmp*"):  # by builds that were killed
            if time.time() - left.stat().st_mtime > 2 * BUILD_TIMEOUT_S:
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder) as workplace:
            made = Path(workplace) / library.name
            subprocess.run(
                [compiler, *flags, *map(str, SOURCES), "-o", str(made)],
                check=True, capture_output=True, timeout=BUILD_TIMEOUT_S,
            )  # fmt: skip
            made.replace(library)
    return library
