"""`python -m tunesmith.serving SERVING_DIR`: loads the model that `serving.json` names and answers on a loopback port.

`endpoint.json` tells where, once the model is ready. The process ends by itself when it has been idle for `idle_s`, if it
has such a limit, or when its folder is gone.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tunesmith.core.errors import TunesmithError
from tunesmith.core.job_dir import write_atomic

LOOK_EVERY_S = 1.0


class ServingSpec(BaseModel):
    """`serving.json`."""

    model_config = ConfigDict(extra="ignore")

    base_path: str
    revision: str | None = None
    offline: bool = False
    idle_s: float | None = 600.0
    engine: str = "transformers"
    adapters: tuple[str, ...] = ()
    merged_adapter: str | None = None
    """An adapter that is merged into the base, because it cannot lie over it."""
    quantization: str = "q8_0"
    context_tokens: int = 4096
    parallel: int = 8
    threads: int | None = None
    gpus: tuple[int, ...] = ()
    cache_dir: str = ""


class Process:
    """This process: its folder, its word of entry, and its end."""

    def __init__(self, folder: Path, spec: ServingSpec) -> None:
        self.folder, self.spec = folder, spec
        self.token = secrets.token_urlsafe(32)

    def ready(self, port: int, idle_s: Callable[[], float] = lambda: 0.0) -> None:
        """Tell where it answers, and end it when it is idle (`idle_s` says for how long) or no longer wanted."""
        endpoint = {"port": port, "token": self.token, "pid": os.getpid()}
        write_atomic(self.folder / "endpoint.json", json.dumps(endpoint), mode=0o600)
        threading.Thread(target=self._end_when_over, args=(idle_s,), daemon=True).start()

    def _end_when_over(self, idle_s: Callable[[], float]) -> None:
        limit_s = self.spec.idle_s
        while self.folder.is_dir() and (limit_s is None or idle_s() < limit_s):
            time.sleep(LOOK_EVERY_S if limit_s is None else min(LOOK_EVERY_S, limit_s / 4))
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    folder = Path(sys.argv[1])
    spec = ServingSpec.model_validate_json((folder / "serving.json").read_bytes())
    process = Process(folder, spec)
    try:
        if spec.engine == "llama.cpp":
            from tunesmith.serving import llama_cpp

            llama_cpp.serve(process)
        elif spec.engine == "vllm":
            from tunesmith.serving import vllm

            vllm.serve(process)
        else:
            from tunesmith.serving import transformers_app

            transformers_app.serve(process)
    except TunesmithError as error:  # its last words are shown to who deployed the model
        sys.exit(f"{error.message} {error.hint}".strip())


if __name__ == "__main__":
    main()
