"""Models that do not chat, for tests: a small text classifier, and a kind of another package that reads rows in plain Python."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.serving.engines import running
from tests.tiny import make_tokenizer
from tunesmith.core.errors import InvalidInput
from tunesmith.core.model_kind import Description, ModelKind, Predictor
from tunesmith.executors.serving_process import Endpoint
from tunesmith.serving.access import Activity
from tunesmith.serving.predict_app import Batcher, create_predict_app

LABELS = ("ham", "spam", "question")
COLUMNS = (
    {"name": "age", "type": "number"},
    {"name": "city", "type": "category", "choices": ["Oslo", "Rome"]},
    {"name": "since", "type": "date"},
)


def make_classifier(
    folder: Path, labels: Sequence[str] = LABELS, seed: int = 0, *, context: int = 32, **config: Any
) -> Path:
    """A BERT with two small layers and random weights, wide enough apart that its scores differ; `context` in tokens."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = make_tokenizer()
    tokenizer.model_max_length = context
    torch.manual_seed(seed)
    names = dict(enumerate(labels))
    told = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=context, pad_token_id=tokenizer.pad_token_id, id2label=names,
        label2id={name: number for number, name in names.items()}, initializer_range=0.4, **config,
    )  # fmt: skip
    BertForSequenceClassification(told).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class RowModel:
    """Says `old` from a number of years on, or, for a regression, three times the age."""

    def __init__(self, years: float, task: str) -> None:
        self.years, self.task = years, task

    def predict(self, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        if unknown := parameters.keys() - {"top_k"}:
            raise InvalidInput(f"parameters.{min(unknown)} is not known.")
        return [self._one(number, row) for number, row in enumerate(inputs)]

    def _one(self, number: int, row: Any) -> Any:
        age = row.get("age") if isinstance(row, dict) else row
        if age is not None and not isinstance(age, int | float):
            what = f"age: {age!r} is no number"
            raise InvalidInput(f"inputs.{number} {what}.", details=[{"loc": f"inputs.{number}.age", "message": what}])
        age = self.years if age is None else age
        if self.task == "tabular-regression":
            return {"value": 3.0 * age, "low": 3.0 * age - 1, "high": 3.0 * age + 1}
        old = 1 / (1 + math.exp(self.years - age))
        both = [{"label": "old", "score": old}, {"label": "young", "score": 1 - old}]
        return sorted(both, key=lambda one: -float(str(one["score"])))


def load_rows(path: Path, threads: int) -> Predictor:
    told = json.loads((path / "rows.json").read_bytes())
    return RowModel(told["years"], told["task"])


def _describe(path: Path, _base: Path | None) -> Description:
    task = json.loads((path / "rows.json").read_bytes())["task"]
    return Description({"family": "threshold"}, 1, task, ("old", "young"), COLUMNS)


ROWS = ModelKind(
    name="test-rows",
    title="Row model",
    framework="json",
    tasks=("tabular-classification", "tabular-regression"),
    matches=lambda path: (path / "rows.json").is_file(),
    describe=_describe,
    engines=("predict",),
    load="tests.serving.predictors:load_rows",
)


def make_rows(folder: Path, years: float = 40.0, task: str = "tabular-classification") -> Path:
    folder.mkdir(parents=True)
    (folder / "rows.json").write_text(json.dumps({"years": years, "task": task}))
    return folder


@contextlib.contextmanager
def predict_engine(predictor: Predictor, task: str) -> Iterator[Endpoint]:
    """A serving process's application in this process."""
    with running(create_predict_app(Batcher(predictor), task, "test", "word", Activity())) as url:
        yield Endpoint(url, "word")
