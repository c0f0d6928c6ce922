"""From answers to scores: which metrics fit the data, what is counted of each row, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tunesmith.recipes.blocks import scoring
from tunesmith.recipes.blocks import scoring_text as text
from tunesmith.recipes.evaluate.rows import Question

LONG_WORDS = 3.0
"""Words of an answer, on average, from which on n-grams say something."""
NAMES = {
    "perplexity": ("perplexity", "token_accuracy"),
    "rouge": ("rouge1", "rouge2", "rougeL"),
    "classification": ("accuracy", "macro_precision", "macro_recall", "macro_f1"),
    "entities": ("entity_precision", "entity_recall", "entity_f1"),
}
"""What a name in the settings stands for, where it is more than itself."""


class Plan(NamedTuple):
    """What is measured."""

    metrics: tuple[str, ...]
    """Names as in the settings."""
    labels: list[str]
    entities: str
    """`tags`, `list`, or empty."""
    reason: str
    """Why these, in words."""


def plan(asked: Sequence[str], expected: Sequence[str]) -> Plan:
    """The metrics that were asked for, else those that fit the answers of the data."""
    labels, entities = text.labels_of(expected), text.are_entities(expected)
    if asked:
        if "classification" in asked and not labels:
            labels = sorted({answer.strip() for answer in expected})
        return Plan(tuple(dict.fromkeys(asked)), labels, entities or "list", "As asked for.")
    if not expected:
        return Plan(("perplexity",), [], "", "The rows are plain text, so only their likelihood is measured.")
    common = ("perplexity", "exact_match", "latency")
    if text.are_numbers(expected) and not _few(labels):
        return Plan((*common, "numeric_match"), [], "", "The answers are numbers, or end in one.")
    if entities:
        return Plan((*common, "entities"), [], entities, "The answers are tags or lists of entities.")
    if labels:
        return Plan((*common, "classification"), labels, "", f"The answers are {len(labels)} labels.")
    words = float(np.mean([len(answer.split()) for answer in expected]))
    if words < LONG_WORDS:
        return Plan((*common, "token_f1", "chrf"), [], "", "The answers are short texts.")
    return Plan((*common, "token_f1", "bleu", "chrf", "rouge"), [], "", "The answers are free text.")


def _few(labels: list[str]) -> bool:
    """Numbers that are as few as labels are labels."""
    return 0 < len(labels) <= 10


def sample(found: Plan, question: Question, entry: dict[str, Any]) -> dict[str, Any]:
    """One row of the samples file: what was asked, expected and answered, and what is counted of it."""
    answer, expected, wanted = entry["answer"], question.expected, found.metrics
    stats: dict[str, list[float]] = {}
    told: dict[str, Any] = {"row": question.row, "prompt": question.prompt, "expected": expected, "answer": answer}
    stats["exact_match"] = [text.exact_match(answer, expected)]
    stats["throughput"] = [float(entry["tokens"]), float(entry["seconds"])]
    if "numeric_match" in wanted:
        stats["numeric_match"] = [text.numeric_match(answer, expected)]
    if "token_f1" in wanted:
        stats["token_f1"] = [text.token_f1(answer, expected)]
    if "bleu" in wanted:
        stats["bleu"] = text.bleu(answer, expected)
    if "chrf" in wanted:
        stats["chrf"] = text.chrf(answer, expected)
    if "rouge" in wanted:
        stats |= {name: [value] for name, value in text.rouge(answer, expected).items()}
    if "entities" in wanted:
        stats["entities"] = text.entity_counts(answer, expected, found.entities)
    if "classification" in wanted and found.labels:
        said = text.label_said(answer, found.labels)
        told |= {"label": expected.strip(), "said": said}
        stats["accuracy"] = [float(said == expected.strip())]
    return told | {"right": _is_right(wanted, stats), "stats": stats}


def _is_right(wanted: Sequence[str], stats: dict[str, list[float]]) -> bool | None:
    """By the strictest thing that fits: the number, the label, all entities, else the very words. Free text in other words is
    neither right nor wrong: its similarity is a matter of degree."""
    for name in ("numeric_match", "accuracy"):
        if name in stats:
            return stats[name][0] == 1.0
    if "entities" in stats:
        right, said, there = stats["entities"]
        return right == said == there
    is_exact = stats["exact_match"][0] == 1.0
    return True if is_exact else None if "rouge" in wanted else False


def all_scores(found: Plan, samples: Sequence[dict[str, Any]], seed: int) -> dict[str, dict[str, Any]]:
    """Every score that the samples give, with its interval."""
    wanted = {name for asked in found.metrics for name in NAMES.get(asked, (asked,))} | {"tokens_per_s"}
    scores = {}
    for name in scoring.METRICS:
        if name in wanted:
            _, numbers = scoring.counted(samples, name, found.labels)
            if len(numbers):
                scores[name] = scoring.score(name, numbers, seed).as_json()
    return scores


def per_class(found: Plan, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The confusion of the labels, and precision, recall and F1 of each; empty where there are none."""
    _, numbers = scoring.counted(samples, "macro_f1", found.labels)
    if not len(numbers):
        return {}
    sums = numbers.sum(axis=0, keepdims=True)
    precision, recall, f1 = (part[0] for part in scoring.by_class(sums))
    table = sums.reshape(len(found.labels), len(found.labels) + 1).astype(int)
    rows = [
        {
            "label": label, "precision": float(precision[i]), "recall": float(recall[i]), "f1": float(f1[i]),
            "num_samples": int(table[i].sum()),
        }
        for i, label in enumerate(found.labels)
    ]  # fmt: skip
    return {"labels": found.labels, "confusion": table.tolist(), "per_class": rows}
