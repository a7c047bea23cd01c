"""A producer that outlives its own failures: after some errors aiokafka's never recovers, and is made anew."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from engine.kafka import client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from engine.kafka.checkpoint import Early, Unit
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

    async def write(self, requests: Sequence[Unit | Early]) -> None:
        """Write all records of these requests and wait until each is acknowledged. Raises KafkaError."""
        producer = await self.producer()
        places: dict[tuple[str, int], _Batches] = {}
        for request in requests:
            key = request.key
            for topic, partition, value, headers in request.records:
                batches = places.get((topic, partition))
                if batches is None:
                    batches = places[topic, partition] = _Batches(producer.create_batch)
                if batches.append(batches.count, None, key, value, headers) is None:
                    batches.turn()
                    batches.append(0, None, key, value, headers)
                batches.count += 1
        try:
            await asyncio.gather(*(_send(producer, *place, each.end()) for place, each in places.items()))
        except MessageSizeTooLargeError:
            raise
        except KafkaError:
            self.renew(producer)
            raise


class _Batches:
    """Batches for one partition, each filled before the next is begun.

    Records go straight to the encoder of aiokafka's batch: through the batch's own `append` a record costs 2.3 µs, and
    so 0.9 µs, which five times for each request of a chain is a seventh of all its CPU. Who appends counts.

    append   (number of the record in the batch, timestamp, key, value, headers); None when the batch is full
    count    the records of the last batch
    """

    __slots__ = ("_all", "_create", "append", "count")

    def __init__(self, create: Callable[[], Any]) -> None:
        self._create = create
        self._all: list[Any] = []
        self.turn()

    def turn(self) -> None:
        """Begin the next batch."""
        self.end()
        self._all.append(self._create())
        self.append, self.count = self._all[-1]._builder.append, 0  # noqa: SLF001  see above

    def end(self) -> list[Any]:
        """All batches, closed."""
        for batch in self._all[-1:]:
            batch._relative_offset = self.count  # noqa: SLF001  how many it says that it holds
            batch.close()
        return self._all


async def _send(producer: Any, topic: str, partition: int, builders: Iterable[Any]) -> None:
    for builder in builders:
        await (await producer.send_batch(builder, topic, partition=partition))


def _seen(done: asyncio.Future[Any]) -> None:
    """A failure that nobody waits for any more is no error of the loop's."""
    with contextlib.suppress(asyncio.CancelledError):
        done.exception()
