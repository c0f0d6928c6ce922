"""Activations are recomputed in as many layers as the memory asks for, and the result is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from tests.recipes.ground import Ground, events, losses, train
from tunesmith.recipes.blocks import preparation, sft
from tunesmith.recipes.blocks.memory import SHARE_OF_FREE_MEMORY, kept_bytes, layers_to_recompute

PARAMS: dict[str, Any] = {"max_steps": 3, "batch_size": 4, "lora_r": 4, "lora_dropout": 0.1}


@pytest.mark.parametrize(("room", "expected"), [(1000, 0), (999, 1), (910, 1), (909, 2), (100, 10), (99, 10), (0, 10)])
def test_no_more_layers_than_needed_are_recomputed(room: int, expected: int) -> None:
    assert layers_to_recompute(10, layer_bytes=100, input_bytes=10, room_bytes=room) == expected


def test_what_is_kept_is_counted_once_and_without_weights() -> None:
    layer = nn.Linear(8, 4)
    x = torch.randn(16, 8, requires_grad=True)
    assert kept_bytes(layer, lambda: layer(x)) == 16 * 8 * 4
    assert kept_bytes(layer, lambda: torch.sigmoid(layer(x))) == 16 * 8 * 4 + 16 * 4 * 4


def test_some_layers_or_all_are_recomputed_when_memory_is_short(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs: list[tuple[float, float]] = []
    recomputed: list[bool] = []

    def decide(num_layers: int, layer_bytes: float, input_bytes: float, room_bytes: float) -> int:
        needs.append((layer_bytes, input_bytes))
        return layers_to_recompute(num_layers, layer_bytes, input_bytes, room_bytes)

    def look(run: Any, params: Any, trainer: Any) -> None:
        model = trainer.model
        recomputed[:] = [m.gradient_checkpointing for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]

    def learn(free: float) -> tuple[list[float], list[str]]:
        monkeypatch.setattr(preparation, "free_bytes", lambda device: free)
        run = ground.run(**PARAMS)
        assert train(run) == "completed"
        return losses(run), [e.message for e in events(run, "notice") if "recomputed" in e.message]

    monkeypatch.setattr(preparation, "layers_to_recompute", decide)
    monkeypatch.setattr(sft, "use_compiling", look)
    plain, notices = learn(1e12)
    assert recomputed == [False, False] and not notices
    layer_bytes, input_bytes = needs[0]
    for room, expected in ((2 * layer_bytes - 1, [True, False]), (layer_bytes + input_bytes - 1, [True, True])):
        got, notices = learn(room / SHARE_OF_FREE_MEMORY)
        assert recomputed == expected and got == pytest.approx(plain, rel=1e-6)
        assert f"{sum(expected)} of 2 layers" in notices[0]
