"""What a finished job leaves: the report, the card, and the check of the model."""

from __future__ import annotations

import json
import math
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from tunesmith.core.errors import JobFailure
from tunesmith.core.events import EvaluationEvent, NoticeEvent, StepEvent
from tunesmith.core.job_spec import DatasetRef, JobSpec, ModelRef
from tunesmith.recipes.blocks.model_card import write_card
from tunesmith.recipes.blocks.report import write_report
from tunesmith.recipes.blocks.validate import Question, question_of, validate_model

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
        question = Question(np.arange(20, 30), np.arange(30, 34))
        result = validate_model(folder, "standard_model", "", [question])
        assert result["loads"] and result["generates"] and isinstance(result["sample"], str)
        (sample,) = result["samples"]
        assert sample["prompt"] and sample["expected"] and isinstance(sample["answer"], str)
        assert json.loads((folder / "validation.json").read_text()) == result
        return
    with pytest.raises(JobFailure) as refused:
        validate_model(folder, "standard_model", "")
    assert word in refused.value.message
    assert not (folder / "validation.json").exists()


def test_a_row_is_cut_where_its_first_answer_begins() -> None:
    ids = np.arange(10)

    def cut(*learnt: int) -> tuple[list[int], list[int]]:
        prompt, expected = question_of(ids, np.isin(ids, learnt))
        return prompt.tolist(), expected.tolist()

    assert cut(4, 5, 6, 9) == ([0, 1, 2, 3], [4, 5, 6])
    assert cut(8, 9) == (list(range(8)), [8, 9])
    assert cut(*range(10)) == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
