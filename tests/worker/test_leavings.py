"""What a finished job leaves: the report, the card, and the check of the model."""

from __future__ import annotations

import json
import math
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tests.tiny import make_tiny_model
from tests.worker.job import Job
from tunesmith.core.errors import JobFailure
from tunesmith.core.events import EvaluationEvent, NoticeEvent, StepEvent
from tunesmith.core.job_spec import DatasetRef, JobSpec, ModelRef
from tunesmith.recipes.blocks import before_after
from tunesmith.recipes.blocks.model_card import write_card
from tunesmith.recipes.blocks.report import write_report
from tunesmith.recipes.blocks.tokenizer import load_tokenizer
from tunesmith.recipes.blocks.validate import validate_model
from tunesmith.recipes.standard.spec import StandardParams
from tunesmith.worker.run import Run
from tunesmith.worker.stopping import StopSignals

HOSTILE = "</h1><script>alert(1)</script>{{ 7 * 7 }}\n---\nlicense: mine"
SPEC = JobSpec(
    job_id=1, name=HOSTILE, recipe="lora", params={}, cache_dir="",
    model=ModelRef(name="org/base", path="/nowhere"),
    dataset=DatasetRef(name=HOSTILE, path="/nowhere", digest="cd" * 32, shape="messages", num_rows=5),
)  # fmt: skip


def write_events(path: Path, num_steps: int) -> None:
    with path.open("w") as file:
        for step in range(1, num_steps + 1):
            loss = math.nan if step % 1000 == 7 else 3 / step
            event = StepEvent(step=step, total_steps=num_steps, epoch=1.0, loss=loss, learning_rate=1e-4, grad_norm=1.0)
            file.write(event.model_dump_json() + "\n")
        file.write(EvaluationEvent(step=num_steps, loss=0.5).model_dump_json() + "\n")
        file.write(NoticeEvent(message=HOSTILE).model_dump_json() + "\n" + '{"type":"half')


class Page(HTMLParser):
    """Tags, and the text of headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)


@pytest.mark.parametrize("num_steps", [0, 1, 100_000])
def test_a_report_of_any_length_is_small_safe_and_the_same_twice(tmp_path: Path, num_steps: int) -> None:
    events = tmp_path / "events.jsonl"
    if num_steps:
        write_events(events, num_steps)
    else:
        events.touch()
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders if num_steps < 10 else folders[:1]:
        folder.mkdir()
        write_report(folder, SPEC.name, SPEC, {"system_prompt": HOSTILE}, events, {"eval_loss": 0.5, "x": math.nan})
    page = (folders[0] / "report.html").read_text()
    assert len(page) < 1_000_000
    tags = Page(page).tags
    assert (
        "script" not in tags and tags.count("h1") == 1 and "49" not in page.split("<svg")[0].split("</style>")[1][:200]
    )
    assert ("svg" in tags) == (num_steps > 0)
    if num_steps:
        assert (folders[0] / "loss.png").read_bytes()[:4] == b"\x89PNG"
    if num_steps < 10:
        names = sorted(p.name for p in folders[0].iterdir())
        assert all((folders[0] / n).read_bytes() == (folders[1] / n).read_bytes() for n in names)


def test_a_hostile_name_cannot_change_the_card(tmp_path: Path) -> None:
    write_card(tmp_path, SPEC, {"system_prompt": HOSTILE, "lora_r": 4}, {"eval_loss": 0.5})
    card = (tmp_path / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert "license" not in yaml.safe_load(front)
    assert "<script" not in body and "0.5" in body and "cd" * 32 in body
    config = yaml.safe_load((tmp_path / "training_config.yaml").read_text())
    assert config["hyperparameters"] == {"system_prompt": HOSTILE, "lora_r": 4}


def harm_nothing(_: Path) -> None: ...


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def forge(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(b"\xff" * 8 + weights.read_bytes()[8:])


def not_finite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    next(iter(tensors.values()))[0] = math.inf
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (harm_nothing, ""),
        (cut, "cut"),
        (forge, "header"),
        (not_finite, "finite"),
        (no_tokenizer, "tokenizer_config.json"),
    ],
)
def test_a_model_is_checked_before_it_is_called_finished(
    tmp_path: Path, tiny_model: Path, harm: object, word: str
) -> None:
    folder = tmp_path / "standard_model"
    shutil.copytree(tiny_model, folder)
    (folder / "README.md").write_text("card")
    harm(folder)  # type: ignore[operator]
    if not word:
        finished = validate_model(folder, "standard_model", "")
        result = json.loads((folder / "validation.json").read_text())
        assert result["loads"] and result["generates"] and isinstance(result["sample"], str)
        assert finished.model is not None and finished.without_adapter is None
        return
    with pytest.raises(JobFailure) as refused:
        validate_model(folder, "standard_model", "")
    assert word in refused.value.message
    assert not (folder / "validation.json").exists()


def test_all_weights_are_compared_with_a_base_that_is_loaded_again(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tuned model here is the base with other weights; without time there is a reason instead of answers."""
    monkeypatch.setattr(before_after, "MOST_S", 1e6)
    monkeypatch.setattr(before_after, "LEAST_S", 1e6)  # however busy the machine is
    folder = make_tiny_model(tmp_path / "standard_model", seed=1)
    (folder / "README.md").write_text("card")
    write_rows(tmp_path / "rows.parquet")
    data = DatasetRef(
        name="rows", path=str(tmp_path / "rows.parquet"), digest="", shape="messages", mapping={"messages": "m"}
    )
    job = Job(
        tmp_path / "job", recipe="standard", model={"name": "base", "path": str(tiny_model)}, dataset=data.model_dump()
    )  # fmt: skip
    run = Run(job.dir, job.dir.read_spec(), 1, StopSignals())
    params = StandardParams(system_prompt="Be kind.", train_on="all", max_length=400)
    tokenizer = load_tokenizer(str(tiny_model))
    asked = before_after.questions(run, params, tokenizer, np.array([3, 2, 1, 0]))
    assert [(one.row, [turn["role"] for turn in one.turns]) for one in asked] == [
        (1, ["system", "user"]), (4, ["system", "user"]),
    ]  # fmt: skip
    assert asked[0].turns[0]["content"] == "Be kind." and asked[1].turns[0]["content"] == "Own."
    assert tokenizer.decode(asked[0].expected_ids) == "First.<|im_end|>"
    assert tokenizer.decode(asked[1].prompt_ids).endswith("<|im_start|>assistant\n")

    def compare() -> dict[str, Any]:
        finished = validate_model(folder, "standard_model", "")
        return before_after.compare(run, params, finished, asked, 10.0, torch.device("cpu"))

    found = compare()
    assert found["reason"] == "" and len(found["questions"]) == 2
    plain = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    for one, question in zip(found["questions"], asked, strict=True):
        assert one["base"]["loss"] != one["tuned"]["loss"]
        ids = torch.tensor(np.concatenate([question.prompt_ids, question.expected_ids])[None].astype(np.int64))
        with torch.no_grad():
            logits = plain(ids).logits[0, len(question.prompt_ids) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, ids[0, len(question.prompt_ids) :])
        assert one["base"]["loss"] == pytest.approx(float(expected), abs=1e-4)
    with monkeypatch.context() as patch:
        patch.setattr(before_after, "LEAST_S", 1e-6)  # as much as one token
        patch.setattr(before_after, "SHARE_OF_TIME", 0.0)
        finished = validate_model(folder, "standard_model", "")
        finished.load_s = 0.0
        brief = before_after.compare(run, params, finished, asked, 10.0, torch.device("cpu"))
    assert brief["answer_limit"] == 1 and "cut after 1 token" in brief["reason"] and len(brief["questions"]) == 2
    assert all(one[name]["tokens"] <= 1 for one in brief["questions"] for name in ("base", "tuned"))
    assert [one["tuned"]["loss"] for one in brief["questions"]] == [one["tuned"]["loss"] for one in found["questions"]]
    with monkeypatch.context() as patch:
        patch.setattr(before_after, "generate", out_of_memory)
        failed = compare()
    assert failed["questions"] == [] and "memory is not enough" in failed["reason"]
    monkeypatch.setattr(before_after, "LEAST_S", 0.0)
    monkeypatch.setattr(before_after, "MOST_S", 0.0)
    none = before_after.compare(
        run, params, validate_model(folder, "standard_model", ""), asked, 0.0, torch.device("cpu")
    )
    assert none["questions"] == [] and "Loading the base" in none["reason"]


def out_of_memory(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def write_rows(path: Path) -> None:
    """The second and third cannot be asked: nothing is before the answer, and nothing is answered."""
    rows = [
        [("user", "One?"), ("assistant", "First."), ("user", "Two?"), ("assistant", "Second.")],
        [("assistant", "Nobody asked.")],
        [("user", "No answer")],
        [("system", "Own."), ("user", "Four?"), ("assistant", "Fourth.")],
    ]
    talks = [[{"role": role, "content": content} for role, content in row] for row in rows]
    pq.write_table(pa.table({"m": talks}), path)
