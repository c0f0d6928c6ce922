"""A custom script apart from the rest of the machine: in bubblewrap where it is installed, else in a user namespace without
a network. What can be had is tried once, by starting a process that does nothing.

bubblewrap gives the script its own process numbers, no network, and a file system of which it sees Python, system
libraries, its model and its rows (all read-only), and its own folder. A bare namespace takes the network and the view
into other processes away, and leaves the files as they are.
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

Way = Literal["bubblewrap", "namespace", "none"]

WORDS: dict[Way, str] = {
    "bubblewrap": "custom scripts by bubblewrap, without network and other files",
    "namespace": "custom scripts in a namespace without network",
    "none": "not available for custom scripts",
}
WHY_NOT = "This machine cannot keep a custom script off the network."
REMEDY = (
    "Install bubblewrap (Linux) and allow user namespaces, or let custom scripts use the network with "
    "TUNESMITH_CUSTOM_NETWORK=true."
)
SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache", "/etc/ld.so.conf",
    "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime", "/etc/nsswitch.conf", "/nix/store", "/opt/conda",
    "/opt/rocm",
)  # fmt: skip
"""What programs need; nothing in it is a secret."""
FOR_NETWORK = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/run/systemd/resolve")
DEVICES = ("nvidia*", "kfd", "dri", "dxg")
TRY_S = 20.0

NAMESPACE = """
def apart(network):
    import ctypes, os
    uid, gid = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    flags = 0x10000000 | 0x08000000 | (0 if network else 0x40000000)  # CLONE_NEWUSER, CLONE_NEWIPC, CLONE_NEWNET
    if libc.unshare(flags):
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
"""
"""Source for a process of one thread: into a user namespace under its own number, without a network unless told."""


def way() -> Way:
    """The best that this machine allows."""
    if sys.platform != "linux":
        return "none"
    program = shutil.which("bwrap")
    if program and _wraps(program):
        return "bubblewrap"
    return "namespace" if _has_namespaces() else "none"


def why_not(*, network: bool) -> str | None:
    """Why a custom script may not start here; None when it may."""
    return WHY_NOT if not network and way() == "none" else None


@cache
def _wraps(program: str) -> bool:
    """Whether bubblewrap works: kernels and containers may forbid it what it needs."""
    return _runs([program, *_base(), *_read_only(_python()), "--remount-ro", "/", "--", sys.executable, "-I", "-c", ""])


@cache
def _has_namespaces() -> bool:
    return _runs([sys.executable, "-I", "-c", f"{NAMESPACE}\napart(False)"])


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
    """`command` in bubblewrap: it may write in `folder` only, and read what its job names.

    SIGTERM is ignored by bubblewrap itself, which would otherwise take the script along before it could keep what it has.
    """
    program = shutil.which("bwrap") or "bwrap"
    network = spec.custom_network
    read_only = [*_python(), *(FOR_NETWORK if network else ()), *_inputs(spec)]
    devices = [place for pattern in DEVICES for place in map(str, sorted(Path("/dev").glob(pattern)))]
    return [
        "/bin/sh", "-c", 'trap "" TERM; exec "$@"', "sh", program, *_base(), *(["--share-net"] if network else []),
        *(word for place in devices for word in ("--dev-bind-try", place, place)),
        *_read_only(read_only), *_libraries_of_gpus(devices),
        "--bind", str(folder), str(folder), "--chdir", str(folder), "--remount-ro", "/", "--", *command,
    ]  # fmt: skip


def _base() -> list[str]:
    return [
        "--unshare-all", "--die-with-parent", "--hostname", "script", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp",
        *_read_only(SYSTEM),
    ]  # fmt: skip


def _libraries_of_gpus(devices: Iterable[str]) -> list[str]:
    """The driver tells its version and its devices there."""
    return _read_only(["/sys"]) if devices else []


def _read_only(places: Iterable[str]) -> list[str]:
    """What exists of `places`, under the same names. Links stay links where they lead out of the way, as `/bin` does."""
    words: list[str] = []
    for place in dict.fromkeys(places):
        if Path(place).is_symlink() and Path(place).parent == Path("/"):
            words += ["--symlink", str(Path(place).readlink()), place]
        else:
            words += ["--ro-bind-try", place, place]
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
