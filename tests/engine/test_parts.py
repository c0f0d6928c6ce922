"""Every function with a gradient of its own against autograd in fp64, and the learning-rate curves."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from tests.tiny import FAMILIES, tiny_config
from tunesmith.engine import causal
from tunesmith.engine import loss as loss_module
from tunesmith.engine.attention import _allowed, _ToBlock, _ToFlat
from tunesmith.engine.causal import EVERY_KEY, causal_rows
from tunesmith.engine.fusing import _LoraSwiGlu, _RmsNorm, fuse
from tunesmith.engine.lora import LoraLinear, _LoraLinear, add_lora, linear_names, lora_layers
from tunesmith.engine.optim import Masters, build_optimizer, flatten_state, learning_rate_factor, unflatten_state
from tunesmith.engine.packing import pack


def test_lora_gradients() -> None:
    torch.manual_seed(0)
    x, w, b = (torch.randn(*size, dtype=torch.double) for size in ((5, 6), (4, 6), (4,)))
    a, up = torch.randn(2, 6, dtype=torch.double), torch.randn(4, 2, dtype=torch.double)
    inputs = (x.requires_grad_(), w, b, a.requires_grad_(), up.requires_grad_(), 0.7)

    def in_double(*args: object) -> torch.Tensor:
        return _LoraLinear.apply(*args)

    expected = F.linear(x, w, b) + 0.7 * (x @ a.T) @ up.T
    torch.testing.assert_close(in_double(*inputs), expected)
    ours = torch.autograd.grad(in_double(*inputs).square().sum(), (x, a, up))
    theirs = torch.autograd.grad(expected.square().sum(), (x, a, up))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), reference, rtol=1e-5, atol=1e-5)


def test_block_and_back_gradients() -> None:
    batch = pack([(torch.arange(n).numpy(), torch.arange(n).numpy()) for n in (3, 1, 4)])
    flat = torch.randn(8, 2, dtype=torch.double, requires_grad=True)

    def there_and_back(x: torch.Tensor) -> torch.Tensor:
        block = _ToBlock.apply(x, batch.pad_index, batch.flat_index)
        return _ToFlat.apply(block * 2, batch.flat_index)

    assert torch.equal(there_and_back(flat), flat * 2)
    assert torch.autograd.gradcheck(there_and_back, flat)


@pytest.mark.parametrize("key_heads", [2, 1])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("short", [0, 3, 64])
def test_causal_rows_equal_one_softmax_a_row(
    short: int, window: int | None, key_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal, "SHORT", short)  # every row by itself, some together, all together
    monkeypatch.setattr(causal, "LEAST_BLOCK", 3)
    torch.manual_seed(0)
    lengths = (1, 3, 7, 2, 5)
    borders = torch.tensor([0, *lengths]).cumsum(0)
    size = (sum(lengths), 2, 4)
    q = torch.randn(size, dtype=torch.double, requires_grad=True)
    k, v = (torch.randn(size[0], key_heads, 4, dtype=torch.double, requires_grad=True) for _ in range(2))

    def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return causal_rows(q, k, v, borders, 0.7, window or EVERY_KEY)

    each = 2 // key_heads
    for start, end in zip(borders, borders[1:], strict=False):
        row = [x[start:end].repeat_interleave(n, 1) for x, n in ((q, 1), (k, each), (v, each))]
        scores = torch.einsum("qhs,khs->hqk", row[0], row[1]) * 0.7
        weights = scores.masked_fill(~_allowed(int(end - start), window, q.device), float("-inf")).softmax(-1)
        torch.testing.assert_close(ours(q, k, v)[start:end], torch.einsum("hqk,khs->qhs", weights, row[2]))
    assert torch.autograd.gradcheck(ours, (q, k, v))


@pytest.mark.parametrize("chunk", [3, 512])
def test_head_loss_equals_cross_entropy(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_TOKENS", chunk)
    torch.manual_seed(0)
    hidden, weight = torch.randn(10, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
    targets = torch.randint(0, 30, (10,))
    got, expected = (
        loss_module.head_loss(hidden, weight, targets),
        F.cross_entropy(hidden @ weight.T, targets, reduction="sum"),
    )
    torch.testing.assert_close(got, expected)
    for ours, theirs in zip(
        torch.autograd.grad(got / 3, (hidden, weight)), torch.autograd.grad(expected / 3, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_dropout_changes_training_only() -> None:
    torch.manual_seed(0)
    layer = LoraLinear(torch.nn.Linear(8, 8), r=2, alpha=4, dropout=0.5)
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(3, 8)
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


@given(
    scheduler=st.sampled_from(
        ["cosine", "linear", "constant", "constant_with_warmup", "cosine_with_min_lr", "polynomial"]
    ),
    total=st.integers(1, 500),
    warmup=st.integers(0, 100),
)
def test_learning_rates_rise_to_the_peak_and_then_never_rise(scheduler: str, total: int, warmup: int) -> None:
    factors = [learning_rate_factor(scheduler, step, total, warmup) for step in range(total)]
    assert all(0 <= f <= 1 for f in factors)
    rising = 0 if scheduler == "constant" else min(warmup, total)
    assert factors[:rising] == sorted(factors[:rising])
    assert factors[rising:] == sorted(factors[rising:], reverse=True)
    if rising < total:
        assert factors[rising] == 1.0


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "adafactor", "sgd", "lion"])
def test_every_optimizer_moves_weights_and_its_state_survives_a_file(name: str) -> None:
    torch.manual_seed(0)
    start, gradient = torch.randn(64, 128), torch.randn(64, 128)

    def steps(param: torch.nn.Parameter, optimizer: torch.optim.Optimizer, count: int) -> None:
        for _ in range(count):
            param.grad = gradient.clone()
            optimizer.step()

    straight = torch.nn.Parameter(start.clone())
    steps(straight, build_optimizer(name, [straight], 1e-2, 0.1), 4)
    assert not torch.equal(straight, start)

    broken = torch.nn.Parameter(start.clone())
    optimizer = build_optimizer(name, [broken], 1e-2, 0.1)
    steps(broken, optimizer, 2)
    tensors: dict[str, torch.Tensor] = {}
    told = json.loads(json.dumps(flatten_state(optimizer.state_dict(), "o", tensors)))
    resumed = torch.nn.Parameter(broken.detach().clone())
    optimizer = build_optimizer(name, [resumed], 1e-2, 0.1)
    optimizer.load_state_dict(unflatten_state(told, tensors))
    steps(resumed, optimizer, 2)
    assert torch.equal(resumed, straight)


def test_masters_keep_updates_that_bf16_would_lose() -> None:
    param = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    masters = Masters([param])
    optimizer = build_optimizer("sgd", masters.masters, 1e-3, 0.0)
    for _ in range(20):
        param.grad = torch.ones_like(param)
        norm = masters.take_gradients()
        masters.clip(0.0, norm)
        optimizer.step()
        masters.give_back()
    assert norm == 2.0 and float(param[0]) < 0.97 and float(masters.masters[0][0]) < 0.97


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm_gradients(offset: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, dtype=torch.double, requires_grad=True)
    weight = torch.randn(6, dtype=torch.double, requires_grad=True)
    expected = F.rms_norm(x, (6,), weight + offset, 1e-3)
    torch.testing.assert_close(_RmsNorm.apply(x, weight, 1e-3, offset), expected)
    assert torch.autograd.gradcheck(lambda x, w: _RmsNorm.apply(x, w, 1e-3, offset), (x, weight))


def test_feed_forward_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 6, dtype=torch.double, requires_grad=True)
    sizes = ((6, 7), (6, 7), (7, 6))  # gate, up, down
    parts = []
    for inputs, outputs in sizes:
        weight = torch.randn(outputs, inputs, dtype=torch.double)
        a, b = torch.randn(2, inputs, dtype=torch.double), torch.randn(outputs, 2, dtype=torch.double)
        parts += [weight, a.requires_grad_(), b.requires_grad_(), 0.7]

    def plain(x: torch.Tensor, layer: int) -> torch.Tensor:
        weight, a, b, scale = parts[4 * layer : 4 * layer + 4]
        return x @ weight.T + scale * (x @ a.T) @ b.T

    expected = plain(F.silu(plain(x, 0)) * plain(x, 1), 2)
    torch.testing.assert_close(_LoraSwiGlu.apply(x, *parts), expected)
    assert torch.autograd.gradcheck(_LoraSwiGlu.apply, (x, *parts))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_fused_gives_the_same_and_the_rest_stays(family: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(family), dtype=torch.float32)
    add_lora(model, linear_names(model), 4, 8, 0.0)
    for _, layer in lora_layers(model):
        torch.nn.init.normal_(layer.lora_b, std=0.1)
    ids = torch.randint(0, 50, (2, 9))

    def run() -> tuple[torch.Tensor, ...]:
        logits = model(ids).logits
        trained = [p for p in model.parameters() if p.requires_grad]
        return logits, *torch.autograd.grad(logits.square().mean(), trained)

    expected, counts, got = run(), fuse(model), run()
    torch.testing.assert_close(got, expected)
    gated = family in ("llama", "mistral", "qwen2", "qwen3")  # Gemma's is GeGLU, Phi-3 has one layer for gate and up
    assert counts["feed-forwards"] == (model.config.num_hidden_layers if gated else 0)
    assert (counts["norms"] > 0) == (family != "gpt2")


def test_polynomial_is_what_transformers_does() -> None:
    from transformers import get_polynomial_decay_schedule_with_warmup

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_polynomial_decay_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=40)
    for step in range(40):
        assert learning_rate_factor("polynomial", step, 40, 0) == pytest.approx(theirs.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        theirs.step()
