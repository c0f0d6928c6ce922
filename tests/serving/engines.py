"""The gateway over small models in this process, behind the engines that run here, for the official client to ask."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from tunesmith.core.serving_spec import ServingSpec
from tunesmith.executors.serving_process import Endpoint
from tunesmith.features.deployments.gateway import Gateway
from tunesmith.features.deployments.gateway_api import router
from tunesmith.features.deployments.predict_api import hub
from tunesmith.features.deployments.routing import Route, Routes, Variant
from tunesmith.http.errors import install_error_handlers
from tunesmith.schemas.deployments import LocalSettings
from tunesmith.serving.app import Activity, create_serving_app
from tunesmith.serving.generation import Model
from tunesmith.serving.llama_cpp import _params, template_facts

CONTEXT_TOKENS = 256


class Records:
    """In place of the recorder, which needs a database: what would be written."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """Its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def transformers_engine(folder: Path) -> Iterator[Endpoint]:
    model = Model(str(folder), parallel=4, most_context_tokens=CONTEXT_TOKENS)
    with running(create_serving_app(model, "word", Activity())) as url:
        yield Endpoint(url, "word", limits=model.limits)


@contextlib.contextmanager
def llama_cpp_engine(gguf: Path) -> Iterator[Endpoint]:
    import xllamacpp

    spec = ServingSpec(engine="llama.cpp", base_path=str(gguf), context_tokens=CONTEXT_TOKENS, parallel=4, threads=1)
    params = _params(xllamacpp, spec, gguf, [])
    params.api_keys = ["word"]
    server = xllamacpp.Server(params)
    tools, limits = template_facts(server.listening_address, "word")
    yield Endpoint(server.listening_address, "word", tools, limits)


def route(name: str, engine: str, endpoint: Endpoint, number: int = 1, **more: Any) -> Route:
    variant = Variant(number, 1, "live", 100.0, f"{name}@1", engine, endpoint, None, None, 0)
    settings = LocalSettings(record_conversations=True, max_concurrent=3)
    told = {"sampling": {}, "system_prompt": "", "created": 1, **more}
    return Route(number, name, None, "team", settings, variants=(variant,), **told)


@contextlib.contextmanager
def gateway_over(*routes: Route) -> Iterator[tuple[str, Records]]:
    """Its address and what it writes down."""
    known, records = Routes(), Records()
    known.set(list(routes))
    known.wake = lambda: None
    app = FastAPI()
    install_error_handlers(app)
    app.include_router(router)
    app.include_router(hub)
    app.state.gateway = Gateway(known, records)  # type: ignore[arg-type]
    with running(app) as url:
        yield url, records
