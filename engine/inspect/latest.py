"""The latest records of a pipeline: `newest` and `of_latest_requests` decide, without a broker; `Tails` reads."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import aiokafka

from engine.kafka import reading
from engine.protocol.record import PIPELINE, REQUEST_ID, Record, header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from engine.inspect.expression import Source
    from engine.kafka.search import Search
    from engine.protocol.record import Headers

    # What is kept of a record of a topic: it is called as the records are read, so that they need not all be held.
    Kept: TypeAlias = Callable[[Record, "Source | None"], Record]

# A model's topics carry the records of every pipeline that uses it, and transactions leave markers: behind those
# the pipeline's own are looked for this many offsets back in each partition, and no farther.
FARTHEST = 4096

# By how much the look back grows when what was read holds too few records of the pipeline.
_WIDER = 8


@dataclass(frozen=True, slots=True)
class TopicRecords:
    """What was found on one topic, oldest first."""

    source: Source
    records: tuple[Record, ...]


def belongs(headers: Headers, pipeline: str, *, unnamed: bool) -> bool:
    """Whether a record is of the pipeline: its header says so, or it says nothing where that is enough."""
    named = header(headers, PIPELINE)
    return unnamed if named is None else named == pipeline


def newest(records: Iterable[Record], count: int) -> tuple[Record, ...]:
    """The last `count` records of a topic by time, over all its partitions together; oldest first."""
    return tuple(sorted(records, key=_age)[-count:])


def _age(record: Record) -> tuple[int, int, int]:
    return record.timestamp, record.partition, record.offset


def of_latest_requests(found: Sequence[TopicRecords], count: int) -> list[TopicRecords]:
    """Only the records of the `count` requests that were last heard of, and those that name no request.

    The last record of a topic may be much older than that of the others: a branch that is seldom taken, an error
    of yesterday. Beside the last request it would seem to be of it.
    """
    heard: dict[str, tuple[int, int, int]] = {}
    for item in found:
        for record in item.records:
            request_id = header(record.headers, REQUEST_ID)
            if request_id is not None:
                heard[request_id] = max(_age(record), heard.get(request_id, (0, 0, 0)))
    latest: set[str | None] = {None, *sorted(heard, key=heard.__getitem__)[-count:]}
    return [replace(item, records=_with_ids(item.records, latest)) for item in found]


def _with_ids(records: Sequence[Record], ids: set[str] | set[str | None]) -> tuple[Record, ...]:
    return tuple(record for record in records if header(record.headers, REQUEST_ID) in ids)


def whole(record: Record, _: Source | None) -> Record:
    """Keep all of a record that was read."""
    return record


def record_of(raw: Any) -> Record:
    """A record as the client handed it out."""
    return Record(raw.topic, raw.partition, raw.offset, raw.timestamp, raw.key, raw.value, tuple(raw.headers))


@dataclass(slots=True)
class _Partition:
    """How far back a partition was read: down to `low`, of which `oldest` is the time."""

    begin: int
    end: int
    low: int
    oldest: int | None = None
    own: int = 0


@dataclass(slots=True)
class Tails:
    """The last records of a pipeline on some topics."""

    reader: Any
    pipeline: str
    sources: dict[str, Source]
    offset: int
    since: int
    partitions: dict[Any, _Partition]
    told: Callable[[int, int], None]
    kept: Kept = whole
    count: int = 0
    records: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(
        cls,
        search: Search,
        pipeline: str,
        sources: dict[str, Source],
        spans: Mapping[Any, tuple[int, int]],
        *,
        offset: int,
        since: int,
        kept: Kept = whole,
    ) -> Tails:
        """The last `offset` records of each topic within spans of its partitions, of the time `since` and later."""
        partitions = {place: _Partition(begin, end, end) for place, (begin, end) in spans.items()}
        return cls(search.reader, pipeline, sources, offset, since, partitions, search.told, kept)

    async def read(self) -> None:
        """Read the last `offset` records of each partition."""
        await self._read_back(self.offset, self.partitions)

    async def look_back(self, deadline: float) -> None:
        """Look farther back where others' records hide the pipeline's; what is found until the deadline counts."""
        window = self.offset
        try:
            async with asyncio.timeout_at(deadline):
                while window < FARTHEST and (short := [p for p in self.partitions if self._short(p)]):
                    window *= _WIDER
                    await self._read_back(window, short)
        except TimeoutError:
            return

    def found(self) -> list[TopicRecords]:
        """The last `offset` records of the pipeline on each topic."""
        return [
            TopicRecords(source, newest(self.records[topic], self.offset)) for topic, source in self.sources.items()
        ]

    def _short(self, place: Any) -> bool:
        """Whether older records of this partition could be among the last `offset` of its topic."""
        partition, records = self.partitions[place], self.records[place.topic]
        if partition.low <= partition.begin or partition.own >= self.offset:
            return False
        if len(records) < self.offset or partition.oldest is None:
            return True
        return partition.oldest > newest(records, self.offset)[0].timestamp

    async def _read_back(self, window: int, places: Iterable[Any]) -> None:
        spans = {}
        for place in places:
            partition = self.partitions[place]
            spans[place] = (max(partition.end - window, partition.begin), partition.low)
        await reading.read(self.reader, spans, self._take)
        for place, (start, _) in spans.items():
            self.partitions[place].low = start

    def _take(self, raw: Any) -> None:
        partition = self.partitions[aiokafka.TopicPartition(raw.topic, raw.partition)]
        self.count += 1
        self.told(self.count, raw.timestamp)
        # The embedded broker's end of a partition stands within its last batch, so what is after it counts at first.
        if partition.low < partition.end and raw.offset >= partition.low:
            return
        partition.oldest = raw.timestamp if partition.oldest is None else min(partition.oldest, raw.timestamp)
        if raw.timestamp >= self.since and belongs(raw.headers, self.pipeline, unnamed=self.sources[raw.topic].unnamed):
            partition.own += 1
            self.records[raw.topic].append(self.kept(record_of(raw), self.sources[raw.topic]))
