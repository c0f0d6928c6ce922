"""A text classifier that answers: texts of like length together, probabilities in the model's own precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from tunesmith.core.errors import InvalidInput, UnsupportedFormat
from tunesmith.core.prediction import read_parameters, with_unsure
from tunesmith.recipes.classifiers import MULTI_LABEL, UNSURE_BELOW, labels_of
from tunesmith.recipes.model_info import refuse_unsafe_files

MOST_TOKENS, MOST_TEXTS = 8192, 64
"""Of one batch, padding counted."""
NO_LIMIT = 1_000_000
"""What tokenizers say for a length that they do not know is above it."""


class LabelParameters(BaseModel):
    """How a text's labels are told."""

    model_config = ConfigDict(extra="forbid", strict=True)

    top_k: int | None = Field(None, ge=1)
    """So many labels, the likeliest first; all when absent."""
    threshold: float = Field(0.0, ge=0, le=1)
    """Labels with a lower score are left out; an answer may be empty then."""
    unsure_below: float | None = Field(None, ge=0, le=1)
    """Where the best score is lower, `unsure` comes before the labels. The model's own when absent."""
    function_to_apply: str | None = Field(None, pattern="^(softmax|sigmoid)$")
    """How scores are made of the head's outputs; by the model's `problem_type` when absent."""
    truncate: bool = True
    """Cut texts that are longer than the model's context; each label of such an answer says `cut`. False refuses them."""


class TextClassifier:
    """A loaded model. `predict` may be called by one thread at a time."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model.eval(), tokenizer
        self.labels = labels_of({"id2label": model.config.id2label})
        self.is_multi = model.config.problem_type == MULTI_LABEL
        self.unsure_below: float | None = getattr(model.config, UNSURE_BELOW, None)
        self.most_tokens = context_of(model, tokenizer)

    def predict(self, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        """For each text its labels (`core.tasks.ANSWERS["labels"]`). Raises `InvalidInput` naming the input or parameter."""
        told = read_parameters(LabelParameters, parameters)
        rows, is_cut = self._rows(inputs, told)
        scores: list[list[float]] = [[] for _ in rows]
        is_sigmoid = self.is_multi if told.function_to_apply is None else told.function_to_apply == "sigmoid"
        for places in _batches([len(row["input_ids"]) for row in rows]):
            for place, found in zip(places, self._scores([rows[p] for p in places], is_sigmoid), strict=True):
                scores[place] = found
        return [self._answer(found, told, cut) for found, cut in zip(scores, is_cut, strict=True)]

    def _rows(self, inputs: Sequence[Any], told: LabelParameters) -> tuple[list[dict[str, list[int]]], list[bool]]:
        rows, is_cut = [], []
        for number, text in enumerate(inputs):
            if not isinstance(text, str):
                raise _wrong(number, "is no text")
            row = self._tokenizer(text, verbose=False)
            length = len(row["input_ids"])
            if length > self.most_tokens and not told.truncate:
                raise _wrong(number, f"has {length} tokens, and the model takes {self.most_tokens}")
            if length > self.most_tokens:
                row = self._tokenizer(text, truncation=True, max_length=self.most_tokens, verbose=False)
            if length == 0:
                raise _wrong(number, "is empty")
            rows.append(dict(row))
            is_cut.append(length > self.most_tokens)
        return rows, is_cut

    @torch.inference_mode()
    def _scores(self, rows: list[dict[str, list[int]]], is_sigmoid: bool) -> list[list[float]]:
        """A list of probabilities for each row, in the order of the labels."""
        batch = self._tokenizer.pad(rows, padding=True, return_tensors="pt").to(self._model.device)
        logits = self._model(**batch).logits.double()
        scores = logits.sigmoid() if is_sigmoid else logits.softmax(-1)
        return [list(map(float, row)) for row in scores.cpu()]

    def _answer(self, scores: list[float], told: LabelParameters, cut: bool) -> list[dict[str, Any]]:
        pairs = sorted(zip(self.labels, scores, strict=True), key=lambda pair: -pair[1])
        labels = [{"label": label, "score": score} for label, score in pairs if not score < told.threshold]
        below = self.unsure_below if told.unsure_below is None else told.unsure_below
        found = with_unsure(labels[: told.top_k], pairs[0][1], below)
        return [one | {"cut": True} for one in found] if cut else found


def load(path: Path, threads: int) -> TextClassifier:
    """The classifier in a folder: safetensors only, no code of the model's own. Raises as `refuse_unsafe_files`."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    refuse_unsafe_files(path)
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        path, dtype=torch.float32, trust_remote_code=False, use_safetensors=True, local_files_only=True
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise UnsupportedFormat("The tokenizer has no padding token.", hint="Add pad_token to tokenizer_config.json.")
    if model.config.pad_token_id is None:  # causal models look for the last token that is no padding
        model.config.pad_token_id = tokenizer.pad_token_id
    return TextClassifier(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer)


def context_of(model: Any, tokenizer: Any) -> int:
    """Tokens that the model can read, special ones counted: RoBERTa and its like begin to count positions behind the padding."""
    config = model.config
    limit = int(getattr(config, "max_position_embeddings", None) or NO_LIMIT)
    positions = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    limit -= padding + 1 if padding is not None else 0
    return int(min(limit, tokenizer.model_max_length if tokenizer.model_max_length < NO_LIMIT else limit))


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of rows that are computed together: of like length, the longest first, so that what does not fit shows at once."""
    places: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if places and (len(places) == MOST_TEXTS or lengths[places[0]] * (len(places) + 1) > MOST_TOKENS):
            yield places
            places = []
        places.append(place)
    if places:
        yield places


def _wrong(number: int, what: str) -> InvalidInput:
    return InvalidInput(f"inputs.{number} {what}.", details=[{"loc": f"inputs.{number}", "message": what}])
