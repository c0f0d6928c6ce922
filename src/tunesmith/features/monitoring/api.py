"""REST routes of the server and its machine."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Path, Query
from starlette.requests import HTTPConnection

from tunesmith.core.acting import Scope
from tunesmith.features.monitoring import history, overview, preferences, service
from tunesmith.features.monitoring.monitor import Monitor
from tunesmith.features.monitoring.sampler import thinned
from tunesmith.http.policy import Access, declare, needs
from tunesmith.http.session import AppState, DbSession, State
from tunesmith.schemas.common import ErrorBody
from tunesmith.schemas.system import (
    CleanupDone,
    CleanupRead,
    DirectoryRead,
    DirectoryTest,
    DoctorCheck,
    Health,
    KeyRead,
    MachineUse,
    Overview,
    ProcessRead,
    ResourceHistory,
    SettingRead,
    SettingsUpdate,
    StorageUse,
    SystemInfo,
)

router = APIRouter(prefix="/system", tags=["system"])


def get_monitor(connection: HTTPConnection) -> Monitor:
    return cast(Monitor, connection.app.state.monitor)


Monitoring = Annotated[Monitor, Depends(get_monitor)]
"""What watches the machine beside the requests."""
CleanupName = Annotated[str, Path(max_length=50, description="A clean-up's name.", examples=["checkpoints"])]
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": ErrorBody, "description": "Not now."}}


@router.get("/health", summary="Does the server answer?")
@needs(Access.PUBLIC)
def health(state: State) -> Health:
    """Asks the database too; takes about a millisecond."""
    return service.health(state.database)


@router.get("/info", summary="What this machine is")
def info(state: State) -> SystemInfo:
    """What does not change while the server runs."""
    return service.info(state.settings)


@router.get("/overview", summary="All at a glance")
def get_overview(state: State, monitor: Monitoring, session: DbSession) -> Overview:
    """Counts, the activity of 30 days, what runs and waits, what needs attention, and what is used of the machine."""
    use = service.resources(state.settings, monitor.sampler.last())
    return overview.read(state.settings, session, state.bus, use, state.why_waiting)


@router.get("/resources", summary="What is used of this machine now")
def resources(state: State, monitor: Monitoring) -> MachineUse:
    """Processor time is that of the last few seconds."""
    return service.resources(state.settings, monitor.sampler.last())


@router.get("/resources/history", summary="What was used of this machine over time")
def resources_history(
    state: State,
    monitor: Monitoring,
    since: Annotated[float, Query(ge=0, lt=1e12, description="Seconds since 1970; samples are kept for a day.")] = 0.0,
    points: Annotated[int, Query(ge=10, le=20_000, description="Most points; beyond, means are taken.")] = 1000,
) -> ResourceHistory:
    """A sample every 5 seconds: processor, memory, disk, network, and each GPU."""
    return history.columns(state.settings, thinned(monitor.sampler.since(since), points))


@router.get("/processes", summary="Tunesmith's processes")
@needs(Scope.ADMIN)
def list_processes(monitor: Monitoring, session: DbSession) -> list[ProcessRead]:
    """The server, what reads datasets, watchers and workers of jobs, and what answers chats."""
    return monitor.processes.list(session)


@router.get("/storage", summary="What is on the disk, by kind")
@needs(Scope.ADMIN)
def get_storage(monitor: Monitoring) -> StorageUse:
    """The last count, with what could be cleaned up; a new count begins when that is older than two minutes."""
    return monitor.storage.read()


@router.post("/storage/count", status_code=202, summary="Count the disk anew")
@needs(Scope.ADMIN, changes=False)
def count_storage(monitor: Monitoring) -> StorageUse:
    """Begins to count and does not wait for it."""
    monitor.storage.count()
    return monitor.storage.read()


@router.get("/storage/cleanups/{name}", summary="What a clean-up would delete")
@needs(Scope.ADMIN)
def get_cleanup(name: CleanupName, monitor: Monitoring) -> CleanupRead:
    """Looked up now; nothing is deleted."""
    return monitor.cleanups.read(name)


@router.post("/storage/cleanups/{name}", responses=CONFLICT, summary="Clean up")
def run_cleanup(name: CleanupName, monitor: Monitoring) -> CleanupDone:
    """Deletes what the clean-up names, and never what is in use."""
    done = monitor.cleanups.run(name)
    monitor.storage.count()
    return done


@router.get("/doctor", summary="What is wrong, and how to fix it")
@needs(Scope.ADMIN)
def doctor(state: State) -> list[DoctorCheck]:
    """Every check, with a remedy where it is not well."""
    return service.doctor(state.settings, state.database)


@router.get("/settings", summary="The server's settings, without secrets")
@needs(Scope.ADMIN)
def settings(state: State) -> dict[str, Any]:
    """Name and value of each."""
    return service.visible_settings(state.settings)


@router.get("/settings/details", summary="What each setting means, and where it comes from")
@needs(Scope.ADMIN)
def settings_details(state: State) -> list[SettingRead]:
    """Value, default, meaning, the variable that sets it, and whether it can be changed now."""
    return preferences.read_settings(state.settings, service.visible_settings(state.settings))


@router.patch("/settings", responses=CONFLICT, summary="Change settings")
def change_settings(body: SettingsUpdate, state: State) -> list[SettingRead]:  # type: ignore[valid-type]
    """Takes effect now and is kept. What an environment variable holds cannot be changed here."""
    change(state, body)
    return preferences.read_settings(state.settings, service.visible_settings(state.settings))


def change(state: AppState, body: SettingsUpdate) -> None:  # type: ignore[valid-type]
    """Change the settings, and tell those who have taken a copy."""
    preferences.change(state.settings, body)  # type: ignore[arg-type]
    state.serving.idle_s = state.settings.serving_idle_s
    state.wake_scheduler()


@router.post("/settings/test-directory", summary="Try whether a folder can be written")
@needs(Scope.ADMIN, changes=False)
def test_directory(body: DirectoryTest, state: State) -> DirectoryRead:
    """Writes a file there, flushes it and removes it. Refuses with the reason when that cannot be done."""
    return preferences.test_directory(state.settings, body.path)


@router.get("/keys", summary="Which keys are set")
@needs(Scope.ADMIN)
def list_keys() -> list[KeyRead]:
    """Set or not, and where; never the keys themselves."""
    return preferences.keys()


declare(router, read=Scope.READ, write=Scope.ADMIN)
