"""Who gets into a serving process, when it was last asked, and what it says to a request that cannot be read. For all engines."""

from __future__ import annotations

import contextlib
import hmac
import time
from collections.abc import Iterator

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tunesmith.core.errors import InvalidInput
from tunesmith.core.validation import message_of


class Activity:
    """When somebody last asked for something."""

    def __init__(self) -> None:
        self.last_s = time.monotonic()
        self.active = 0

    def idle_s(self) -> float:
        return 0.0 if self.active else time.monotonic() - self.last_s

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Within the block somebody waits for an answer."""
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
            self.last_s = time.monotonic()


class OnlyTheServer:
    """Lets in who knows the token. It hands requests on as they are: starlette's own wrapper hides that a client left."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            given = Headers(scope=scope).get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._token):
                refused = JSONResponse({"error": "permission_denied", "message": "Wrong token."}, status_code=401)
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)


def invalid_body(error: RequestValidationError) -> JSONResponse:
    """All that is wrong with a body at once, as 400."""
    details = [{"loc": ".".join(map(str, p["loc"][1:])), "message": message_of(p)} for p in error.errors()]
    where = "; ".join(f"{detail['loc']}: {detail['message']}" for detail in details[:5])
    return JSONResponse(InvalidInput(where, details=details).body(), status_code=400)
