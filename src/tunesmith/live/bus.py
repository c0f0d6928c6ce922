"""Publish and subscribe inside one server process. Queues are bounded: a reader that falls behind is dropped
and comes back with its last sequence number, so one slow browser never delays the others."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

MAX_QUEUED = 1000
"""Messages a reader may be behind."""


class Dropped(Exception):
    """This reader fell too far behind; subscribe again from the last sequence number."""


class Subscription:
    """One reader's queue; lives in the event loop that made it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._dropped = False

    def offer(self, message: Any) -> None:
        """Called from any thread."""
        with contextlib.suppress(RuntimeError):  # the reader's loop is closed: it is gone
            self._loop.call_soon_threadsafe(self._put, message)

    def _put(self, message: Any) -> None:
        if self._queue.qsize() >= MAX_QUEUED:
            self._dropped = True
        if not self._dropped:
            self._queue.put_nowait(message)

    async def get(self, timeout_s: float | None = None) -> Any:
        """The next message, or None after `timeout_s`. Raises `Dropped` once the queue is drained after an overflow."""
        if self._dropped and self._queue.empty():
            raise Dropped
        try:
            return await asyncio.wait_for(self._queue.get(), timeout_s)
        except TimeoutError:
            return None


class Bus:
    """Topics are strings such as `job:7` or `jobs`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readers: dict[str, set[Subscription]] = {}

    def publish(self, topic: str, message: Any) -> None:
        """Thread-safe; never blocks."""
        with self._lock:
            readers = list(self._readers.get(topic, ()))
        for reader in readers:
            reader.offer(message)

    def subscribe(self, *topics: str) -> Subscribing:
        """`async with bus.subscribe("job:7") as reader:`"""
        return Subscribing(self, topics)

    def join(self, reader: Subscription, topics: tuple[str, ...]) -> None:
        with self._lock:
            for topic in topics:
                self._readers.setdefault(topic, set()).add(reader)

    def leave(self, reader: Subscription, topics: tuple[str, ...]) -> None:
        with self._lock:
            for topic in topics:
                self._readers[topic].discard(reader)
                if not self._readers[topic]:
                    del self._readers[topic]


class Subscribing:
    """Joins and leaves. No generator: a stream whose reader has gone is closed by the garbage collector, which would
    close a generator inside it first and out of turn."""

    def __init__(self, bus: Bus, topics: tuple[str, ...]) -> None:
        self._bus, self._topics = bus, topics

    async def __aenter__(self) -> Subscription:
        self._reader = Subscription()
        self._bus.join(self._reader, self._topics)
        return self._reader

    async def __aexit__(self, *_error: object) -> None:
        self._bus.leave(self._reader, self._topics)
