"""What a machine cannot do is told before anything is loaded, with what to do instead."""

from __future__ import annotations

import pytest
import torch

from tests.recipes.ground import Ground, train
from tunesmith.core.errors import JobFailure
from tunesmith.recipes.lora.spec import LoraParams


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine may have fp8")
@pytest.mark.parametrize(("name", "why"), [("fp8", "needs an NVIDIA GPU"), ("fp16", "fp16 needs an NVIDIA GPU")])
def test_a_number_format_that_is_not_here(ground: Ground, name: str, why: str) -> None:
    with pytest.raises(JobFailure, match=why) as failure:
        train(ground.run(**{name: True}))
    assert failure.value.failure == "unsupported" and name in failure.value.message and failure.value.hint


def test_fp8_weights_are_not_shared_out() -> None:
    with pytest.raises(ValueError, match="fp8: false"):
        LoraParams(fp8=True, sharding="full_shard")
