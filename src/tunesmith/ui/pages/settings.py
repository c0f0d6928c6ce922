"""The page of settings: what can be changed while the server runs, which keys are set, and what the environment holds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from tunesmith.core.acting import Scope
from tunesmith.core.job_status import Priority
from tunesmith.features.catalog.service import list_models
from tunesmith.features.monitoring import preferences, service
from tunesmith.http.policy import needs
from tunesmith.http.session import State
from tunesmith.recipes.catalog import TRAINING
from tunesmith.schemas.system import SettingRead
from tunesmith.settings import Settings
from tunesmith.ui.render import page

router = APIRouter(include_in_schema=False)

TABS = (
    ("directories", "Directories"),
    ("limits", "Limits"),
    ("defaults", "Defaults"),
    ("appearance", "Appearance"),
    ("keys", "Keys"),
    ("server", "Server"),
)
Tab = Literal["directories", "limits", "defaults", "appearance", "keys", "server"]
LABELS = {
    "output_dir": "Output folder",
    "cpu_slots": "Trainings at the same time without GPUs",
    "job_restarts": "Restarts of a lost worker",
    "off_peak": "Off-peak hours",
    "min_free_bytes": "Free space to keep",
    "max_upload_bytes": "Largest upload",
    "max_rows": "Most rows in a dataset",
    "dataset_memory_bytes": "Memory for reading a dataset",
    "serving_idle_s": "Keep a chat model loaded for",
    "default_model": "Base model",
    "default_method": "Method",
    "default_priority": "Priority",
    "theme": "Theme",
    "density": "Density",
    "motion": "Motion",
}
HINTS = {
    "output_dir": "Where new jobs keep their checkpoints and models. Empty: in the home folder. Jobs that have begun stay where they are.",
    "cpu_slots": "On a machine with GPUs each job has its own. 0 lets nothing start: the queue is held.",
    "job_restarts": "How often a job goes on by itself when its worker was lost, before it counts as failed.",
    "off_peak": "Jobs that were told to wait for a quiet hour start then; local time of the server.",
    "min_free_bytes": "With less free space than this no job starts and no upload is taken.",
    "max_upload_bytes": "Larger files are refused before they fill the disk.",
    "max_rows": "Larger files are refused while they are read.",
    "dataset_memory_bytes": "The process that reads a file is ended when it wants more.",
    "serving_idle_s": "When nobody has talked to a model for so long, it leaves memory.",
}
"""For people; where there is none, the setting's own meaning serves."""
CHOICES = {
    "theme": (("system", "System", "monitor"), ("light", "Light", "sun"), ("dark", "Dark", "moon")),
    "density": (("normal", "Normal", "rows-2"), ("compact", "Compact", "rows-4")),
    "motion": (("system", "System", "monitor"), ("less", "Less motion", "circle-pause")),
}
SIZES = (("MB", 1024**2), ("GB", 1024**3), ("TB", 1024**4))
TIMES = (("seconds", 1), ("minutes", 60), ("hours", 3600))
UNITS = {
    "min_free_bytes": SIZES,
    "max_upload_bytes": SIZES,
    "dataset_memory_bytes": SIZES,
    "serving_idle_s": TIMES,
}
"""Settings that are shown in a larger unit than they are kept in."""


class Folder(NamedTuple):
    """A folder that Tunesmith uses."""

    title: str
    path: str
    free_bytes: int | None


@router.get("/settings")
@needs(Scope.ADMIN)
def show(request: Request, state: State, tab: Annotated[Tab, Query()] = "directories") -> HTMLResponse:
    found = preferences.read_settings(state.settings, service.visible_settings(state.settings))
    return page(
        request,
        "settings/show.html",
        title="Settings",
        section="settings",
        tabs=TABS,
        tab=tab,
        settings=[setting for setting in found if setting.group == tab],
        labels=LABELS,
        hints=HINTS,
        choices=CHOICES,
        units=UNITS,
        measured=measured,
        folders=folders(state.settings) if tab == "directories" else [],
        options=options(state.settings) if tab == "defaults" else {},
        keys=preferences.keys() if tab == "keys" else [],
    )


def measured(setting: SettingRead) -> tuple[float | int, str]:
    """Its value in the largest unit that it fills: `(10, "GB")`."""
    units = UNITS[setting.name]
    name, factor = next(((name, factor) for name, factor in reversed(units) if setting.value >= factor), units[0])
    value = round(setting.value / factor, 3)
    return (int(value) if value == int(value) else value), name


def folders(settings: Settings) -> list[Folder]:
    """Where everything is, and how much room there is."""
    from huggingface_hub import constants

    named = (
        ("Home", settings.home),
        ("Datasets", settings.datasets_dir),
        ("Jobs that began without an output folder", settings.jobs_dir),
        ("Models", settings.models_dir),
        ("Hub cache", Path(constants.HF_HUB_CACHE)),
        ("Caches", settings.cache_dir),
    )
    return [Folder(title, str(path), shutil.disk_usage(path).free if path.is_dir() else None) for title, path in named]


def options(settings: Settings) -> dict[str, list[tuple[str, str]]]:
    """What the form for a new job may begin with."""
    bases = [model.name for model in list_models(settings) if model.kind == "base"]
    chosen = settings.default_model
    names = [*bases, *([chosen] if chosen and chosen not in bases else [])]
    return {
        "default_model": [("", "None: chosen in the form"), *((name, name) for name in names)],
        "default_method": [(recipe.name, recipe.title) for recipe in TRAINING],
        "default_priority": [(priority.value, priority.value.capitalize()) for priority in Priority],
    }
