"""What people do with deployments. Only the wish is written down here; `supervisor.py` makes it true."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunesmith.core.acting import current
from tunesmith.core.clock import utc_now
from tunesmith.core.errors import Conflict, InvalidInput, NotFound
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.validation import message_of
from tunesmith.core.words import plural
from tunesmith.features.catalog.service import find_base, resolve_model
from tunesmith.features.datasets.service import training_ref
from tunesmith.features.deployments import drift, targets
from tunesmith.features.deployments.repository import DeploymentRepository, RevisionRepository, note
from tunesmith.features.deployments.tables import DeploymentRow, RevisionRow
from tunesmith.features.registry import service as registry
from tunesmith.features.registry.tables import VersionRow
from tunesmith.recipes.model_about import about
from tunesmith.schemas.deployments import DeploymentCreate, DeploymentUpdate, LocalSettings, Rollout
from tunesmith.settings import Settings
from tunesmith.storage.database import Database, Session

LOCAL = "local"
IN_USE = ("live", "candidate", "shadow")


def create(settings: Settings, session: Session, body: DeploymentCreate) -> DeploymentRow:
    """A deployment with its first revision, to be started. Raises `Conflict` for a taken name, `InvalidInput` or `NotFound`."""
    rows = DeploymentRepository(session)
    if rows.named(body.name) is not None:
        raise Conflict(
            f"The deployment name {body.name!r} is taken.",
            hint="Choose another name; where the deployment is yours, roll the model out to it.",
            details=[{"loc": "name", "message": "taken"}],
        )
    checked = check_settings(body.target, body.settings)
    now = utc_now()
    row = DeploymentRow(
        name=body.name, target=body.target, wanted="running", status="deploying", reason="", settings=checked,
        sampling=body.sampling.model_dump(exclude_none=True), system_prompt=body.system_prompt,
        auto_rollback=body.auto_rollback, timeout_s=body.timeout_s, created_at=now, updated_at=now,
    )  # fmt: skip
    rows.add(row)
    _add_revision(settings, session, row, Rollout(model=body.model))
    return row


def rollout(settings: Settings, session: Session, deployment_id: int, plan: Rollout) -> RevisionRow:
    """One more model for a deployment. Raises `Conflict` while another one is on its way."""
    row = change(session, deployment_id)
    if row.wanted != "running":
        raise Conflict(f"{row.name} is stopped.", hint="Start it first.")
    if row.target != LOCAL and plan.strategy != "replace":
        raise InvalidInput(
            f"The target {row.target} has no traffic to share out.",
            hint="Use strategy replace; canary, ab and shadow are for target local.",
            details=[{"loc": "strategy", "message": "not for this target"}],
        )
    on_its_way = RevisionRepository(session).of(deployment_id, ("candidate",))
    if on_its_way and plan.strategy != "shadow":
        raise Conflict(
            f"{on_its_way[0].model} is still on its way.", hint="Promote it or roll it back first: one at a time."
        )
    return _add_revision(settings, session, row, plan)


def _add_revision(settings: Settings, session: Session, row: DeploymentRow, plan: Rollout) -> RevisionRow:
    title, ref, version = find_model(settings, session, plan.model)
    _check_place(row, ref)
    revisions = RevisionRepository(session)
    shared = plan.strategy in ("canary", "ab", "shadow")
    made = RevisionRow(
        deployment_id=row.id, number=revisions.next_number(row.id), model=title, version_id=version and version.id,
        model_ref=ref.model_dump(mode="json"), role="shadow" if plan.strategy == "shadow" else "candidate",
        percent=plan.steps[0] if shared else 0.0, plan=plan.model_dump(mode="json"), status="pending", reason="",
        result={}, baseline=None, step=0, began_at=None, created_at=utc_now(), ready_at=None, ended_at=None,
    )  # fmt: skip
    revisions.add(made)
    row.updated_at = utc_now()
    _tell(session, row, "rollout", f"{title} is to be deployed ({plan.strategy})", made)
    return made


def _check_place(row: DeploymentRow, ref: ModelRef) -> None:
    """Raises `InvalidInput` where a model that does not chat is to go to a place, or an engine, for those that do."""
    told = about(ref)
    if told is None:
        return
    kind = told.kind_title.lower()
    if row.target != LOCAL:
        raise InvalidInput(
            f"The target {row.target} serves language models, and this is a {kind}.",
            hint="Use target local: Tunesmith serves it itself.",
            details=[{"loc": "target", "message": f"not for a {kind}"}],
        )
    if (engine := row.settings.get("engine", "auto")) != "auto":
        raise InvalidInput(
            f"The engine {engine} runs language models, and this is a {kind}.",
            hint="Leave the engine at auto.",
            details=[{"loc": "settings.engine", "message": f"not for a {kind}"}],
        )


def find_model(settings: Settings, session: Session, name: str) -> tuple[str, ModelRef, VersionRow | None]:
    """The model's fixed name, where it is, and the registry's version of it, if it is one: an alias is followed now, so that
    moving it later changes nothing here. Raises what `resolve_model` raises."""
    version = None
    job = name.removeprefix("job:")
    if job != name and job.isdigit() and len(job) < 19:
        version = registry.of_job(session, int(job))  # its files stay when the job goes
    elif "@" in name or ("/" not in name and find_base(settings, name) is None and registry.has_name(session, name)):
        version = registry.find_version(session, name)
    if version is not None:
        name = f"{version.name}@{version.version}"
    ref = resolve_model(settings, session, name)
    return name, ref, version


def update(session: Session, deployment_id: int, body: DeploymentUpdate) -> DeploymentRow:
    """Change what is told of it. A change of how it runs starts its processes anew, beside the old ones."""
    row = change(session, deployment_id)
    told = body.model_dump(exclude_unset=True, exclude_none=True)
    if body.settings is not None:
        told["settings"] = check_settings(row.target, {**row.settings, **body.settings})
    if body.sampling is not None:
        told["sampling"] = body.sampling.model_dump(exclude_none=True)
    for name, value in told.items():
        setattr(row, name, value)
    row.updated_at = utc_now()
    _tell(session, row, "changed", f"changed: {', '.join(sorted(told)) or 'nothing'}")
    return row


def promote(session: Session, deployment_id: int) -> RevisionRow:
    """The candidate, or the shadow where there is none, becomes live now. Raises `Conflict` when there is none or it is not ready."""
    row = change(session, deployment_id)
    found = RevisionRepository(session).of(deployment_id, ("candidate", "shadow"))
    if not found:
        raise Conflict(f"{row.name} has no candidate.", hint="Roll a model out first.")
    if found[0].status != "ready":
        raise Conflict(f"{found[0].model} is {found[0].status}, not ready.", hint="Wait until it is ready.")
    make_live(session, row, found[0], f"promoted by {current().name}")
    return found[0]


def roll_back(session: Session, deployment_id: int, why: str = "") -> RevisionRow:
    """Take back the candidate; without one, go back to the model before. Raises `Conflict` when there is none."""
    row = change(session, deployment_id)
    return take_back(session, row, why or f"rolled back by {current().name}")


def stop(session: Session, deployment_id: int) -> DeploymentRow:
    """Undeploy: the model is taken away; name, settings and history stay."""
    row = change(session, deployment_id)
    if row.wanted != "stopped":
        row.wanted, row.status, row.reason = "stopped", "stopped", ""
        row.updated_at = utc_now()
        _tell(session, row, "undeployed", "undeployed")
    return row


def start(session: Session, deployment_id: int) -> DeploymentRow:
    """Deploy again what was live."""
    row = change(session, deployment_id)
    if row.wanted != "running":
        row.wanted, row.status, row.reason = "running", "deploying", ""
        row.updated_at = utc_now()
        for revision in RevisionRepository(session).of(deployment_id, IN_USE):
            revision.status, revision.reason = "pending", ""
        _tell(session, row, "deployed", "deployed again")
    return row


def remove(session: Session, deployment_id: int) -> str:
    """Forget a deployment that was undeployed, with its history; returns its name. Raises `Conflict` while it is in use."""
    row = change(session, deployment_id)
    if row.wanted != "stopped":
        raise Conflict(f"{row.name} is in use.", hint="Undeploy it first.")
    DeploymentRepository(session).remove(row)
    return row.name


def change(session: Session, deployment_id: int) -> DeploymentRow:
    """Locked. Raises `NotFound`, and `PermissionDenied` when it is another's."""
    return DeploymentRepository(session).get(deployment_id, for_update=True)


def seen(session: Session, deployment_id: int) -> DeploymentRow:
    """Raises `NotFound`."""
    return DeploymentRepository(session).get(deployment_id)


def by_name_or_id(session: Session, name: str) -> DeploymentRow:
    """Raises `NotFound`."""
    rows = DeploymentRepository(session)
    found = rows.find(int(name)) if name.isdigit() and len(name) < 19 else rows.seen(name)
    if found is None:
        raise NotFound(f"There is no deployment {name!r}.", hint="See the list of deployments.")
    return found


def check_settings(target: str, given: dict[str, Any]) -> dict[str, Any]:
    """Complete. Raises `InvalidInput` naming each value that cannot be used, or why the target cannot be."""
    if target != LOCAL:
        found = targets.find(target)
        if why := found.why_not():
            raise InvalidInput(why, details=[{"loc": "target", "message": "cannot be used here"}])
        return found.check_settings(given)
    try:
        return LocalSettings.model_validate(given).model_dump(mode="json")
    except ValidationError as error:
        details = [
            {"loc": ".".join(["settings", *map(str, problem["loc"])]), "message": message_of(problem)}
            for problem in error.errors()
        ]
        places = ", ".join(detail["loc"] for detail in details[:5])
        raise InvalidInput(f"{plural(len(details), 'setting')} cannot be used: {places}.", details=details) from None


# -- what the supervision does as well ---------------------------------------------------------------------------------


def make_live(session: Session, row: DeploymentRow, revision: RevisionRow, why: str) -> None:
    """All traffic to `revision`; what was live retires."""
    now = utc_now()
    for old in RevisionRepository(session).of(row.id, ("live",)):
        if old.id != revision.id:
            _retire(old, "failed" if old.status == "failed" else "retired", old.reason)
    revision.role, revision.percent, revision.began_at = "live", 100.0, now
    row.status, row.reason, row.updated_at = "ready", "", now
    _tell(session, row, "live", f"{revision.model} is live: {why}", revision)


def take_back(session: Session, row: DeploymentRow, why: str) -> RevisionRow:
    """Retire the candidate; without one, send the model before on its way to be live again. Raises `Conflict` when there is
    none."""
    revisions = RevisionRepository(session)
    candidates = revisions.of(row.id, ("candidate", "shadow"))
    row.updated_at = utc_now()
    if candidates:
        _retire(candidates[0], "failed", why)
        _tell(session, row, "rollback", f"{candidates[0].model} is taken back: {why}", candidates[0])
        return candidates[0]
    live = revisions.of(row.id, ("live",))
    before = revisions.last_good(row.id, live[0].number if live else 0)
    if before is None:
        raise Conflict(f"{row.name} has no model to go back to.", hint="Roll another one out.")
    if live:
        live[0].status, live[0].reason = "failed", why
    before.role, before.status, before.percent, before.ended_at = "candidate", "pending", 0.0, None
    before.plan = Rollout(model=before.model).model_dump(mode="json")
    _tell(session, row, "rollback", f"back to {before.model}: {why}", before)
    return before


def fail(session: Session, row: DeploymentRow, revision: RevisionRow, why: str) -> None:
    """A revision that cannot be used. What was live stays live; without one, the deployment has failed."""
    revision.reason = why
    if revision.role == "live":
        revision.status = "failed"
    else:
        _retire(revision, "failed", why)
    live = RevisionRepository(session).of(row.id, ("live",))
    row.updated_at = utc_now()
    if not live or live[0].id == revision.id:
        row.status, row.reason = "failed", why
    kept = f"; {live[0].model} stays live" if live and live[0].id != revision.id else ""
    _tell(session, row, "failed", f"{revision.model} failed: {why}{kept}", revision)


@contextlib.contextmanager
def locked(
    database: Database, deployment_id: int, revision_id: int
) -> Iterator[tuple[Session, DeploymentRow, RevisionRow]]:
    """One transaction on a deployment and one of its revisions as they are now. Raises `NotFound` when they are gone."""
    with database.unit_of_work() as session:
        row = DeploymentRepository(session).get(deployment_id, for_update=True)
        yield session, row, RevisionRepository(session).get(revision_id, for_update=True)


def training_inputs(settings: Settings, session: Session, version: VersionRow) -> list[str]:
    """What the rows ask that a version was trained on; nothing where they are gone. Raises `TunesmithError` or `OSError`."""
    dataset_id, digest = version.lineage.get("dataset_id"), version.lineage.get("dataset_digest")
    if not dataset_id:
        return []
    ref = training_ref(settings, session, int(dataset_id), digest)
    return drift.training_inputs(Path(ref.path), ref.shape, ref.mapping)


def _retire(revision: RevisionRow, status: str, why: str) -> None:
    revision.role, revision.percent, revision.status, revision.reason = "retired", 0.0, status, why
    revision.ended_at = utc_now()


def _tell(session: Session, row: DeploymentRow, kind: str, message: str, revision: RevisionRow | None = None) -> None:
    who = current()
    by = who.name if who.via != "system" else None
    note(session, row.id, kind, message, by=by, revision=revision.number if revision else None)
