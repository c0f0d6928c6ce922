"""A model shared out over two real processes learns what one process learns, and leaves the same files."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from tests.recipes.ground import Ground, events, losses, train
from tests.tiny import make_tiny_model
from tests.worker.job import wait_until
from tunesmith.core.errors import JobFailure
from tunesmith.core.job_dir import write_atomic
from tunesmith.recipes.lora.spec import LoraParams
from tunesmith.recipes.qlora.spec import QloraParams
from tunesmith.worker.run import Run

ALONE: dict[str, Any] = {"max_steps": 7, "batch_size": 8, "eval_steps": 3, "save_steps": 2, "learning_rate": 1e-3,
                         "bf16": False, "max_length": 64}  # fmt: skip
"""43 rows to learn, five held out: the last step of an epoch has three, and two ranks never have as many each."""
SHARED: dict[str, Any] = {**ALONE, "batch_size": 1, "gradient_accumulation_steps": 4}
LAUNCH = """
import sys
from tunesmith.worker.ranks import launch_ranks
sys.exit(launch_ranks([sys.executable, "-m", "tests.worker.sharded", *sys.argv[1:]], 2))
"""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture
def tied(tmp_path: Path, tiny_model: Path) -> Ground:
    return Ground(tmp_path, tiny_model)


def launch(runs: Iterable[Run]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", LAUNCH, *(str(run.dir.path) for run in runs)])


def model_folder(run: Run) -> Path:
    (folder,) = run.dir.artifacts.glob("*_model")
    return folder


def weights(run: Run) -> dict[str, torch.Tensor]:
    (file,) = model_folder(run).glob("*model.safetensors")
    return load_file(file)


def assert_same(run: Run, alone: Run) -> None:
    assert (run.dir.path / "outcome").read_text() == "completed"
    assert losses(run) == pytest.approx(losses(alone), abs=2e-6)
    scores = [[e.loss for e in events(each, "evaluation")] for each in (run, alone)]
    assert scores[0] == pytest.approx(scores[1], abs=2e-6) and len(scores[0]) == 3
    torch.testing.assert_close(weights(run), weights(alone), rtol=1e-4, atol=5e-5)


@pytest.mark.timeout(600)
def test_two_processes_with_parts_learn_what_one_learns(tied: Ground, tmp_path: Path) -> None:
    (tmp_path / "untied").mkdir()
    untied = Ground(tmp_path / "untied", make_tiny_model(tmp_path / "untied" / "model", "qwen2"))
    runs: list[tuple[Run, Run]] = []
    for ground, recipe, params in (
        (tied, "standard", {"sharding": "full_shard", "gradient_checkpointing": True}),
        (tied, "lora", {"sharding": "shard_grad_op"}),
        (untied, "standard", {"sharding": "shard_grad_op"}),
        (untied, "lora", {"sharding": "full_shard"}),
    ):
        alone = ground.run(recipe=recipe, **ALONE)
        assert train(alone) == "completed"
        runs.append((ground.run(recipe=recipe, **SHARED, **params), alone))
    assert launch(run for run, _ in runs).wait(500) == 0
    for run, alone in runs:
        assert_same(run, alone)
        check = json.loads((model_folder(run) / "validation.json").read_text())  # by plain transformers and PEFT
        assert check["loads"] is True and check["generates"] is True
    config = json.loads((model_folder(runs[0][0]) / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


@pytest.mark.timeout(600)
def test_killed_and_gone_on_with_in_another_way(tied: Ground) -> None:
    alone, killed = tied.run(recipe="standard", **ALONE), tied.run(recipe="standard", **SHARED, sharding="full_shard")
    assert train(alone) == "completed"
    process = launch([killed])
    wait_until(lambda: len(losses(killed)) >= 3 and killed.dir.latest_checkpoint(), 300)
    process.send_signal(signal.SIGKILL)
    process.wait()
    spec = killed.dir.read_spec()
    write_atomic(killed.dir.spec, spec.model_copy(update={"params": {**spec.params, "sharding": "shard_grad_op"}}))
    resumed = tied.again(killed)
    assert launch([resumed]).wait(300) == 0
    assert "resumed" in [event.code for event in events(resumed, "notice")]
    assert_same(resumed, alone)


def test_what_cannot_be_shared_out_is_refused(tied: Ground) -> None:
    with pytest.raises(JobFailure, match="needs more than one"):
        train(tied.run(**SHARED, sharding="full_shard"))
    for params, words in (
        ({"sharding": "full_shard", "optimizer": "adamw_8bit"}, "use adamw or sgd"),
        ({"sharding_offload": True}, "needs sharding"),
        ({"deepspeed": "zero3.json"}, "full_shard for ZeRO-3"),
    ):
        with pytest.raises(ValidationError, match=words):
            LoraParams.model_validate(params)
    with pytest.raises(ValidationError, match="each device holds the 4-bit weights"):
        QloraParams.model_validate({"sharding": "full_shard"})
