"""Training without a server under torchrun: its processes make one run between them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.cli.local import num_ranks
from tunesmith.core.errors import InvalidInput

CONFIG = """
model: {name: model}
training_data: {path: rows.jsonl}
hyperparameters: {max_steps: 3, batch_size: 2, bf16: false, sharding: full_shard}
evaluation: {validation_split: 0.1}
"""


@pytest.mark.timeout(300)
def test_two_processes_of_torchrun_make_one_run(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"question": f"What is {i}?", "answer": f"It is {i}."} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "job.yaml").write_text(CONFIG)
    shutil.copytree(tiny_model, tmp_path / "model")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "-m", "tunesmith",
               "--json", "train", "--config", "job.yaml", "--output", "out"]  # fmt: skip
    env = {**os.environ, "TUNESMITH_HOME": str(tmp_path / "home"), "TUNESMITH_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["step"] for event in told if event.get("type") == "step"] == [1, 2, 3]  # told once
    assert (Path(told[-1]["model"]) / "adapter_model.safetensors").is_file()
    assert list((tmp_path / "out").glob("exit.rank-1.json"))  # it had two ranks, which sharding needs


def test_several_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_ranks() is None
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match="one machine"):
        num_ranks()
