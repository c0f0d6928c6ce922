"""REST routes of the server and its machine."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from tunesmith.features.monitoring import service
from tunesmith.http.session import State
from tunesmith.schemas.system import DoctorCheck, Health, MachineUse, SystemInfo

router = APIRouter(prefix="/system", tags=["system"])


@router.get("/health", summary="Does the server answer?")
def health(state: State) -> Health:
    """Asks the database too; takes about a millisecond."""
    return service.health(state.database)


@router.get("/info", summary="What this machine is")
def info(state: State) -> SystemInfo:
    return service.info(state.settings)


@router.get("/resources", summary="What is used of this machine now")
def resources(state: State) -> MachineUse:
    return service.resources(state.settings)


@router.get("/doctor", summary="What is wrong, and how to mend it")
def doctor(state: State) -> list[DoctorCheck]:
    return service.doctor(state.settings, state.database)


@router.get("/settings", summary="The server's settings, without secrets")
def settings(state: State) -> dict[str, Any]:
    return service.visible_settings(state.settings)
