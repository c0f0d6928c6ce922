"""What curves say: each problem is recognised, at any scale, and no series of numbers breaks it."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.features.jobs.diagnosis import MIN_POINTS, WINDOW, Series, diagnose


def numbered(values: list[float]) -> Series:
    return list(enumerate(values, start=1))


def codes(values: list[float], held_out: list[float] = [], norms: list[float] = []) -> list[str]:  # noqa: B006
    return [d.code for d in diagnose(numbered(values), numbered(held_out), numbered(norms))]


FALLING = [3 * math.exp(-n / 30) + 0.5 for n in range(100)]
NOISE = random.Random(1)


@pytest.mark.parametrize("scale", [0.01, 1.0, 50.0])
@pytest.mark.parametrize(
    ("values", "code"),
    [
        (FALLING, "healthy"),
        ([v + NOISE.uniform(-0.1, 0.1) for v in FALLING], "healthy"),
        ([1 + n / 50 for n in range(100)], "rising"),
        ([2.0 + (1.5 if n % 2 else -1.5) for n in range(100)], "oscillating"),
        ([1.2] * 100, "plateau"),
        ([1.2 + NOISE.uniform(-0.02, 0.02) for _ in range(200)], "plateau"),
    ],
)
def test_each_shape_of_curve_has_its_name(values: list[float], code: str, scale: float) -> None:
    assert codes([v * scale for v in values]) == [code]


def test_not_a_number_is_the_only_thing_said() -> None:
    found = diagnose(numbered([*FALLING, math.nan]), numbered([1.0, 5.0]), numbered([99.0] * 50))
    assert [d.code for d in found] == ["nan"]
    assert "step 101" in found[0].message and found[0].severity == "error" and "learning rate" in found[0].advice
    assert codes(FALLING, [1.0, math.inf]) == ["nan"]


def test_held_out_loss_that_rises_while_the_training_loss_falls_is_overfitting() -> None:
    assert codes(FALLING, [2.0, 1.5, 1.2, 1.4, 1.7]) == ["overfitting"]
    assert codes(FALLING, [2.0, 1.5, 1.2, 1.21]) == ["healthy"]
    assert "step 3" in diagnose(numbered(FALLING), numbered([2.0, 1.5, 1.2, 1.4]))[0].message


def test_gradients() -> None:
    assert codes(FALLING, [], [50.0] * 100) == ["high_gradients"]
    assert codes(FALLING, [], [1e-7] * 100) == ["vanishing_gradients"]
    assert codes(FALLING, [], [400.0, *([0.8] * 99)]) == ["healthy"]  # one spike at the start is no problem


def test_early_on_nothing_is_said() -> None:
    assert codes(FALLING[: MIN_POINTS - 1]) == []


def test_only_the_recent_past_counts() -> None:
    rose_long_ago = [1 + n / 100 for n in range(200)] + [3 * math.exp(-n / 90) + 0.1 for n in range(WINDOW)]
    assert codes(rose_long_ago) == ["healthy"]


@given(
    st.lists(st.floats(), max_size=60),
    st.lists(st.floats(), max_size=10),
    st.lists(st.floats(min_value=0), max_size=60),
)
def test_any_numbers_give_sentences_or_nothing(loss: list[float], held_out: list[float], norms: list[float]) -> None:
    found = diagnose(numbered(loss), numbered(held_out), numbered(norms))
    assert all(d.message and d.advice for d in found)
    assert len({d.code for d in found}) == len(found)
    if any(not math.isfinite(v) for v in [*loss, *held_out]):
        assert [d.code for d in found] == ["nan"]
    elif len(loss) >= MIN_POINTS:
        assert found and (found[0].code != "healthy" or len(found) == 1)
    order = ["error", "warning", "info"]
    assert [order.index(d.severity) for d in found] == sorted(order.index(d.severity) for d in found)


def test_a_new_job_is_offered_that_deals_with_it() -> None:
    falling = [(step, 3.0 - step / 100) for step in range(1, 101)]
    worse = [(10, 1.0), (20, 0.8), (30, 1.1)]
    settings = {"learning_rate": 2e-4, "early_stopping": {"enabled": False}}
    (found,) = diagnose(falling, worse, settings=settings)
    assert found.code == "overfitting"
    assert found.changes == {"early_stopping": {"enabled": True}, "save_best_model": True}
    (found,) = diagnose(falling, worse, settings={**settings, "early_stopping": {"enabled": True}})
    assert found.changes == {}, "it stops early already"
    (found,) = diagnose([*falling, (101, float("nan"))], settings=settings)
    assert found.code == "nan" and found.changes == {"learning_rate": 6.7e-05, "fp16": False}
    assert all("_" not in each.advice for each in [found, *diagnose(falling, worse)]), "no names of settings"
