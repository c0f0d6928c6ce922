"""Numbers and names on the command line name the same things."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tunesmith.cli.references import _reference
from tunesmith.core.errors import InvalidInput, NotFound
from tunesmith.settings import OTHER_VARIABLES, Settings

REPO = Path(__file__).parent.parent.parent
THERE = [(1, "support"), (2, "support-night"), (3, "Twin"), (4, "Twin"), (5, "7 days"), (6, "BIG")]


def find(_client: Any, text: str) -> list[tuple[int, str]]:
    return [(number, name) for number, name in THERE if text.lower() in name.lower()]


number = _reference("job", find)


@pytest.mark.parametrize(
    ("word", "found"), [("12", 12), (" 3 ", 3), ("support", 1), ("support-night", 2), ("7 days", 5), ("big", 6)]
)
def test_a_number_or_a_name(word: str, found: int) -> None:
    assert number(word) == found


@pytest.mark.parametrize(
    ("word", "error", "said"),
    [("0", InvalidInput, "names no job"), ("-4", InvalidInput, "names no job"), ("", InvalidInput, "names no job"),
     ("Twin", InvalidInput, "2 jobs are called Twin: 3, 4."), ("supp", NotFound, "Did you mean 1 (support), 2 (support-night)?"),
     ("nothing", NotFound, "See: tunesmith jobs list")],
)  # fmt: skip
def test_what_names_nothing_or_several_says_so(word: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as raised:
        number(word)
    assert said in f"{raised.value} {raised.value.hint}"  # type: ignore[attr-defined]


def test_the_doctor_knows_every_documented_variable() -> None:
    texts = [*(REPO / "docs").glob("*.md"), REPO / "README.md"]
    named = {name for text in texts for name in re.findall(r"\bTUNESMITH_[A-Z][A-Z0-9_]*[A-Z0-9]\b", text.read_text())}
    known = {f"TUNESMITH_{name.upper()}" for name in Settings.model_fields} | set(OTHER_VARIABLES)
    assert len(named) > 40
    assert named <= known, named - known
