"""How often somebody may guess: limits that slow an attacker down and leave the owner of an account alone.

A try is counted before it is looked at, so that many at once are no more than many one after another, and taken back when
it was right. What is counted drains with time; nothing is ever locked.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from tunesmith.core.errors import TooMany

MAX_PLACES = 20_000
"""Most places that are remembered, some 3 MB; the one that was used longest ago is forgotten first."""


class Budget(NamedTuple):
    """So many tries at once; each comes back after its share of the time."""

    tries: int
    seconds: float


FROM_ONE_ADDRESS = Budget(30, 60)
"""Of all accounts."""
OF_ONE_ACCOUNT = Budget(10, 60)
"""From one address, or from one device that its owner has logged in with."""
FROM_EVERYWHERE = Budget(100, 3600)
"""For one account, from all addresses and unknown devices: beyond it one try in 36 s, for whichever address is first."""
FIRST_OF_NETWORK = Budget(3, 3600)
"""For one account, besides that limit: who has hardly failed yet still gets through while others attack."""
REGISTRATIONS = Budget(10, 60)
"""From one address, or with one invitation."""
MAILS = Budget(5, 3600)
"""Links to a new password for one account."""

Place = tuple[Budget, str]


class Throttle:
    """Thread-safe."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._lock = now, threading.Lock()
        self._used: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        """By place: how many tries are counted, and when that was worked out."""

    def take(self, places: Sequence[Place], one_of: Sequence[Place] = ()) -> list[Place]:
        """Count a try in each of `places`, and in the first of `one_of` that has room. What was counted. Raises `TooMany`,
        with nothing counted, when one of the former is full, or all of the latter."""
        with self._lock:
            waits = [self._wait_s(place) for place in places]
            others = [self._wait_s(place) for place in one_of]
            wait_s = max([*waits, min(others, default=0.0)])
            if wait_s > 0:
                raise TooMany(
                    "Too many tries.",
                    hint=f"Wait {math.ceil(wait_s)} s. A browser that you have logged in with before is not held up by others.",
                )
            taken = [*places, *([one_of[others.index(0.0)]] if one_of else [])]
            for place in taken:
                self._add(place, 1.0)
            return taken

    def give_back(self, taken: Sequence[Place]) -> None:
        """It was right after all."""
        with self._lock:
            for place in taken:
                self._add(place, -1.0)

    def _level(self, place: Place) -> float:
        (tries, seconds), name = place
        level, at_s = self._used.get(_key(name), (0.0, 0.0))
        return max(0.0, level - (self._now() - at_s) * tries / seconds)

    def _wait_s(self, place: Place) -> float:
        tries, seconds = place[0]
        return max(0.0, self._level(place) + 1.0 - tries) * seconds / tries

    def _add(self, place: Place, tries: float) -> None:
        level, key = max(0.0, self._level(place) + tries), _key(place[1])
        self._used[key] = level, self._now()
        self._used.move_to_end(key)
        if len(self._used) > MAX_PLACES:
            self._used.popitem(last=False)


def guesses(what: str, account: str, address: str, device: str | None) -> tuple[list[Place], list[Place]]:
    """Where one guess at an account's password counts, for `Throttle.take`. A known device counts for itself alone: nobody
    else can use its tries up."""
    if device is not None:
        return [(OF_ONE_ACCOUNT, f"{what} device {account} {device}")], []
    near, far = network_of(address, 64), network_of(address, 48)
    each = [(OF_ONE_ACCOUNT, f"{what} pair {near} {account}"), (FROM_ONE_ADDRESS, f"{what} address {near}")]
    return each, [(FIRST_OF_NETWORK, f"{what} first {far} {account}"), (FROM_EVERYWHERE, f"{what} account {account}")]


def network_of(address: str, bits: int = 64) -> str:
    """Whom an address stands for: itself, or with IPv6 its network, for one customer has at least 2^64 of those."""
    try:
        version = ip_address(address).version
    except ValueError:
        return address
    return address if version == 4 else str(ip_network(f"{address}/{bits}", strict=False))


def _key(name: str) -> bytes:
    """Of one length, whatever somebody has written."""
    return hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=16).digest()
