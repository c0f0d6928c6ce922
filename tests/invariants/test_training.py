"""What must not change the result: how a batch is divided, pausing, memory that runs out, how rows are laid."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from tests.worker.job import Job, wait_until
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.job_spec import Control

MakeJob = Callable[..., Job]
FEW = {
    "max_steps": 6,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "bf16": False,
    "validation_split": 0.0,
    "lora_r": 4,
    "save_steps": 100,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "data.parquet"
    asked = [f"what is {i} and {i * 7 % 11}" * (1 + i % 3) for i in range(48)]
    pq.write_table(pa.table({"question": asked, "answer": [f"it is {i * 3} of user" for i in range(48)]}), path)
    return path


@pytest.fixture
def make_job(tmp_path: Path, tiny_model: Path, rows: Path) -> MakeJob:
    def make(name: str, recipe: str = "lora", model_path: str = str(tiny_model), **params: Any) -> Job:
        return Job(
            tmp_path / name,
            recipe=recipe,
            params={**(FEW if recipe != "standard" else {k: v for k, v in FEW.items() if k != "lora_r"}), **params},
            model={"name": "tiny/llama", "path": model_path},
            dataset={"name": "rows", "path": str(rows), "digest": "ab" * 32, "shape": "question_answer",
                     "mapping": {"question": "question", "answer": "answer"}, "num_rows": 48},
        )  # fmt: skip

    return make


def losses(job: Job) -> list[float]:
    return [event.loss for event in job.events("step")]


def adapter(job: Job) -> dict[str, Any]:
    return dict(load_file(job.dir.artifacts / "lora_model" / "adapter_model.safetensors"))


def test_a_batch_of_eight_is_eight_however_it_is_divided(make_job: MakeJob) -> None:
    whole = make_job("8x1")
    assert whole.run() == 0, whole.log()
    for name, params in (
        ("2x4", {"batch_size": 2, "gradient_accumulation_steps": 4}),
        ("padded", {"packing": False}),
        ("recomputed", {"gradient_checkpointing": True}),
    ):
        other = make_job(name, **params)
        assert other.run() == 0, other.log()
        assert losses(other) == pytest.approx(losses(whole), rel=1e-4), name
        for key, tensor in adapter(whole).items():
            assert (adapter(other)[key] - tensor).abs().max() < 2e-3, f"{name}: {key}"


def test_memory_that_runs_out_halves_the_batch_and_changes_nothing(make_job: MakeJob) -> None:
    whole, killed = make_job("whole"), make_job("killed-twice")
    assert whole.run() == 0
    assert killed.run(TUNESMITH_OOM_KILLS="2") == 0
    assert losses(killed) == pytest.approx(losses(whole), rel=1e-4)
    said = [event.message for event in killed.events("notice") if event.code == "micro_batch_halved"]
    assert len(said) == 2 and "batch_size 2" in said[1]


def test_paused_and_resumed_equals_uninterrupted_to_the_last_digit(make_job: MakeJob) -> None:
    more = {"max_steps": 40, "lora_dropout": 0.1, "neftune_noise_alpha": 5.0}
    whole, broken = make_job("whole", **more), make_job("broken", **more)
    assert whole.run() == 0
    process = broken.start()
    wait_until(lambda: len(broken.events("step")) >= 3)
    write_atomic(broken.dir.control, Control(pause=True))
    assert process.wait(60) == 0 and broken.exit().outcome == "paused"
    write_atomic(broken.dir.control, Control())
    broken.launch(2)
    assert broken.run(2) == 0, broken.log()
    assert losses(broken) == losses(whole)
    assert all((adapter(broken)[key] == tensor).all() for key, tensor in adapter(whole).items())


def test_requests_while_it_runs(make_job: MakeJob) -> None:
    job = make_job("asked", max_steps=200, scheduler="constant")
    process = job.start()
    wait_until(lambda: len(job.events("step")) >= 2)
    write_atomic(job.dir.control, Control(checkpoint_seq=1, learning_rate=5e-3, learning_rate_seq=1))
    wait_until(lambda: any(event.learning_rate == 5e-3 for event in job.events("step")))
    assert any(event.reason == "request" for event in job.events("checkpoint"))
    write_atomic(job.dir.control, Control(stop=True, checkpoint_seq=1, learning_rate=5e-3, learning_rate_seq=1))
    assert process.wait(60) == 0 and job.exit().outcome == "cancelled"


def test_a_loss_that_is_no_number_fails_with_what_to_do(make_job: MakeJob, tiny_model: Path, tmp_path: Path) -> None:
    """Weights so large that their products overflow, as a diverging run makes them."""
    shutil.copytree(tiny_model, tmp_path / "large")
    weights = load_file(tmp_path / "large" / "model.safetensors")
    save_file({name: w * 1e25 if "mlp" in name else w for name, w in weights.items()}, tmp_path / "large" / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    job = make_job("nan", model_path=str(tmp_path / "large"))
    assert job.run() == 1
    failure = job.exit().failure
    assert failure.code == "nan_loss" and "step" in failure.message and "learning_rate" in failure.hint


def test_every_weight_is_trained_and_the_best_are_kept(make_job: MakeJob, tiny_model: Path) -> None:
    job = make_job("standard", "standard", validation_split=0.2, eval_steps=2, max_steps=8, learning_rate=3e-3)
    assert job.run() == 0, job.log()
    before, after = (
        load_file(tiny_model / "model.safetensors"),
        load_file(job.dir.artifacts / "standard_model" / "model.safetensors"),
    )
    assert all((after[key] != tensor).any() for key, tensor in before.items())
    scores = [(event.loss, event.is_best) for event in job.events("evaluation")]
    assert len(scores) == 4 and scores[0][1]
    assert job.exit().metrics["eval_loss"] == pytest.approx(min(loss for loss, _ in scores), rel=1e-4)
    assert job.exit().metrics["perplexity"] > 1


def test_it_stops_early_when_nothing_gets_better(make_job: MakeJob) -> None:
    stopping = {"enabled": True, "patience": 2, "min_delta": 100.0}
    job = make_job("early", validation_split=0.2, eval_steps=1, max_steps=50, early_stopping=stopping)
    assert job.run() == 0
    assert len(job.events("step")) == 3 and "Stopped early" in " ".join(e.message for e in job.events("notice"))


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "adafactor"])
def test_other_optimizers_lower_the_loss(make_job: MakeJob, optimizer: str) -> None:
    job = make_job(optimizer, "standard", optimizer=optimizer, max_steps=8, scheduler="constant")
    assert job.run() == 0, job.log()
    assert losses(job)[-1] < losses(job)[0]


def test_four_bits_train_too_and_the_adapter_is_plain_peft(make_job: MakeJob) -> None:
    job = make_job("qlora", "qlora")
    assert job.run() == 0, job.log()
    assert losses(job)[-1] < losses(job)[0]
    assert (job.dir.artifacts / "qlora_model" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(("params", "code", "words"), [
    ({"fp16": True}, "unsupported", "bf16"),
    ({"optimizer": "paged_adamw_8bit"}, "unsupported", "adamw_8bit"),
    ({"target_modules": ["nonsense"]}, "invalid_settings", "q_proj"),
])  # fmt: skip
def test_what_cannot_run_here_says_what_can(make_job: MakeJob, params: dict[str, Any], code: str, words: str) -> None:
    job = make_job("refused", **params)
    assert job.run() == 1
    assert job.exit().failure.code == code and words in job.exit().failure.hint


def test_bad_rows_are_named(make_job: MakeJob, tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"question": ["a", "b", "c"], "answer": ["x", "", None]}), path)
    job = Job(
        tmp_path / "bad", recipe="lora", params=FEW, model={"name": "tiny/llama", "path": str(tiny_model)},
        dataset={"name": "bad", "path": str(path), "digest": "cd" * 32, "shape": "question_answer",
                 "mapping": {"question": "question", "answer": "answer"}, "num_rows": 3},
    )  # fmt: skip
    assert job.run() == 1
    failure = job.exit().failure
    assert failure.code == "bad_data" and [d["row"] for d in failure.details] == [2, 3]


def test_going_on_from_an_adapter_leaves_the_base_that_it_needs(
    make_job: MakeJob, tiny_model: Path, rows: Path, tmp_path: Path
) -> None:
    """The second adapter stands on the first one merged: both together are the model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    first = make_job("first")
    assert first.run() == 0, first.log()
    spec = first.dir.read_spec().model_dump(mode="json")
    spec["model"]["adapter_path"] = str(first.dir.artifacts / "lora_model")
    second = Job(tmp_path / "second", recipe="lora", params=FEW, model=spec["model"], dataset=spec["dataset"])
    assert second.run() == 0, second.log()
    assert losses(second)[0] < losses(first)[0], "it begins where the first one ended"
    merged = AutoModelForCausalLM.from_pretrained(second.dir.artifacts / "base_model")
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model), first.dir.artifacts / "lora_model"
    )
    expected = plain.merge_and_unload().state_dict()
    assert all((merged.state_dict()[key] - tensor).abs().max() < 1e-5 for key, tensor in expected.items())
