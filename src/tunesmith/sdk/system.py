"""The machine that the server runs on, its storage and its settings."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

from tunesmith.schemas.system import (
    CleanupDone,
    CleanupRead,
    DirectoryRead,
    Overview,
    ProcessRead,
    ResourceHistory,
    SettingRead,
    StorageUse,
)
from tunesmith.sdk.connection import Connection, NotTunesmith, json_of

LOOK_EVERY_S = 0.2


class System:
    """`client.system`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def health(self) -> dict[str, Any]:
        """Raises `ServerUnreachable`, or `NotTunesmith` when something else answers there."""
        found = self._connection.get("/system/health")
        if not isinstance(found, dict) or "version" not in found:
            raise NotTunesmith(f"What answers at {self._connection.url} is no Tunesmith server.")
        return found

    def info(self) -> dict[str, Any]:
        return dict(self._connection.get("/system/info"))

    def doctor(self) -> list[dict[str, Any]]:
        return list(self._connection.get("/system/doctor"))

    def overview(self) -> Overview:
        """All at a glance: counts, activity, what runs, waits and needs attention."""
        return Overview.model_validate(self._connection.get("/system/overview"))

    def history(self, since_s: float = 0.0, points: int = 1000) -> ResourceHistory:
        """The machine over time, from `since_s` (seconds since 1970) on."""
        return ResourceHistory.model_validate(
            self._connection.get("/system/resources/history", since=since_s, points=points)
        )

    def processes(self) -> list[ProcessRead]:
        return [ProcessRead.model_validate(item) for item in self._connection.get("/system/processes")]

    def storage(self) -> StorageUse:
        """What is on the disk, by kind; waits for the first count."""
        while True:
            found = StorageUse.model_validate(self._connection.get("/system/storage"))
            if found.counted_at:
                return found
            time.sleep(LOOK_EVERY_S)

    def cleanup(self, name: str) -> CleanupRead:
        """What a clean-up would delete."""
        return CleanupRead.model_validate(self._connection.get(f"/system/storage/cleanups/{quote(name, safe='')}"))

    def clean_up(self, name: str) -> CleanupDone:
        """Delete it."""
        return CleanupDone.model_validate(self._connection.post(f"/system/storage/cleanups/{quote(name, safe='')}"))

    def settings(self) -> list[SettingRead]:
        return [SettingRead.model_validate(item) for item in self._connection.get("/system/settings/details")]

    def change_settings(self, **changes: Any) -> list[SettingRead]:
        """Takes effect now and is kept; None goes back to the default."""
        answer = self._connection.request("PATCH", "/system/settings", json=changes)
        return [SettingRead.model_validate(item) for item in json_of(answer)]

    def test_directory(self, path: str | None = None) -> DirectoryRead:
        """Whether the server can write there. Raises `InvalidInput` with the reason when it cannot."""
        body = {"path": path} if path else {}
        return DirectoryRead.model_validate(self._connection.post("/system/settings/test-directory", body))
