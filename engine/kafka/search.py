"""Where the records of a request stand among millions: by time, and by the partition that they share.

`narrowed`, `looks` and `unread` decide, without a broker; `Search` reads what they ask for, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import aiokafka

from engine.kafka import reading
from engine.protocol.record import made_at

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping

T = TypeVar("T")

# An id of a later time than this many seconds from now only looks like one of ours.
_DAY = 86_400

# How far, in milliseconds, records of a partition may stand out of the order of their times, and clocks of machines
# may differ: records are written by several producers, each by its own clock.
SLACK = 2_000

# How far around a time it is looked, in milliseconds, until something is found: a gateway writes a request when it
# makes its id, so the first is enough; the last allows for clocks that are minutes apart.
REACHES = (SLACK, 10 * SLACK, 100 * SLACK)

# How far back from the end it is looked in each partition at first, and how much farther each time after.
FIRST_BLOCK = 1_000
FARTHER = 8

# What is asked for of a partition at once: what lies beyond the end of what is looked at was sent for nothing.
FETCH_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Look:
    """What to read next, of each topic that is named.

    partitions  only these, each modulo the topic's number of partitions; None for all
    since       from the first record of this time, in ms, on; None for the beginning
    until       up to the first record of this time; None for the end
    last        in place of times, how many offsets back from the end
    """

    topics: tuple[str, ...]
    partitions: frozenset[int] | None = None
    since: int | None = None
    until: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Where and when a record of the request was written."""

    topic: str
    partition: int
    timestamp: int


@dataclass(frozen=True, slots=True)
class Seen:
    """All that was found up to now on the topics of a look, and whether it came to their begin, or end."""

    found: tuple[Found, ...]
    exhausted: bool


def made(request_id: str, now: float) -> int | None:
    """When an id was made, in ms since 1970, if it tells; `now` in seconds."""
    seconds = made_at(request_id)
    return None if seconds is None or seconds > now + _DAY else seconds * 1000


def looks(
    inputs: str, outputs: str, wanted: Collection[str], *, made: int | None, since: int | None
) -> Generator[Look, Seen, None]:
    """Where to look for a request of a pipeline, one look after the other.

    inputs, outputs  the pipeline's own topics
    wanted           of which topics its records are wanted
    made             when the request's id was made, in ms, if it tells
    since            look at all records since, and so for all requests of that id

    It is looked for where it came in, which tells the partition of all its records and their earliest time; then for
    its answer, which tells the latest; then between. What is no longer on one topic is looked for on the next.
    """
    others = tuple(topic for topic in wanted if topic not in (inputs, outputs))
    came: tuple[Found, ...] = ()
    for topics in ((inputs,), (outputs,), others):
        came = yield from origins(topics, made, since)
        if came:
            break
    if not came or (came[0].topic == inputs and not {*others, outputs} & {*wanted}):
        return
    partitions = frozenset(found.partition for found in came)
    times = [found.timestamp for found in came]
    begin = min(times) - SLACK if came[0].topic == inputs else _earliest(times, made, since)
    # What is left of a request of which only steps are left may be of its first step and of its last.
    answers, after = came, REACHES[-1] if came[0].topic in others else SLACK
    if came[0].topic == inputs:
        answers = yield from _answers(outputs, partitions, begin, came, whole=since is not None)
    # Until all are answered more may come.
    until = None if len(answers) < len(came) else max(found.timestamp for found in answers) + after
    yield Look(others, partitions, begin, until)


def _earliest(times: Collection[int], made: int | None, since: int | None) -> int:
    """Before which no record of a request stands whose input is gone."""
    known = since if since is not None else made
    return min(times) - REACHES[-1] if known is None else min(known, *times) - SLACK


def origins(topics: tuple[str, ...], made: int | None, since: int | None) -> Generator[Look, Seen, tuple[Found, ...]]:
    """Where to look for the first trace of a request on some topics, as `looks` does; gives what was found."""
    if since is not None:
        return (yield Look(topics, since=since)).found
    if made is not None:
        for reach in REACHES:
            # An id tells the second.
            seen = yield Look(topics, since=made - reach, until=made + 1000 + reach)
            if seen.found:
                return seen.found
        return ()
    block = FIRST_BLOCK
    while True:
        seen = yield Look(topics, last=block)
        if seen.found or seen.exhausted:
            return seen.found
        block *= FARTHER


def _answers(
    outputs: str, partitions: frozenset[int], begin: int, origins: Collection[Found], *, whole: bool
) -> Generator[Look, Seen, tuple[Found, ...]]:
    latest = max(found.timestamp for found in origins)
    if not whole:
        for reach in REACHES:
            seen = yield Look((outputs,), partitions, begin, latest + reach)
            if len(seen.found) >= len(origins) or seen.exhausted:
                return seen.found
    return (yield Look((outputs,), partitions, begin)).found


def narrowed(span: tuple[int, int], found: tuple[int, int] | None, wanted: int) -> tuple[int, int]:
    """The part of a span of offsets in which the records of a time begin, after a look at its middle.

    found   offset and time of the first record from the middle on; None when there is none

    Repeated until nothing is left, the span is the place before which no record is of `wanted + D` or later, and from
    which on none is before `wanted - D`, when records stand out of their times' order by `D` at most.
    """
    low, high = span
    middle = (low + high) // 2
    if found is None or found[0] >= high or found[1] >= wanted:
        return low, middle
    return found[0] + 1, high


def unread(wanted: tuple[int, int], known: tuple[int, int] | None) -> list[tuple[int, int]]:
    """What of a span is still to be read when another was read before."""
    low, high = wanted
    parts = [wanted] if known is None else [(low, min(high, known[0])), (max(low, known[1]), high)]
    return [(begin, end) for begin, end in parts if begin < end]


def together(span: tuple[int, int], known: tuple[int, int] | None) -> tuple[int, int]:
    """The one span that was read when another was before; the later alone where offsets between them were not."""
    if known is None or span[1] < known[0] or known[1] < span[0]:
        return span
    return min(span[0], known[0]), max(span[1], known[1])


@dataclass(slots=True)
class Search:
    """Reads parts of topics, each record once, and keeps what belongs to a request.

    reader         a consumer in no group
    knows_times    whether the broker finds offsets by times; the embedded one does not
    counts         the number of partitions of each topic that exists
    take           whether a record is of the request
    told           hears, as it reads, how many records were read and the time of the last
    keep           what is kept of a record that is
    """

    reader: Any
    knows_times: bool
    counts: Mapping[str, int]
    take: Callable[[Any], bool]
    told: Callable[[int, int], None]
    keep: Callable[[Any], Any] = lambda record: record
    spans: dict[Any, tuple[int, int]] = field(default_factory=dict)
    records: dict[tuple[str, int, int], Any] = field(default_factory=dict)
    read: int = 0
    oldest: int | None = None
    _known: dict[Any, tuple[int, int]] = field(default_factory=dict)

    async def begin(self) -> None:
        """Find where the topics begin and end now."""
        places = [aiokafka.TopicPartition(topic, n) for topic, count in self.counts.items() for n in range(count)]
        if places:
            self.spans = await reading.whole(self.reader, places)
        if not self.knows_times:
            lasts = {place: (end - 1, end) for place, (begin, end) in self.spans.items() if begin < end}
            await reading.read(self.reader, lasts, self._extend)

    def _extend(self, record: Any) -> None:
        # The end that the embedded broker tells stands within its last batch.
        place = aiokafka.TopicPartition(record.topic, record.partition)
        begin, end = self.spans[place]
        self.spans[place] = (begin, max(end, record.offset + 1))

    async def follow(self, looks: Generator[Look, Seen, T]) -> T:
        """Look wherever it is asked to; `records` then has what was found, by topic, partition and offset."""
        try:
            look = next(looks)
            while True:
                look = looks.send(await self._look(look))
        except StopIteration as end:
            given: T = end.value
            return given

    async def offsets(self, places: Iterable[Any], timestamp: int) -> dict[Any, int]:
        """Where records of a time begin: no later record stands before; the end where there are none."""
        # A bisection of what stands out of order may end behind a record that belongs here.
        return await self._at(places, timestamp if self.knows_times else timestamp - SLACK)

    async def _look(self, look: Look) -> Seen:
        places = self._places(look)
        spans = await self._spans(look, places)
        await self._read(spans)
        found = tuple(
            Found(record.topic, record.partition, record.timestamp)
            for record in self.records.values()
            if record.topic in look.topics
        )
        side = 0 if look.last is not None else 1
        return Seen(found, all(span[side] == self.spans[place][side] for place, span in spans.items()))

    def _places(self, look: Look) -> list[Any]:
        places = []
        for topic in look.topics:
            count = self.counts.get(topic, 0)
            numbers = range(count) if look.partitions is None else {n % count for n in look.partitions if count}
            places += [aiokafka.TopicPartition(topic, number) for number in numbers]
        return places

    async def _spans(self, look: Look, places: Collection[Any]) -> dict[Any, tuple[int, int]]:
        whole = {place: self.spans[place] for place in places}
        if look.last is not None:
            return {place: (max(begin, end - look.last), end) for place, (begin, end) in whole.items()}
        first = {} if look.since is None else await self.offsets(places, look.since)
        last = {} if look.until is None else await self._at(places, look.until + SLACK)
        return {
            place: (first.get(place, begin), max(first.get(place, begin), last.get(place, end)))
            for place, (begin, end) in whole.items()
        }

    async def _read(self, spans: Mapping[Any, tuple[int, int]]) -> None:
        parts = {place: unread(span, self._known.get(place)) for place, span in spans.items()}
        # The later part last, so that the time that is told runs on.
        for number in range(2):
            await reading.read(
                self.reader,
                {place: several[number] for place, several in parts.items() if number < len(several)},
                self._take,
                bounded=True,
            )
        for place, span in spans.items():
            self._known[place] = together(span, self._known.get(place))

    def _take(self, record: Any) -> None:
        self.read += 1
        self.oldest = record.timestamp if self.oldest is None else min(self.oldest, record.timestamp)
        if self.take(record):
            self.records[record.topic, record.partition, record.offset] = self.keep(record)
        self.told(self.read, record.timestamp)

    async def _at(self, places: Iterable[Any], timestamp: int) -> dict[Any, int]:
        spans = {place: self.spans[place] for place in places}
        if not spans:
            return {}
        if not self.knows_times:
            return await self._bisect(spans, timestamp)
        found = await self.reader.offsets_for_times(dict.fromkeys(spans, max(timestamp, 0)))
        return {
            place: end if found.get(place) is None else min(found[place].offset, end)
            for place, (_, end) in spans.items()
        }

    async def _bisect(self, spans: Mapping[Any, tuple[int, int]], wanted: int) -> dict[Any, int]:
        active = dict(spans)
        while middles := {place: (low + high) // 2 for place, (low, high) in active.items() if low < high}:
            firsts = await reading.first(self.reader, {place: (at, active[place][1]) for place, at in middles.items()})
            self.read += len(firsts)
            active.update((place, narrowed(active[place], firsts.get(place), wanted)) for place in middles)
        return {place: low for place, (low, _) in active.items()}
