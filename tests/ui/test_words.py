"""Numbers and problems as people read them."""

from __future__ import annotations

import math

import pytest

from tunesmith.ui import words


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0"), (5.0587, "5.059"), (19340.2, "19,340"), (123456, "123,500"), (4e-6, "0.000004"), (0.00021, "0.00021"),
     (1.5, "1.5"), (-2.0, "-2"), (1e-12, "1e-12"), (math.inf, "inf")],
)  # fmt: skip
def test_significant_digits_without_powers_of_ten(value: float | None, text: str) -> None:
    assert words.signif(value) == text


@pytest.mark.parametrize(
    ("detail", "text"),
    [
        ({"row": 1240, "column": "answer", "message": "is empty"}, "row 1,240, column answer: is empty"),
        ({"row": 3, "message": "quote not closed"}, "row 3: quote not closed"),
        (
            {"loc": "hyperparameters.epochs", "message": "must be at least 1"},
            "hyperparameters.epochs: must be at least 1",
        ),
        ({"loc": "", "message": "no rows"}, "no rows"),
        ({"message": "no rows"}, "no rows"),
        ({}, ""),
    ],
)
def test_a_problem_names_its_place_whatever_it_is(detail: dict[str, object], text: str) -> None:
    assert words.place(detail) == text
