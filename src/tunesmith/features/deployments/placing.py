"""Putting models where others serve them: Ollama, LM Studio, the hub, a folder for the cloud. Each in a thread of its own,
since it may take long; what a killed server had begun is begun again, which each target allows.
"""

from __future__ import annotations

import logging
import shutil
import threading
from pathlib import Path
from typing import Any

from tunesmith.core.clock import monotonic_s, utc_now
from tunesmith.core.errors import TunesmithError
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.rounds import carried_on
from tunesmith.features.deployments import service, targets
from tunesmith.features.deployments.repository import DeploymentRepository, RevisionRepository, note
from tunesmith.features.deployments.tables import DeploymentRow, RevisionRow
from tunesmith.features.deployments.targets.base import Health, TargetResult, TargetWork
from tunesmith.features.registry import service as registry
from tunesmith.features.registry.repository import VersionRepository
from tunesmith.settings import Settings
from tunesmith.storage.database import Database

log = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
"""Between two looks at a model that somebody else serves."""


class Placing:
    """The threads."""

    def __init__(self, settings: Settings, database: Database, folder: Path) -> None:
        self.settings, self.database, self.folder = settings, database, folder
        self._busy: dict[int, threading.Thread] = {}
        self._looked_s: dict[int, float] = {}
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Wait a little for what is under way; what does not end is begun again by the next server."""
        self._stopped.set()
        for thread in list(self._busy.values()):
            thread.join(2)

    def look(self, deployments: dict[int, DeploymentRow], revisions: list[RevisionRow]) -> None:
        """Begin what waits, look at what is there, and take away what is no longer wanted."""
        self._busy = {key: thread for key, thread in self._busy.items() if thread.is_alive()}
        for row in revisions:
            if row.id in self._busy:
                continue
            if row.status in ("pending", "starting"):
                self._begin(row.id, self._place, deployments[row.deployment_id], row)
            elif row.role == "live" and monotonic_s() - self._looked_s.get(row.id, 0.0) > LOOK_EVERY_S:
                self._looked_s[row.id] = monotonic_s()
                self._begin(row.id, self._check, deployments[row.deployment_id], row)
        with self.database.unit_of_work(readonly=True) as session:
            over = RevisionRepository(session).to_take_away()
            owners = {row.deployment_id: DeploymentRepository(session).get(row.deployment_id) for row in over}
        for row in over:
            if row.id not in self._busy:
                self._begin(row.id, self._take_away, owners[row.deployment_id], row)

    def _begin(self, key: int, work: Any, deployment: DeploymentRow, revision: RevisionRow) -> None:
        def run() -> None:
            with carried_on(f"placing {deployment.name}"):
                work(deployment, revision)

        thread = threading.Thread(target=run, name=f"placing-{key}", daemon=True)
        self._busy[key] = thread
        thread.start()

    def _place(self, deployment: DeploymentRow, revision: RevisionRow) -> None:
        target = targets.find(deployment.target)
        with service.locked(self.database, deployment.id, revision.id) as (_session, _row, now):
            now.status = "starting"
        try:
            work = self._work(deployment, revision)
            result = target.deploy(work)
            health = target.check(result) if result.is_live else Health(True)
        except (TunesmithError, OSError) as error:
            self._failed(
                deployment, revision, f"{getattr(error, 'message', error)} {getattr(error, 'hint', '')}".strip()
            )
            return
        if not health.ok:
            self._failed(deployment, revision, health.message, result)
            return
        with service.locked(self.database, deployment.id, revision.id) as (session, row, now):
            now.status, now.ready_at, now.result = "ready", utc_now(), _told(result)
            service.make_live(session, row, now, result.address or "it is in its place")

    def _work(self, deployment: DeploymentRow, revision: RevisionRow) -> TargetWork:
        folder = self.folder / "targets" / str(deployment.id) / str(revision.number)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        facts: dict[str, Any] = {}
        with self.database.unit_of_work(readonly=True) as session:
            if revision.version_id is not None:
                version = VersionRepository(session).get(revision.version_id)
                registry.verified_folder(self.settings, version)
                facts = facts_of(version)

        def report(message: str, share: float | None) -> None:
            with service.locked(self.database, deployment.id, revision.id) as (_session, _row, now):
                now.reason = f"{message} ({share:.0%})" if share is not None else message

        return TargetWork(
            name=deployment.name, model=ModelRef.model_validate(revision.model_ref), title=revision.model, facts=facts,
            settings=deployment.settings, system_prompt=deployment.system_prompt, sampling=deployment.sampling,
            folder=folder, timeout_s=deployment.timeout_s, report=report,
        )  # fmt: skip

    def _failed(
        self, deployment: DeploymentRow, revision: RevisionRow, why: str, result: TargetResult | None = None
    ) -> None:
        with service.locked(self.database, deployment.id, revision.id) as (session, row, now):
            if result is not None:
                now.result = _told(result)
            service.fail(session, row, now, why)

    def _check(self, deployment: DeploymentRow, revision: RevisionRow) -> None:
        """Once more, as it is now."""
        result = _result(revision)
        if not result.is_live:
            return
        try:
            health = targets.find(deployment.target).check(result)
        except (TunesmithError, OSError) as error:
            health = Health(False, str(error))
        with service.locked(self.database, deployment.id, revision.id) as (session, row, now):
            if row.wanted != "running" or now.role != "live":
                return
            if health.ok and row.status == "degraded":
                row.status, row.reason = "ready", ""
                note(session, row.id, "ready", "it answers again", revision=now.number)
            elif not health.ok and row.status == "ready":
                row.status, row.reason = "degraded", health.message
                note(session, row.id, "degraded", health.message, revision=now.number)

    def _take_away(self, deployment: DeploymentRow, revision: RevisionRow) -> None:
        """What one revision has put somewhere, unless the live one stands in the same place."""
        result = _result(revision)
        try:
            if not self._is_shared(deployment, revision, result):
                targets.find(deployment.target).undeploy(result)
        except (TunesmithError, OSError) as error:
            log.warning("%s cannot be taken away: %s", deployment.name, error)
            with self.database.unit_of_work() as session:
                note(session, deployment.id, "undeploy failed", str(error), revision=revision.number)
        shutil.rmtree(self.folder / "targets" / str(deployment.id) / str(revision.number), ignore_errors=True)
        with service.locked(self.database, deployment.id, revision.id) as (_session, _row, now):
            now.result = {}

    def _is_shared(self, deployment: DeploymentRow, revision: RevisionRow, result: TargetResult) -> bool:
        with self.database.unit_of_work(readonly=True) as session:
            if DeploymentRepository(session).get(deployment.id).wanted != "running":
                return False
            live = RevisionRepository(session).of(deployment.id, ("live",))
        return any(_result(row).address == result.address for row in live if row.id != revision.id)


def facts_of(version: Any) -> dict[str, Any]:
    """What a model card says of a version of the registry."""
    return {
        "kind": version.kind, "name": version.name, "version": version.version, "lineage": version.lineage,
        "metrics": version.metrics, "scores": version.scores, "num_parameters": version.num_parameters,
        "architecture": version.architecture, "base_model": version.base_model, "tuned_with": version.hyperparameters,
        "notes": version.notes, "tags": version.tags, "digest": version.digest,
    }  # fmt: skip


def _told(result: TargetResult) -> dict[str, Any]:
    return {
        "address": result.address, "is_live": result.is_live, "instructions": result.instructions, "details": result.details,
    }  # fmt: skip


def _result(revision: RevisionRow) -> TargetResult:
    told = {name: value for name, value in (revision.result or {}).items() if name in TargetResult.__dataclass_fields__}
    return TargetResult(**told)
