"""Records as batches, straight to the leaders of their partitions.

aiokafka's producer keeps a queue for each partition, and who writes a whole batch waits until it is empty. Where many
write to one partition, as fifty pipelines do to the topics of a model that they share, that wait ends too early (0.14:
each time that the queue empties for somebody else, all the time since the beginning is taken off again), and what was
written is written once more. And its encoding copies each batch once for every level of a request's structure.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from aiokafka.errors import KafkaError, for_code
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from engine.kafka import client
from engine.kafka.wire import REQUEST_SECONDS, Connection, Place, Produce, by_topic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from engine.kafka.checkpoint import Early, Unit
    from engine.settings import Settings

# Key, value, headers.
Record: TypeAlias = "tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]"

# Partitions' batches go out in requests of at most so much, unless one batch is larger: from 1 MB on the C library asks
# the system for the memory of each copy, and the system clears it (`cli.serve`).
REQUEST_BYTES = 900 * 1024

# When the broker has taken nothing for so long, who writes is told.
SILENCE_SECONDS = 10.0

_OK = 0
_TOO_LARGE = {10, 18}
_ALL_REPLICAS = -1
_NO_SEQUENCE = -1

# Where the numbers of a producer's records begin anew.
LARGEST_SEQUENCE = 2**31


class Batch(NamedTuple):
    """Records of one partition as they go out. `first`: which of all those of the partition its first record is."""

    place: Place
    first: int
    records: Sequence[Record]
    data: bytearray


class BatchTooLarge(Exception):
    """A topic does not take so large a batch. `first` and `count`: its records among those of the place."""

    def __init__(self, place: Place, first: int, count: int, size: int) -> None:
        super().__init__(f"topic {place[0]} does not take a batch of {size} bytes")
        self.place, self.first, self.count, self.size = place, first, count, size

    @classmethod
    def of(cls, batch: Batch) -> BatchTooLarge:
        """The error of this batch."""
        return cls(batch.place, batch.first, len(batch.records), len(batch.data))


class Session(NamedTuple):
    """As whom a transactional producer writes."""

    transactional_id: str
    producer: int
    epoch: int


class Limits:
    """How large batches may be: what one topic has refused is halved."""

    def __init__(self, settings: Settings) -> None:
        self._largest = settings.max_message_bytes + client.OVERHEAD_BYTES
        self._of_topics: dict[str, int] = {}

    def of(self, topic: str) -> int:
        """How large a batch of more than one record may become, in bytes."""
        return min(client.BATCH_BYTES, self._of_topics.get(topic, client.BATCH_BYTES))

    def check(self, batch: Batch) -> None:
        """Raise BatchTooLarge when no broker takes it."""
        if len(batch.data) > self._largest:
            raise BatchTooLarge.of(batch)

    def lower(self, error: BatchTooLarge) -> bool:
        """Whether smaller batches may do, which are made from now on; else it is one record that is too large."""
        if error.count == 1:
            return False
        self._of_topics[error.place[0]] = max(1, error.size // 2)
        return True


def by_place(units: Iterable[Unit | Early]) -> dict[Place, list[Record]]:
    """The records of each partition in their order."""
    records: dict[Place, list[Record]] = {}
    for unit in units:
        key = unit.key
        for topic, partition, value, headers in unit.records:
            place = (topic, partition)
            found = records.get(place)
            if found is None:
                found = records[place] = []
            found.append((key, value, headers))
    return records


def rounds(
    records: Mapping[Place, Sequence[Record]],
    limits: Limits,
    session: Session | None = None,
    sequences: Mapping[Place, int] | None = None,
) -> Iterator[list[Batch]]:
    """At most one batch of each partition at a time, made when it is asked for. Raises BatchTooLarge.

    Those of a transaction need the session and, for each partition, the number of its first record.
    """
    sequences = sequences or {}
    each = [
        _batches(place, found, limits, session, sequences.get(place, _NO_SEQUENCE)) for place, found in records.items()
    ]
    for found in itertools.zip_longest(*each):
        yield [batch for batch in found if batch is not None]


def _batches(
    place: Place, records: Sequence[Record], limits: Limits, session: Session | None, sequence: int
) -> Iterator[Batch]:
    producer, epoch = (session.producer, session.epoch) if session is not None else (-1, -1)
    at = 0
    while at < len(records):
        # The encoder itself: through aiokafka's batch a record costs 2.3 µs, and so 0.9, five times for each request.
        number = sequence if session is None else (sequence + at) % LARGEST_SEQUENCE
        builder = DefaultRecordBatchBuilder(2, 0, session is not None, producer, epoch, number, limits.of(place[0]))
        append, first = builder.append, at
        for offset, (key, value, headers) in enumerate(records[first:] if first else records):
            if append(offset, None, key, value, headers) is None:  # None: now
                break
            at += 1
        batch = Batch(place, first, records[first:at], builder.build())
        limits.check(batch)
        yield batch


async def send(connection: Connection, batches: Iterable[Batch], session: Session | None) -> list[Sent]:
    """Have all leaders take these at once, at most one of each partition. Each says what became of it.

    Raises KafkaError, TimeoutError or OSError when it is not known who leads them; then none was sent.
    """
    requests: dict[int, list[list[Batch]]] = {}
    async with asyncio.timeout(REQUEST_SECONDS):
        for batch in batches:
            mine = requests.setdefault(await connection.leader(batch.place), [[]])
            if mine[-1] and sum(len(other.data) for other in mine[-1]) + len(batch.data) > REQUEST_BYTES:
                mine.append([])
            mine[-1].append(batch)
    found = await asyncio.gather(
        *(
            _send_to(connection, leader, request, session.transactional_id if session is not None else None)
            for leader, its in requests.items()
            for request in its
        )
    )
    return [sent for each in found for sent in each]


class Sent(NamedTuple):
    """What became of a batch: the offset behind its last record, or the error for which it was not taken."""

    batch: Batch
    end: int = -1
    error: Exception | None = None


async def _send_to(
    connection: Connection, leader: int, batches: Sequence[Batch], transactional_id: str | None
) -> list[Sent]:
    topics = by_topic((batch.place[0], (batch.place[1], batch.data)) for batch in batches)
    request = Produce(transactional_id, _ALL_REPLICAS, int(REQUEST_SECONDS * 1000), topics)
    try:
        answer = await connection.send(leader, request)
    except (KafkaError, TimeoutError, OSError) as error:
        connection.moved()
        return [Sent(batch, error=error) for batch in batches]
    except BaseException:
        connection.moved()
        raise
    of = {batch.place: batch for batch in batches}
    return [
        _sent(connection, of[topic, number], code, offset)
        for topic, partitions in answer.topics
        for number, code, offset, *_ in partitions
    ]


def _sent(connection: Connection, batch: Batch, code: int, offset: int) -> Sent:
    if code == _OK:
        return Sent(batch, offset + len(batch.records))
    if code in _TOO_LARGE:
        return Sent(batch, error=BatchTooLarge.of(batch))
    connection.moved()
    topic, number = batch.place
    return Sent(batch, error=for_code(code)(f"{topic} [{number}]"))


class Writer:
    """Writes at least once: what no answer came for is written again."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connection, self._limits = Connection(settings), Limits(settings)

    async def start(self) -> None:
        """Connect; BrokerUnavailable when the broker does not answer."""
        try:
            await asyncio.wait_for(self._connection.start(), client.CONNECT_TIMEOUT)
        except (KafkaError, TimeoutError, OSError) as error:
            raise client.unavailable(self._settings, error) from error

    async def stop(self) -> None:
        """Close the connections."""
        await self._connection.stop()

    async def write(self, units: Iterable[Unit | Early]) -> None:
        """Write all records of these and wait until all replicas have them.

        Raises BatchTooLarge of a single record, and KafkaError, TimeoutError or OSError when the broker takes nothing.
        """
        await self._write(by_place(units))

    async def _write(self, records: Mapping[Place, Sequence[Record]]) -> None:
        for batches in rounds(records, self._limits):
            await self._write_round(batches)

    async def _write_round(self, batches: Sequence[Batch]) -> None:
        left, moved = batches, time.monotonic()
        while left:
            again = []
            for batch, _, error in await send(self._connection, left, None):
                if error is None:
                    moved = time.monotonic()
                elif isinstance(error, BatchTooLarge):
                    if not self._limits.lower(error):
                        raise error
                    await self._write({batch.place: batch.records})
                elif time.monotonic() - moved > SILENCE_SECONDS or not _passes(error):
                    raise error
                else:
                    again.append(batch)
            left = again
            if left:
                await asyncio.sleep(client.RETRY_BACKOFF_MS / 1000)


def _passes(error: Exception) -> bool:
    """Whether the same may be taken a moment later."""
    return bool(error.retriable) if isinstance(error, KafkaError) else True
