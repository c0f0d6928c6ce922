"""`client.registry`."""

from __future__ import annotations

from tunesmith.sdk.connection import Connection


class Registry:
    """`client.registry`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
