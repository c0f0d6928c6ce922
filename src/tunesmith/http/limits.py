"""How large the body of a request may be. Uploads stream to disk under limits of their own."""

from __future__ import annotations

import re

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.core.errors import TooLarge

MAX_BODY_BYTES = 32 * 1024**2
STREAMED = re.compile(
    r"POST /api/v1/datasets/|PUT /api/v1/datasets/upload|PATCH /api/v1/datasets/uploads/[^/]+|"
    r"PUT /api/v1/registry/import/upload|POST /api/v1/(jobs|deployments)/[0-9]+/predict-file|(GET|HEAD|OPTIONS) .*",
    re.S,
)
"""Requests whose body is read as it comes, or that have none."""


class BodyLimit:
    """ASGI layer; counts what comes, whatever `Content-Length` says."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or STREAMED.fullmatch(f"{scope['method']} {scope['path']}"):
            await self.app(scope, receive, send)
            return
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # the client has gone
            size += len(message.get("body", b""))
            if size > MAX_BODY_BYTES:
                error = TooLarge(
                    f"The request is larger than {MAX_BODY_BYTES // 1024**2} MiB.", hint="Send files as uploads."
                )
                await JSONResponse(error.body(), status_code=error.status)(scope, receive, send)
                return
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        whole: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self.app(scope, replay, send)
