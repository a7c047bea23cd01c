"""Put requests that ended with an error back on their pipeline's inputs topic.

`failure_of`, `Choice` and `sort_out` decide, without a broker; `redrive` reads and writes. A copy names the offset of
what it is a copy of, so whether a failure was put back already stands on the topic itself: asking twice does it once.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

import aiokafka
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from engine.errors import TimedOut, TooLarge, UnknownResource
from engine.kafka import client, reading, search
from engine.kafka.outlet import Outlet
from engine.protocol.record import (
    ERROR_CODE,
    ERROR_STEP,
    OFFSET,
    PIPELINE,
    REDRIVEN,
    REPLY,
    REQUEST_ID,
    Owner,
    Side,
    Topics,
    header,
)
from engine.resources import did_you_mean, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.protocol.record import HeaderPairs
    from engine.settings import Settings

# So many copies are under way at once.
_TOGETHER = 500

# Between two looks at different places of a partition nobody should wait for the answer to the one before.
_FETCH_WAIT_MS = 20

# Before it a number is no offset of Kafka's.
_MOST_DIGITS = 19


class Fate(StrEnum):
    """What becomes of a failed request."""

    REDRIVEN = "put back"
    BEFORE = "was put back before"
    GONE = "is no longer on the inputs topic"


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that ended with an error. `offset` is its own, on the inputs topic; `timestamp` the error's, in ms."""

    partition: int
    offset: int
    request_id: str
    step: str
    code: str
    timestamp: int
    text: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Which failures are meant; what is empty excludes none. Times are milliseconds since 1970."""

    request_ids: frozenset[str] = frozenset()
    steps: frozenset[str] = frozenset()
    since: int | None = None
    until: int | None = None

    def takes(self, failure: Failure) -> bool:
        """Whether a failure is meant."""
        return (
            (not self.request_ids or failure.request_id in self.request_ids)
            and (not self.steps or failure.step in self.steps)
            and (self.since is None or failure.timestamp >= self.since)
            and (self.until is None or failure.timestamp < self.until)
        )


@dataclass(frozen=True, slots=True)
class Redriven:
    """What became of each failure that was meant, the oldest first; `topic` is where copies go."""

    topic: str
    fates: tuple[tuple[Failure, Fate], ...] = field(default=())


def failure_of(
    partition: int, timestamp: int, value: bytes | None, headers: HeaderPairs, pipeline: str
) -> Failure | None:
    """The failure that a record of the outputs topic tells of; None when it is an answer, or of another pipeline."""
    step, offset = header(headers, ERROR_STEP), _offset(headers, OFFSET)
    if step is None or offset is None or header(headers, PIPELINE) != pipeline:
        return None
    return Failure(
        partition,
        offset,
        header(headers, REQUEST_ID) or "",
        step,
        header(headers, ERROR_CODE) or "",
        timestamp,
        (value or b"").decode("utf-8", "replace"),
    )


def _offset(headers: HeaderPairs, name: str) -> int | None:
    text = header(headers, name) or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


def sort_out(
    failures: Iterable[Failure],
    present: Mapping[tuple[int, int], object],
    copies: Mapping[tuple[int, int], Sequence[int]],
    *,
    again: bool,
) -> list[tuple[Failure, Fate]]:
    """What is to become of each failure.

    present   by partition and offset, the requests that still stand on the inputs topic
    copies    by partition and offset of a request, the offsets of its copies there
    again     also those that were put back before and have not failed since
    """
    by_place = {(failure.partition, failure.offset): failure for failure in failures}
    fates = []
    for place, failure in sorted(by_place.items(), key=lambda item: (item[1].timestamp, item[0])):
        copied = copies.get(place, ())
        # A copy that failed too is the request's last word: it is put back, not what it is a copy of.
        if copied and (not again or any((failure.partition, offset) in by_place for offset in copied)):
            fates.append((failure, Fate.BEFORE))
        else:
            fates.append((failure, Fate.REDRIVEN if place in present else Fate.GONE))
    return fates


def copy_of(headers: HeaderPairs, failure: Failure) -> list[tuple[str, bytes | None]]:
    """The headers of a copy: those of the request under the id it had, without the caller who is gone."""
    kept = [pair for pair in headers if pair[0] not in (REPLY, REDRIVEN)]
    if header(kept, REQUEST_ID) is None:
        kept = [pair for pair in kept if pair[0] != REQUEST_ID]
        kept.append((REQUEST_ID, failure.request_id.encode()))
    return [*kept, (REDRIVEN, b"%d" % failure.offset)]


async def redrive(
    settings: Settings,
    pipeline: str,
    choice: Choice,
    *,
    again: bool = False,
    dry_run: bool = False,
    timeout: float = 60.0,
) -> Redriven:
    """Put the failed requests of a pipeline that are meant back on its inputs topic.

    again     also those that were put back before
    dry_run   only tell

    Raises UnknownResource when no such pipeline is loaded, BrokerUnavailable, TooLarge, and TimedOut when the topics
    could not be read in `timeout` seconds; nothing was written then.
    """
    topics = Topics(settings.topic_prefix, settings.namespace)
    inputs, outputs = (topics.of(Owner.PIPELINE, pipeline, side) for side in Side)
    topology, reader = client.Topology(settings), client.new_reader(settings, fetch_wait_ms=_FETCH_WAIT_MS)
    try:
        async with asyncio.timeout(timeout):
            await topology.start()
            await client.start(reader, settings)
            await _check_loaded(reader, topology, topics, pipeline)
            counts = await topology.partitions([inputs, outputs])
            hunt = search.Search(reader, not topology.holds_fetches, counts, lambda _: False, lambda *_: None)
            found = _Found(pipeline, choice, hunt)
            await found.read(inputs, outputs)
    except TimeoutError:
        raise TimedOut(
            f"{inputs} and {outputs} could not be read within {timeout:g} s; "
            "raise --timeout-secs, or look at less by --since"
        ) from None
    except KafkaError as error:
        raise client.unavailable(settings, error) from error
    finally:
        await client.stop(reader)
        await topology.stop()
    fates = sort_out(found.chosen, found.requests, found.copies, again=again)
    if not dry_run:
        meant = [failure for failure, fate in fates if fate is Fate.REDRIVEN]
        await _write(settings, inputs, found.requests, meant, idempotent=not topology.holds_fetches)
    return Redriven(inputs, tuple(fates))


async def _check_loaded(reader: Any, topology: client.Topology, topics: Topics, pipeline: str) -> None:
    view = await reading.view_of(reader, topology, topics)
    if ("pipeline", pipeline) not in view.resources:
        known = [key[1] for key in view.resources if key[0] == "pipeline"]
        hint = did_you_mean(pipeline, known) or (f"there is {', '.join(known)}" if known else "")
        text = f"no pipeline {quoted(pipeline)} is loaded"
        raise UnknownResource(f"{text}; {hint}" if hint else text)


def _is_of(request_id: str, record: Any) -> bool:
    return header(record.headers, REQUEST_ID) == request_id


class _Found:
    """What the two topics say of a pipeline's failures."""

    def __init__(self, pipeline: str, choice: Choice, hunt: search.Search) -> None:
        self.failures: list[Failure] = []
        self.requests: dict[tuple[int, int], Any] = {}
        self.copies: dict[tuple[int, int], list[int]] = {}
        self._pipeline, self._choice, self._hunt = pipeline, choice, hunt
        self._wanted: set[tuple[int, int]] = set()

    @property
    def chosen(self) -> list[Failure]:
        return [failure for failure in self.failures if self._choice.takes(failure)]

    async def read(self, inputs: str, outputs: str) -> None:
        """The failures first, then the requests of which they are, and copies, which all stand behind the first."""
        hunt = self._hunt
        await hunt.begin()
        if not {inputs, outputs} <= hunt.counts.keys():
            return
        await reading.read(hunt.reader, await self._outputs(inputs, outputs), self._take_output)
        first: dict[int, int] = {}
        for failure in self.failures:
            self._wanted.add((failure.partition, failure.offset))
            first[failure.partition] = min(failure.offset, first.get(failure.partition, failure.offset))
        places = {number: aiokafka.TopicPartition(inputs, number) for number in first}
        spans = {
            place: (max(hunt.spans[place][0], first[number]), hunt.spans[place][1]) for number, place in places.items()
        }
        await reading.read(hunt.reader, spans, self._take_input)

    async def _outputs(self, inputs: str, outputs: str) -> dict[Any, tuple[int, int]]:
        """Where the failures that are meant may stand: not before a time, and beside their requests where those are."""
        spans = {place: span for place, span in self._hunt.spans.items() if place.topic == outputs}
        since, partitions = self._choice.since, None
        if origins := await self._origins(inputs):
            partitions = {origin.partition for origin in origins}
            since = max(since or 0, min(origin.timestamp for origin in origins) - search.SLACK)
        if since is None:
            return spans
        starts = await self._hunt.offsets(spans, since)
        return {
            place: (starts[place], end)
            for place, (_, end) in spans.items()
            if partitions is None or place.partition in partitions
        }

    async def _origins(self, inputs: str) -> list[search.Found]:
        """Where the requests that are meant came in; none unless each is found at the time that its id tells."""
        found: list[search.Found] = []
        for request_id in self._choice.request_ids:
            made = search.made(request_id, time.time())
            if made is None:
                return []
            hunt = replace(self._hunt, take=partial(_is_of, request_id), records={})
            own = await hunt.follow(search.origins((inputs,), made, None))
            if not own:
                return []
            found += own
        return found

    def _take_output(self, record: Any) -> None:
        failure = failure_of(record.partition, record.timestamp, record.value, record.headers, self._pipeline)
        if failure is not None:
            self.failures.append(failure)

    def _take_input(self, record: Any) -> None:
        if (record.partition, record.offset) in self._wanted:
            self.requests[record.partition, record.offset] = record
        original = _offset(record.headers, REDRIVEN)
        if original is not None:
            self.copies.setdefault((record.partition, original), []).append(record.offset)


async def _write(
    settings: Settings,
    topic: str,
    requests: Mapping[tuple[int, int], Any],
    failures: Sequence[Failure],
    *,
    idempotent: bool,
) -> None:
    """Write the copies in the order of their failures, each on the partition of its request."""
    if not failures:
        return
    outlet = Outlet(settings, idempotent=idempotent)
    try:
        await outlet.start()
        for begin in range(0, len(failures), _TOGETHER):
            copies = [(requests[f.partition, f.offset], f) for f in failures[begin : begin + _TOGETHER]]
            await asyncio.gather(
                *(outlet.send(topic, f.partition, r.key, r.value, copy_of(r.headers, f)) for r, f in copies)
            )
    except MessageSizeTooLargeError as error:
        raise TooLarge(f"a request is larger than topic {topic} takes now: {error}") from None
    except (KafkaError, TimeoutError) as error:
        raise client.unavailable(settings, error) from error
    finally:
        await outlet.stop()
