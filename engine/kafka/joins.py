"""Pipelines that feed pipelines: records of other pipelines' topics become records on a pipeline's own inputs topic.

What is read from there is a request like any other, so that it can be inspected and run again, and a pipeline that
others feed can still be called directly. Where several sources are joined by key, what waits for its partners stands
in a changelog topic; the request goes out before the changelog says that it did, and offsets move after both: a crash
in between makes a request twice rather than never.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiokafka
from aiokafka.errors import KafkaError

from engine.dataflow import steps
from engine.dataflow.keyed import Arrival, Fired, KeyedJoin
from engine.errors import InvalidInput, NewerFormat, Overloaded, RequestError, TooLarge
from engine.kafka import client
from engine.kafka.checkpoint import Made, Taken
from engine.kafka.decoding import decode
from engine.kafka.leases import TopicPartition
from engine.protocol import columns as col
from engine.protocol.record import (
    ERROR_CODE,
    ERROR_CODES,
    ERROR_STEP,
    INFER_TYPE,
    PIPELINE,
    REQUEST_ID,
    Owner,
    Side,
    header,
    travelling,
)
from engine.resources import Join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from engine.dataflow.external import Source, Upstream
    from engine.dataflow.keyed import Change, Outcome
    from engine.kafka.budget import Share
    from engine.kafka.checkpoint import Checkpoints
    from engine.kafka.leases import Lease, Leases
    from engine.protocol.record import HeaderPairs, Topics
    from engine.settings import Settings

log = logging.getLogger(__name__)

# The header of a changelog record that says which record of a source caused it.
POSITION = "position"

# A broker that is away while waiting entries are read back is asked again after this long.
RETRY_SECONDS = 1.0

# How late a window may end when no record comes that would show it.
TICK_SECONDS = 0.25


@dataclass(slots=True)
class _Waiting:
    """The join of one partition number, and the leases under which its records were read."""

    leases: Mapping[str, Lease | None]
    join: KeyedJoin

    @property
    def lease(self) -> Lease | None:
        """One that is still ours."""
        return next((lease for lease in self.leases.values() if lease is not None and lease.held), None)


class Joiner:
    """Makes the requests of one pipeline from the records of others."""

    def __init__(
        self,
        pipeline: str,
        upstream: Upstream,
        topics: Topics,
        settings: Settings,
        new_request_id: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self.upstream = upstream
        self._name, self._topics, self._settings = pipeline, topics, settings
        self._new_request_id, self._clock = new_request_id, clock
        self._inputs = topics.of(Owner.PIPELINE, pipeline, Side.INPUTS)
        self._changelog = topics.joins(pipeline)
        self._sources: dict[str, list[tuple[int, Source]]] = {}
        for index, source in enumerate(upstream.sources):
            name = topics.of(source.owner, source.name, source.side)
            self._sources.setdefault(name, []).append((index, source))
        self._waiting: dict[int, _Waiting] = {}
        self._leases: Leases
        self._checkpoints: Checkpoints
        self._budget: Share
        self._restoring = asyncio.Lock()
        self._ticking: asyncio.Task[None] | None = None
        # Why nothing can be made of what waits; whoever has started it is to stop it then.
        self.refusal = ""

    @property
    def topics(self) -> list[str]:
        """The topics that it reads."""
        return list(self._sources)

    def start(self, leases: Leases, checkpoints: Checkpoints, budget: Share) -> None:
        """Begin, for a worker whose partitions and checkpoints these are."""
        self._leases, self._checkpoints, self._budget = leases, checkpoints, budget
        if self.upstream.joins:
            self._ticking = asyncio.create_task(self._tick())

    async def stop(self) -> None:
        """End; what waits stands in the changelog."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)

    @property
    def waiting(self) -> int:
        """How many requests have a place in a join here."""
        return sum(len(waiting.join) for waiting in [*self._waiting.values()])

    @property
    def crashed(self) -> bool:
        """Whether windows are not looked after any more; it must be replaced then."""
        return self._ticking is not None and self._ticking.done()

    async def take(self, lease: Lease, records: Sequence[Any]) -> bool:
        """One partition's records of a poll; False when its topics must be read again from their committed offsets."""
        waiting = None
        if self.upstream.joins:
            if not self._trusted(lease.partition.partition):
                return False
            waiting = await self._restored(lease.partition.partition)
            if not lease.held:
                return True  # whoever has the partition now reads these records again
        lease.watermark.take([records[-1].offset], records[-1].offset + 1)
        made, arrivals = self._read(lease, records)
        place = f"{lease.partition.topic} [{lease.partition.partition}] offset {records[0].offset}"
        size = sum(len(record.value or b"") for record in records)
        self._budget.take(size)
        outcome = waiting.join.offer(arrivals, self._clock()) if waiting is not None else None
        changes: list[Made] = []
        if outcome is not None:
            made += self._outcome(lease, place, outcome)
            changes = self._changes(lease, place, outcome.changes)
        else:
            made += [self._request(lease, place, fired) for fired in map(self._lone, arrivals) if fired is not None]
        self._checkpoints.finished([*made, Taken(lease, place, records[-1].offset, size, changes)])
        return True

    def _trusted(self, partition: int) -> bool:
        """Whether what waits was read under the leases of now.

        When only some of them were lost (a poll went missing), entries are half from records whose checkpoint was
        dropped: all of the partition number is read again.
        """
        waiting = self._waiting.get(partition)
        if waiting is None or waiting.leases == self._leases_of(partition):
            return True
        del self._waiting[partition]
        if waiting.lease is None:
            return True
        for topic in self._sources:
            self._leases.lose(TopicPartition(topic, partition))
        return False

    def _leases_of(self, partition: int) -> dict[str, Lease | None]:
        return {topic: self._leases.held.get(TopicPartition(topic, partition)) for topic in self._sources}

    async def _restored(self, partition: int) -> _Waiting:
        """What waits of a partition number, read back from the changelog when it has become ours."""
        async with self._restoring:
            while partition not in self._waiting:
                leases = self._leases_of(partition)
                # Of our own, what is being written still counts; what was not begun was dropped with its lease.
                await self._checkpoints.written()
                join = KeyedJoin(self.upstream, self._settings.join_max_entries)
                try:
                    await self._read_back(partition, join)
                except (KafkaError, OSError, TimeoutError) as error:
                    log.warning("could not read %s, trying again: %s", self._changelog, error or type(error).__name__)
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                except NewerFormat as error:
                    self.refusal = f"{error} ({self._changelog})"
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                self._waiting[partition] = _Waiting(leases, join)
            return self._waiting[partition]

    async def _read_back(self, partition: int, join: KeyedJoin) -> None:
        reader = client.new_reader(self._settings, fetch_wait_ms=client.SHORT_FETCH_WAIT_MS)
        tp = aiokafka.TopicPartition(self._changelog, partition)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(client.CONNECT_TIMEOUT) as patience:
                await reader.start()
                reader.assign([tp])
                end = await self._end_of(tp)
                while await reader.position(tp) < end:
                    for record in (await reader.getmany(tp, timeout_ms=1000)).get(tp, ()):
                        self._restore(join, record)
                        # A long changelog takes its time; only a broker that says nothing is given up.
                        patience.reschedule(loop.time() + client.CONNECT_TIMEOUT)
        finally:
            await client.stop(reader)

    async def _end_of(self, partition: aiokafka.TopicPartition) -> int:
        """The offset after the last record, committed or not: a commit shows here later than at its offsets."""
        reader = client.new_reader(self._settings, isolation="read_uncommitted")
        try:
            await reader.start()
            return int((await reader.end_offsets([partition]))[partition])
        finally:
            await client.stop(reader)

    def _restore(self, join: KeyedJoin, record: Any) -> None:
        position = dict(record.headers).get(POSITION)
        if not join.restore(record.key, record.value, position, self._clock()):
            log.warning("passed over a record of %s that this version cannot use", self._changelog)

    def _read(self, lease: Lease, records: Sequence[Any]) -> tuple[list[Made], list[Arrival]]:
        """What of the records is for us, in their order, and errors for those that cannot be read."""
        refused: list[Made] = []
        arrivals: list[Arrival] = []
        for index, source in self._sources[lease.partition.topic]:
            mine = [record for record in records if _is_of(source, record.headers)]
            if mine:
                found, faults = self._arrivals(index, source, mine)
                arrivals += found
                refused += [self._error(lease, record, error) for record, error in faults]
        arrivals.sort(key=lambda arrival: arrival.offset)
        return refused, arrivals

    def _arrivals(
        self, index: int, source: Source, records: Sequence[Any]
    ) -> tuple[list[Arrival], list[tuple[Any, RequestError]]]:
        keyed = [record for record in records if record.key or not self.upstream.joins]
        faults: list[tuple[Any, RequestError]] = [
            (record, InvalidInput(f'the record has no key, and pipeline "{self._name}" joins {source} by it'))
            for record in records
            if not record.key and self.upstream.joins
        ]
        written = col.RESPONSE if source.side is Side.OUTPUTS else None
        values = [(record.value or b"", header(record.headers, INFER_TYPE)) for record in keyed]
        groups, refused = decode(values, written, most_bytes=self._settings.max_message_bytes)
        faults += [(keyed[row], error) for row, error in refused]
        arrivals = []
        for group in groups:
            for row, parts in zip(group.rows, self._parts(index, group.columns), strict=True):
                if parts:
                    record = keyed[row]
                    headers = tuple(travelling(record.headers))
                    at = record.timestamp / 1000
                    arrivals.append(Arrival(index, record.offset, record.key or b"", at, headers, parts))
        return arrivals, faults

    def _parts(self, index: int, columns: col.Columns) -> list[dict[int, bytes]]:
        """For each row what the edges of a source take of it; nothing where it lacks the tensors."""
        parts: list[dict[int, bytes]] = [{} for _ in columns.ids]
        for position, edge in enumerate((*self.upstream.edges, *self.upstream.triggers)):
            selected = steps.select(columns, edge) if edge.source == index else None
            if selected is None:
                continue
            data = position < len(self.upstream.edges)
            values = col.encode(selected, col.REQUEST) if data else [b""] * len(parts)
            for found, value in zip(parts, values, strict=True):
                found[position] = value
        return parts

    def _lone(self, arrival: Arrival) -> Fired | None:
        """What a record of the only source gives: there is nothing to wait for."""
        upstream, count = self.upstream, len(self.upstream.edges)
        given = sorted(arrival.parts)
        data, gates = [at for at in given if at < count], [at for at in given if at >= count]
        if not _met(upstream.join, len(data), count):
            return None
        if upstream.triggers and not _met(upstream.triggers_join, len(gates), len(upstream.triggers)):
            return None
        taken = data[:1] if upstream.join is Join.ANY else data
        return Fired(arrival.key, arrival.headers, tuple(arrival.parts[position] for position in taken))

    def _outcome(self, lease: Lease, place: str, outcome: Outcome) -> list[Made]:
        made = [self._request(lease, place, fired) for fired in outcome.fired]
        most = self._settings.join_max_entries
        gone = Overloaded(f"{most} requests wait for their partners in the join of {self._sources_listed}")
        return [*made, *(self._made_error(lease, place, e.key, e.headers, gone) for e in outcome.evicted)]

    @property
    def _sources_listed(self) -> str:
        return ", ".join(map(str, self.upstream.sources))

    def _changes(self, lease: Lease, place: str, changes: Iterable[Change]) -> list[Made]:
        partition = lease.partition.partition
        return [
            Made(
                lease,
                place,
                change.key,
                (self._changelog, partition, change.value, [(POSITION, change.position)] if change.position else []),
            )
            for change in changes
        ]

    def _request(self, lease: Lease, place: str, fired: Fired) -> Made:
        """A request on the pipeline's own inputs topic."""
        value = fired.parts[0] if len(fired.parts) == 1 else _merged(fired.parts)
        if len(value) > self._settings.max_message_bytes:
            limit = TooLarge(f"the joined request is over the limit of {self._settings.max_message_bytes} bytes")
            return self._made_error(lease, place, fired.key, fired.headers, limit)
        headers = [*self._identified(fired.headers), (PIPELINE, self._name.encode())]
        return Made(lease, place, fired.key or None, (self._inputs, lease.partition.partition, value, headers))

    def _identified(self, headers: HeaderPairs) -> list[tuple[str, bytes | None]]:
        if header(headers, REQUEST_ID) is not None:
            return list(headers)
        return [*headers, (REQUEST_ID, self._new_request_id().encode())]

    def _error(self, lease: Lease, record: Any, error: RequestError) -> Made:
        place = f"{lease.partition.topic} [{lease.partition.partition}] offset {record.offset}"
        return self._made_error(lease, place, record.key, travelling(record.headers), error)

    def _made_error(
        self, lease: Lease, place: str, key: bytes | None, headers: HeaderPairs, error: RequestError
    ) -> Made:
        marks = [
            *self._identified(headers),
            (PIPELINE, self._name.encode()),
            (ERROR_STEP, self._name.encode()),
            (ERROR_CODE, ERROR_CODES[type(error)].encode()),
        ]
        text = f"{place}: {error.text}".encode()
        return Made(lease, place, key or None, (self._topics.errors, lease.partition.partition, text, marks))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            await self._look_at_the_clock()

    async def _look_at_the_clock(self) -> None:
        """End windows that no record ends, of whatever partitions are ours."""
        await self._follow_partitions()
        for partition, waiting in self._waiting.items():
            # What was read under other leases is read again before anything is made of it: see `_trusted`.
            if waiting.leases == self._leases_of(partition):
                self._expire(waiting)

    async def _follow_partitions(self) -> None:
        """Forget what waits on partitions that were lost, and read back what waits on those that have come."""
        for partition, waiting in list(self._waiting.items()):
            if waiting.lease is None:
                del self._waiting[partition]
        for partition in {tp.partition for tp in self._leases.held if tp.topic in self._sources}:
            if partition not in self._waiting and None not in self._leases_of(partition).values():
                await self._restored(partition)

    def _expire(self, waiting: _Waiting) -> None:
        now, lease, due = self._clock(), waiting.lease, waiting.join.next_expiry()
        if lease is None or due is None or due > now:
            return
        outcome = waiting.join.expire(now)
        place = f"the join of {self._sources_listed}"
        changes = self._changes(lease, place, outcome.changes)
        self._checkpoints.finished([*self._outcome(lease, place, outcome), Taken(lease, place, None, 0, changes)])


def _merged(parts: Iterable[bytes]) -> bytes:
    """Several encoded requests as one: their tensors side by side, id and parameters of the first."""
    read = [col.from_message(col.REQUEST.message.FromString(part), col.REQUEST) for part in parts]
    return col.encode(steps.merge(read), col.REQUEST)[0]


def _met(join: Join, given: int, wanted: int) -> bool:
    return given == wanted if join is Join.INNER else given > 0


def _is_of(source: Source, headers: HeaderPairs) -> bool:
    """Whether a record on a source's topic is one of that pipeline; what tells of an error is passed over."""
    named = None
    for name, value in headers:
        if name == ERROR_STEP:
            return False
        if name == PIPELINE and named is None:
            named = value
    if named is None:
        # Anybody may write to a pipeline's inputs without naming it.
        return source.owner is Owner.PIPELINE and source.side is Side.INPUTS
    return bool(named == source.pipeline.encode())
