"""The kernels for CPUs: what each computes is what torch computes, forward and backward, and without them torch does."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.services import missing
from tunesmith.engine import causal, fusing, kernels
from tunesmith.engine.causal import EVERY_KEY
from tunesmith.engine.loss import head_loss

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="kernels are built on Linux only")
needs_bf16 = pytest.mark.skipif(
    not kernels._attention_ready(), reason="needs a CPU with bf16 products (AVX-512 or AMX)"
)
FORMATS = (torch.bfloat16, torch.float32, torch.float64)
CLOSE = {
    torch.bfloat16: {"rtol": 1.6e-2, "atol": 1e-2},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
}


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    if why := kernels.why_not():
        missing("a C++ compiler", why)


@pytest.fixture(params=["kernels", "torch"])
def computed_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the kernels, and as where there is no compiler."""
    if request.param == "torch":
        monkeypatch.setattr(kernels, "_library", lambda: None)
    return str(request.param)


def grown(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("size", [1, 7, 16, 100])
def test_each_pass_is_what_torch_computes(dtype: torch.dtype, size: int, computed_by: str) -> None:
    torch.manual_seed(size)
    x, weight = grown(3, 5, size, dtype=dtype), grown(size, dtype=dtype)
    exact = kernels.exact(dtype)
    expected = F.rms_norm(x.to(exact), (size,), weight.to(exact), 1e-5).to(dtype)
    torch.testing.assert_close(fusing._RmsNorm.apply(x, weight, 1e-5, 0.0), expected, **CLOSE[dtype])
    gate, up = grown(3, size, dtype=dtype), grown(3, size, dtype=dtype)
    expected = (F.silu(gate.to(exact)) * up.to(exact)).to(dtype)
    torch.testing.assert_close(fusing._SwiGlu.apply(gate, up), expected, **CLOSE[dtype])


def test_gradients(computed_by: str) -> None:
    torch.manual_seed(0)
    weight = grown(6)
    assert torch.autograd.gradcheck(lambda x, w: fusing._RmsNorm.apply(x, w, 1e-3, 1.0), (grown(4, 6), weight))
    assert torch.autograd.gradcheck(fusing._SwiGlu.apply, (grown(4, 5), grown(4, 5)))
    targets = torch.tensor([2, 0, 6])
    assert torch.autograd.gradcheck(lambda h, w: head_loss(h, w, targets), (grown(3, 4), grown(7, 4)))


def test_rotary_embeddings_and_their_gradients() -> None:
    from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as original

    fused = fusing._rotary(original)
    assert fused is not original
    torch.manual_seed(0)
    angles = torch.randn(1, 5, 3, dtype=torch.float64).repeat(1, 1, 2)
    q, k = grown(1, 5, 4, 6).transpose(1, 2), grown(1, 5, 2, 6).transpose(1, 2)
    given = q, k, angles.cos(), angles.sin()
    for got, expected in zip(fused(*given), original(*given), strict=True):
        torch.testing.assert_close(got, expected)
    turn = lambda x: fusing._Rotate.apply(x, angles.cos(), angles.sin())  # noqa: E731
    assert torch.autograd.gradcheck(turn, q.detach().requires_grad_())


def test_a_rotation_of_another_kind_stays_as_it_is() -> None:
    def by_pairs(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
        turned = [torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) for x in (q, k)]
        return tuple(x * cos[:, None] + y * sin[:, None] for x, y in zip((q, k), turned, strict=True))

    assert fusing._rotary(by_pairs) is by_pairs


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_what_is_not_a_number_stays_so(scale: float) -> None:
    """A run that diverges must be seen to."""
    bad = torch.tensor([[1.0, math.nan, -2.0]]) * scale
    fine = torch.ones_like(bad)
    assert kernels.norm(bad, fine[0], 1e-5, 0.0)[0].isnan().all()
    assert kernels.swiglu(bad, fine)[0, 1].isnan() and kernels.swiglu(bad.bfloat16(), fine.bfloat16())[0, 1].isnan()
    assert kernels.cross_entropy_(bad.clone(), torch.tensor([0]), to_grad=False).isnan().all()


@needs_bf16
@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=5),
    kv_heads=st.integers(1, 3),
    each=st.integers(1, 3),
    size=st.sampled_from([2, 10, 32, 64, 80, 128]),
    window=st.sampled_from([EVERY_KEY, 1, 7, 40, 100]),
)
def test_attention_in_bf16_is_attention(lengths: list[int], kv_heads: int, each: int, size: int, window: int) -> None:
    torch.manual_seed(sum(lengths))
    tokens = sum(lengths)
    q, grad = (torch.randn(tokens, kv_heads * each, size).bfloat16() for _ in range(2))
    k, v = (torch.randn(tokens, kv_heads, size).bfloat16() for _ in range(2))
    borders = torch.tensor([0, *lengths]).cumsum(0).int()
    scale = size**-0.5
    exact = [x.double() for x in (grad, q, k, v)]
    expected = (causal.causal_rows(*exact[1:], borders, scale, window),)
    expected += causal.causal_rows_backward(*exact, borders, scale, window)
    got = (kernels.attention(q, k, v, borders, scale, window),)
    got += kernels.attention_backward(grad, q, k, v, borders, scale, window)
    for mine, right in zip(got, expected, strict=True):
        assert (mine - right).norm() <= 8e-3 * right.norm() + 1e-6


@needs_bf16
def test_attention_is_used_and_gives_the_same_every_time() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(300, heads, 64).bfloat16() for heads in (4, 2, 2))
    borders = torch.tensor([0, 100, 300]).int()
    assert kernels.attends(q, k, v, 2) and not kernels.attends(q.float(), k.float(), v.float(), 2)
    first = causal.causal_rows(q, k, v, borders, 0.1, EVERY_KEY)
    assert all(torch.equal(first, causal.causal_rows(q, k, v, borders, 0.1, EVERY_KEY)) for _ in range(5))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.equal(first, causal.causal_rows(q, k, v, borders, 0.1, EVERY_KEY))
    torch.set_num_threads(before)
    bad = q.clone()
    bad[150, 0, 0] = math.nan
    assert causal.causal_rows(bad, k, v, borders, 0.1, EVERY_KEY)[150, 0].isnan().all()


@pytest.mark.parametrize("march", ["x86-64", "cooperlake", "sapphirerapids"])
def test_the_source_suits_every_processor(march: str, tmp_path: Path) -> None:
    """Without vectors, with bf16 products and with tiles; run is what this processor can."""
    if platform.machine() != "x86_64":
        pytest.skip("names processors of x86-64")
    library = tmp_path / "kernels.so"
    flags = [flag.replace("native", march) for flag in kernels.FLAGS]
    compiler = shutil.which("g++") or "c++"
    done = subprocess.run(
        [compiler, *flags, *map(str, kernels.SOURCES), "-o", str(library)],
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    if march == "x86-64":
        assert ctypes.CDLL(str(library)).tunesmith_attention_ready() == 0


def test_the_library_is_built_once_and_a_compiler_that_fails_is_no_harm(tmp_path: Path) -> None:
    """Two processes at a time; then one whose compiler is broken."""
    code = "import torch; from tunesmith.engine import kernels; print(kernels.usable(torch.zeros(1)))"
    place = {"TUNESMITH_KERNELS": str(tmp_path / "kernels"), "HOME": str(tmp_path)}
    environment = os.environ | place
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == ["True", "True"]
    assert [path.suffix for path in (tmp_path / "kernels").iterdir()] == [".so"]
    broken = tmp_path / "bin" / "g++"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no >&2\nexit 1\n")
    broken.chmod(0o755)
    environment["PATH"] = f"{broken.parent}:{environment['PATH']}"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False" and "could not be built" in done.stderr
