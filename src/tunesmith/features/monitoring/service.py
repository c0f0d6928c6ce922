"""The machine and the server: what there is, what is used, what is wrong and how to fix it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tunesmith.core import confinement
from tunesmith.core.devices import read_gpus
from tunesmith.core.version import VERSION
from tunesmith.core.words import plural
from tunesmith.executors.limits import isolation_available
from tunesmith.features.catalog.service import list_models
from tunesmith.features.jobs import permission
from tunesmith.features.monitoring.sampler import Sample
from tunesmith.recipes.catalog import PLUGINS, RECIPES
from tunesmith.recipes.custom.isolation import REMEDY
from tunesmith.schemas.system import DoctorCheck, Health, MachineUse, SystemInfo
from tunesmith.settings import OTHER_VARIABLES, Settings
from tunesmith.storage.database import SAFE_WAL, Database

STARTED = time.monotonic()
LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "polars",
    "pyarrow",
    "huggingface_hub",
    "fastapi",
    "sqlalchemy",
)


def health(database: Database) -> Health:
    """Raises what the database raises when it does not answer."""
    database.check()
    return Health(
        status="ok",
        version=VERSION,
        database="sqlite" if database.is_sqlite else "postgresql",
        sqlite_version=database.sqlite_version if database.is_sqlite else None,
        journal_mode=database.journal_mode if database.is_sqlite else None,
        uptime_s=round(time.monotonic() - STARTED, 3),
    )


def info(settings: Settings) -> SystemInfo:
    """What does not change while the server runs."""
    import psutil

    methods = {recipe.name: permission.why_not(settings, recipe) for recipe in RECIPES}
    return SystemInfo(
        version=VERSION,
        python=platform.python_version(),
        platform=platform.platform(),
        cpu_cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        gpus=read_gpus(),
        methods=methods,
        libraries={name: _version(name) for name in LIBRARIES},
    )


def resources(settings: Settings, last: Sample | None) -> MachineUse:
    """What is used now; processor time as of the `last` sample, since it is a mean over some time."""
    import psutil

    memory, disk, network = psutil.virtual_memory(), shutil.disk_usage(settings.home), psutil.net_io_counters()
    return MachineUse(
        cpu_percent=last.cpu_percent if last else psutil.cpu_percent(interval=0.1),
        load_average=list(os.getloadavg()),
        memory_used_bytes=memory.total - memory.available,
        memory_total_bytes=memory.total,
        disk_used_bytes=disk.used,
        disk_free_bytes=disk.free,
        disk_total_bytes=disk.used + disk.free,
        network_received_bytes=network.bytes_recv if network else 0,
        network_sent_bytes=network.bytes_sent if network else 0,
        gpus=read_gpus(),
    )


def visible_settings(settings: Settings) -> dict[str, Any]:
    """Every setting; a password in the database's address is blotted out."""
    shown = settings.model_dump(mode="json")
    if settings.database_url:
        shown["database_url"] = without_password(settings.database_url)
    return shown


def without_password(url: str) -> str:
    """`postgresql://me:***@host/db`. What cannot be parsed is not shown at all; query values are left out too."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "***"
    user = f"{parts.username}{':***' if parts.password else ''}@" if parts.username else ""
    return urlunsplit((parts.scheme, f"{user}{host}{port}", parts.path, "***" if parts.query else "", ""))


def doctor(settings: Settings, database: Database | None = None) -> list[DoctorCheck]:
    """Every check, with a remedy where it is not well. Without a `database` the server's own checks are left out."""
    checks = [
        _python,
        _home,
        _disk,
        _memory,
        _gpu,
        _four_bit,
        _models,
        _unknown_settings,
        _isolation,
        _secrets,
        _plugins,
    ]
    found = [check for make in checks for check in make(settings)]
    return [*found, *(_database(database) if database else ())]


def _check(name: str, ok: bool, message: str, remedy: str = "", *, level: Any = "error") -> DoctorCheck:
    return DoctorCheck(name=name, status="ok" if ok else level, message=message, remedy="" if ok else remedy)


def _python(_settings: Settings) -> Iterator[DoctorCheck]:
    yield _check(
        "python", sys.version_info >= (3, 11), f"Python {platform.python_version()}", "Install Python 3.11 or newer."
    )
    missing = [name for name in LIBRARIES if not _version(name) and name != "bitsandbytes"]
    yield _check(
        "libraries",
        not missing,
        f"missing: {', '.join(missing)}" if missing else "all there",
        "Run pip install tunesmith again.",
    )


def _home(settings: Settings) -> Iterator[DoctorCheck]:
    nearest = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    writable = os.access(nearest, os.W_OK)
    yield _check(
        "home", writable, str(settings.home), "Make the folder writable, or set TUNESMITH_HOME to another one."
    )
    private = not settings.home.exists() or not settings.home.stat().st_mode & 0o007
    yield _check(
        "home is private", private, "readable by its owner" if private else "others can read it",
        f"chmod 700 {settings.home}", level="warning",
    )  # fmt: skip


def _disk(settings: Settings) -> Iterator[DoctorCheck]:
    nearest = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    remedy = "Delete finished jobs or datasets, or set TUNESMITH_HOME to a larger disk."
    yield _check("disk", free > settings.min_free_bytes, f"{free / 1e9:.1f} GB free", remedy)


def _memory(_settings: Settings) -> Iterator[DoctorCheck]:
    import psutil

    memory = psutil.virtual_memory()
    message = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available"
    yield _check(
        "memory",
        memory.available > 2e9,
        message,
        "Close other programs; tuning a small model takes about 2 GB.",
        level="warning",
    )


def _gpu(_settings: Settings) -> Iterator[DoctorCheck]:
    gpus = read_gpus()
    message = ", ".join(gpu.name for gpu in gpus) or "none: jobs run on the CPU"
    yield _check(
        "gpu",
        bool(gpus),
        message,
        "Small models train on the CPU; larger ones need an NVIDIA GPU and its driver.",
        level="info",
    )


def _four_bit(_settings: Settings) -> Iterator[DoctorCheck]:
    found = _version("bitsandbytes")
    yield _check(
        "qlora",
        bool(found),
        f"bitsandbytes {found or 'missing'}",
        "Run pip install bitsandbytes, or choose lora.",
        level="info",
    )


def _models(settings: Settings) -> Iterator[DoctorCheck]:
    names = [model.name for model in list_models(settings) if model.kind == "base"]
    message = f"{plural(len(names), 'base model')}: {', '.join(names[:3])}" if names else "no base model yet"
    yield _check("models", bool(names), message, "Run tunesmith demo, or name a hub model in a job.", level="info")


def _unknown_settings(_settings: Settings) -> Iterator[DoctorCheck]:
    known = {f"TUNESMITH_{name.upper()}" for name in Settings.model_fields} | set(OTHER_VARIABLES)
    odd = sorted(name for name in os.environ if name.upper().startswith("TUNESMITH_") and name.upper() not in known)
    odd = [name for name in odd if not name.startswith(("TUNESMITH_TEST_", "TUNESMITH_SOAK"))]
    message = f"unknown: {', '.join(odd)}" if odd else "all known"
    yield _check("settings", not odd, message, "docs/settings.md has the names.", level="warning")


def _isolation(settings: Settings) -> Iterator[DoctorCheck]:
    """What keeps training and custom scripts in bounds; a warning where a setting asks for what this machine lacks."""
    found = isolation_available()
    remedies = []
    if settings.worker_memory_bytes and not found.limits_memory:
        remedies.append("Run the server as a systemd unit with Delegate=yes and DelegateSubgroup=server.")
    if settings.custom_scripts and not found.shields_scripts:
        remedies.append(f"Custom scripts are refused. {REMEDY}")
    message = f"memory of workers: {found.memory}; {found.scripts}"
    yield _check("isolation", not remedies, message, " ".join(remedies), level="warning")


def _secrets(_settings: Settings) -> Iterator[DoctorCheck]:
    why_not = confinement.why_not()
    message = why_not or f"workers cannot read the secret key and the database (Landlock {confinement.version()})"
    yield _check("secrets", not why_not, message, confinement.REMEDY, level="warning")


def _plugins(_settings: Settings) -> Iterator[DoctorCheck]:
    """Recipes that other packages bring; one that is broken is left out, and harms nobody else."""
    for plugin in PLUGINS:
        message = plugin.problem or f"method {plugin.recipe.name if plugin.recipe else ''}, from {plugin.package}"
        remedy = f"Update or uninstall {plugin.package}; everything else works without it."
        yield _check(f"recipe {plugin.name}", not plugin.problem, message, remedy, level="warning")


def _database(database: Database) -> Iterator[DoctorCheck]:
    database.check()
    if not database.is_sqlite:
        yield _check("database", True, "PostgreSQL answers")
        return
    safe = tuple(int(part) for part in database.sqlite_version.split(".")) >= SAFE_WAL
    message = f"SQLite {database.sqlite_version}, journal {database.journal_mode}"
    yield _check(
        "database",
        safe,
        message,
        "Works, but slower: this SQLite has no safe WAL. Run pip install pysqlite3.",
        level="info",
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
