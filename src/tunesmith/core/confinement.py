"""What keeps the processes that a server starts from the server's own secrets: a Landlock domain, entered by each of them before
it does anything else. It needs no privileges, whatever the process starts is in it too, and nobody leaves it.

Within it no file that lies directly in the home folder can be opened (the signing key, the database, the saved settings, the
head of the audit log), nor the places named beside them; every folder of the home can, and so can everything else. No process
outside of the domain can be looked into, which keeps the server's memory and environment its own. A server that runs as root
gives up besides what gets around files: raw devices, modules, mounts.

Landlock lists what is allowed. So at each folder above something closed, what is there when the process starts is allowed, entry
by entry; what somebody puts directly into such a folder later stays out of reach for a process that runs already.

`python -m tunesmith.core.confinement PLACES MODULE ARGUMENTS…` enters it and then runs the module.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import runpy
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from tunesmith.core import processor

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
MAKE_CHAR, MAKE_BLOCK, REFER = 1 << 6, 1 << 11, 1 << 13
ALL_OF_FIRST = (1 << 13) - 1
"""The rights that every kernel with Landlock knows."""
NEEDED_VERSION, TRUNCATE_SINCE = 2, 3
"""The first version forbids to move files between folders, which every worker does."""
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Numbers of the calls, the same on all processors."""
CREATE_VERSION, RULE_PATH_BENEATH = 1, 1
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
CAPSET_VERSION = 0x20080522
GIVEN_UP = (2, 16, 17, 19, 21, 22, 27, 38, 39)
"""Capabilities that get around files and processes: reading by handle, modules, raw devices, tracing, administration, another
kernel, new devices, performance counters, kernel programs."""
PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "USER", "LOGNAME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "PYTHONPATH",
    "SYSTEMROOT",
    "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "CUDA_HOME", "OMP_NUM_THREADS",
    *processor.PASSED_ON,
)  # fmt: skip
"""The server's variables that every process gets. None of them is a secret."""
MADE_BY_LIBRARIES = {
    "TRITON_CACHE_DIR": ".triton", "CUDA_CACHE_PATH": ".nv", "WANDB_CONFIG_DIR": ".config/wandb",
    "MPLCONFIGDIR": ".config/matplotlib", "VLLM_CONFIG_ROOT": ".config/vllm",
}  # fmt: skip
"""Variable → the folder that libraries make in the user's own otherwise."""
REMEDY = "Run it on Linux 5.19 or newer with Landlock among its security modules (lsm=landlock,…), in containers too."

_places = ""


def protect(home: Path, others: Sequence[Path] = ()) -> None:
    """From now on the processes that this one starts are kept from the files in `home`, and from `others`."""
    global _places
    _places = json.dumps([str(home.resolve()), *(str(place.parent.resolve() / place.name) for place in others)])


def places() -> str:
    """What `enter` is to be told; empty where nothing is protected, as in a program without a server."""
    return _places


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs `module` in the domain."""
    words = [sys.executable, "-P", "-m"]
    return [*words, __name__, _places, module, *arguments] if _places else [*words, module, *arguments]


def environment(*more: str) -> dict[str, str]:
    """What such a process learns of this one's environment, with the variables `more`."""
    return {name: os.environ[name] for name in (*PASSED_ON, *more) if name in os.environ}


@cache
def version() -> int:
    """Landlock's version in this kernel; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    return max(0, ctypes.CDLL(None, use_errno=True).syscall(CREATE_RULESET, None, 0, CREATE_VERSION))


def why_not() -> str | None:
    """Why the processes of a server cannot be kept from its secrets here; None when they can."""
    if version() >= NEEDED_VERSION:
        return None
    if sys.platform != "linux":
        return "Workers can read the secret key and the database on this machine: only Linux can keep them from it."
    return (
        "Workers can read the secret key and the database on this machine: its kernel offers no Landlock of version 2."
    )


def enter(told: str) -> None:
    """Into the domain, with the calling thread and all that it starts; `told` is what `places` said. Does nothing where this
    machine has none, which `why_not` says. Raises `OSError`."""
    if not told or why_not():
        return
    home, *others = map(Path, json.loads(told))
    _make_ready()
    libc = ctypes.CDLL(None, use_errno=True)
    file_rights = EXECUTE | WRITE_FILE | READ_FILE | (TRUNCATE if version() >= TRUNCATE_SINCE else 0)
    rights = ALL_OF_FIRST | file_rights | REFER
    given = rights & ~(MAKE_CHAR | MAKE_BLOCK)
    handled = ctypes.c_uint64(rights)
    ruleset = _checked(libc.syscall(CREATE_RULESET, ctypes.byref(handled), ctypes.sizeof(handled), 0))
    try:
        _allow(libc, ruleset, Path("/"), READ_DIR)
        for place, is_folder in _open(home, set(others)):
            _allow(libc, ruleset, place, given if is_folder else file_rights)
        _give_up(libc)
        _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _open(home: Path, closed: set[Path]) -> Iterator[tuple[Path, bool]]:
    """The highest places that hold nothing closed, and whether each is a folder. Links are left out: what they lead to has a
    place of its own."""
    passages = {home, Path("/dev"), *home.parents, *(above for place in closed for above in place.parents)}
    to_do = [Path("/")]
    while to_do:
        folder = to_do.pop()
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                place = folder / entry.name
                if place in closed or entry.is_symlink():
                    continue
                is_folder = entry.is_dir(follow_symlinks=False)
                if place in passages and is_folder:
                    to_do.append(place)
                elif is_folder or (folder != home and not _is_disk(entry)):
                    yield place, is_folder


def _is_disk(entry: os.DirEntry[str]) -> bool:
    return Path("/dev") in Path(entry.path).parents and stat.S_ISBLK(entry.stat(follow_symlinks=False).st_mode)


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("fd", ctypes.c_int32))


def _allow(libc: ctypes.CDLL, ruleset: int, place: Path, rights: int) -> None:
    try:
        fd = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # it has gone, or is nobody's to open
        return
    try:
        rule = _PathBeneath(rights, fd)
        _checked(libc.syscall(ADD_RULE, ruleset, RULE_PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(fd)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result


def _give_up(libc: ctypes.CDLL) -> None:
    """Let go of root's ways around files; whoever is not root has none of them."""
    header = (ctypes.c_uint32 * 2)(CAPSET_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: of the first 32, then of the others
    _checked(libc.capget(header, sets))
    for number in GIVEN_UP:
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)  # only where this process may; `no_new_privs` does the same
        for kind in range(3):
            sets[3 * (number // 32) + kind] &= ~(1 << number % 32)
    _checked(libc.capset(header, sets))


def _make_ready() -> None:
    """What libraries make at the first use, where the domain would not let them."""
    with contextlib.suppress(OSError, RuntimeError):
        home = Path.home()
        caches = (os.environ[name] for name in ("HF_HOME", "HF_HUB_CACHE") if os.environ.get(name))
        for folder in (home / ".cache", *map(Path, caches)):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for variable, usual in MADE_BY_LIBRARIES.items():
            if not (home / usual).exists():
                os.environ.setdefault(variable, str(home / ".cache" / Path(usual).name.lstrip(".")))
    tool = shutil.which("nvidia-modprobe")  # it is root's, and CUDA could not call it any more
    if tool and Path("/dev/nvidiactl").exists() and not Path("/dev/nvidia-uvm").exists():
        with contextlib.suppress(OSError):
            subprocess.run([tool, "-c", "0", "-u"], stdin=subprocess.DEVNULL, capture_output=True, check=False)


def main() -> None:
    """Enter, then be the module: no other interpreter has to start."""
    _, told, module, *arguments = sys.argv
    enter(told)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
