"""The kind of models that tell texts apart: an encoder, or a causal model, with a head for labels. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.core.errors import BadData, TunesmithError, UnsupportedFormat
from tunesmith.core.model_kind import Description, ModelKind
from tunesmith.recipes.model_info import read_json, read_model_info

CONFIG_FILE = "config.json"
ENDING = "ForSequenceClassification"
"""What the class of such a model is called."""
MULTI_LABEL = "multi_label_classification"
"""`problem_type` of a model whose labels do not exclude each other."""
UNSURE_BELOW = "tunesmith_unsure_below"
"""Entry of `config.json`: the score under which the likeliest label is not trusted."""
USE_CLASSIFIER = """from transformers import pipeline

classify = pipeline("text-classification", model="{folder}", top_k=None)
print(classify("A text to classify."))
"""


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in `id2label`, in the order of the head's outputs; as transformers calls them where there are no names.
    Raises `BadData`."""
    told = config.get("id2label")
    if told is None:  # as transformers names them
        number = config.get("num_labels", 2)
        return tuple(f"LABEL_{n}" for n in range(number if type(number) is int and 0 < number < 100_000 else 2))
    try:
        named = {int(number): str(name) for number, name in dict(told).items()}
    except (TypeError, ValueError):
        named = {}
    if not named or sorted(named) != list(range(len(named))):
        raise BadData(
            "id2label in config.json does not number the labels from 0.",
            hint='Name each output of the model, such as "id2label": {"0": "ham", "1": "spam"}.',
        )
    return tuple(named[number] for number in range(len(named)))


def _matches(path: Path) -> bool:
    try:
        architectures = read_json(path / CONFIG_FILE).get("architectures")
    except TunesmithError:
        return False
    return isinstance(architectures, list) and bool(architectures) and str(architectures[0]).endswith(ENDING)


def _describe(path: Path, _base: Path | None) -> Description:
    info, config = read_model_info(path), read_json(path / CONFIG_FILE)
    labels = labels_of(config)
    if len(labels) < 2 and config.get("problem_type") != MULTI_LABEL:
        raise UnsupportedFormat(
            "The model has one output, so it ranks texts or measures something, and has no labels to choose from.",
            hint="Use a model with at least two labels in id2label.",
        )
    is_multi = config.get("problem_type") == MULTI_LABEL
    return Description(
        {
            "family": info.family, "num_layers": info.num_layers, "hidden_size": info.hidden_size, "num_heads": info.num_heads,
            "vocab_size": info.vocab_size, "context_length": info.context_length,
            "problem_type": MULTI_LABEL if is_multi else "single_label_classification",
        },
        info.num_parameters,
        labels=labels,
    )  # fmt: skip


TEXT_CLASSIFIER = ModelKind(
    name="text-classifier",
    title="Text classifier",
    framework="transformers",
    tasks=("text-classification",),
    matches=_matches,
    describe=_describe,
    engines=("predict",),
    load="tunesmith.recipes.blocks.text_classifier:load",
    usage=USE_CLASSIFIER,
)
