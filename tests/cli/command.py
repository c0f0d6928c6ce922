"""The `tunesmith` command as people run it: a process of its own, its home below the folder it runs in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def tunesmith(
    folder: Path, *words: str, timeout_s: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """No server answers unless `TUNESMITH_URL` names one."""
    fixed = {"TUNESMITH_HOME": str(folder / "home"), "TUNESMITH_URL": "http://127.0.0.1:9",
             "TUNESMITH_HUB_OFFLINE": "1", "COLUMNS": "200"}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "tunesmith", *words],
        cwd=folder,
        env={**os.environ, **fixed, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
