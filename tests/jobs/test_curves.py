"""Thinning keeps every spike, and a resumed run's later word counts."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from tunesmith.features.jobs.curves import curve, of_scores, series, thin


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=400), st.integers(4, 60))
def test_thin_curves_keep_their_ends_and_extremes(values: list[float], most: int) -> None:
    points = list(enumerate(values))
    thinned = thin(points, most)
    assert len(thinned) <= most and set(thinned) <= set(points)
    assert thinned[0] == points[0] and thinned[-1] == points[-1]
    assert min(v for _, v in thinned) == min(values) and max(v for _, v in thinned) == max(values)
    steps = [step for step, _ in thinned]
    assert steps == sorted(set(steps))


def test_a_step_not_a_number_survives_thinning_and_is_null_on_the_wire() -> None:
    points = [(n, math.nan if n == 777 else 1.0) for n in range(5000)]
    shown = curve(thin(points, 50))
    assert shown.values[shown.steps.index(777)] is None


def test_after_a_resume_the_later_word_counts() -> None:
    bodies = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "loss": 2.5}, {"step": 3, "loss": "NaN"}]
    found = series(bodies, "loss")
    assert found[:2] == [(1, 3.0), (2, 2.5)] and math.isnan(found[2][1])


def test_scores_of_the_held_out_split_are_curves_of_their_own() -> None:
    found = of_scores([{"step": 1, "loss": 2.0, "perplexity": 7.4, "metrics": {"f1": 0.5}}], 100)
    assert set(found) == {"eval_loss", "eval_perplexity", "eval_f1"}
