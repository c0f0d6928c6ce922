"""Every query on deployments."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.orm import Session

from tunesmith.core.clock import utc_now
from tunesmith.core.errors import NotFound
from tunesmith.features.deployments.deciding import Sample
from tunesmith.features.deployments.tables import DeploymentRow, HistoryRow, RequestRow, RevisionRow
from tunesmith.storage.database import EVERYONES
from tunesmith.storage.repository import Repository, contains

MAX_JUDGED = 5000
"""Latest requests that a decision looks at."""
FAILED_FROM = 500
"""Status from which a request counts as failed; what the caller did wrong does not."""


class DeploymentRepository(Repository[DeploymentRow]):
    row = DeploymentRow
    noun = "deployment"

    def filtered(self, *, target: str | None, text: str | None) -> Select[Any]:
        """A query for `page`."""
        query = self.query()
        if target:
            query = query.where(DeploymentRow.target == target)
        return query.where(contains(text, DeploymentRow.name)) if text else query

    def named(self, name: str) -> DeploymentRow | None:
        """Whoever's it is."""
        query = self.query().where(DeploymentRow.name == name)
        return self.session.scalar(query.execution_options(**EVERYONES))

    def seen(self, name: str) -> DeploymentRow | None:
        """By its name, if it may be seen."""
        return self.session.scalar(self.query().where(DeploymentRow.name == name))

    def running(self) -> list[DeploymentRow]:
        """All that are wanted."""
        return list(self.session.scalars(self.query().where(DeploymentRow.wanted == "running")))

    def ids(self) -> set[int]:
        return set(self.session.scalars(select(DeploymentRow.id)))

    def remove(self, row: DeploymentRow) -> None:
        self.session.execute(delete(RequestRow).where(RequestRow.deployment_id == row.id))
        self.session.delete(row)


class RevisionRepository(Repository[RevisionRow]):
    row = RevisionRow
    noun = "revision"

    def of(self, deployment_id: int, roles: Sequence[str] = ()) -> list[RevisionRow]:
        """The newest first; of those roles only, when some are named."""
        query = self.query().where(RevisionRow.deployment_id == deployment_id)
        if roles:
            query = query.where(RevisionRow.role.in_(roles))
        return list(self.session.scalars(query.order_by(RevisionRow.number.desc())))

    def of_all(self, deployment_ids: Sequence[int]) -> list[RevisionRow]:
        """Those that are not retired, of several deployments."""
        query = self.query().where(RevisionRow.deployment_id.in_(deployment_ids), RevisionRow.role != "retired")
        return list(self.session.scalars(query.order_by(RevisionRow.number.desc())))

    def with_ids(self, ids: set[int]) -> list[RevisionRow]:
        return list(self.session.scalars(self.query().where(RevisionRow.id.in_(ids))))

    def numbered(self, deployment_id: int, number: int) -> RevisionRow:
        """Raises `NotFound`."""
        query = self.query().where(RevisionRow.deployment_id == deployment_id, RevisionRow.number == number)
        found = self.session.scalar(query)
        if found is None:
            raise NotFound(f"This deployment has no revision {number}.")
        return found

    def next_number(self, deployment_id: int) -> int:
        last = select(func.max(RevisionRow.number)).where(RevisionRow.deployment_id == deployment_id)
        return (self.session.scalar(last) or 0) + 1

    def last_good(self, deployment_id: int, before: int) -> RevisionRow | None:
        """The newest under `before` that was live once and did not fail."""
        query = self.query().where(
            RevisionRow.deployment_id == deployment_id,
            RevisionRow.number != before,
            RevisionRow.role == "retired",
            RevisionRow.status == "retired",
            RevisionRow.ready_at.is_not(None),
        )
        return self.session.scalar(query.order_by(RevisionRow.ended_at.desc(), RevisionRow.number.desc()).limit(1))

    def to_take_away(self) -> list[RevisionRow]:
        """Those that another place still has and that are not wanted there any more."""
        query = (
            self.query()
            .join(DeploymentRow, DeploymentRow.id == RevisionRow.deployment_id)
            .where(DeploymentRow.target != "local")
            .where((DeploymentRow.wanted == "stopped") | (RevisionRow.role == "retired"))
        )
        return [row for row in self.session.scalars(query) if row.result and row.result.get("details") is not None]

    def users_of_versions(self) -> dict[int, list[str]]:
        """Which of the registry's versions are in use, by which deployments; those that may not be seen are not named."""
        seen = set(self.session.scalars(select(DeploymentRow.name)))
        query = (
            select(RevisionRow.version_id, DeploymentRow.name)
            .join(DeploymentRow, DeploymentRow.id == RevisionRow.deployment_id)
            .where(
                RevisionRow.version_id.is_not(None), RevisionRow.role != "retired", DeploymentRow.wanted == "running"
            )
        )
        found: dict[int, list[str]] = {}
        for version_id, name in self.session.execute(query.execution_options(**EVERYONES)):
            told = f"deployment {name}" if name in seen else "a deployment of somebody else"
            found.setdefault(version_id or 0, []).append(told)
        return found


class HistoryRepository(Repository[HistoryRow]):
    row = HistoryRow
    noun = "entry"

    def of(self, deployment_id: int) -> Select[Any]:
        return self.query().where(HistoryRow.deployment_id == deployment_id)


class RequestRepository(Repository[RequestRow]):
    row = RequestRow
    noun = "request"

    def filtered(
        self,
        deployment_id: int,
        *,
        failed: bool | None = None,
        rating: str | None = None,
        revision_id: int | None = None,
    ) -> Select[Any]:
        """A query for `page`."""
        query = self.query().where(RequestRow.deployment_id == deployment_id)
        if failed is not None:
            query = query.where(RequestRow.status >= 400 if failed else RequestRow.status < 400)
        if rating:
            query = query.where(RequestRow.rating == rating)
        return query.where(RequestRow.revision_id == revision_id) if revision_id else query

    def add_all(self, rows: Sequence[dict[str, Any]]) -> None:
        """Those whose deployment is gone meanwhile are left out."""
        there = DeploymentRepository(self.session).ids()
        self.session.add_all([RequestRow(**row) for row in rows if row["deployment_id"] in there])

    def samples(self, revision_ids: Sequence[int], since: datetime | None) -> dict[int, list[Sample]]:
        """What decisions rest on, by revision, oldest first; refusals and what the caller did wrong are left out."""
        columns = (
            RequestRow.revision_id, RequestRow.status, RequestRow.latency_s, RequestRow.first_token_s,
            RequestRow.completion_tokens, RequestRow.rating, RequestRow.cached,
        )  # fmt: skip
        found: dict[int, list[Sample]] = {revision_id: [] for revision_id in revision_ids}
        for revision_id in revision_ids:
            query = select(*columns).where(RequestRow.revision_id == revision_id)
            if since is not None:
                query = query.where(RequestRow.at >= since)
            query = query.where((RequestRow.status < 400) | (RequestRow.status >= FAILED_FROM))
            rows = self.session.execute(query.order_by(RequestRow.at.desc()).limit(MAX_JUDGED)).all()
            for _, status, latency_s, first_s, tokens, rating, cached in reversed(rows):
                found[revision_id].append(
                    Sample(status >= FAILED_FROM, latency_s, first_s, tokens or 0, rating, cached)
                )
        return found

    def timed(self, deployment_id: int, since: datetime) -> list[tuple[datetime, Sample]]:
        """Every request that was answered, for the charts; oldest first."""
        query = (
            select(RequestRow.at, RequestRow.status, RequestRow.latency_s, RequestRow.completion_tokens)
            .where(RequestRow.deployment_id == deployment_id, RequestRow.at >= since, RequestRow.shadow.is_(False))
            .order_by(RequestRow.at.desc())
            .limit(MAX_JUDGED * 4)
        )
        rows = self.session.execute(query).all()
        return [
            (at, Sample(status >= FAILED_FROM, latency_s, None, n or 0)) for at, status, latency_s, n in reversed(rows)
        ]

    def inputs(self, revision_id: int, limit: int) -> list[tuple[int, float | None]]:
        """Length and share of unknown words of the latest inputs."""
        query = (
            select(RequestRow.input_chars, RequestRow.unknown_words)
            .where(RequestRow.revision_id == revision_id, RequestRow.status < 400)
            .order_by(RequestRow.at.desc())
            .limit(limit)
        )
        return [(chars, share) for chars, share in self.session.execute(query)]

    def by_uid(self, deployment_id: int, uid: str) -> RequestRow:
        """Raises `NotFound`."""
        found = self.session.scalar(
            self.query().where(RequestRow.uid == uid, RequestRow.deployment_id == deployment_id)
        )
        if found is None:
            raise NotFound(
                f"This deployment has answered no request {uid[:40]!r}.", hint="See X-Request-Id of an answer."
            )
        return found

    def conversations(self, deployment_id: int, rating: str, limit: int) -> list[RequestRow]:
        """Recorded ones that were answered: those that were liked, or all but the disliked. Oldest first."""
        query = self.query().where(
            RequestRow.deployment_id == deployment_id,
            RequestRow.messages.is_not(None),
            RequestRow.answer.is_not(None),
            RequestRow.status < 400,
            RequestRow.shadow.is_(False),
        )
        liked = RequestRow.rating == "up" if rating == "up" else func.coalesce(RequestRow.rating, "") != "down"
        return list(self.session.scalars(query.where(liked).order_by(RequestRow.id).limit(limit)))

    def forget_before(self, instant: datetime) -> int:
        """Delete what is older; how many."""
        return int(self.session.execute(delete(RequestRow).where(RequestRow.at < instant)).rowcount)  # type: ignore[attr-defined]


def note(
    session: Session, deployment_id: int, kind: str, message: str, *, by: str | None = None, revision: int | None = None
) -> None:
    """Write into the history."""
    session.add(
        HistoryRow(deployment_id=deployment_id, at=utc_now(), kind=kind, message=message, by=by, revision=revision)
    )


def touch(session: Session, deployment_id: int) -> None:
    """Say that something about it has changed."""
    session.execute(update(DeploymentRow).where(DeploymentRow.id == deployment_id).values(updated_at=utc_now()))
