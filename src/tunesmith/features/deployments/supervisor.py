"""Makes true what deployments are wanted to be: a thread that starts processes, looks after them, shares out the traffic and
goes back to the model before when one fails. Safe to repeat at any point; processes outlive the server and are found again.
"""

from __future__ import annotations

import fcntl
import logging
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import IO, Any

from tunesmith.core.clock import monotonic_s, utc_now
from tunesmith.core.devices import read_gpus
from tunesmith.core.errors import Conflict, TunesmithError
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.rounds import Rounds
from tunesmith.core.serving_spec import ServingSpec
from tunesmith.executors.engines import Engine, EnginePool
from tunesmith.features.deployments import drift, running, service
from tunesmith.features.deployments.deciding import Advance, Promote, Rollback, decide_candidate, is_ill
from tunesmith.features.deployments.placing import Placing
from tunesmith.features.deployments.recorder import Recorder
from tunesmith.features.deployments.repository import (
    DeploymentRepository,
    RequestRepository,
    RevisionRepository,
    note,
)
from tunesmith.features.deployments.routing import Route, Routes, Variant
from tunesmith.features.deployments.tables import DeploymentRow, RevisionRow
from tunesmith.features.registry import service as registry
from tunesmith.features.registry.repository import VersionRepository
from tunesmith.recipes.model_about import ModelAbout, about
from tunesmith.schemas.deployments import LocalSettings, Rollout
from tunesmith.settings import Settings
from tunesmith.storage.database import Database

log = logging.getLogger(__name__)

JUDGE_EVERY_S = 3.0
DRIFT_EVERY_S = 60.0
MAX_STARTS, MAX_FIRST_STARTS, STARTS_WITHIN_S = 5, 2, 300.0
"""Starts of one process within that time, after which its models count as failed; fewer for one that was never up."""
RETRY_S = 60.0
"""Between two tries of a live model that has been given up and has none to go back to."""
STARTING = ("pending", "starting")
ILL_LOOKS = 3
"""Looks in a row without an answer, after which a process is ended and started again."""
DRAIN_S = 30.0
"""How long a process whose successor answers may go on with what it has begun."""
PROBE_TIMEOUT_S = 60.0


@dataclass
class Local:
    """One revision on this machine, in one round."""

    deployment: DeploymentRow
    revision: RevisionRow
    settings: LocalSettings
    ref: ModelRef
    spec: ServingSpec
    engine: Engine | None = None
    about: ModelAbout | None = None
    """Of a model that does not chat."""

    @property
    def adapter(self) -> str | None:
        """The folder that lies over the base, if one does."""
        return self.spec.adapters[0] if self.spec.adapters else None


@dataclass
class Watched:
    """What is remembered of a process between rounds."""

    starts_s: list[float] = field(default_factory=list)
    ill: int = 0
    looked_s: float = 0.0
    superseded_s: float | None = None
    gave_up: str = ""
    """Why it has been given up; empty once it has answered."""
    again: str = ""
    """When it is tried once more, in words."""
    retry_s: float = 0.0
    """When a live model's process is started once more."""


class Supervisor(Rounds):
    """Made once by `create_app`."""

    name = "deployments"
    rest_s = 0.5

    def __init__(self, settings: Settings, database: Database) -> None:
        super().__init__()
        self.settings, self.database = settings, database
        self.folder = settings.home / "deployments"
        self.pool = EnginePool(self.folder / "engines")
        self.routes, self.recorder = Routes(), Recorder(database)
        self.placing = Placing(settings, database, self.folder)
        self._watched: dict[str, Watched] = defaultdict(Watched)
        self._judged_s: dict[int, float] = {}
        self._drift_s: dict[int, float] = {}
        self._words: dict[int, frozenset[str]] = {}
        self._has_failed = False
        """Whether a revision has in this round, so that what was read before is old."""
        self._lock_file: IO[str] | None = None

    # -- the thread ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.routes.wake = self.wake
        self.recorder.start()
        super().start()

    def stop(self) -> None:
        """Leave the processes running; the next server finds them."""
        super().stop()
        self.placing.stop()
        self.recorder.stop()
        if self._lock_file:
            self._lock_file.close()

    def _may_act(self) -> bool:
        """Of several servers on one home, one acts; the others only look where requests go."""
        if self._lock_file is None:
            file = (self.folder / "lock").open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                return False
            self._lock_file = file
        return True

    def look(self) -> None:
        acts = self._may_act()
        if acts:
            self.pool.beat()  # also while the database is away: the processes go on answering
        deployments, local, foreign = self._read()
        if acts:
            self._has_failed = False
            self._run_processes(local)
            if self._has_failed:
                deployments, local, foreign = self._read()
        self._publish(deployments, local)
        if acts:
            settled = [self._settle(item) for item in local]
            for item in local:
                if item.engine is not None:
                    self._watched[item.engine.key].gave_up = ""
            self._judge(local)
            self.placing.look(deployments, foreign)
            if any(settled):
                self._publish(*self._read()[:2])

    def _read(self) -> tuple[dict[int, DeploymentRow], list[Local], list[RevisionRow]]:
        """What is wanted: the deployments by number, and their models here and elsewhere."""
        with self.database.unit_of_work(readonly=True) as session:
            deployments = {row.id: row for row in DeploymentRepository(session).running()}
            revisions = RevisionRepository(session).of_all(list(deployments))
        here = [row for row in revisions if deployments[row.deployment_id].target == service.LOCAL]
        local = [self._local(deployments[row.deployment_id], row) for row in here]
        return deployments, local, [row for row in revisions if row not in here]

    def _local(self, row: DeploymentRow, revision: RevisionRow) -> Local:
        settings = LocalSettings.model_validate(row.settings)
        ref = ModelRef.model_validate(revision.model_ref)
        gpus = tuple(gpu.index for gpu in read_gpus())[:1] if settings.engine in ("auto", "vllm") else ()
        spec = running.spec_of(self.settings, settings, ref, gpus)
        return Local(row, revision, settings, ref, spec, about=about(ref))

    # -- processes ----------------------------------------------------------------------------------------------------

    def _run_processes(self, local: list[Local]) -> None:
        """Those that are wanted live, with all the adapters of their models; the others end."""
        groups: dict[str, list[Local]] = defaultdict(list)
        for item in local:
            if item.revision.role == "live" or item.revision.status != "failed":
                groups[item.spec.group].append(item)
        keep: set[str] = set()
        for group, items in groups.items():
            usable = [item for item in items if self._verified(item)]
            if not usable:
                continue
            adapters = tuple(sorted({path for item in usable for path in item.spec.adapters}))
            spec = usable[0].spec.model_copy(update={"adapters": adapters})
            keep |= self._run_group(group, spec, usable)
        for key in set(self.pool.keys()) - keep:
            log.info("ending serving process %s", key)
            self.pool.end(key)
            self._watched.pop(key, None)

    def _run_group(self, group: str, spec: ServingSpec, items: list[Local]) -> set[str]:
        """Start the group's process, and keep its predecessors as long as they are needed; the names of those that stay."""
        watched, live = self._watched[spec.key], self.pool.live(group)
        if self.pool.process(spec.key).pid() is None:
            before = next((item.revision.reason for item in items if item.revision.status == "failed"), "")
            watched.gave_up = watched.gave_up or before
            if self._gives_up(spec.key, watched, items):
                return {spec.key, *(engine.key for engine in live)}
            if spec.engine == "vllm":  # a GPU has no room for two
                for engine in live:
                    self.pool.end(engine.key)
            self.pool.ensure(spec)
            watched.starts_s.append(monotonic_s())
            watched.ill = 0
        keep = {spec.key}
        for engine in live:
            self._look_after(engine, items)
            if engine.key != spec.key and not self._is_drained(engine, live, spec.key):
                keep.add(engine.key)
        return keep

    def _gives_up(self, key: str, watched: Watched, items: list[Local]) -> bool:
        """Whether a process that has ended is not to be started again in this form. It is the newest model that is to blame,
        as long as one is new: the others have run before."""
        now_s = monotonic_s()
        new = [item for item in items if item.revision.status in STARTING]
        if now_s >= watched.retry_s:
            watched.starts_s = [at_s for at_s in watched.starts_s if now_s - at_s < STARTS_WITHIN_S]
            limit = 1 if watched.gave_up else MAX_FIRST_STARTS if new else MAX_STARTS
            if len(watched.starts_s) < limit:
                return False
            watched.gave_up = f"Its process ended. {self.pool.process(key).why_ended()}"
            watched.retry_s, watched.starts_s = now_s + RETRY_S, []
            watched.again = (
                f" It is started again at {(utc_now() + timedelta(seconds=RETRY_S)).astimezone():%H:%M:%S %Z}."
            )
        for item in [max(new, key=lambda item: item.revision.id)] if new else items:
            why = watched.gave_up + (watched.again if item.revision.role == "live" else "")
            if item.revision.status != "failed" or item.revision.reason != why:
                self._fail(item, why)
        return True

    def _look_after(self, engine: Engine, items: list[Local]) -> None:
        """End a process that lives and does not answer: it is started again in the next round."""
        watched, now_s = self._watched[engine.key], monotonic_s()
        if now_s - watched.looked_s < min(item.settings.watch.health_every_s for item in items):
            return
        watched.looked_s = now_s
        watched.ill = 0 if running.is_healthy(engine.endpoint) else watched.ill + 1
        if watched.ill >= ILL_LOOKS:
            log.warning("serving process %s does not answer; starting it again", engine.key)
            self.pool.process(engine.key).end()
            watched.ill = 0

    def _is_drained(self, engine: Engine, live: list[Engine], successor: str) -> bool:
        """Whether a process may go: its successor answers since a while."""
        watched = self._watched[engine.key]
        if not any(other.key == successor for other in live):
            watched.superseded_s = None
            return False
        watched.superseded_s = watched.superseded_s or monotonic_s()
        return monotonic_s() - watched.superseded_s > DRAIN_S

    def _verified(self, item: Local) -> bool:
        """A version's files are looked through before a process loads them."""
        if item.revision.version_id is None or self.pool.process(item.spec.key).pid() is not None:
            return item.revision.status != "failed" or item.revision.role == "live"
        if item.revision.status == "failed":
            return False
        try:
            with self.database.unit_of_work(readonly=True) as session:
                version = VersionRepository(session).get(item.revision.version_id)
            registry.verified_folder(self.settings, version)
        except TunesmithError as error:
            self._fail(item, error.message)
            return False
        return True

    # -- revisions ----------------------------------------------------------------------------------------------------

    def _settle(self, item: Local) -> bool:
        """A revision that has come up is tried and put to use; one that does not in time has failed. Whether anything has
        changed."""
        if item.revision.status not in STARTING and not self._is_back(item):
            return False
        if why := running.why_not(item.spec.engine, item.ref):
            self._fail(item, why)
        elif item.engine is not None:
            health = running.probe(item.engine, item.spec.engine, item.adapter, PROBE_TIMEOUT_S, item.about)
            if health.ok:
                self._ready(item)
            else:
                self._fail(item, health.message)
        else:
            starts_s = [watched.starts_s[-1] for key, watched in self._of_group(item) if watched.starts_s]
            if starts_s and monotonic_s() - max(starts_s) > item.deployment.timeout_s:
                self._fail(item, f"it was not ready within {item.deployment.timeout_s:g} s")
                return True
            if item.revision.status == "pending":
                with self._of(item) as (_session, _row, revision):
                    revision.status = "starting" if revision.status == "pending" else revision.status
            return False
        return True

    def _is_back(self, item: Local) -> bool:
        """Whether the process of a live model that had been given up answers."""
        if item.engine is None or item.revision.role != "live" or item.revision.status != "failed":
            return False
        return bool(self._watched[item.engine.key].gave_up)

    def _of_group(self, item: Local) -> list[tuple[str, Watched]]:
        return [(key, watched) for key, watched in self._watched.items() if key.startswith(item.spec.group)]

    def _ready(self, item: Local) -> None:
        baseline = self._baseline(item)
        with self._of(item) as (session, row, revision):
            if revision.status not in (*STARTING, "failed") or revision.role == "retired":
                return
            revision.status, revision.reason, revision.baseline = "ready", "", baseline or revision.baseline
            revision.ready_at = revision.began_at = utc_now()
            plan = Rollout.model_validate(revision.plan)
            is_first = not RevisionRepository(session).of(row.id, ("live",))
            if revision.role == "live":
                row.status, row.reason = "ready", ""
            elif plan.strategy == "replace" or is_first:
                service.make_live(session, row, revision, "it is ready")
            else:
                told = f"{revision.model} is ready and gets {revision.percent:g} % ({plan.strategy})"
                note(session, row.id, "ready", told, revision=revision.number)

    def _fail(self, item: Local, why: str) -> None:
        """And go back, where a live model has failed."""
        with self._of(item) as (session, row, revision):
            self._has_failed = True
            if revision.role == "retired":
                return
            if revision.status == "failed":  # once more
                revision.reason = why
                row.reason = why if row.status == "failed" else row.reason
                return
            was_live = revision.role == "live"
            service.fail(session, row, revision, why)
            if was_live and row.auto_rollback:
                with suppress(Conflict):
                    service.take_back(session, row, why)

    def _of(self, item: Local) -> Any:
        return service.locked(self.database, item.deployment.id, item.revision.id)

    def _baseline(self, item: Local) -> dict[str, Any] | None:
        """Of the data that the model was trained on, where it is still there."""
        if item.revision.version_id is None or item.revision.baseline:
            return None
        with self.database.unit_of_work(readonly=True) as session, suppress(TunesmithError, OSError):
            version = VersionRepository(session).get(item.revision.version_id)
            texts = service.training_inputs(self.settings, session, version)
            return drift.baseline_of(texts)
        return None

    # -- judging ------------------------------------------------------------------------------------------------------

    def _judge(self, local: list[Local]) -> None:
        """Candidates go on, become live or go back; a live model that is ill makes way."""
        now_s = monotonic_s()
        for deployment_id in {item.deployment.id for item in local}:
            if now_s - self._judged_s.get(deployment_id, 0.0) < JUDGE_EVERY_S:
                continue
            self._judged_s[deployment_id] = now_s
            of_it = [item for item in local if item.deployment.id == deployment_id]
            live = next((item for item in of_it if item.revision.role == "live"), None)
            candidate = next((item for item in of_it if item.revision.role == "candidate"), None)
            if live and candidate and candidate.revision.status == "ready":
                self._judge_candidate(live, candidate)
            if live and live.revision.status == "ready":
                self._judge_live(live, is_alone=candidate is None)

    def _judge_candidate(self, live: Local, candidate: Local) -> None:
        with self._of(candidate) as (session, row, revision):
            if revision.role != "candidate":
                return
            plan, began = Rollout.model_validate(revision.plan), revision.ready_at
            samples = RequestRepository(session).samples([live.revision.id, revision.id], began)
            at_step_s = (utc_now() - (revision.began_at or utc_now())).total_seconds()
            decision = decide_candidate(plan, revision.step, at_step_s, samples[live.revision.id], samples[revision.id])
            if isinstance(decision, Promote):
                service.make_live(session, row, revision, decision.why)
            elif isinstance(decision, Rollback):
                service.take_back(session, row, decision.why)
            elif isinstance(decision, Advance):
                revision.step, revision.percent, revision.began_at = decision.step, decision.percent, utc_now()
                told = f"{revision.model} gets {decision.percent:g} %"
                note(session, row.id, "canary", told, revision=revision.number)

    def _judge_live(self, live: Local, *, is_alone: bool) -> None:
        watch, row = live.settings.watch, live.revision
        since = max(utc_now() - timedelta(seconds=watch.window_s), row.began_at or utc_now())
        with self.database.unit_of_work(readonly=True) as session:
            samples = RequestRepository(session).samples([row.id], since)[row.id]
        if why := is_ill(watch, samples):
            self._ill(live, why, may_go_back=is_alone)
        elif live.deployment.status == "degraded":
            with self._of(live) as (_session, deployment, _revision):
                deployment.status, deployment.reason = "ready", ""
        now_s = monotonic_s()
        if row.baseline and now_s - self._drift_s.get(row.id, 0.0) > DRIFT_EVERY_S:
            self._drift_s[row.id] = now_s
            self._tell_drift(live)

    def _ill(self, live: Local, why: str, *, may_go_back: bool) -> None:
        with self._of(live) as (session, row, _revision):
            before = RevisionRepository(session).last_good(row.id, live.revision.number)
            if row.auto_rollback and may_go_back and before is not None:
                service.take_back(session, row, why)
            elif row.status != "degraded":
                row.status, row.reason = "degraded", why
                note(session, row.id, "degraded", why, revision=live.revision.number)

    def _tell_drift(self, live: Local) -> None:
        with self._of(live) as (session, row, revision):
            inputs = RequestRepository(session).inputs(revision.id, drift.LATEST_INPUTS)
            found = drift.drift_of(revision.baseline or {}, inputs, live.settings.watch.max_drift)
            told = bool((revision.result or {}).get("drifted"))
            if found.drifted != told:
                revision.result = {**(revision.result or {}), "drifted": found.drifted}
                note(session, row.id, "drift", found.words, revision=revision.number)

    # -- what the gateway sees ----------------------------------------------------------------------------------------

    def _publish(self, deployments: dict[int, DeploymentRow], local: list[Local]) -> None:
        by_deployment: dict[int, list[Variant]] = defaultdict(list)
        hopeful = {item.deployment.id for item in local if item.revision.status in STARTING}
        for item in local:
            engines = self.pool.live(item.spec.group)
            item.engine = next((engine for engine in engines if engine.serves(item.adapter)), None)
            row, engine = item.revision, item.engine
            usable = row.status == "ready" or (row.role == "live" and engine is not None)
            if row.role == "candidate" and not usable:
                continue
            path = item.adapter
            variant = Variant(
                revision_id=row.id, number=row.number, role=row.role, percent=row.percent, model=row.model,
                engine=item.spec.engine, endpoint=engine.endpoint if engine and usable else None,
                adapter=engine.adapters.index(path) if engine and path in engine.adapters else None, adapter_path=path,
                num_adapters=len(engine.adapters) if engine else 0, known_words=self._known_words(row),
                about=item.about,
            )  # fmt: skip
            by_deployment[row.deployment_id].append(variant)
            hopeful |= {row.deployment_id} if variant.endpoint else set()
        here = [row for row in deployments.values() if row.target == service.LOCAL]
        failed = {row.id: row.reason for row in here if row.status == "failed" and row.id not in hopeful}
        self.routes.set([_route(row, by_deployment[row.id], failed.get(row.id, "")) for row in here])

    def _known_words(self, row: RevisionRow) -> frozenset[str]:
        if row.id not in self._words and row.baseline:
            self._words[row.id] = frozenset(row.baseline.get("words", ()))
        return self._words.get(row.id, frozenset())


def _route(row: DeploymentRow, variants: list[Variant], failed: str) -> Route:
    return Route(
        deployment_id=row.id,
        name=row.name,
        owner_id=row.owner_id,
        visibility=row.visibility,
        settings=LocalSettings.model_validate(row.settings),
        sampling=row.sampling,
        system_prompt=row.system_prompt,
        created=int(row.created_at.timestamp()),
        variants=tuple(variants),
        failed=failed,
    )
