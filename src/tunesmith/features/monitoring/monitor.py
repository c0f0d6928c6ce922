"""What watches the machine beside the requests: made once by `create_app`, begun and ended with it."""

from __future__ import annotations

from tunesmith.features.monitoring.cleaning import Cleanups
from tunesmith.features.monitoring.processes import Processes
from tunesmith.features.monitoring.sampler import Sampler
from tunesmith.features.monitoring.storage import Storage
from tunesmith.live.bus import Bus
from tunesmith.settings import Settings
from tunesmith.storage.database import Database


class Monitor:
    """Found at `request.app.state.monitor`."""

    def __init__(self, settings: Settings, database: Database, bus: Bus) -> None:
        self.sampler = Sampler(settings, bus)
        self.processes = Processes(settings)
        self.cleanups = Cleanups(settings, database, bus)
        self.storage = Storage(settings, self.cleanups)

    def start(self) -> None:
        self.sampler.start()

    def stop(self) -> None:
        self.sampler.stop()
        self.storage.stop()
