"""Answers that are kept for the same request to come again."""

from __future__ import annotations

import time
from collections import OrderedDict

CACHE_BYTES = 64 * 1024**2
"""Of all kept answers together."""
MAX_KEPT_BYTES = 1024**2
"""Of one kept answer."""


class AnswerCache:
    """Lives in the server's event loop. The oldest make room."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0

    def find(self, key: str | None) -> bytes | None:
        """The answer, if it is still fresh."""
        found = self._kept.get(key) if key else None
        return found[1] if found and found[0] > time.monotonic() else None

    def keep(self, key: str | None, answer: bytes, for_s: float) -> None:
        if key is None or len(answer) > MAX_KEPT_BYTES:
            return
        if old := self._kept.pop(key, None):
            self._bytes -= len(old[1])
        self._kept[key] = (time.monotonic() + for_s, answer)
        self._bytes += len(answer)
        while self._bytes > CACHE_BYTES:
            _, (_until, oldest) = self._kept.popitem(last=False)
            self._bytes -= len(oldest)
