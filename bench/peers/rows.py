"""The rows that all contenders learn from, and Tunesmith's own tokens of them: the one count that every rate is made with."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from peers.configs import ROWS_A_STEP, SEED
from tunesmith.recipes.blocks.token_rows import TokenRows

IGNORE = -100
THINGS = "apples buckets candles desks envelopes forks gloves hats jars kites lamps marbles notebooks pens ropes stamps"
PEOPLE = "Ana Ben Chen Dara Eli Fay Gus Hana Ivo June Kofi Lena Max Nia Omar Pia"


class TokenisedRows(NamedTuple):
    """Rows in the order in which Tunesmith takes them, eight a step."""

    ids: list[list[int]]
    labels: list[list[int]]

    def tokens_of_steps(self) -> list[int]:
        return self._by_step([len(row) for row in self.ids])

    def supervised_of_steps(self) -> list[int]:
        """Nothing predicts a row's first token, so it is never counted."""
        return self._by_step([sum(label != IGNORE for label in row[1:]) for row in self.labels])

    @staticmethod
    def _by_step(counts: list[int]) -> list[int]:
        return [sum(counts[at : at + ROWS_A_STEP]) for at in range(0, len(counts), ROWS_A_STEP)]

    def padded_tokens(self) -> int:
        """What eight rows a batch come to when all are padded to the batch's longest."""
        lengths = [len(row) for row in self.ids]
        steps = range(0, len(lengths), ROWS_A_STEP)
        return sum(max(lengths[at : at + ROWS_A_STEP]) * len(lengths[at : at + ROWS_A_STEP]) for at in steps)


def write_raw_rows(source: Path | None, num_rows: int, target: Path) -> str:
    """`num_rows` of `source` (JSON lines with `question` and `answer`), or made-up ones. Returns what they are, for the print."""
    rng = random.Random(SEED)
    if source is None:
        rows, what = [_made_up(rng) for _ in range(num_rows)], "made-up sums"
    else:
        found = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
        if len(found) < num_rows:
            raise SystemExit(f"{source} has {len(found)} rows and {num_rows} are needed: lower --steps.")
        rows = [{key: row[key] for key in ("question", "answer")} for row in rng.sample(found, num_rows)]
        what = f"rows of {source.parent.name}/{source.name}"
    target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return what


def _made_up(rng: random.Random) -> dict[str, str]:
    """A sum in words of as many stages as chance wants, so that rows are of unlike lengths (about those of GSM8K)."""
    who, things = rng.choice(PEOPLE.split()), rng.choice(THINGS.split())
    total = rng.randint(10, 90)
    question, answer = [f"{who} has {total} {things}."], []
    for _ in range(rng.randint(2, 9)):
        friend, number = rng.choice(PEOPLE.split()), rng.randint(2, 60)
        question.append(f"Then {friend} brings another {number} {things} and puts them with the others.")
        answer.append(f"After {friend} came there are {total} + {number} = {total + number} {things}.")
        total += number
    question.append(f"How many {things} does {who} have in the end?")
    return {"question": " ".join(question), "answer": "\n".join([*answer, f"#### {total}"])}


def read_tokens(home: Path, run: Path) -> TokenisedRows:
    """The tokens that a Tunesmith run in folder `run`, the only one in `home`, has left in its cache, in the order of its steps."""
    (path,) = (path for path in (home / "cache" / "tokens").glob("*.arrow") if not path.name.startswith("."))
    found = TokenRows.open(path)
    spec: dict[str, Any] = json.loads((run / "spec.json").read_bytes())
    rows = [found.row(row) for row in row_order(len(found), spec["dataset"]["digest"])]
    return TokenisedRows([ids.tolist() for ids, _ in rows], [labels.tolist() for _, labels in rows])


def row_order(num_rows: int, digest: str) -> list[int]:
    """Tunesmith's order in the first pass, as `recipes/blocks/row_order.py` has it."""
    order = np.random.default_rng([SEED, 0, int(digest[:16], 16)]).permutation(num_rows)
    return [int(row) for row in order]


def sorted_in_steps(rows: TokenisedRows) -> TokenisedRows:
    """Shortest row first within each step: the gradient is the same, and small micro-batches have the least padding."""
    order: list[int] = []
    for at in range(0, len(rows.ids), ROWS_A_STEP):
        order += sorted(range(at, min(at + ROWS_A_STEP, len(rows.ids))), key=lambda row: len(rows.ids[row]))
    return TokenisedRows([rows.ids[row] for row in order], [rows.labels[row] for row in order])


def write_tokens(rows: TokenisedRows, target: Path) -> None:
    pairs = zip(rows.ids, rows.labels, strict=True)
    target.write_text("".join(json.dumps({"input_ids": ids, "labels": labels}) + "\n" for ids, labels in pairs))
