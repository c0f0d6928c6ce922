"""Real exceptions, raised by the libraries themselves, and the words they become."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tunesmith.core.errors import BadData, FailureCode, JobFailure
from tunesmith.recipes.lora.spec import LoraParams
from tunesmith.worker.failures import classify


def torch_allocation() -> None:
    import torch

    torch.empty(1 << 55, dtype=torch.uint8)


def python_memory() -> None:
    bytearray(1 << 62)


def unknown_model() -> None:
    from transformers import AutoConfig

    AutoConfig.from_pretrained("nobody/no-such-model", local_files_only=True)


def hub_refuses() -> None:
    from huggingface_hub import snapshot_download

    snapshot_download("nobody/no-such-model", local_files_only=True)


def impossible_name() -> None:
    from huggingface_hub import snapshot_download

    snapshot_download("a//b//c")


def empty_model_folder(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2}')
    AutoModelForCausalLM.from_pretrained(tmp_path)


def unknown_architecture(tmp_path: Path) -> None:
    from transformers import AutoConfig

    (tmp_path / "config.json").write_text('{"model_type": "from_the_future"}')
    AutoConfig.from_pretrained(tmp_path)


def wants_code(tmp_path: Path) -> None:
    from transformers import AutoConfig

    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "code.C"}}')
    (tmp_path / "code.py").write_text("raise SystemExit('executed')")
    AutoConfig.from_pretrained(tmp_path, trust_remote_code=False)


def pickle_only(tmp_path: Path) -> None:
    from tunesmith.recipes.model_info import refuse_unsafe_files

    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    refuse_unsafe_files(tmp_path)


def bad_setting() -> None:
    LoraParams.model_validate({"learning_rate": -1, "batch_sise": 3})


def missing_package() -> None:
    __import__("a_package_that_nobody_has")


def bad_rows() -> None:
    raise BadData("2 rows are empty.", details=[{"row": 3}, {"row": 9}])


def wrapped() -> None:
    try:
        python_memory()
    except MemoryError as error:
        raise RuntimeError("the step failed") from error


def not_a_number() -> None:
    raise JobFailure(FailureCode.NAN_LOSS, "The loss became nan at step 3.")


def defect() -> None:
    {}["x"]  # type: ignore[index]


def not_written() -> None:
    raise NotImplementedError("no kernel for this")


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (torch_allocation, "out_of_memory"),
        (python_memory, "out_of_memory"),
        (wrapped, "out_of_memory"),
        (unknown_model, "model_not_found"),
        (hub_refuses, "model_not_found"),
        (impossible_name, "model_not_found"),
        (empty_model_folder, "model_not_found"),
        (unknown_architecture, "unsupported"),
        (wants_code, "unsupported"),
        (pickle_only, "unsupported"),
        (missing_package, "unsupported"),
        (not_written, "unsupported"),
        (bad_setting, "invalid_settings"),
        (bad_rows, "bad_data"),
        (not_a_number, "nan_loss"),
        (defect, "internal"),
    ],
)
def test_an_exception_becomes_a_failure(act: Callable[..., None], code: str, tmp_path: Path) -> None:
    needs_folder = "tmp_path" in act.__code__.co_varnames[: act.__code__.co_argcount]
    with pytest.raises(BaseException) as raised:
        act(tmp_path) if needs_folder else act()
    failure = classify(raised.value)
    assert failure.code == code, failure
    assert failure.message and failure.hint
    assert len(failure.message) <= 600
    if code == "bad_data":
        assert [d["row"] for d in failure.details] == [3, 9]
    if code == "invalid_settings":
        assert {d["loc"] for d in failure.details} == {"learning_rate", "batch_sise"}
    assert ("Traceback" in failure.traceback) == (code in ("internal", "out_of_memory", "model_not_found"))


def test_a_full_disk_is_recognised_in_every_library(tmp_path: Path) -> None:
    """`/dev/full` and a file-size limit make Python, safetensors and pyarrow fail for real."""
    code = """
import resource, signal, sys
import pyarrow as pa, pyarrow.parquet as pq, torch
from safetensors.torch import save_file
from tunesmith.worker.failures import classify
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
folder = sys.argv[1]
def python(): open(folder + "/a", "wb").write(b"x" * 10000)
def tensors(): save_file({"x": torch.zeros(10000)}, folder + "/b")
def parquet(): pq.write_table(pa.table({"x": list(range(100000))}), folder + "/c")
def full():
    with open("/dev/full", "w") as file: file.write("x" * 100000)
for act in (python, tensors, parquet, full):
    try: act()
    except BaseException as error:
        assert classify(error).code == "disk_full", (act.__name__, repr(error), classify(error))
    else: sys.exit(act.__name__ + " did not fail")
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_an_offline_machine_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError) as raised:
        unknown_model()
    assert "offline" in classify(raised.value).hint


def test_a_long_message_is_cut() -> None:
    failure = classify(RuntimeError("x" * 10_000_000))
    assert len(failure.message) <= 500
    assert len(failure.traceback) <= 20_000
