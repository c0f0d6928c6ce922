"""A whole tuning job on a tiny real model, as the server would run it: start, kill, go on, and what is left at the end."""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from tests.worker.job import Job, wait_until
from tunesmith.core import log_lines

PARAMS = {"max_steps": 12, "batch_size": 4, "max_length": 64, "learning_rate": 1e-3, "lora_r": 4, "lora_alpha": 8,
          "save_steps": 2, "eval_steps": 4, "warmup_steps": 1, "bf16": False, "validation_split": 0.1}  # fmt: skip


@pytest.fixture(scope="module")
def make_job(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Callable[..., Job]:
    tmp_path = tmp_path_factory.mktemp("tuning")
    rows = {"q": [f"What is number {i}?" for i in range(60)], "a": [f"It is the number {i}." for i in range(60)]}
    pq.write_table(pa.table(rows), tmp_path / "data.parquet")
    dataset = {"name": "numbers <b>", "path": str(tmp_path / "data.parquet"), "digest": "ab" * 32, "num_rows": 60,
               "shape": "question_answer", "mapping": {"question": "q", "answer": "a"}}  # fmt: skip

    def make(name: str, **params: Any) -> Job:
        model = {"name": "tests/tiny", "path": str(tiny_model)}
        job = Job(
            tmp_path / name, recipe="lora", params={**PARAMS, **params}, model=model, dataset=dataset,
            name="A <script>alert(1)</script> | run",
        )  # fmt: skip
        spec = json.loads(job.dir.spec.read_text())
        job.dir.spec.write_text(json.dumps({**spec, "cache_dir": str(tmp_path / "cache")}))
        return job

    return make


@pytest.fixture(scope="module")
def whole(make_job: Callable[..., Job]) -> Job:
    """A job that ran to its end without being disturbed."""
    job = make_job("whole")
    assert job.run() == 0, job.log()
    return job


def losses(job: Job) -> dict[int, float]:
    """By step; a later attempt's word counts."""
    return {event.step: event.loss for event in job.events("step")}


def test_a_job_leaves_a_model_that_plain_libraries_load(whole: Job) -> None:
    job = whole
    assert sorted(losses(job)) == list(range(1, 13))
    folder = job.dir.artifacts / "lora_model"
    check = json.loads((folder / "validation.json").read_text())
    assert check["loads"] is True and check["generates"] is True
    assert not list(folder.glob("*.bin"))
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "tests/tiny" and front["library_name"] == "peft"
    assert "<script>" not in card and "<b>" not in card
    config = yaml.safe_load((folder / "training_config.yaml").read_text())
    assert config["model"]["name"] == "tests/tiny"
    from tunesmith.recipes.lora.spec import LoraParams

    sections = ("hyperparameters", "optimization", "evaluation")
    again = LoraParams.model_validate({k: v for section in sections for k, v in config.get(section, {}).items()})
    assert again == LoraParams.model_validate(PARAMS)
    report = job.dir.artifacts / "report"
    assert {"report.html", "loss.png", "loss.svg"} <= {p.name for p in report.iterdir()}
    page = (report / "report.html").read_text()
    assert "<script" not in page and 'lang="en"' in page and "aria-label=" in page
    assert not re.search(r"(src|href)=.https?:", page)
    assert job.exit().metrics["eval_loss"] > 0


@pytest.fixture(scope="module")
def broken(make_job: Callable[..., Job]) -> Job:
    """A job that was killed twice and then ran to its end."""
    broken = make_job("broken")
    for attempt, until in ((1, 3), (2, 7)):
        broken.launch(attempt)
        process = broken.start(attempt)
        wait_until(lambda until=until: max(losses(broken), default=0) >= until, 90)
        process.kill()
        process.wait()
    broken.launch(3)
    assert broken.run(3) == 0, broken.log()
    return broken


def test_killed_and_started_again_it_takes_the_same_steps(broken: Job, whole: Job) -> None:
    assert losses(broken) == losses(whole)
    weights = "artifacts/lora_model/adapter_model.safetensors"
    assert (broken.dir.path / weights).read_bytes() == (whole.dir.path / weights).read_bytes()


def test_the_log_has_one_line_for_each_step_evaluation_and_checkpoint(broken: Job) -> None:
    lines = [line for line in broken.log().splitlines() if log_lines.level_of(line.encode()) == "info"]
    for step in range(1, 13):
        assert len([line for line in lines if f" Step {step} of 12: loss " in line]) == 1, broken.log()
    evaluations = [line for line in lines if " Evaluation at step " in line]
    assert [line.split("step ")[1].split(":")[0] for line in evaluations] == ["4", "8", "12"]
    assert sum(" Checkpoint of step 12 written to checkpoints/step-000012, " in line for line in lines) == 1
    assert [line.count("Repeating steps") for line in lines].count(1) <= 2
    assert lines[-1].endswith("INFO    The job is completed.")
    assert any("lora_model written" in line for line in lines)


def compared(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.dir.artifacts / "before_after" / "before_after.json").read_text())
    return found


def test_held_out_questions_are_answered_as_plain_libraries_answer(whole: Job, tiny_model: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = compared(whole)
    assert (len(found["questions"]), found["base_model"]) == (3, "tests/tiny")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    rows = {}
    for name in ("base", "tuned"):
        model = base if name == "base" else PeftModel.from_pretrained(base, whole.dir.artifacts / "lora_model").eval()
        for one in found["questions"]:
            number = one["row"] - 1
            assert one["turns"] == [{"role": "user", "content": f"What is number {number}?"}]
            assert one["expected"] == f"It is the number {number}."
            prompt = tokenizer.apply_chat_template(
                one["turns"], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )["input_ids"]
            answer = tokenizer(f"{one['expected']}<|im_end|>", add_special_tokens=False, return_tensors="pt")[
                "input_ids"
            ]
            with torch.no_grad():
                out = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=found["answer_limit"], do_sample=False)  # fmt: skip
                logits = model(torch.cat([prompt, answer], dim=1)).logits[0, prompt.shape[1] - 1 : -1]
            loss = float(torch.nn.functional.cross_entropy(logits, answer[0]))
            assert one[name]["answer"] == tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True).strip()
            assert one[name]["loss"] == pytest.approx(loss, abs=1e-4) and one["expected_tokens"] == answer.shape[1]
            assert one[name]["perplexity"] == pytest.approx(math.exp(loss), rel=1e-3)
            rows[name, one["row"]] = loss
    held_out = {one["row"] for one in found["questions"]}
    assert all(rows["tuned", row] < rows["base", row] for row in held_out)
    report = (whole.dir.artifacts / "report" / "report.html").read_text()
    assert "Before and after" in report and "numbers &lt;b&gt;" in report and "It is the number" in report


def test_the_comparison_changes_nothing_and_is_done_again_after_a_kill(
    make_job: Callable[..., Job], whole: Job
) -> None:
    off, killed = make_job("off", comparison_questions=0), make_job("killed")
    assert off.run() == 0, off.log()
    assert compared(off)["questions"] == [] and "switched off" in compared(off)["reason"]
    process = killed.start()
    wait_until(lambda: any(event.detail == "before and after" for event in killed.events("phase")), 90)
    process.kill()
    process.wait()
    assert not (killed.dir.artifacts / "report").exists()
    killed.launch(2)
    assert killed.run(2) == 0, killed.log()
    for one, other in zip(compared(killed)["questions"], compared(whole)["questions"], strict=True):
        for side in ("base", "tuned"):
            short, long = sorted((one[side].pop("answer"), other[side].pop("answer")), key=len)
            assert long.startswith(short)  # a machine that is busy may cut it
            assert one[side]["loss"] == other[side]["loss"]
        assert [one[key] for key in ("row", "turns", "expected")] == [
            other[key] for key in ("row", "turns", "expected")
        ]
    assert not [event for event in killed.events("step") if event.attempt == 2]  # no step was taken again
    for job in (off, killed):
        weights = "artifacts/lora_model/adapter_model.safetensors"
        assert (job.dir.path / weights).read_bytes() == (whole.dir.path / weights).read_bytes()


def test_rows_that_are_trained_on_are_never_asked(make_job: Callable[..., Job]) -> None:
    job = make_job("known", max_steps=1, split_by="content")
    spec = json.loads(job.dir.spec.read_text())
    job.dir.spec.write_text(json.dumps({**spec, "eval_dataset": spec["dataset"]}))
    assert job.run() == 0, job.log()
    assert compared(job)["questions"] == [] and compared(job)["reason"].startswith("Nothing can be asked")
    assert "Nothing can be asked" in (job.dir.artifacts / "report" / "report.html").read_text()


def test_sigterm_keeps_a_checkpoint(make_job: Callable[..., Job]) -> None:
    job = make_job("sigterm", max_steps=5000, save_steps=5000, eval_steps=5000)
    process = job.start()
    wait_until(lambda: losses(job), 90)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert job.exit().outcome == "paused"
    assert job.events("checkpoint")[-1].reason == "pause"
    assert job.dir.latest_checkpoint() is not None


def test_the_time_limit_keeps_a_checkpoint(make_job: Callable[..., Job]) -> None:
    job = make_job("limit", max_steps=100_000, save_steps=100_000, eval_steps=100_000)
    spec = json.loads(job.dir.spec.read_text())
    job.dir.spec.write_text(json.dumps({**spec, "timeout_s": 8.0}))
    assert job.run() == 1
    assert job.exit().failure.code == "timeout"
    assert job.dir.latest_checkpoint() is not None


def test_two_ranks_train_as_one(make_job: Callable[..., Job], whole: Job) -> None:
    job = make_job("ranks", batch_size=2)
    assert job.run(TUNESMITH_RANKS="2") == 0, job.log()
    two = losses(job)
    assert sorted(two) == list(range(1, 13))  # rank 0 alone writes
    assert all(abs(two[step] - loss) < 1e-4 for step, loss in losses(whole).items())


def test_a_pickle_only_model_is_refused(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job = make_job("pickled")
    model = tmp_path / "pickled"
    model.mkdir()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    spec = json.loads(job.dir.spec.read_text())
    spec["model"]["path"] = str(model)
    job.dir.spec.write_text(json.dumps(spec))
    assert job.run() == 1
    failure = job.exit().failure
    assert failure.code == "unsupported", failure
    assert "pytorch_model.bin" in failure.message and "safetensors" in failure.hint
