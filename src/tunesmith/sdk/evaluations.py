"""`client.evaluations`."""

from __future__ import annotations

from tunesmith.sdk.connection import Connection


class Evaluations:
    """`client.evaluations`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
