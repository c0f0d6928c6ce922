"""A custom script apart from the rest of the machine: in bubblewrap where it works, else in namespaces that its launcher makes
(`namespaces.py`). What can be had is tried once, by starting a process that does nothing.

Both ways give the script its own process numbers, no network, a `/tmp` of its own, and a file system of which it sees Python,
system libraries, its model and its rows (all read-only), and its own folder: neither the server's home nor anybody's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

from tunesmith.core.job_spec import JobSpec
from tunesmith.recipes.custom.namespaces import APART

Way = Literal["bubblewrap", "namespace", "none"]

WORDS: dict[Way, str] = {
    "bubblewrap": "custom scripts by bubblewrap, without network and other files",
    "namespace": "custom scripts in namespaces, without network and other files",
    "none": "not available for custom scripts",
}
REMEDY = "Install bubblewrap on the server (Linux) and allow user namespaces."
WHY_NOT = f"This machine cannot keep a custom script from the server's files and the network. {REMEDY}"
SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime", "/etc/nsswitch.conf", "/nix/store", "/opt/conda",
    "/opt/rocm",
)  # fmt: skip
"""What programs need; nothing in it is a secret."""
FOR_NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/run/systemd/resolve")
DEVICES = ("nvidia*", "kfd", "dri", "dxg")
TRY_S = 20.0
BASE = (
    "--unshare-all", "--cap-drop", "ALL", "--die-with-parent", "--hostname", "script", "--dev", "/dev", "--proc", "/proc",
    "--tmpfs", "/tmp",
)  # fmt: skip


def way() -> Way:
    """The best that this machine allows."""
    if sys.platform != "linux":
        return "none"
    program = shutil.which("bwrap")
    if program and _wraps(program):
        return "bubblewrap"
    return "namespace" if _has_namespaces() else "none"


def why_not() -> str | None:
    """Why a custom script may not start here; None when it may."""
    return WHY_NOT if way() == "none" else None


@cache
def _wraps(program: str) -> bool:
    """Whether bubblewrap works: kernels and containers may forbid it what it needs."""
    return _runs([program, *BASE, *_as_options(_programs()), "--remount-ro", "/", "--", sys.executable, "-I", "-c", ""])


@cache
def _has_namespaces() -> bool:
    code = f"{APART}\napart(False, sys.argv[1:])\nos.execv(sys.executable, [sys.executable, '-I', '-c', ''])"
    return _runs([sys.executable, "-I", "-c", code, *_programs()])


def _runs(command: list[str]) -> bool:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={},
            timeout=TRY_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def wrapped(command: list[str], folder: Path, spec: JobSpec) -> list[str]:
    """`command` in bubblewrap, with its view of the files.

    SIGTERM is ignored by bubblewrap itself, which would otherwise take the script along before it could keep what it has.
    """
    program = shutil.which("bwrap") or "bwrap"
    return [
        "/bin/sh", "-c", 'trap "" TERM; exec "$@"', "sh", program, *BASE, *(["--share-net"] if spec.custom_network else []),
        *_as_options(view(folder, spec)), "--chdir", str(folder), "--remount-ro", "/", "--", *command,
    ]  # fmt: skip


def view(folder: Path, spec: JobSpec) -> list[str]:
    """All that a script sees of the file system, in the order in which it is put there: `r:` and a place that it may read,
    `w:` one that it may change, `d:` a device, `l:` a link as it is, `t:` a place that is empty."""
    devices = [str(place) for pattern in DEVICES for place in sorted(Path("/dev").glob(pattern))]
    shown = [
        *_programs(),
        *_read_only(FOR_NETWORK if spec.custom_network else ()),
        *(f"d:{place}" for place in devices),
    ]
    shown += _read_only(["/sys"]) if devices else []  # the driver tells its version and its devices there
    home = Path(spec.cache_dir).parent if spec.cache_dir else None
    if home and any(home.is_relative_to(item[2:]) for item in shown if item[0] == "r"):
        shown.append(f"t:{home}")
    return [*shown, *_read_only(_inputs(spec)), f"w:{folder.resolve()}"]


def _programs() -> list[str]:
    return _read_only([*SYSTEM, *_python()])


def _read_only(places: Iterable[str]) -> list[str]:
    """What exists of `places`, under the same names. Links stay links where they lead out of the way, as `/bin` does."""
    return [
        f"{'l' if Path(place).is_symlink() and Path(place).parent == Path('/') else 'r'}:{place}"
        for place in dict.fromkeys(places)
        if Path(place).exists()
    ]


def _as_options(shown: Iterable[str]) -> list[str]:
    """A view in bubblewrap's words."""
    words: list[str] = []
    for item in shown:
        place = item[2:]
        match item[0]:
            case "l":
                words += ["--symlink", str(Path(place).readlink()), place]
            case "t":
                words += ["--tmpfs", place]
            case kind:
                words += [{"r": "--ro-bind", "w": "--bind", "d": "--dev-bind"}[kind], place, place]
    return words


def _python() -> list[str]:
    """The interpreter and its libraries; not the folder that this process happens to be in."""
    here = {str(Path.cwd()), ""}
    folders = [sys.prefix, sys.base_prefix, sys.exec_prefix, *(place for place in sys.path if place not in here)]
    folders += [place for place in os.environ.get("LD_LIBRARY_PATH", "").split(":") if place]
    folders += [str(Path(sys.executable).resolve().parents[1])]
    return [place for place in folders if place.startswith("/") and place != "/" and not _is_system(place)]


def _is_system(place: str) -> bool:
    return any(Path(place).is_relative_to(system) for system in SYSTEM)


def _inputs(spec: JobSpec) -> list[str]:
    """Model and rows, with the files that a model's links lead to: the hub's cache keeps them elsewhere."""
    found: list[str] = []
    for model in filter(None, (spec.model,)):
        for place in filter(None, (model.path, model.adapter_path)):
            if Path(place).is_absolute():
                found += [place, *(str(file.resolve()) for file in Path(place).rglob("*") if file.is_symlink())]
    found += [data.path for data in (spec.dataset, spec.eval_dataset) if data]
    return found
