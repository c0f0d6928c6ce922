"""Settings that people change while the server runs, folders tried before they are used, and which keys are there."""

from __future__ import annotations

import contextlib
import netrc
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tunesmith.core.clock import monotonic_s
from tunesmith.core.errors import Conflict, InvalidInput, TunesmithError
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.preferences import Preferences
from tunesmith.core.words import plural
from tunesmith.features.catalog.service import check_name
from tunesmith.recipes.catalog import TRAINING
from tunesmith.recipes.hyperparameters import field_docs
from tunesmith.schemas.system import DirectoryRead, KeyRead, SettingRead
from tunesmith.settings import Settings, is_in_environment, read_saved, variable_of

GROUPS: dict[str, tuple[str, ...]] = {
    "directories": ("output_dir",),
    "limits": (
        "cpu_slots", "job_restarts", "off_peak", "min_free_bytes", "max_upload_bytes", "max_rows", "dataset_memory_bytes",
        "serving_idle_s",
    ),
    "defaults": ("default_model", "default_method", "default_priority"),
    "appearance": ("theme", "density", "motion"),
}  # fmt: skip
"""Where each preference stands on the page; all other settings are the server's own."""
TRIED_BYTES = 64 * 1024
KEYS = (
    ("Hugging Face", "HF_TOKEN", "Fetches models that need permission."),
    ("Weights & Biases", "WANDB_API_KEY", "Sends curves to Weights & Biases."),
    ("MLflow server", "MLFLOW_TRACKING_URI", "Where curves go with MLflow."),
    ("MLflow token", "MLFLOW_TRACKING_TOKEN", "Opens that MLflow server."),
    ("Trackio space", "TRACKIO_SPACE_ID", "Where curves go with Trackio."),
)
"""Name, variable and what it is for; workers are given these variables."""
_writing = threading.Lock()


def read_settings(settings: Settings, shown: dict[str, Any]) -> list[SettingRead]:
    """Every setting, group by group. `shown` are the values without secrets."""
    docs, saved = field_docs(Settings), read_saved(settings.saved_path)
    group_of = {name: group for group, names in GROUPS.items() for name in names}
    found = []
    for name, field in sorted(Settings.model_fields.items(), key=lambda item: _place(item[0])):
        held = is_in_environment(name)
        source = "environment" if held else "saved" if name in saved else "default"
        found.append(
            SettingRead(
                name=name,
                group=group_of.get(name, "server"),  # type: ignore[arg-type]
                meaning=docs.get(name, ""),
                value=shown[name],
                default=None if field.default_factory else field.default,
                source=source,  # type: ignore[arg-type]
                variable=variable_of(name),
                changeable=name in group_of and not held,
            )
        )
    return found


def change(settings: Settings, changes: BaseModel) -> None:
    """Save the changes and take them over now. Raises `Conflict` for what a variable holds, `InvalidInput` for what cannot
    be used; then nothing is changed."""
    given = changes.model_dump(exclude_unset=True)
    held = [name for name in given if is_in_environment(name)]
    if held:
        names = ", ".join(variable_of(name) for name in held)
        raise Conflict(
            f"The environment holds {names}, which wins over what is saved.",
            hint="Unset it and start the server again, or change it there.",
            details=[{"loc": name, "message": f"held by {variable_of(name)}"} for name in held],
        )
    _check(settings, given)
    wanted = {name: value for name, value in given.items() if value is not None}
    with _writing:
        saved = {**read_saved(settings.saved_path), **changes.model_dump(mode="json", include=set(wanted))}
        write_atomic(
            settings.saved_path, {name: saved[name] for name in saved if given.get(name, 0) is not None}, mode=0o600
        )
        settings.apply(
            {name: Preferences.model_fields[name].default if given[name] is None else given[name] for name in given}
        )


def _place(name: str) -> tuple[int, int]:
    """Preferences in the order of the page, then the server's own settings as they are declared."""
    for number, names in enumerate(GROUPS.values()):
        if name in names:
            return number, names.index(name)
    return len(GROUPS), list(Settings.model_fields).index(name)


def _check(settings: Settings, given: dict[str, Any]) -> None:
    """What bounds cannot tell. A folder is made when it is not there."""
    details, hints = [], []
    if (path := given.get("output_dir")) is not None:
        try:
            test_directory(settings, str(path))
            Path(path).mkdir(parents=True, exist_ok=True, mode=0o700)
        except InvalidInput as error:
            details.append({"loc": "output_dir", "message": error.message})
            hints.append(error.hint)
    if (method := given.get("default_method")) is not None and method not in [recipe.name for recipe in TRAINING]:
        details.append(
            {"loc": "default_method", "message": f"no such method; there are {', '.join(r.name for r in TRAINING)}"}
        )
    if (model := given.get("default_model")) is not None:
        try:
            check_name(model)
        except TunesmithError as error:
            details.append({"loc": "default_model", "message": error.message})
            hints.append(error.hint)
    if details:
        places = ", ".join(detail["loc"] for detail in details)
        raise InvalidInput(
            f"{plural(len(details), 'value')} cannot be used: {places}.", hint=" ".join(hints), details=details
        )


def test_directory(settings: Settings, given: str | None = None) -> DirectoryRead:
    """Write a file there, flush it, and remove it. Raises `InvalidInput` with the reason when that cannot be done."""
    path = Path(given) if given is not None else settings.output_dir or settings.jobs_dir
    if not path.is_absolute():
        raise _unusable("The path must be absolute, such as /data/tunesmith.", "Begin it with a slash.")
    try:
        real = path.resolve()
        home = settings.home.resolve()
        if real != settings.jobs_dir.resolve() and (real == home or home in real.parents):
            raise _unusable(
                "A folder inside the home folder belongs to Tunesmith itself.", "Choose one outside, or leave it empty."
            )
        nearest = next(folder for folder in (real, *real.parents) if folder.exists())
        if not nearest.is_dir():
            raise _unusable(f"{nearest} is a file, not a folder.", "Choose a folder.")
        took_s = _try_to_write(nearest)
        disk = shutil.disk_usage(nearest)
    except OSError as error:
        reason = error.strerror or str(error)
        raise _unusable(
            f"{path} cannot be written: {reason}.", "Choose another folder, or give the server's user access."
        ) from None
    return DirectoryRead(
        path=str(path),
        exists=nearest == real,
        free_bytes=disk.free,
        total_bytes=disk.total,
        took_ms=round(took_s * 1000, 1),
    )


def _try_to_write(folder: Path) -> float:
    """Seconds that it took. Raises `OSError`."""
    began_s = monotonic_s()
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".tunesmith-test-") as file:
        file.write(b"\0" * TRIED_BYTES)
        file.flush()
        os.fsync(file.fileno())
    return monotonic_s() - began_s


def _unusable(message: str, hint: str) -> InvalidInput:
    return InvalidInput(message, hint=hint, details=[{"loc": "path", "message": message}])


def keys() -> list[KeyRead]:
    """Which keys are set, and where; never what they are."""
    found = []
    for name, variable, about in KEYS:
        place = f"environment variable {variable}" if os.environ.get(variable) else _file_with(variable)
        source = place or f"Set the environment variable {variable} before the server starts."
        found.append(KeyRead(name=name, about=about, is_set=bool(place), source=source))
    return found


def _file_with(variable: str) -> str:
    """The file that a library would read the key from, in words; empty when there is none."""
    if variable == "HF_TOKEN":
        from huggingface_hub import constants

        path = Path(constants.HF_TOKEN_PATH)
        with contextlib.suppress(OSError):
            return f"file {_with_tilde(path)}" if path.stat().st_size else ""
    if variable == "WANDB_API_KEY":
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            return "file ~/.netrc" if netrc.netrc().authenticators("api.wandb.ai") else ""
    return ""


def _with_tilde(path: Path) -> str:
    home = Path.home()
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)
