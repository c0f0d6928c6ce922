"""Compiled layers: the same losses, the same after a pause, and no harm where they cannot be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from tests.recipes.ground import Ground, events, losses, train
from tests.services import missing
from tunesmith.core.events import StepEvent
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.job_spec import Control
from tunesmith.engine import attention, compiling, kernels
from tunesmith.engine.packing import pack
from tunesmith.worker.run import Run

PARAMS: dict[str, Any] = {
    "max_steps": 6,
    "batch_size": 4,
    "eval_steps": 3,
    "lora_r": 4,
    "learning_rate": 1e-2,
    "bf16": False,
}


@pytest.fixture
def compiler() -> None:
    if why := compiling.why_not(torch.device("cpu")):
        missing("a C++ compiler", why)


def pause_at(run: Run, step: int) -> None:
    def look(event: Any) -> None:
        if isinstance(event, StepEvent) and event.step == step:
            write_atomic(run.dir.control, Control(pause=True))

    run.observe(look)


@contextmanager
def recompiling_refused_after_a_step(run: Run) -> Iterator[None]:
    """From the second step on, rows of other lengths must go through the graph that is there."""
    with ExitStack() as stack:

        def look(event: Any) -> None:
            if isinstance(event, StepEvent):
                stack.enter_context(torch._dynamo.config.patch(error_on_recompile=True))

        run.observe(look)
        yield


@pytest.mark.usefixtures("compiler")
@pytest.mark.timeout(600)
def test_compiled_layers_learn_the_same_and_go_on_to_the_last_digit(ground: Ground) -> None:
    eager, compiled, paused = (ground.run(**PARAMS, torch_compile=wanted) for wanted in (False, True, True))
    assert train(eager) == "completed"
    with recompiling_refused_after_a_step(compiled):
        assert train(compiled) == "completed"
    assert losses(compiled) == pytest.approx(losses(eager), rel=1e-4)
    assert [e.phase for e in events(compiled, "phase")].count("compiling") == 1
    assert "not_compiled" not in [event.code for event in events(compiled, "notice")]
    pause_at(paused, 4)
    assert train(paused) == "paused"
    write_atomic(paused.dir.control, Control())
    torch._dynamo.reset()  # as in a new process
    resumed = ground.again(paused)
    assert train(resumed) == "completed"
    assert losses(resumed) == losses(compiled)


def test_without_a_compiler_it_runs_as_it_is_and_says_so(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ground.run(**PARAMS, torch_compile=True)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert train(run) == "completed"
    (notice,) = [event for event in events(run, "notice") if event.code == "not_compiled"]
    assert "no C++ compiler" in notice.message


def test_without_a_compiler_training_says_that_it_is_slower(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernels, without = ground.run(**PARAMS), ground.run(**PARAMS)
    assert train(with_kernels) == "completed"
    monkeypatch.setattr(kernels, "_library", lambda: None)
    monkeypatch.setattr(kernels, "_compiler", lambda: None)
    assert train(without) == "completed"
    (notice,) = [event for event in events(without, "notice") if event.code == "no_kernels"]
    assert "no C++ compiler" in notice.message
    assert losses(without) == pytest.approx(losses(with_kernels), rel=1e-4)


def test_only_long_runs_on_gpus_are_compiled_unasked() -> None:
    cuda = torch.device("cuda")
    assert not compiling.pays(cuda, 1e15) and compiling.pays(cuda, 1e18)
    assert not compiling.pays(torch.device("cpu"), 1e30) and not compiling.pays(torch.device("meta"), 1e30)


@pytest.mark.usefixtures("compiler")
def test_attention_on_gpus_is_compiled_for_a_bound_and_not_for_each_longest_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No GPU here: torch's attention is replaced, what leads to it is ours."""

    def stand_in(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *around: Any, **_: Any) -> torch.Tensor:
        return q * around[-1]

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", stand_in)
    torch._dynamo.reset()
    compiled = torch.compile(attention._flash, dynamic=True, backend="eager")
    for number, lengths in enumerate(((5, 9, 3), (7, 200, 8), (30, 11, 4), (6, 6, 6))):
        batch = pack([(np.arange(n), np.arange(n)) for n in lengths])
        q = torch.ones(1, 2, sum(lengths), 8)
        with torch._dynamo.config.patch(error_on_recompile=number > 0):
            assert float(compiled(q, q, q, batch, 0.5, None).max()) == 256
    torch._dynamo.reset()
