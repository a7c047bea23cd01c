"""Look at the topics of a pipeline: `inspect` once, `follow` from then on. Nothing is created or written."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn

import aiokafka
from aiokafka.errors import KafkaError

from engine.errors import InvalidInput, TimedOut
from engine.inspect.content import message_of, tensors_of
from engine.inspect.expression import Source, ends, hinted, resolve
from engine.inspect.latest import Tails, TopicRecords, belongs, newest, of_latest_requests, record_of, whole
from engine.kafka import client, reading, search
from engine.protocol.record import REQUEST_ID, Owner, Side, Topics, header
from engine.resources import quoted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from engine.inspect.latest import Kept
    from engine.kafka.view import View
    from engine.protocol.record import Record
    from engine.settings import Settings

# Between two looks at different places of a partition nobody should wait for the answer to the one before.
SEARCH_WAIT_MS = 20

# Who follows waits so long for a record of the embedded broker, which holds each fetch for its whole wait.
FOLLOW_WAIT_MS = 100

# How often a follower looks whether a topic that was not there has come, in seconds.
NEW_TOPICS_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Inspected:
    """What was found.

    pipeline   whose records
    topics     each topic that the expression names, without records too
    ends       by topic and partition, the offset from which on nothing was looked at
    complete   False when the time was up before all was read that may belong to the request
    """

    pipeline: str
    topics: tuple[TopicRecords, ...]
    ends: Mapping[tuple[str, int], int]
    complete: bool = True


def _unheard(_count: int, _timestamp: int) -> None:
    return


async def inspect(
    settings: Settings,
    expression: str,
    *,
    request_id: str | None = None,
    offset: int | None = 1,
    since: int | None = None,
    timeout: float = 5.0,
    told: Callable[[int, int], None] = _unheard,
    view: View | None = None,
    kept: Kept = whole,
    ends_only: bool = False,
) -> Inspected:
    """The records of the last `offset` requests on each topic that the expression names; or of one request.

    request_id   only this request's, wherever they are; an id of ours tells when it was made, others are looked for
                 back from the end
    offset       None: of all requests
    since        only records of this time and later, in milliseconds since 1970
    told         hears how many records were read and the time of the last, for each that is read
    view         what the registry says; read from the broker when not given
    kept         what is kept of each record that is found
    ends_only    look only where requests of the pipeline come in and end

    Nothing is created or written. Raises UnknownResource and InvalidInput for the expression, BrokerUnavailable,
    and TimedOut when the broker does not give the last records, or nothing of the request, in `timeout` seconds.
    """
    topics = Topics(settings.topic_prefix, settings.namespace)
    deadline = asyncio.get_running_loop().time() + timeout
    try:
        async with asyncio.timeout_at(deadline) as limit, _connected(settings, SEARCH_WAIT_MS) as (topology, reader):
            if view is None:
                view = await reading.view_of(reader, topology, topics)
            name, sources = resolve(view, topics, expression)
            sources = ends(topics, name) if ends_only else sources
            looking = await _Looking.begin(reader, topology, topics, name, sources, told, kept)
            if request_id:
                limit.reschedule(None)
                found = await looking.of_request(request_id, since, deadline)
            else:
                tails = await looking.tails(offset, since)
                limit.reschedule(None)
                await tails.look_back(deadline)
                found = looking.inspected(of_latest_requests(tails.found(), tails.offset))
    except TimeoutError:
        raise TimedOut(
            f"the broker at {settings.kafka_broker} did not give the records within {timeout:g} s; raise --timeout-secs"
        ) from None
    if request_id and not found.complete and not any(item.records for item in found.topics):
        raise TimedOut(_unfinished(looking.search, request_id, timeout))
    _check_tensor(found.topics)
    return found


async def from_now(settings: Settings, expression: str, *, view: View, timeout: float = 5.0) -> Inspected:
    """Nothing yet: where `follow` begins to show all that comes from now on. Raises as `inspect` does."""
    topics = Topics(settings.topic_prefix, settings.namespace)
    name, sources = resolve(view, topics, expression)
    try:
        async with asyncio.timeout(timeout), _connected(settings, SEARCH_WAIT_MS) as (topology, reader):
            looking = await _Looking.begin(reader, topology, topics, name, sources)
            return looking.inspected([TopicRecords(source, ()) for source in sources])
    except TimeoutError:
        raise TimedOut(
            f"the broker at {settings.kafka_broker} did not tell where topics end in {timeout:g} s"
        ) from None


@asynccontextmanager
async def _connected(settings: Settings, wait_ms: int) -> AsyncIterator[tuple[client.Topology, Any]]:
    """What tells of topics, and a reader; BrokerUnavailable when the broker fails, then or later."""
    topology, reader = client.Topology(settings), None
    try:
        await topology.start()
        wait_ms = min(wait_ms, client.SHORT_FETCH_WAIT_MS) if topology.holds_fetches else wait_ms
        reader = client.new_reader(settings, fetch_wait_ms=wait_ms, fetch_bytes=search.FETCH_BYTES)
        await client.start(reader, settings)
        yield topology, reader
    except KafkaError as error:
        raise client.unavailable(settings, error) from error
    finally:
        if reader is not None:
            await client.stop(reader)
        await topology.stop()


@dataclass(slots=True)
class _Looking:
    """A look at the topics of one pipeline."""

    pipeline: str
    own: tuple[str, str]
    sources: dict[str, Source]
    search: search.Search
    kept: Kept
    request_id: str = ""

    @classmethod
    async def begin(
        cls,
        reader: Any,
        topology: client.Topology,
        topics: Topics,
        pipeline: str,
        sources: Sequence[Source],
        told: Callable[[int, int], None] = _unheard,
        kept: Kept = whole,
    ) -> _Looking:
        """Find where the topics that exist begin and end."""
        inputs, outputs = (topics.of(Owner.PIPELINE, pipeline, side) for side in Side)
        by_topic = {source.topic: source for source in sources}
        counts = await topology.partitions({inputs, outputs, *by_topic})
        hunt = search.Search(reader, not topology.holds_fetches, counts, lambda _: False, told)
        looking = cls(pipeline, (inputs, outputs), by_topic, hunt, kept)
        hunt.take, hunt.keep = looking._is_wanted, looking._keep
        await hunt.begin()
        return looking

    async def tails(self, offset: int | None, since: int | None) -> Tails:
        """The last records of each topic."""
        spans = {place: span for place, span in self.search.spans.items() if place.topic in self.sources}
        if since is not None:
            starts = await self.search.offsets(spans, since)
            spans = {place: (starts[place], end) for place, (_, end) in spans.items()}
        tails = Tails.of(
            self.search,
            self.pipeline,
            self.sources,
            spans,
            offset=offset or sys.maxsize,
            since=since or 0,
            kept=self.kept,
        )
        await tails.read()
        return tails

    async def of_request(self, request_id: str, since: int | None, deadline: float) -> Inspected:
        """All records of one request; what is found until the deadline counts."""
        self.request_id = request_id
        looks = search.looks(*self.own, self.sources, made=search.made(request_id, time.time()), since=since)
        complete = True
        try:
            async with asyncio.timeout_at(deadline):
                await self.search.follow(looks)
        except TimeoutError:
            complete = False
        records = [record_of(raw) for raw in self.search.records.values() if raw.timestamp >= (since or 0)]
        found = [
            TopicRecords(source, newest((record for record in records if record.topic == topic), len(records)))
            for topic, source in self.sources.items()
        ]
        return replace(self.inspected(found), complete=complete)

    def inspected(self, found: Sequence[TopicRecords]) -> Inspected:
        """What was found, and from where on there may be more."""
        ends = {
            (place.topic, place.partition): end
            for place, (_, end) in self.search.spans.items()
            if place.topic in self.sources
        }
        for item in found:
            for record in item.records:
                place = (record.topic, record.partition)
                ends[place] = max(ends[place], record.offset + 1)
        return Inspected(self.pipeline, tuple(found), ends)

    def _keep(self, raw: Any) -> Record:
        return self.kept(record_of(raw), self.sources.get(raw.topic))

    def _is_wanted(self, raw: Any) -> bool:
        unnamed = raw.topic == self.own[0]
        return header(raw.headers, REQUEST_ID) == self.request_id and belongs(
            raw.headers, self.pipeline, unnamed=unnamed
        )


def _unfinished(hunt: search.Search, request_id: str, timeout: float) -> str:
    back = ""
    if hunt.oldest is not None:
        back = f", back to {datetime.fromtimestamp(hunt.oldest / 1000, UTC).isoformat(timespec='seconds')}"
    return (
        f"request {quoted(request_id)} is not among the {hunt.read} records that were read within {timeout:g} s{back}; "
        "raise --timeout-secs, or say by --since when it was sent"
    )


def _check_tensor(found: Sequence[TopicRecords]) -> None:
    """InvalidInput when a tensor is asked for that no message has."""
    for item in found:
        tensor, present = item.source.tensor, dict[str, None]()
        messages = [] if tensor is None else [message_of(record, item.source.side) for record in item.records]
        for message in messages:
            present.update((entry.name, None) for entry in tensors_of(message))
        if present and tensor is not None and tensor not in present:
            raise InvalidInput(hinted(f"no tensor {quoted(tensor)} is on {item.source.topic}", tensor, list(present)))


async def follow(
    settings: Settings,
    found: Inspected,
    show: Callable[[Sequence[TopicRecords]], None],
    *,
    request_id: str | None = None,
) -> NoReturn:
    """Show the records that come after what was found, until cancelled; topics that come to be are read as well.

    Raises BrokerUnavailable when the broker is not there at the begin; later it is waited for.
    """
    sources = {item.source.topic: item.source for item in found.topics}
    async with _connected(settings, FOLLOW_WAIT_MS) as (topology, reader):
        positions = {aiokafka.TopicPartition(*place): offset for place, offset in found.ends.items()}
        reading.assign(reader, positions)
        while True:
            async for records in _until_new_topics(reader, bool(positions)):
                wanted = [record for record in records if _is_of(record, found.pipeline, request_id, sources)]
                if wanted:
                    show(_by_topic(wanted, sources))
            known = {place.topic for place in positions}
            counts = await topology.partitions(topic for topic in sources if topic not in known)
            if counts:
                positions = {place: await reader.position(place) for place in positions}
                positions |= {
                    aiokafka.TopicPartition(topic, n): 0 for topic, count in counts.items() for n in range(count)
                }
                reading.assign(reader, positions)


async def _until_new_topics(reader: Any, assigned: bool) -> AsyncIterator[list[Record]]:  # noqa: FBT001
    """What comes until it is time to look for new topics."""
    end = asyncio.get_running_loop().time() + NEW_TOPICS_SECONDS
    while (left := end - asyncio.get_running_loop().time()) > 0:
        if not assigned:
            await asyncio.sleep(left)
            return
        polled = await reader.getmany(timeout_ms=int(left * 1000))
        yield [record_of(raw) for records in polled.values() for raw in records]


def _is_of(record: Record, pipeline: str, request_id: str | None, sources: Mapping[str, Source]) -> bool:
    return belongs(record.headers, pipeline, unnamed=sources[record.topic].unnamed) and (
        not request_id or header(record.headers, REQUEST_ID) == request_id
    )


def _by_topic(records: Sequence[Record], sources: Mapping[str, Source]) -> list[TopicRecords]:
    found = []
    for topic, source in sources.items():
        own = newest((record for record in records if record.topic == topic), len(records))
        if own:
            found.append(TopicRecords(source, own))
    return found
