"""What is counted of one answer against the one that was expected: text, numbers, labels, entities."""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

MAX_LABELS = 150
MAX_LABEL_CHARS = 80
MIN_OF_A_LABEL = 2.0
"""Rows a label, on average, for answers to count as labels."""
MOST = 0.8
"""Share of the answers that must be of a kind for all of them to count as such."""
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?")
FINAL = re.compile(r"####\s*(.+)")
"""How GSM8K writes the answer after its reasoning."""
TAG = re.compile(r"O|[BIESLU]-[A-Za-z][\w-]*")
LINE = re.compile(r"^\s*[-*]?\s*([A-Za-z][\w ]{0,30}?)\s*[:=]\s*(.+?)\s*$", re.MULTILINE)
ARTICLES = {"a", "an", "the"}


# -- plain text -------------------------------------------------------------------------------------------------------


def normalised(text: str) -> str:
    """Without case, punctuation at its words' ends, articles and odd spaces, as SQuAD compares answers."""
    plain = unicodedata.normalize("NFKC", text).lower()
    words = [word.strip(string.punctuation) for word in plain.split()]
    return " ".join(word for word in words if word and word not in ARTICLES) or " ".join(plain.split())


def exact_match(answer: str, expected: str) -> float:
    return float(normalised(answer) == normalised(expected))


def token_f1(answer: str, expected: str) -> float:
    """F1 of the words that both have, as SQuAD's."""
    made, wanted = normalised(answer).split(), normalised(expected).split()
    shared = sum((Counter(made) & Counter(wanted)).values())
    return 2 * shared / (len(made) + len(wanted)) if made or wanted else 1.0


def bleu(answer: str, expected: str) -> list[float]:
    """Correct and total n-grams of 1 to 4, and both lengths, by sacrebleu's tokenizer."""
    found = _bleu().corpus_score([answer], [[expected]])
    return [*map(float, found.counts), *map(float, found.totals), float(found.sys_len), float(found.ref_len)]


def chrf(answer: str, expected: str) -> list[float]:
    """n-grams of 1 to 6 characters without blanks: made, wanted, shared."""
    made, wanted = "".join(answer.split()), "".join(expected.split())
    found: list[float] = []
    for size in range(1, 7):
        mine, theirs = _grams(made, size), _grams(wanted, size)
        found += [sum(mine.values()) if theirs else 0, sum(theirs.values()), sum((mine & theirs).values())]
    return [float(number) for number in found]


def rouge(answer: str, expected: str) -> dict[str, float]:
    """F-measures of ROUGE-1, -2 and -L, with stemming."""
    return {name: found.fmeasure for name, found in _rouge().score(expected, answer).items()}


def _grams(text: str, size: int) -> Counter[str]:
    return Counter(text[place : place + size] for place in range(len(text) - size + 1))


@cache
def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU()


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


# -- numbers ----------------------------------------------------------------------------------------------------------


def final_number(text: str) -> Decimal | None:
    """The number after ####, else the last one."""
    marked = FINAL.findall(text)
    found = NUMBER.findall(marked[-1] if marked else text)
    try:
        return Decimal(found[-1].replace(",", "")) if found else None
    except InvalidOperation:
        return None


def numeric_match(answer: str, expected: str) -> float:
    wanted = final_number(expected)
    return float(wanted is not None and final_number(answer) == wanted)


def are_numbers(expected: Sequence[str]) -> bool:
    """Whether the answers are numbers, or end in one after ####."""
    hits = [bool(FINAL.search(text)) or NUMBER.fullmatch(text.strip().strip("$%. ")) is not None for text in expected]
    return bool(hits) and sum(hits) >= MOST * len(hits)


# -- labels -----------------------------------------------------------------------------------------------------------


def labels_of(expected: Sequence[str]) -> list[str]:
    """The labels, sorted, when the answers are a small closed set of them; else nothing."""
    counts = Counter(text.strip() for text in expected)
    short = all(0 < len(label) <= MAX_LABEL_CHARS and "\n" not in label for label in counts)
    closed = 2 <= len(counts) <= MAX_LABELS and len(expected) >= MIN_OF_A_LABEL * len(counts)
    return sorted(counts) if short and closed else []


def label_said(answer: str, labels: Sequence[str]) -> str | None:
    """Which label an answer means: the one that it is, else begins with, else the only one that its first line names."""
    told = normalised(answer)
    plain = {normalised(label): label for label in labels}
    if told in plain:
        return plain[told]
    for name in sorted(plain, key=len, reverse=True):
        if told.startswith(f"{name} "):
            return plain[name]
    first_line = f" {normalised(answer.strip().partition(chr(10))[0])} "
    named = [label for name, label in plain.items() if f" {name} " in first_line]
    return named[0] if len(named) == 1 else None


# -- entities ---------------------------------------------------------------------------------------------------------


def tags_of(text: str) -> list[str] | None:
    """BIO tags with blanks or commas between them."""
    found = text.replace(",", " ").replace("[", " ").replace("]", " ").replace("'", " ").replace('"', " ").split()
    return found if len(found) > 1 and all(TAG.fullmatch(tag) for tag in found) else None


def entities_of(text: str) -> Counter[tuple[str, str]] | None:
    """`(label, entity)` pairs of a JSON object or list, or of lines such as `PERSON: Ada`; None where there are none such."""
    if (told := _json_in(text)) is not None:
        pairs = list(_pairs(told))
        return (
            Counter((str(a).lower().strip(), normalised(str(b))) for a, b in pairs)
            if pairs or told in ([], {})
            else None
        )
    found = LINE.findall(text)
    if not found or len(found) < len([line for line in text.splitlines() if line.strip()]):
        return None
    return Counter((label.lower().strip(), normalised(part)) for label, parts in found for part in parts.split(";"))


def _json_in(text: str) -> Any:
    inner = re.sub(r"^```\w*\n?|```$", "", text.strip()).strip()
    try:
        told = json.loads(inner) if inner[:1] in ("[", "{") else None
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, list | dict) else None


def _pairs(told: Any) -> Any:
    """From `{"person": ["Ada"]}`, `[{"label": "person", "text": "Ada"}]` or `[["person", "Ada"]]`."""
    if isinstance(told, dict):
        for label, values in told.items():
            for value in values if isinstance(values, list) else [values]:
                if isinstance(value, str | int | float):
                    yield label, value
        return
    for item in told:
        if isinstance(item, dict):
            label = next((item[key] for key in ("label", "type", "entity", "category", "tag") if key in item), None)
            value = next(
                (item[key] for key in ("text", "value", "name", "span", "word", "entity") if key in item), None
            )
            if label is not None and value is not None:
                yield label, value
        elif isinstance(item, list) and len(item) == 2:
            yield item[0], item[1]


def are_entities(expected: Sequence[str]) -> str:
    """`tags`, `list`, or empty when the answers are neither."""
    for kind, read in (("tags", tags_of), ("list", entities_of)):
        if expected and sum(read(text) is not None for text in expected) >= MOST * len(expected):
            return kind
    return ""


def entity_counts(answer: str, expected: str, kind: str) -> list[float]:
    """Entities that are right, that were said, and that are there; those of tags as seqeval counts them."""
    if kind == "tags":
        from seqeval.metrics.sequence_labeling import get_entities

        wanted = tags_of(expected) or []
        made = (tags_of(answer) or [])[: len(wanted)]
        right, said = set(get_entities(wanted)), set(get_entities(made + ["O"] * (len(wanted) - len(made))))
        return [float(len(right & said)), float(len(said)), float(len(right))]
    mine, theirs = entities_of(answer) or Counter(), entities_of(expected) or Counter()
    return [float(sum((mine & theirs).values())), float(sum(mine.values())), float(sum(theirs.values()))]
