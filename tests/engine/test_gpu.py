"""What runs on NVIDIA GPUs only: flash attention over rows of different lengths in bf16, products in fp8, and CUDA graphs."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.engine.test_forward import learn, make_model, plain_loss, random_rows
from tunesmith.engine import compiling, fp8
from tunesmith.engine.forward import Forward
from tunesmith.engine.lora import add_lora, linear_names
from tunesmith.engine.packing import pack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "phi3"])
def test_flash_attention_equals_rows_one_by_one(family: str) -> None:
    model = copy.deepcopy(make_model(family)).to("cuda", torch.bfloat16)
    model.set_attn_implementation("eager")
    rows = random_rows([37, 5, 120, 64], 1)
    forward = Forward(model, packing=True)
    assert forward.packed, forward.why
    batch = pack(rows).to(torch.device("cuda"))
    exact = copy.deepcopy(make_model(family))
    exact.set_attn_implementation("eager")
    expected = plain_loss(exact, rows)
    torch.testing.assert_close(forward.loss_sum(batch).cpu(), expected, rtol=2e-2, atol=1.0)


@pytest.mark.parametrize("in_fp8", [False, True])
def test_adapters_learn_beside_frozen_layers(in_fp8: bool) -> None:
    if in_fp8 and (trouble := fp8.why_not(torch.device("cuda"))):
        pytest.skip(trouble)
    model = copy.deepcopy(make_model("llama")).to("cuda", torch.bfloat16)
    model.set_attn_implementation("eager")
    add_lora(model, linear_names(model), 8, 16, 0.0)
    if in_fp8:
        assert fp8.to_fp8(model)
    losses = learn(model, pack(random_rows([60, 30, 90], 2)).to(torch.device("cuda")), steps=30)
    assert losses[-1] < 0.8 * losses[0]


def test_layers_replayed_as_cuda_graphs_learn_the_same() -> None:
    losses = []
    for graphs in (False, True):
        model = copy.deepcopy(make_model("llama")).to("cuda", torch.bfloat16)
        model.set_attn_implementation("eager")
        torch.manual_seed(0)
        add_lora(model, linear_names(model), 8, 16, 0.0)
        if graphs:
            compiling.compile_layers(model, graphs=True)
        batch = pack(random_rows([60, 30, 90], 2), fill=True).to(torch.device("cuda"))
        losses.append(learn(model, batch, steps=10))
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
