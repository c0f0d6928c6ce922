"""`client.deployments`."""

from __future__ import annotations

from tunesmith.sdk.connection import Connection


class Deployments:
    """`client.deployments`."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
