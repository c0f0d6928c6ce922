"""What tests need besides Python packages: a browser, bubblewrap, a C++ compiler, openssl. `python -m tests.services`, which
`make test` calls, installs what is not there; `missing` is how a test says that it has to do without.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

PACKAGES = {
    "bwrap": ("bubblewrap",),
    "g++": ("g++",),
    "openssl": ("openssl",),
    "chromium": ("chromium", "fonts-liberation"),
}
"""Debian's packages, by the program that each is needed for."""
STRICT = os.environ.get("CI", "") not in ("", "0", "false") or os.environ.get("TUNESMITH_TEST_STRICT", "0") != "0"
"""Whether a test fails that has to do without a service, as in CI; elsewhere it is skipped and named at the end."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
APT_TIMEOUT_S = 900


def missing(service: str, why: str) -> NoReturn:
    """End a test, or all that use a fixture: `service` can be installed and is not there."""
    told = f"{service} is missing: {why}"
    if STRICT:
        pytest.fail(f"{told} `make test` installs it where it may; see what it said.", pytrace=False)
    pytest.skip(told)


def installed_browser() -> str | None:
    """The system's own, which is taken first."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def launch(playwright: Any, flags: list[str]) -> Any:
    """Chromium: the system's, else the one that Playwright has downloaded; ends the test where there is neither."""
    path = installed_browser()
    if path is None and not Path(playwright.chromium.executable_path).is_file():
        missing("a browser", "neither Debian's chromium nor Playwright's is installed.")
    return playwright.chromium.launch(executable_path=path, args=flags)


def main() -> None:
    """Install what is not there, and say what could not be; the tests decide what that means."""
    lacking = [program for program in PACKAGES if not _has(program)]
    if lacking:
        _install(lacking)
    if installed_browser() is None:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
    for program in lacking:
        if program != "chromium" and not _has(program):
            print(f"{PACKAGES[program][0]} could not be installed: tests that need it are skipped, and fail in CI.")


def _has(program: str) -> bool:
    return bool(installed_browser() if program == "chromium" else shutil.which(program))


def _install(programs: list[str]) -> None:
    """With apt-get, as root or by a sudo that asks for no password. One at a time: not every system has each."""
    apt = shutil.which("apt-get")
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if not apt or (sudo and (not shutil.which("sudo") or subprocess.run([*sudo, "true"], check=False).returncode)):
        return
    quiet = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", apt, "-qq", "-o", "DPkg::Lock::Timeout=300"]
    subprocess.run([*quiet, "update"], check=False, timeout=APT_TIMEOUT_S)
    for program in programs:
        command = [*quiet, "install", "-y", "--no-install-recommends", *PACKAGES[program]]
        subprocess.run(command, check=False, timeout=APT_TIMEOUT_S, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
