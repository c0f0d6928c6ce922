"""Figures about a model are the same whatever the processor multiplies fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes.ground import PAIRS, Ground, train
from tunesmith.core.processor import Processor
from tunesmith.recipes.compress import making

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="where there is a GPU, models are computed there")
PROCESSORS = (Processor(False, False), Processor(True, False))


@pytest.fixture
def ground(tmp_path: Path, tiny_model: Path) -> Ground:
    return Ground(tmp_path, tiny_model)


def on_each(ground: Ground, monkeypatch: pytest.MonkeyPatch, file: str, **settings: Any) -> list[Any]:
    """What a job of those settings leaves in `file` on each kind of processor."""
    found = []
    for processor in PROCESSORS:
        monkeypatch.setattr("tunesmith.engine.precision.read_processor", lambda has=processor: has)
        run = ground.run(PAIRS[:12], **settings)
        assert train(run) == "completed"
        found.append(json.loads((run.dir.artifacts / file).read_bytes()))
    return found


def test_a_compression(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"formats": ["merged"], "num_eval_tokens": 120, "max_new_tokens": 8}
    plain, fast = on_each(ground, monkeypatch, "compressed/report.json", recipe="compress", **asked)
    assert plain["source"]["computed_in"] == plain["source"]["timed_in"] == "float32"
    assert fast["source"]["computed_in"] == "float32" and fast["source"]["timed_in"] == "bfloat16"
    assert fast["source"]["perplexity"] == plain["source"]["perplexity"]
    assert fast["source"]["greedy_answer"] == plain["source"]["greedy_answer"]
    assert fast["formats"][0]["perplexity"] == fast["source"]["perplexity"], "nothing was rounded"
    assert fast["formats"][0]["tokens_per_s"] > 0 and fast["source"]["tokens_per_s"] > 0


def test_an_evaluation(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"metrics": ["perplexity", "exact_match"], "max_prompts": 2, "max_new_tokens": 6, "latency_prompts": 0}
    plain, fast = on_each(ground, monkeypatch, "evaluation/scores.json", recipe="evaluate", **asked)
    assert plain["computed_in"] == "float32"
    assert fast == plain
    run = ground.run(PAIRS[:12], recipe="evaluate", bf16=True, **asked)
    assert train(run) == "completed"
    told = json.loads((run.dir.artifacts / "evaluation/scores.json").read_bytes())
    assert told["computed_in"] == "bfloat16", "who asks for it gets it"


def test_a_model_that_does_not_fit_in_fp32_is_measured_as_it_would_be_used(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    assert making.place_for(ground.model, cpu, torch.bfloat16) == (cpu, torch.float32)
    monkeypatch.setattr(making, "free_bytes", lambda device: 10**12 if device.type == "cpu" else 1000)
    assert making.place_for(ground.model, torch.device("cuda", 0), torch.bfloat16) == (cpu, torch.float32)
    monkeypatch.setattr(making, "free_bytes", lambda _: 1000)
    run = ground.run(PAIRS[:6], recipe="compress", formats=["merged"], num_eval_tokens=60, max_new_tokens=4)
    monkeypatch.setattr("tunesmith.engine.precision.read_processor", lambda: Processor(True, False))
    assert train(run) == "completed"
    told = json.loads((run.dir.artifacts / "compressed/report.json").read_bytes())["source"]
    assert told["computed_in"] == "bfloat16"
    assert "does not fit into memory" in run.dir.events.read_text()
