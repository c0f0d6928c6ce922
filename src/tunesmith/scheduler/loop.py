"""The scheduler's thread."""

from __future__ import annotations

from tunesmith.live.bus import Bus
from tunesmith.settings import Settings
from tunesmith.storage.database import Database


class Scheduler:
    def __init__(self, settings: Settings, database: Database, bus: Bus) -> None:
        self.settings, self.database, self.bus = settings, database, bus

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def wake(self) -> None: ...
