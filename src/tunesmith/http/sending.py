"""Sending a file that has been opened already, so that nothing can be put in its place in between."""

from __future__ import annotations

import os

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send


class OpenFile(FileResponse):
    """The file behind a descriptor, with ranges; the descriptor is closed when it is sent."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(
            f"/dev/fd/{descriptor}",
            media_type="application/octet-stream",
            filename=name,
            stat_result=os.fstat(descriptor),
            headers={"X-Content-Type-Options": "nosniff"},
        )
        self.descriptor = descriptor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            os.close(self.descriptor)
