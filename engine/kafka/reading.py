"""Read a part of some topics once, by assignment: for looking at what is there, not for working on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiokafka

from engine.kafka.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.kafka import client
    from engine.protocol.record import Topics

# It is waited so long for records before it is looked whether a position has passed them: a marker is not handed out.
_POLL_MS = 20

# So many records are handed out at once at least, be they beyond the end.
_FEWEST = 100


async def view_of(reader: Any, topology: client.Topology, topics: Topics) -> View:
    """What is loaded, as the resources topic says; empty when there is no such topic."""
    view = View()
    if await topology.partitions([topics.resources]):
        spans = await whole(reader, [aiokafka.TopicPartition(topics.resources, 0)])
        await read(reader, spans, lambda record: view.resource_record(record.key, record.value, record.offset))
    return view


async def whole(reader: Any, places: Iterable[Any]) -> dict[Any, tuple[int, int]]:
    """The first offset and the end of each partition."""
    wanted = list(places)
    reader.assign(wanted)
    begins, ends = await reader.beginning_offsets(wanted), await reader.end_offsets(wanted)
    return {place: (begins[place], ends[place]) for place in wanted}


async def read(
    reader: Any, spans: Mapping[Any, tuple[int, int]], take: Callable[[Any], None], *, bounded: bool = False
) -> None:
    """Read each partition from its first offset up to its second, and what is handed out with that.

    `bounded`: little is handed out beyond the second. On the embedded broker that would be amiss, as the end that it
    tells of a partition stands within its last batch.
    """
    waiting = {partition: end for partition, (start, end) in spans.items() if start < end}
    assign(reader, {partition: spans[partition][0] for partition in waiting})
    left = [end - spans[partition][0] for partition, end in waiting.items()]
    while waiting:
        # So no partition is handed out beyond its end: to decode all that was fetched may be most of the work.
        most = max(_FEWEST, min(left)) if bounded else None
        polled = await reader.getmany(*waiting, timeout_ms=_POLL_MS, max_records=most)
        for records in polled.values():
            for record in records:
                take(record)
        # By position, as an end may be a transaction's marker, which is never handed out.
        left = []
        for partition, end in list(waiting.items()):
            if (count := end - await reader.position(partition)) > 0:
                left.append(count)
                continue
            reader.pause(partition)
            del waiting[partition]


async def first(reader: Any, spans: Mapping[Any, tuple[int, int]]) -> dict[Any, tuple[int, int]]:
    """Offset and time of the first record of each span; those without any may be left out."""
    found: dict[Any, tuple[int, int]] = {}
    waiting = {partition: end for partition, (start, end) in spans.items() if start < end}
    assign(reader, {partition: spans[partition][0] for partition in waiting})
    while waiting:
        polled = await reader.getmany(*waiting, timeout_ms=_POLL_MS, max_records=1)
        found.update((partition, (records[0].offset, records[0].timestamp)) for partition, records in polled.items())
        ended = [p for p, end in waiting.items() if p in polled or await reader.position(p) >= end]
        for partition in ended:
            reader.pause(partition)
            del waiting[partition]
    return found


def assign(reader: Any, starts: Mapping[Any, int]) -> None:
    """Have a reader read these partitions and no others, each from an offset on."""
    if starts:
        reader.assign(list(starts))
    for partition, start in starts.items():
        reader.seek(partition, start)
