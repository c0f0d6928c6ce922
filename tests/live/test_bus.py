"""The bus: order kept, slow readers dropped, others undisturbed."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tunesmith.live import bus as bus_module
from tunesmith.live.bus import Bus, Dropped


def test_messages_from_another_thread_arrive_in_order() -> None:
    async def main() -> None:
        bus = Bus()
        async with bus.subscribe("job:1") as reader:
            thread = threading.Thread(target=lambda: [bus.publish("job:1", n) for n in range(500)])
            thread.start()
            got = [await reader.get(5) for _ in range(500)]
            thread.join()
        assert got == list(range(500))
        bus.publish("job:1", "nobody listens")
        assert bus._readers == {}

    asyncio.run(main())


def test_topics_are_apart_and_waiting_ends() -> None:
    async def main() -> None:
        bus = Bus()
        async with bus.subscribe("a", "b") as reader:
            bus.publish("c", 1)
            bus.publish("b", 2)
            assert await reader.get(1) == 2
            assert await reader.get(0.01) is None

    asyncio.run(main())


def test_a_reader_that_falls_behind_is_dropped_and_the_other_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus_module, "MAX_QUEUED", 10)

    async def main() -> None:
        bus = Bus()
        async with bus.subscribe("t") as slow, bus.subscribe("t") as quick:
            got = []
            for n in range(30):
                bus.publish("t", n)
                got.append(await quick.get(1))
            assert got == list(range(30))
            assert [await slow.get(1) for _ in range(10)] == list(range(10))
            with pytest.raises(Dropped):
                await slow.get(1)

    asyncio.run(main())
