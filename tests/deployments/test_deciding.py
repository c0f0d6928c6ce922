"""What becomes of candidates and ill models, who gets which model, and when inputs have drifted: from values to values."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from tunesmith.executors.serving_process import Endpoint
from tunesmith.features.deployments.deciding import (
    Advance,
    Keep,
    Promote,
    Rollback,
    Sample,
    compare,
    decide_candidate,
    is_ill,
    stats_of,
)
from tunesmith.features.deployments.drift import baseline_of, drift_of, psi, unknown_share, words_of
from tunesmith.features.deployments.routing import Route, Variant, place
from tunesmith.schemas.deployments import LocalSettings, Rollout, Watch


def samples(
    count: int, failed: int = 0, latency_s: float = 1.0, up: int = 0, down: int = 0, seed: int = 0
) -> list[Sample]:
    rng = random.Random(seed)
    ratings = ["up"] * up + ["down"] * down + [None] * (count - up - down)
    return [Sample(n < failed, latency_s * rng.uniform(0.9, 1.1), rating=ratings[n], tokens=20) for n in range(count)]


CANARY = Rollout(model="m", strategy="canary", steps=[5, 25, 50], step_s=60, min_requests=40)


@pytest.mark.parametrize(
    ("plan", "step", "at_step_s", "live", "candidate", "expected"),
    [
        (CANARY, 0, 999, samples(100), samples(10), Keep),
        (CANARY, 0, 10, samples(100), samples(50), Keep),
        (CANARY, 0, 61, samples(100), samples(50), Advance),
        (CANARY, 2, 61, samples(100), samples(50), Promote),
        (CANARY, 0, 1, samples(100), samples(10, failed=6), Rollback),
        (CANARY, 0, 1, samples(100), samples(10, failed=4), Keep),
        (CANARY, 2, 61, samples(400), samples(60, failed=9), Rollback),
        (CANARY, 2, 61, samples(100), samples(60, latency_s=1.8), Rollback),
        (CANARY, 2, 61, samples(100), samples(60, latency_s=1.2), Promote),
        (CANARY, 2, 61, samples(100, up=45, down=5), samples(60, up=10, down=20), Rollback),
        (CANARY.model_copy(update={"auto": False}), 2, 999, samples(100), samples(60), Keep),
        (CANARY.model_copy(update={"strategy": "shadow"}), 0, 999, samples(100), samples(60, failed=50), Keep),
        (CANARY.model_copy(update={"strategy": "ab", "metric": "rating"}), 0, 1, samples(100, up=20, down=30), samples(100, up=45, down=5), Promote),
        (CANARY.model_copy(update={"strategy": "ab", "metric": "rating"}), 0, 1, samples(100, up=25, down=25), samples(100, up=27, down=23), Keep),
    ],
)  # fmt: skip
def test_candidates(plan: Rollout, step: int, at_step_s: float, live: Any, candidate: Any, expected: type) -> None:
    decision = decide_candidate(plan, step, at_step_s, live, candidate)
    assert isinstance(decision, expected), decision
    if isinstance(decision, Advance):
        assert (decision.step, decision.percent) == (1, 25)


def test_equal_variants_are_rarely_told_apart() -> None:
    """The share of false alarms is about the significance that was asked for."""
    rng, found = random.Random(7), 0
    for _ in range(200):
        a, b = ([Sample(rng.random() < 0.1, rng.expovariate(1)) for _ in range(120)] for _ in range(2))
        found += compare("latency", a, b, 0.05).significant
    assert 1 <= found <= 22
    told = compare("error_rate", samples(200, failed=2), samples(200, failed=30), 0.05)
    assert told.significant and "200 against 200 requests" in told.words
    assert "not enough" in compare("rating", samples(5), samples(5), 0.05).words


def test_a_live_model_is_ill_by_its_own_limits() -> None:
    watch = Watch(min_requests=20, max_error_rate=0.2, max_p95_latency_s=2.0)
    assert is_ill(watch, samples(19, failed=19)) == ""
    assert is_ill(watch, samples(40, failed=4)) == ""
    assert "of the last 40 requests failed" in is_ill(watch, samples(40, failed=12))
    assert "slowest twentieth" in is_ill(watch, samples(40, latency_s=3.0))
    told = stats_of([*samples(98), Sample(False, 50.0), Sample(False, 60.0)])
    assert told.p95_latency_s and told.p95_latency_s < 2 and stats_of([]).error_rate is None


def variant(number: int, role: str, percent: float) -> Variant:
    here = Endpoint("http://127.0.0.1:1", "x")
    return Variant(number, number, role, percent, f"m{number}", "llama.cpp", here, None, None, 0)


def test_shares_are_kept_and_callers_stay() -> None:
    def route(percent: float) -> Route:
        variants = (variant(1, "live", 100.0), variant(2, "candidate", percent), variant(3, "shadow", 10.0))
        return Route(1, "bot", None, "team", LocalSettings(), {}, "", 0, variants)

    callers = [f"caller-{n}" for n in range(4000)]
    few = {caller: route(5).choose(caller) for caller in callers}
    more = {caller: route(25).choose(caller) for caller in callers}
    assert 140 < Counter(v.number for v in few.values() if v)[2] < 260
    assert 880 < Counter(v.number for v in more.values() if v)[2] < 1120
    assert all(more[caller].number == 2 for caller, v in few.items() if v and v.number == 2)  # type: ignore[union-attr]
    assert 300 < sum(route(0).shadow(caller) is not None for caller in callers) < 500
    assert 0 <= place("x") < 100


def test_drift_is_told_from_the_usual() -> None:
    rng = random.Random(3)
    words = [f"word{n}" for n in range(300)]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 60))) for _ in range(600)]
    baseline = baseline_of(texts[:400])
    assert baseline is not None and baseline_of(texts[:10]) is None
    known = set(baseline["words"])

    def inputs(found: list[str]) -> list[tuple[int, float | None]]:
        return [(len(text), unknown_share(words_of(text), known)) for text in found]

    same = drift_of(baseline, inputs(texts[400:]), 0.25)
    assert not same.drifted and same.length_psi is not None and same.length_psi < 0.1
    longer = drift_of(baseline, inputs([text * 4 for text in texts[400:]]), 0.25)
    assert longer.drifted and "lengths" in longer.words
    stranger = drift_of(baseline, inputs([text.replace("word", "mot") for text in texts[400:]]), 5.0)
    assert stranger.drifted and "words" in stranger.words and "lengths" not in stranger.words
    assert not drift_of(baseline, inputs(texts[:5]), 0.25).drifted
    assert psi([5], [1.0, 0.0], [5] * 100) == pytest.approx(0.0), "one length only"
