"""The regression gate: what is worse than the version in use does not take its place."""

from __future__ import annotations

from typing import Any

from tunesmith.core.errors import NotFound
from tunesmith.features.evaluations import comparing, reading
from tunesmith.features.registry import service as registry
from tunesmith.features.registry.repository import VersionRepository
from tunesmith.features.registry.service import CHAMPION
from tunesmith.features.registry.tables import VersionRow
from tunesmith.recipes.evaluate.spec import HEADLINES
from tunesmith.schemas.evaluations import ScoreRead
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

AUTO, OFF = "auto", "none"
"""Values of the setting `promotion_metric` besides the name of a score."""


def check(settings: Settings, session: Session, version: VersionRow, target: str) -> str | None:
    """Why `version` may not become `target` (`alias:champion`, `stage:production`), or None. What holds the place now is what
    it is compared with; the settings say by which score."""
    if settings.promotion_metric == OFF:
        return None
    champion = in_place(session, version, target)
    if champion is None or champion.id == version.id:
        return None
    return why_not(
        session, version, champion, settings.promotion_metric, settings.promotion_tolerance, settings=settings
    )


def in_place(session: Session, version: VersionRow, target: str) -> VersionRow | None:
    """The version that stands where `version` is to stand."""
    kind, _, name = target.partition(":")
    if kind == "alias":
        return registry.aliased(session, version.name, name)
    there = [row for row in VersionRepository(session).of_name(version.name) if row.stage == name]
    champion = registry.aliased(session, version.name, CHAMPION)
    return max(there, key=lambda row: row.number, default=champion)


def why_not(
    session: Session, version: VersionRow, champion: VersionRow, metric: str, tolerance: float, *, settings: Settings
) -> str | None:
    """`metric` is a score's name or `auto`; `tolerance` is how much of the champion's score may be lost, as a share of it."""
    for name in version.scores.keys() & champion.scores.keys():
        chosen = metric if metric != AUTO else _headline(version.scores[name], champion.scores[name])
        if chosen and (why := _falls(settings, session, version, champion, name, chosen, tolerance)):
            return why
    if metric != AUTO and _has(champion, metric) and not _has(version, metric):
        return f"it has no score {metric}, which {champion.name}@{champion.version} has; evaluate it on the same data."
    return None


def _falls(
    settings: Settings, session: Session, version: VersionRow, champion: VersionRow, name: str, metric: str, tolerance: float
) -> str | None:  # fmt: skip
    before, after = (_score(row.scores[name], metric) for row in (champion, version))
    if before is None or after is None or before.value is None or after.value is None:
        return None
    lost = (before.value - after.value) * (1 if after.higher_is_better else -1)
    if lost <= abs(before.value) * tolerance:
        return None
    found = _difference(settings, session, version, champion, name, metric, before, after)
    if found is None or not found.significant:
        return None
    return (
        f"{after.title} on {name} goes from {before.value:.4g} ({champion.version}) to {after.value:.4g} "
        f"({version.version}): {found.words}."
    )


def _difference(
    settings: Settings, session: Session, version: VersionRow, champion: VersionRow, name: str, metric: str,
    before: ScoreRead, after: ScoreRead,
) -> Any:  # fmt: skip
    """On the samples of both evaluations where they are still there."""
    try:
        first, second = (
            comparing.load(settings, reading.evaluation(session, row.scores[name].get("job_id") or 0))
            for row in (champion, version)
        )
    except NotFound:
        return comparing.by_intervals(before, after)
    return comparing.difference(metric, first, second, before, after)


def _score(scores: dict[str, Any], metric: str) -> ScoreRead | None:
    found = {score.name: score for score in reading.scores({"scores": scores.get("scores") or {}})}
    return found.get(metric)


def _headline(*scores: dict[str, Any]) -> str | None:
    common = set.intersection(*(set(one.get("scores") or ()) for one in scores))
    return next((name for name in HEADLINES if name in common), None)


def _has(row: VersionRow, metric: str) -> bool:
    return any(metric in (scores.get("scores") or {}) for scores in row.scores.values())
