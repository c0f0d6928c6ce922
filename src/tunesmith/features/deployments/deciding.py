"""What becomes of a candidate and of a live model that is watched: from numbers to a decision, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from tunesmith.schemas.deployments import Comparison, Judged, Rollout, VariantStats, Watch

MIN_FAILURES = 5
"""Failures that a candidate is allowed before its share of them says anything."""


@dataclass(frozen=True)
class Sample:
    """One request, as far as it is judged."""

    failed: bool
    latency_s: float
    first_token_s: float | None = None
    tokens: int = 0
    rating: str | None = None
    cached: bool = False


@dataclass(frozen=True)
class Keep:
    """Nothing changes."""

    why: str = ""


@dataclass(frozen=True)
class Advance:
    """The candidate gets more."""

    step: int
    percent: float


@dataclass(frozen=True)
class Promote:
    """The candidate becomes live."""

    why: str


@dataclass(frozen=True)
class Rollback:
    """The candidate goes, or the live model makes way for the one before."""

    why: str


Decision = Keep | Advance | Promote | Rollback


def stats_of(samples: Sequence[Sample]) -> VariantStats:
    """The numbers that people read. Failed requests have no latency worth counting; answers from the cache neither."""
    if not samples:
        return VariantStats()
    answered = [sample for sample in samples if not sample.failed and not sample.cached]
    times = sorted(sample.latency_s for sample in answered)
    first = sorted(sample.first_token_s for sample in answered if sample.first_token_s is not None)
    rates = [sample.tokens / sample.latency_s for sample in answered if sample.tokens and sample.latency_s > 0]
    errors = sum(sample.failed for sample in samples)
    return VariantStats(
        requests=len(samples),
        errors=errors,
        error_rate=errors / len(samples),
        p50_latency_s=quantile(times, 0.5),
        p95_latency_s=quantile(times, 0.95),
        p50_first_token_s=quantile(first, 0.5),
        tokens_per_s=fmean(rates) if rates else None,
        up=sum(sample.rating == "up" for sample in samples),
        down=sum(sample.rating == "down" for sample in samples),
        cached=sum(sample.cached for sample in samples),
    )


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which `share` of `ordered` lies (nearest rank); None of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def compare(metric: Judged, live: Sequence[Sample], candidate: Sequence[Sample], significance: float) -> Comparison:
    """Two-sided: Fisher's exact test for shares, Mann and Whitney's for latencies. `words` names both counts."""
    from scipy import stats  # only who compares waits for it

    if metric == "latency":
        mine, theirs = _latencies(candidate), _latencies(live)
        values = quantile(sorted(theirs), 0.95), quantile(sorted(mine), 0.95)
        enough = len(mine) > 1 and len(theirs) > 1
        p_value = float(stats.mannwhitneyu(mine, theirs).pvalue) if enough else None
        counts = len(theirs), len(mine)
    else:
        (hits, counts_live), (mine_hits, counts_mine) = _counted(metric, live), _counted(metric, candidate)
        values = (hits / counts_live if counts_live else None, mine_hits / counts_mine if counts_mine else None)
        table = [[hits, counts_live - hits], [mine_hits, counts_mine - mine_hits]]
        p_value = float(stats.fisher_exact(table).pvalue) if counts_live and counts_mine else None
        counts = counts_live, counts_mine
    significant = p_value is not None and p_value < significance
    told = f"{counts[0]} against {counts[1]} requests"
    words = f"not enough to compare ({told})" if p_value is None else _words(significant, p_value, told)
    return Comparison(
        metric=metric, live=values[0], candidate=values[1], p_value=p_value, significant=significant, words=words
    )


def _words(significant: bool, p_value: float, told: str) -> str:
    p = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    return f"{'significant' if significant else 'not significant'} ({p}, {told})"


def _latencies(samples: Sequence[Sample]) -> list[float]:
    return [sample.latency_s for sample in samples if not sample.failed and not sample.cached]


def _counted(metric: Judged, samples: Sequence[Sample]) -> tuple[int, int]:
    """How many count, of how many: failures of requests, or likes of ratings."""
    if metric == "error_rate":
        return sum(sample.failed for sample in samples), len(samples)
    rated = [sample for sample in samples if sample.rating]
    return sum(sample.rating == "up" for sample in rated), len(rated)


def decide_candidate(
    plan: Rollout, step: int, at_step_s: float, live: Sequence[Sample], candidate: Sequence[Sample]
) -> Decision:
    """What becomes of a candidate that has had its share for `at_step_s` seconds. `candidate` are its requests at all steps."""
    if not plan.auto or plan.strategy in ("shadow", "replace"):
        return Keep("somebody decides")
    failures = sum(sample.failed for sample in candidate)
    if failures >= MIN_FAILURES and failures / len(candidate) > plan.max_error_rate:
        return Rollback(f"{failures} of its {len(candidate)} requests failed")
    if len(candidate) < plan.min_requests:
        return Keep(f"{len(candidate)} of {plan.min_requests} requests")
    judged: dict[Judged, Comparison] = {
        metric: compare(metric, live, candidate, plan.significance) for metric in ("error_rate", "latency", "rating")
    }
    if worse := _worse(plan, judged):
        return Rollback(worse)
    if plan.strategy == "ab":
        found = judged[plan.metric]
        if len(live) >= plan.min_requests and found.significant:
            return Promote(f"better by {plan.metric}: {found.words}")
        return Keep(f"{plan.metric}: {found.words}")
    if at_step_s < plan.step_s:
        return Keep(f"at {plan.steps[min(step, len(plan.steps) - 1)]:g} % since {at_step_s:.0f} s")
    if step + 1 < len(plan.steps):
        return Advance(step + 1, plan.steps[step + 1])
    return Promote(f"it has passed all its steps, with {failures} failures in {len(candidate)} requests")


def _worse(plan: Rollout, judged: dict[Judged, Comparison]) -> str:
    """By what the candidate is significantly worse; empty when by nothing."""
    for metric, found in judged.items():
        if not found.significant or found.live is None or found.candidate is None:
            continue
        limit = found.live * (1 + plan.max_slower) if metric == "latency" else found.live
        is_worse = found.candidate < found.live if metric == "rating" else found.candidate > limit
        if is_worse:
            return f"worse by {metric}: {found.candidate:.3g} against {found.live:.3g}, {found.words}"
    return ""


def is_ill(watch: Watch, samples: Sequence[Sample]) -> str:
    """Why a live model is ill, by its requests of the window; empty when it is not, or too few to say."""
    if len(samples) < watch.min_requests:
        return ""
    now = stats_of(samples)
    if now.error_rate is not None and now.error_rate > watch.max_error_rate:
        return f"{now.errors} of the last {now.requests} requests failed"
    slow = now.p95_latency_s
    if watch.max_p95_latency_s is not None and slow is not None and slow > watch.max_p95_latency_s:
        return f"the slowest twentieth takes {slow:.2f} s, over {watch.max_p95_latency_s:g} s"
    return ""
