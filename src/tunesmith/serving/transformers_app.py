"""The engine that runs every model that transformers can load."""

from __future__ import annotations

import socket

import uvicorn

from tunesmith.serving.app import Activity, create_serving_app
from tunesmith.serving.generation import Model
from tunesmith.serving.process import Process


def serve(process: Process) -> None:
    """Load the base model and answer until the process is told to end."""
    spec, activity = process.spec, Activity()
    model = Model(
        spec.base_path, offline=spec.offline, revision=spec.revision, threads=spec.threads, parallel=spec.parallel,
        merged_adapter=spec.merged_adapter, most_context_tokens=spec.context_tokens if spec.idle_s is None else None,
    )  # fmt: skip
    listener = socket.create_server(("127.0.0.1", 0))
    # Connections inherit it: without it, each token may wait for the acknowledgement of the one before.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    process.ready(listener.getsockname()[1], activity.idle_s, limits=model.limits)
    app = create_serving_app(model, process.token, activity)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)).run(sockets=[listener])
