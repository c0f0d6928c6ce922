"""What a machine cannot do is told before anything is loaded, with what to do instead."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.recipes.ground import Ground, train
from tunesmith.core.errors import JobFailure
from tunesmith.recipes.lora.spec import LoraParams


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine may have it")
@pytest.mark.parametrize(
    ("name", "why"),
    [("fp8", "needs an NVIDIA GPU"), ("fp16", "fp16 needs an NVIDIA GPU"), ("cuda_graphs", "needs an NVIDIA GPU")],
)
def test_what_only_gpus_have(ground: Ground, name: str, why: str) -> None:
    with pytest.raises(JobFailure, match=why) as failure:
        train(ground.run(**{name: True}))
    assert failure.value.failure == "unsupported" and name in failure.value.message and failure.value.hint


def test_fp8_weights_are_not_shared_out() -> None:
    with pytest.raises(ValueError, match="fp8: false"):
        LoraParams(fp8=True, sharding="full_shard")


@pytest.mark.parametrize("other", [{"sharding": "full_shard"}, {"packing": False}, {"torch_compile": False}])
def test_cuda_graphs_want_compiled_layers_and_whole_weights(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cuda_graphs needs packing"):
        LoraParams(cuda_graphs=True, **other)
