"""A producer that outlives its own failures: after some errors aiokafka's never recovers, and is made anew."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError

from engine.kafka import client

if TYPE_CHECKING:
    from engine.protocol.record import HeaderPairs
    from engine.settings import Settings

# After this the broker has not taken a record that somebody waits for; aiokafka itself would try for 40 s.
SEND_SECONDS = 10.0


class Outlet:
    """The producer that all of one kind in a process share.

    idempotent   a record that is sent again for want of an answer is not written twice; Apache Kafka only
    """

    def __init__(self, settings: Settings, *, idempotent: bool = False) -> None:
        self._settings, self._idempotent = settings, idempotent
        self._producer: Any = None
        self._making: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect; BrokerUnavailable when the broker does not answer."""
        producer = client.new_producer(self._settings, idempotent=self._idempotent)
        await client.start(producer, self._settings)
        self._producer = producer

    async def stop(self) -> None:
        """Flush and close."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)
        if self._producer is not None:
            self._leave(self._producer)
        await asyncio.gather(*self._closing)

    async def producer(self) -> Any:
        """The producer of now. Whoever asks may give up; it is made all the same, for the next one."""
        while self._producer is None:
            if self._making is None or self._making.done():
                self._making = asyncio.create_task(self.start())
                self._making.add_done_callback(_seen)
            await asyncio.shield(self._making)
        return self._producer

    def renew(self, broken: Any) -> None:
        """Leave a broken producer behind."""
        if self._producer is broken:
            self._leave(broken)

    def _leave(self, producer: Any) -> None:
        self._producer = None
        closing = asyncio.create_task(client.stop(producer))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def send(self, topic: str, partition: int, key: bytes, value: bytes | None, headers: HeaderPairs) -> None:
        """Write one record and wait until it is acknowledged. Raises KafkaError, BrokerUnavailable and TimeoutError."""
        producer = await self.producer()
        # A record over the client's own limit is refused here, and the producer is as good as before.
        sent = await producer.send(topic, value, key=key, partition=partition, headers=list(headers))
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await asyncio.shield(sent)
        except (KafkaError, TimeoutError):
            # Also when the broker found a record too large: an idempotent producer's next one would be out of order.
            self.renew(producer)
            raise
        finally:
            sent.add_done_callback(_seen)


def _seen(done: asyncio.Future[Any]) -> None:
    """A failure that nobody waits for any more is no error of the loop's."""
    with contextlib.suppress(asyncio.CancelledError):
        done.exception()
