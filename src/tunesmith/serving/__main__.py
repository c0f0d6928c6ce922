"""`python -m tunesmith.serving SERVING_DIR`: loads the model that `serving.json` names and answers on a loopback port.

`endpoint.json` tells where, once the model is ready. The process ends by itself when it has been idle, or its folder is gone.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import uvicorn
from pydantic import BaseModel

from tunesmith.core.job_dir import write_atomic
from tunesmith.serving.app import Activity, create_serving_app
from tunesmith.serving.generation import Model


class ServingSpec(BaseModel):
    """`serving.json`."""

    base_path: str
    revision: str | None = None
    offline: bool = False
    idle_s: float = 600.0


def end_when_idle(spec: ServingSpec, folder: Path, activity: Activity) -> None:
    while activity.idle_s() < spec.idle_s and folder.is_dir():
        time.sleep(min(1.0, spec.idle_s / 4))
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    folder = Path(sys.argv[1])
    spec = ServingSpec.model_validate_json((folder / "serving.json").read_bytes())
    model = Model(spec.base_path, offline=spec.offline, revision=spec.revision)
    token, activity = secrets.token_urlsafe(32), Activity()
    listener = socket.create_server(("127.0.0.1", 0))
    # Connections inherit it: without it, each token may wait for the acknowledgement of the one before.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    endpoint = {"port": listener.getsockname()[1], "token": token, "pid": os.getpid()}
    write_atomic(folder / "endpoint.json", json.dumps(endpoint), mode=0o600)
    threading.Thread(target=end_when_idle, args=(spec, folder, activity), daemon=True).start()
    config = uvicorn.Config(
        create_serving_app(model, token, activity), log_level="warning", timeout_graceful_shutdown=2
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
