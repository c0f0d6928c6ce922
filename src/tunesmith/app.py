"""`create_app(settings)`: the one file that sees every part. Lists every router."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import APIRouter, FastAPI
from fastapi.responses import RedirectResponse

from tunesmith.core.version import VERSION
from tunesmith.executors.serving import ServingPool
from tunesmith.features.catalog.api import router as models
from tunesmith.features.chat.api import router as chat
from tunesmith.features.datasets.api import router as datasets
from tunesmith.features.datasets.processing import Processing
from tunesmith.features.jobs.api import router as jobs
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.features.jobs.live_api import router as jobs_live
from tunesmith.features.monitoring.api import router as system
from tunesmith.features.monitoring.live_api import router as system_live
from tunesmith.features.monitoring.monitor import Monitor
from tunesmith.http.errors import install_error_handlers
from tunesmith.http.guard import HostOriginGuard
from tunesmith.http.limits import JsonLimit
from tunesmith.http.session import AppState
from tunesmith.live.bus import Bus
from tunesmith.scheduler.loop import Scheduler
from tunesmith.schemas.common import ErrorBody
from tunesmith.settings import Settings
from tunesmith.storage.database import Database
from tunesmith.ui.render import error_page
from tunesmith.ui.routes import router as ui

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The whole server. Creates folders and migrates the database; work starts with the app's lifespan."""
    settings = settings or Settings()
    settings.make_dirs()
    database = Database(settings.sqlalchemy_url)
    bus = Bus()
    scheduler = Scheduler(settings, database, bus)
    processing = Processing(settings, database, bus)
    monitor = Monitor(settings, database, bus)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        database.take_process_lock()
        database.migrate()
        processing.start()
        scheduler.start()
        monitor.start()
        try:
            yield
        finally:
            monitor.stop()
            processing.stop()
            scheduler.stop()
            database.close()

    app = FastAPI(
        title="Tunesmith",
        version=VERSION,
        summary="From a file of examples to a tuned model in use.",
        lifespan=lifespan,
        docs_url=None,  # ui/routes.py has a page that asks no other host
        redoc_url=None,
        responses={status: {"model": ErrorBody} for status in (404, 422, "4XX")},
    )
    app.state.tunesmith = AppState(
        settings=settings,
        database=database,
        bus=bus,
        wake_scheduler=scheduler.wake,
        wake_datasets=processing.wake,
        serving=ServingPool(settings.home / "serving", settings.serving_idle_s, offline=settings.hub_offline),
        dataset_users=lambda session, dataset_id: [
            f"job {job.id} ({job.status})" for job in Lifecycle(session, bus).jobs.uses_dataset(dataset_id)
        ],
        why_waiting=lambda session: scheduler.placement(Lifecycle(session, bus)).waits,
    )
    app.state.monitor = monitor
    install_error_handlers(app, page=error_page)
    app.add_middleware(JsonLimit)
    app.add_middleware(HostOriginGuard, allowed_hosts=settings.allowed_hosts)

    api = APIRouter(prefix="/api/v1")
    for router in (datasets, jobs_live, jobs, models, chat, system_live, system):
        api.include_router(router)
    app.include_router(api)
    app.add_api_route("/api/docs", lambda: RedirectResponse("/docs"), include_in_schema=False)
    app.include_router(ui)
    return app
