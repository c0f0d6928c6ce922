"""`create_app(settings)`: the one file that sees every part. Lists every router."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.routing import BaseRoute

from tunesmith.core import confinement
from tunesmith.core.acting import Scope, everything_seen
from tunesmith.core.errors import InvalidInput, NotFound
from tunesmith.core.version import VERSION
from tunesmith.executors.serving import ServingPool
from tunesmith.features.accounts.admin_api import router as users
from tunesmith.features.accounts.api import router as accounts
from tunesmith.features.accounts.doorkeeper import Doorkeeper
from tunesmith.features.accounts.oidc_api import router as oidc
from tunesmith.features.accounts.tokens import derive, load_secret
from tunesmith.features.audit.api import router as audit
from tunesmith.features.audit.repository import watch_what_is_made
from tunesmith.features.audit.service import AuditLog
from tunesmith.features.catalog.api import router as models
from tunesmith.features.catalog.downloads import Downloads
from tunesmith.features.catalog.downloads_api import router as downloads_router
from tunesmith.features.chat.api import router as chat
from tunesmith.features.chat.predict_api import router as predict_with_job
from tunesmith.features.datasets.api import router as datasets
from tunesmith.features.datasets.processing import Processing
from tunesmith.features.deployments.api import router as deployments
from tunesmith.features.deployments.gateway import Gateway
from tunesmith.features.deployments.gateway_api import router as gateway
from tunesmith.features.deployments.predict_api import api as predict
from tunesmith.features.deployments.predict_api import hub as inference
from tunesmith.features.deployments.repository import RevisionRepository
from tunesmith.features.deployments.supervisor import Supervisor
from tunesmith.features.evaluations import gate
from tunesmith.features.evaluations.api import router as evaluations
from tunesmith.features.jobs.api import router as jobs
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.features.jobs.live_api import router as jobs_live
from tunesmith.features.jobs.quota_api import router as quotas
from tunesmith.features.jobs.registering import Registrar
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.features.jobs.runs_api import router as runs
from tunesmith.features.jobs.tokens_api import router as tokens
from tunesmith.features.monitoring.api import router as system
from tunesmith.features.monitoring.leftovers import Leftovers
from tunesmith.features.monitoring.live_api import router as system_live
from tunesmith.features.monitoring.monitor import Monitor
from tunesmith.features.registry.api import router as registry
from tunesmith.features.registry.checking import sweep as sweep_registry
from tunesmith.features.registry.service import find_version
from tunesmith.http.client_address import ClientAddress
from tunesmith.http.errors import install_error_handlers
from tunesmith.http.gate import Gate
from tunesmith.http.guard import HostOriginGuard, is_loopback, own_names
from tunesmith.http.limits import BodyLimit
from tunesmith.http.policy import PolicedApp, Policies, needs, policies
from tunesmith.http.session import AppState
from tunesmith.live.bus import Bus
from tunesmith.scheduler.loop import Scheduler
from tunesmith.schemas.common import ErrorBody
from tunesmith.sdk import credentials
from tunesmith.settings import Settings
from tunesmith.storage.database import Database, Session
from tunesmith.ui.render import error_page
from tunesmith.ui.routes import router as ui

log = logging.getLogger(__name__)

NOT_COMPRESSED = (
    *DEFAULT_EXCLUDED_CONTENT_TYPES, "application/octet-stream", "application/x-tar", "application/x-ndjson", "application/jsonl",
    "text/plain", "text/csv", "text/tab-separated-values",
)  # fmt: skip
"""Streams, and files that are downloaded with a bar and in parts. Pages may be compressed: the one secret in them, the CSRF token,
is another one each time."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The whole server. Creates folders and migrates the database; work starts with the app's lifespan."""
    settings = settings or Settings()
    settings.make_dirs()
    database = Database(settings.sqlalchemy_url)
    bus = Bus()
    scheduler = Scheduler(settings, database, bus)
    processing = Processing(settings, database, bus)
    monitor = Monitor(settings, database, bus)
    downloads = Downloads(settings, bus)
    registrar = Registrar(settings, database, bus, scheduler.wake)
    scheduler.on_completed = registrar.wake
    supervisor, leftovers = Supervisor(settings, database), Leftovers(settings, database)

    def why_waiting(session: Session) -> dict[int, str]:
        with everything_seen():
            return scheduler.placement(Lifecycle(session, bus)).waits

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        database.take_process_lock()
        database.migrate()
        sweep_registry(settings, database, is_alone=database.is_sqlite)
        with contextlib.ExitStack() as ends:
            ends.callback(database.close)
            for part in (scheduler, registrar, processing, monitor, downloads, supervisor, leftovers):
                part.start()
                ends.callback(part.stop)
            yield
            await app.state.gateway.close()

    app = PolicedApp(
        title="Tunesmith",
        version=VERSION,
        summary="From a file of examples to a tuned model in use.",
        lifespan=lifespan,
        openapi_url=None,  # below, with what it needs
        docs_url=None,  # ui/routes.py has a page that asks no other host
        redoc_url=None,
    )
    app.state.tunesmith = AppState(
        settings=settings,
        database=database,
        bus=bus,
        wake_scheduler=scheduler.wake,
        wake_datasets=processing.wake,
        serving=ServingPool(settings.home / "serving", settings.serving_idle_s, offline=settings.hub_offline),
        dataset_users=_users_of_dataset,
        why_waiting=why_waiting,
        version_users=_users_of_versions,
        promotion_gate=lambda session, version, target: gate.check(settings, session, version, target),
    )
    app.state.monitor = monitor
    app.state.downloads = downloads
    app.state.gateway = Gateway(supervisor.routes, supervisor.recorder)
    _guard(app, settings, database)
    install_error_handlers(app, page=error_page)

    app.router.routes.extend(ROUTES)
    app.state.policies = POLICIES
    return app


def _other_secrets() -> list[Path]:
    """Of who started the server: what lets them into servers and databases, and is no file of its home folder."""
    passwords = os.environ.get("PGPASSFILE")
    return [credentials.path().parent, Path(passwords) if passwords else Path.home() / ".pgpass"]


def _users_of_dataset(session: Session, dataset_id: int) -> list[str]:
    """What needs a dataset, in words."""
    return [f"job {job.id} ({job.status})" for job in JobRepository(session).uses_dataset(dataset_id)]


def _users_of_versions(session: Session) -> dict[int, list[str]]:
    """Versions of the registry → what needs them, in words."""
    found = RevisionRepository(session).users_of_versions()
    with everything_seen():
        for job_id, model in JobRepository(session).registered_models_in_work():
            with contextlib.suppress(NotFound, InvalidInput):  # a hub id may hold an @ too
                found.setdefault(find_version(session, model).id, []).append(f"job {job_id}")
    return found


def _describe() -> tuple[list[BaseRoute], Policies]:
    """Every route, each with what it needs."""
    router = APIRouter(responses={status: {"model": ErrorBody} for status in (404, 422, "4XX")})
    for part in (
        *(
            accounts,
            quotas,
            users,
            audit,
            datasets,
            tokens,
            registry,
            jobs_live,
            runs,
            jobs,
            downloads_router,
            models,
            chat,
            predict_with_job,
        ),
        *(evaluations, deployments, predict, system_live, system),
    ):
        router.include_router(part, prefix="/api/v1")
    router.add_api_route("/api/docs", needs(Scope.READ)(_to_reference), include_in_schema=False)
    router.add_api_route("/openapi.json", needs(Scope.READ)(_described), include_in_schema=False)
    for part in (gateway, inference, oidc, ui):
        router.include_router(part)
    return router.routes, Policies(policies(router))


def _guard(app: FastAPI, settings: Settings, database: Database) -> None:
    """From the outside in: where a request comes from, its host and origin, who sends it, and its size. The secret is kept from
    children."""
    confinement.protect(settings.home, _other_secrets())
    secret = load_secret(settings.home, settings.secret.get_secret_value() if settings.secret else None)
    app.state.audit = AuditLog(database, settings.home, derive(secret, "audit"))
    app.state.doorkeeper = Doorkeeper(
        settings,
        database,
        secret,
        jobs_seen=lambda session: JobRepository(session).ids(),
        record=app.state.audit.record,
    )
    database.before_commit = app.state.audit.before_commit
    database.watch_new_rows(watch_what_is_made)
    app.add_middleware(GZipMiddleware, minimum_size=1000, compresslevel=6, exclude_content_types=NOT_COMPRESSED)
    app.add_middleware(BodyLimit)
    app.add_middleware(Gate, policies=lambda: app.state.policies, doorkeeper=app.state.doorkeeper, page=error_page)
    app.add_middleware(HostOriginGuard, allowed_hosts=[*settings.allowed_hosts, *own_names(settings)])
    is_for_others = settings.public_url is not None or not is_loopback(settings.host)
    app.add_middleware(ClientAddress, trusted=settings.trusted_proxies, may_be_local=not is_for_others)


def _to_reference() -> RedirectResponse:
    return RedirectResponse("/docs")


def _described(request: Request) -> JSONResponse:
    return JSONResponse(request.app.openapi())


ROUTES, POLICIES = _describe()
"""Worked out once, when this module is imported: it takes longer than all else of making an application."""
