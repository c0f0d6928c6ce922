"""One place says what the processor multiplies, and a test run can have it say less."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.core import confinement, processor
from tunesmith.core.errors import InvalidInput
from tunesmith.core.job_dir import JobDir
from tunesmith.core.processor import processor_of
from tunesmith.executors.base import Order
from tunesmith.executors.local import worker_environment
from tunesmith.settings import Settings

AMX = {"fpu", "avx512_bf16", "amx_bf16"}
ZEN5 = {"fpu", "avx512_bf16"}


@pytest.mark.parametrize(("flags", "kind", "has"), [
    (AMX, "", (True, True)), (AMX, "amx", (True, True)), (AMX, "bf16", (True, False)), (AMX, "plain", (False, False)),
    (ZEN5, "", (True, False)), (ZEN5, "amx", (True, False)), (ZEN5, "plain", (False, False)),
    ({"fpu"}, "amx", (False, False)), ({"fpu"}, "bf16", (False, False)),
])  # fmt: skip
def test_a_kind_takes_away_and_never_adds(flags: set[str], kind: str, has: tuple[bool, bool]) -> None:
    found = processor_of(flags, kind)
    assert found == has and found.multiplies_bf16 == any(has)


def test_an_unknown_kind_is_refused_and_names_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(processor.VARIABLE, "z80")
    with pytest.raises(InvalidInput, match="TUNESMITH_CPU is 'z80'") as refused:
        processor.pretended()
    assert refused.value.hint and "plain, bf16, amx" in refused.value.hint
    with pytest.raises(ValueError, match="'plain', 'bf16' or 'amx'"):
        Settings()


def test_every_child_of_the_server_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(processor.VARIABLE, "plain")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    told = worker_environment(JobDir(tmp_path), Order(attempt=1, cpu_threads=1))
    assert told[processor.VARIABLE] == "plain" and told["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert set(processor.PASSED_ON) <= set(confinement.PASSED_ON)


TELL = """
import json, torch
from tunesmith.engine import kernels
from tunesmith.engine.precision import pick_dtype
from tunesmith.recipes.plans import read_machine
cpu = torch.device("cpu")
print(json.dumps({"dtype": str(pick_dtype(cpu, None, fp16=False)), "auto": read_machine()._replace(device="")[2],
    "vectors": torch.backends.cpu.get_cpu_capability(), "attention": bool(kernels._attention_ready())}))
"""


def test_torch_the_kernels_and_the_plan_of_a_job_all_follow(tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in processor.PASSED_ON}
    place = {"TUNESMITH_CPU": "plain", "CUDA_VISIBLE_DEVICES": "", "TUNESMITH_KERNELS": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", TELL], env=kept | place, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["dtype"] == "torch.float32" and "512" not in told["vectors"] and not told["attention"]
    from tunesmith.core.devices import read_gpus

    assert told["auto"] is bool(read_gpus())
