"""This process: what it is to serve, where it tells so, its word of entry, and its end."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from tunesmith.core.inference import NO_LIMITS, TemplateLimits
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.serving_spec import HEARTBEAT, ServingSpec

LOOK_EVERY_S = 1.0
FORGOTTEN_AFTER_S = 900.0
"""How long a deployment's process waits for a server to come back."""


class Process:
    """This process: its folder, its word of entry, and its end."""

    def __init__(self, folder: Path, spec: ServingSpec) -> None:
        self.folder, self.spec = folder, spec
        self.token = secrets.token_urlsafe(32)

    def ready(
        self,
        port: int,
        idle_s: Callable[[], float] = lambda: 0.0,
        *,
        tools: bool = True,
        limits: TemplateLimits = NO_LIMITS,
    ) -> None:
        """Tell where it answers, and end it when it is idle (`idle_s` says for how long) or no longer wanted. `tools`: whether
        the chat template has a place for them; `limits`: what else it does not take."""
        endpoint = {
            "port": port, "token": self.token, "pid": os.getpid(), "tools": tools, "limits": asdict(limits),
        }  # fmt: skip
        write_atomic(self.folder / "endpoint.json", json.dumps(endpoint), mode=0o600)
        threading.Thread(target=self._end_when_over, args=(idle_s,), daemon=True).start()

    def _end_when_over(self, idle_s: Callable[[], float]) -> None:
        limit_s = self.spec.idle_s
        while self.folder.is_dir() and (not self._is_forgotten() if limit_s is None else idle_s() < limit_s):
            time.sleep(LOOK_EVERY_S if limit_s is None else min(LOOK_EVERY_S, limit_s / 4))
        os.kill(os.getpid(), signal.SIGTERM)

    def _is_forgotten(self) -> bool:
        """Whether no server has looked after the deployments for long: it was stopped, and not to come back at once."""
        try:
            return time.time() - (self.folder.parent / HEARTBEAT).stat().st_mtime > FORGOTTEN_AFTER_S
        except FileNotFoundError:
            return False


def end_at_once(why: str) -> NoReturn:
    """End this process, whatever it is doing; `why` is the last line of its log."""
    sys.stderr.write(f"{why}\n")
    sys.stderr.flush()
    os._exit(1)
