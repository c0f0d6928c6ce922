"""How what people send to a model differs from what it was trained on: the length of the input and its words.

Length by the population stability index over tenths of the training data (Siddiqi, Credit Risk Scorecards, 2006); words by
the share that the training data does not have.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tunesmith.dataprep.shapes import SHAPES
from tunesmith.features.datasets.rows import read_range
from tunesmith.schemas.deployments import Drift

SAMPLED_ROWS = 2000
MAX_WORDS = 20_000
"""Words of the training data that are remembered, the commonest."""
MIN_INPUTS = 30
"""Inputs under which nothing is said."""
LATEST_INPUTS = 500
MORE_UNKNOWN = 0.2
"""Unknown words over the expected share from which the vocabulary counts as another one."""
LEAST_SHARE = 1e-3
"""Of an empty part, so that its logarithm is a number."""
WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


def baseline_of(texts: Sequence[str]) -> dict[str, Any] | None:
    """`{edges, shares, words, expected}` of the inputs of training rows: lengths in characters that part them in tenths, the
    share in each part, their words, and the share of words that one half has and the other has not. None of too few."""
    if len(texts) < MIN_INPUTS:
        return None
    lengths = sorted(len(text) for text in texts)
    edges = sorted({lengths[len(lengths) * tenth // 10] for tenth in range(1, 10)})  # fewer where many are alike
    halves = [Counter(word for text in texts[part::2] for word in words_of(text)) for part in (0, 1)]
    common = [word for word, _ in (halves[0] + halves[1]).most_common(MAX_WORDS)]
    return {
        "edges": edges,
        "shares": shares(edges, lengths),
        "words": common,
        "expected": unknown_share(halves[0].elements(), halves[1]),
    }


def unknown_share(words: Iterable[str], known: Iterable[str]) -> float | None:
    """0 to 1; None of no words."""
    there = known if isinstance(known, set | frozenset | dict) else set(known)
    found = [word in there for word in words]
    return 1.0 - sum(found) / len(found) if found else None


def training_inputs(data: Path, shape: str, mapping: dict[str, str]) -> list[str]:
    """What would be asked, of rows evenly from the whole file."""
    total = read_range(data, 0, 1).total_rows or 0
    part = max(1, SAMPLED_ROWS // 10)
    starts = sorted({total * tenth // 10 for tenth in range(10)})
    rows = [row for start in starts for row in read_range(data, start, part).rows]
    return [text for row in rows[:SAMPLED_ROWS] if (text := _input(row, shape, mapping))]


def _input(row: dict[str, Any], shape: str, mapping: dict[str, str]) -> str:
    known = SHAPES.get(shape)
    for role in ("messages", "conversations"):
        turns = row.get(mapping.get(role, role))
        if known and role in known.roles and isinstance(turns, list):
            asked = [
                turn
                for turn in turns
                if isinstance(turn, dict) and turn.get("role", turn.get("from")) in ("user", "human")
            ]
            return str(asked[-1].get("content") or asked[-1].get("value") or "") if asked else ""
    role = (known and known.input_role) or "text"
    parts = [role, "input"] if shape == "alpaca" else [role]
    return "\n".join(str(row[column]) for part in parts if row.get(column := mapping.get(part, part)))


def psi(edges: Sequence[float], expected: Sequence[float], values: Sequence[float]) -> float:
    """Σ (seen - expected) · ln(seen / expected) over the parts between `edges`; a little is added to empty ones."""
    total = 0.0
    for wanted, got in zip(expected, shares(edges, values), strict=True):
        e, s = max(wanted, LEAST_SHARE), max(got, LEAST_SHARE)
        total += (s - e) * math.log(s / e)
    return total


def shares(edges: Sequence[float], values: Sequence[float]) -> list[float]:
    """Which share of `values` lies in each part; an edge belongs to the part below it."""
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[bisect_left(edges, value)] += 1
    return [count / len(values) for count in counts]


def drift_of(baseline: dict[str, Any], inputs: Sequence[tuple[int, float | None]], max_psi: float) -> Drift:
    """Of the latest inputs: `(characters, share of unknown words)` each."""
    if len(inputs) < MIN_INPUTS:
        return Drift(
            requests=len(inputs), length_psi=None, unknown_words=None, expected_unknown_words=baseline["expected"],
            drifted=False, words=f"{len(inputs)} of {MIN_INPUTS} requests that it takes to say",
        )  # fmt: skip
    index = psi(baseline["edges"], baseline["shares"], [chars for chars, _ in inputs])
    shares = [share for _, share in inputs if share is not None]
    unknown, expected = (sum(shares) / len(shares) if shares else None), baseline["expected"] or 0.0
    longer, stranger = index > max_psi, unknown is not None and unknown > expected + MORE_UNKNOWN
    told = [
        *(["inputs are of other lengths than the training data's"] if longer else []),
        *(["many of their words are not in the training data"] if stranger else []),
    ]
    return Drift(
        requests=len(inputs), length_psi=index, unknown_words=unknown, expected_unknown_words=baseline["expected"],
        drifted=longer or stranger, words="; ".join(told) or "like the training data",
    )  # fmt: skip
