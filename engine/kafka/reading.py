"""Read a part of some topics once, by assignment: for looking at what is there, not for working on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiokafka

from engine.kafka.registry import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.kafka import client
    from engine.protocol.record import Topics

_POLL_MS = 200


async def view_of(reader: Any, topology: client.Topology, topics: Topics) -> View:
    """What is loaded, as the resources topic says; empty when there is no such topic."""
    view = View()
    if await topology.partitions([topics.resources]):
        spans = await whole(reader, [aiokafka.TopicPartition(topics.resources, 0)])
        await read(reader, spans, lambda record: view.resource_record(record.key, record.value))
    return view


async def whole(reader: Any, places: Iterable[Any]) -> dict[Any, tuple[int, int]]:
    """The first offset and the end of each partition."""
    wanted = list(places)
    reader.assign(wanted)
    begins, ends = await reader.beginning_offsets(wanted), await reader.end_offsets(wanted)
    return {place: (begins[place], ends[place]) for place in wanted}


async def read(reader: Any, spans: Mapping[Any, tuple[int, int]], take: Callable[[Any], None]) -> None:
    """Read each partition from its first offset up to its second, and what is handed out with that."""
    waiting = {partition: end for partition, (start, end) in spans.items() if start < end}
    if not waiting:
        return
    reader.assign(list(waiting))
    for partition in waiting:
        reader.seek(partition, spans[partition][0])
    while waiting:
        polled = await reader.getmany(*waiting, timeout_ms=_POLL_MS)
        for records in polled.values():
            for record in records:
                take(record)
        # By position, as an end may be a transaction's marker, which is never handed out.
        for partition in [p for p, end in waiting.items() if await reader.position(p) >= end]:
            reader.pause(partition)
            del waiting[partition]
