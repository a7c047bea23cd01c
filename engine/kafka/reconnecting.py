"""How soon an address that takes no connections is tried again.

aiokafka connects anew for each request, and a process has a dozen clients: one with two pipelines tried 600 times a
second and logged each, 14 % of a core beside a broker that wants to start. Here they wait for their turn, the longer
the broker is away, as those of other clients do (`reconnect.backoff.ms`).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import aiokafka.client
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from aiokafka.conn import AIOKafkaConnection

# Short enough that a broker that is back is found at once, as a caller sees it.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.25


class Address(NamedTuple):
    """Where a broker listens."""

    host: str
    port: int


class _Away(NamedTuple):
    """Until when nobody tries, and how long that is."""

    until: float
    pause: float


class Patience:
    """When addresses may be tried again that took no connection. Times are in seconds of one clock."""

    def __init__(self) -> None:
        self._away: dict[Address, _Away] = {}
        # Why nobody may connect at all; empty while they may.
        self.barred = ""

    def pause(self, address: Address, now: float) -> float:
        """How long to wait before it is tried."""
        away = self._away.get(address)
        return max(0.0, away.until - now) if away is not None else 0.0

    def failed(self, address: Address, now: float) -> None:
        """It took no connection. Several who tried at one time make one pause."""
        away = self._away.get(address)
        if away is None or now >= away.until:
            pause = FIRST_PAUSE if away is None else min(2 * away.pause, LONGEST_PAUSE)
            self._away[address] = _Away(now + pause, pause)

    def connected(self, address: Address) -> None:
        """It is there again."""
        self._away.pop(address, None)


# Of all clients of the process, on whatever loop.
_patience = Patience()


def install() -> None:
    """Have all clients of the process take turns from now on; there is no option for it."""
    aiokafka.client.create_conn = connect


def bar(reason: str) -> None:
    """Let nobody connect any more: what is left over for a broker that has ended is not for the one in its place."""
    _patience.barred = reason


def barred() -> bool:
    """Whether nobody may connect."""
    return bool(_patience.barred)


def admit() -> None:
    """Let clients connect again: those from before are stopped."""
    _patience.barred = ""


async def connect(host: str, port: int, **options: Any) -> AIOKafkaConnection:
    """As aiokafka's `create_conn`, when the address may be tried. Raises ConnectionRefusedError when nobody may."""
    address = Address(host, port)
    pause = _patience.pause(address, time.monotonic())
    if pause and not _patience.barred:
        await asyncio.sleep(pause)
    if _patience.barred:
        raise ConnectionRefusedError(_patience.barred)
    try:
        connection = await create_conn(host, port, **options)
    except (OSError, TimeoutError, KafkaError):
        _patience.failed(address, time.monotonic())
        raise
    _patience.connected(address)
    return connection
