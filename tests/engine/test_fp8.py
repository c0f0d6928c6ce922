"""fp8: products and gradients beside exact ones, and an adapter that learns beside fp8 layers. torch emulates the format on CPUs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.engine.test_forward import learn, make_model, random_rows
from tunesmith.engine import fp8
from tunesmith.engine.lora import add_lora, linear_names
from tunesmith.engine.packing import pack


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_products_go_through_fp8_in_both_directions() -> None:
    torch.manual_seed(0)
    dense = nn.Linear(64, 96).requires_grad_(False)
    layer = fp8.Fp8Linear(dense)
    # One weight far larger than its row's others must not cost the other rows their digits.
    x = torch.randn(2, 10, 64) * torch.logspace(-3, 3, 10)[:, None]
    exact_x, x = x.clone().requires_grad_(), x.requires_grad_()
    grad = torch.randn(2, 10, 96)
    expected, got = dense(exact_x), layer(x)
    expected.backward(grad)
    got.backward(grad)
    for token in range(10):
        assert apart(got[:, token], expected[:, token]) < 0.06
    assert apart(x.grad, exact_x.grad) < 0.06
    # What is lost is lost to the format: beside weights and inputs that have been through it, only bf16 is.
    rows, scale = fp8.quantise(x.detach().flatten(0, 1))
    through = (rows.float() * scale) @ (layer.weight.float() * layer.scale).T + dense.bias
    assert apart(got.detach().flatten(0, 1), through) < 0.01


def test_an_adapter_learns_beside_fp8_layers_what_it_learns_beside_dense_ones() -> None:
    losses = {}
    for with_fp8 in (False, True):
        model = copy.deepcopy(make_model("llama"))
        model.set_attn_implementation("eager")
        torch.manual_seed(0)
        add_lora(model, linear_names(model), 8, 16, 0.0)
        if with_fp8:
            assert fp8.to_fp8(model) == len(linear_names(copy.deepcopy(make_model("llama"))))
        losses[with_fp8] = learn(model, pack(random_rows([30, 12, 50], 2)), steps=12)
    assert losses[True][-1] < 0.9 * losses[True][0]
    assert losses[True] == pytest.approx(losses[False], rel=0.03)
