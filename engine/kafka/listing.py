"""What stands on our topics: how many records, how much of the brokers' disks, and how many nobody has read yet."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiokafka
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Int64, Schema, String

from engine.kafka import client, reading
from engine.protocol.record import Owner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.settings import Settings

_TEXT = String("utf-8")

# What follows the namespace in the names of our topics, for where others' topics may begin as ours do.
_OURS = re.compile(rf"[^.]+\.(?:(?:{'|'.join(Owner)})\.[^.]+\.[a-z]+|errors\.errors|replies|resources|status|probe)")


class _DescribeLogDirsResponse(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY, API_VERSION = 35, 1
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            Array(
                ("error_code", Int16),
                ("log_dir", _TEXT),
                (
                    "topics",
                    Array(
                        ("name", _TEXT),
                        (
                            "partitions",
                            Array(
                                ("partition", Int32),
                                ("size", Int64),
                                ("offset_lag", Int64),
                                ("is_future_key", Boolean),
                            ),
                        ),
                    ),
                ),
            ),
        ),
    )


class _DescribeLogDirsRequest(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    """Version 1 is the oldest that Apache Kafka 4 speaks, and it speaks it since 2.0."""

    API_KEY, API_VERSION = 35, 1
    RESPONSE_TYPE = _DescribeLogDirsResponse
    SCHEMA = Schema(("topics", Array(("topic", _TEXT), ("partitions", Array(Int32)))))


class _DescribeLogDirs(Request[_DescribeLogDirsRequest]):  # type: ignore[misc]  # aiokafka has no types
    """Topics with the numbers of their partitions."""

    API_KEY = 35

    def __init__(self, topics: list[tuple[str, list[int]]]) -> None:
        self._topics = topics

    def build(self, request_struct_class: Any) -> Any:
        """Return the request in the version that the broker and we both speak."""
        return request_struct_class(self._topics)


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands on a topic.

    records   offsets from its begin to its end; transactions take some of them for their markers
    bytes     on the brokers' disks, all replicas together; None where the broker does not tell
    lag       offsets that each consumer group that reads it has not come to, by the group's name
    """

    topic: str
    namespace: str
    partitions: int
    replicas: int
    records: int
    bytes: int | None
    lag: Mapping[str, int]


# Begin and end of partitions, and where groups stand in them.
Spans = dict[aiokafka.TopicPartition, tuple[int, int]]
Positions = dict[aiokafka.TopicPartition, int]


def ours(names: Iterable[str], prefix: str, namespace: str | None) -> list[str]:
    """Of these topics ours, in order: those of a namespace, or with None those of all."""
    begin = f"{prefix}." if namespace is None else f"{prefix}.{namespace}."
    return sorted(name for name in names if name.startswith(begin) and _OURS.fullmatch(name.removeprefix(f"{prefix}.")))


def lags(spans: Spans, positions: Positions, inputs: str) -> dict[str, int]:
    """How far a group is behind on each topic that it reads, and on `inputs`, which it reads in any case.

    Where it has no position in a partition of such a topic, it would begin at the first record.
    """
    read = {inputs, *(place.topic for place in positions)}
    found: dict[str, int] = {}
    for place, (begin, end) in spans.items():
        if place.topic in read:
            behind = max(end - max(positions.get(place, begin), begin), 0)
            found[place.topic] = found.get(place.topic, 0) + behind
    return found


async def standings(settings: Settings, *, all_namespaces: bool = False) -> list[Standing]:
    """What stands on the topics of the settings' namespace, or of all namespaces; nothing is created or written.

    Raises BrokerUnavailable.
    """
    topology = client.Topology(settings)
    reader = client.new_reader(settings, fetch_wait_ms=client.SHORT_FETCH_WAIT_MS)
    try:
        await topology.start()
        await client.start(reader, settings)
        namespace = None if all_namespaces else settings.namespace
        names = ours(await topology.admin.list_topics(), settings.topic_prefix, namespace)
        return await _standings(topology, reader, settings.topic_prefix, names) if names else []
    except (KafkaError, OSError) as error:
        raise client.unavailable(settings, error) from error
    finally:
        await client.stop(reader)
        await topology.stop()


async def _standings(topology: client.Topology, reader: Any, prefix: str, names: Sequence[str]) -> list[Standing]:
    admin = topology.admin
    # One that was deleted a moment ago is described with an error.
    found = [topic for topic in await admin.describe_topics(list(names)) if not topic["error_code"]]
    counts = {topic["topic"]: len(topic["partitions"]) for topic in found}
    places = [aiokafka.TopicPartition(name, number) for name, count in counts.items() for number in range(count)]
    spans = await reading.whole(reader, places)
    if topology.holds_fetches:
        spans = await _to_the_end(reader, spans)
    sizes, positions = await _sizes(admin, counts), await _positions(admin, prefix, spans)
    behind = _behind(spans, positions, await _marked(reader, spans, positions.values()))
    return [
        Standing(
            topic["topic"],
            topic["topic"].split(".")[1],
            counts[topic["topic"]],
            len(topic["partitions"][0]["replicas"]),
            sum(end - begin for place, (begin, end) in spans.items() if place.topic == topic["topic"]),
            None if sizes is None else sizes.get(topic["topic"]),
            dict(sorted(behind[topic["topic"]].items())),
        )
        for topic in sorted(found, key=lambda topic: str(topic["topic"]))
    ]


async def _to_the_end(reader: Any, spans: Spans) -> Spans:
    """The same with the true ends: the embedded broker's stand within the last batch, behind its first record."""
    ends = {place: end for place, (_, end) in spans.items()}

    def take(record: Any) -> None:
        place = aiokafka.TopicPartition(record.topic, record.partition)
        ends[place] = max(ends[place], record.offset + 1)

    await reading.read(reader, {place: (end - 1, end) for place, (begin, end) in spans.items() if begin < end}, take)
    return {place: (begin, ends[place]) for place, (begin, _) in spans.items()}


async def _sizes(admin: Any, counts: Mapping[str, int]) -> dict[str, int] | None:
    """Bytes on the disks of all brokers; None where brokers do not know the question, as the embedded one."""
    request = _DescribeLogDirs([(name, list(range(count))) for name, count in counts.items()])
    found: dict[str, int] = defaultdict(int)
    for broker in admin._client.cluster.brokers():  # noqa: SLF001  nothing public sends what aiokafka does not know
        try:
            answer = await admin._send_request_to_node(broker.nodeId, request)  # noqa: SLF001  as above
        except IncompatibleBrokerVersion:
            return None
        for _, _, topics in answer.results:
            for name, partitions in topics:
                found[name] += sum(size for _, size, *_ in partitions)
    return found


async def _positions(admin: Any, prefix: str, spans: Spans) -> dict[str, Positions]:
    """Where the groups of these namespaces stand, by their names, in order."""
    begins = {f"{prefix}.{place.topic.split('.')[1]}." for place in spans}
    found: dict[str, Positions] = {}
    for group in sorted({group for group, *_ in await admin.list_consumer_groups()}):
        begin = next(filter(group.startswith, begins), None)
        if begin is None:
            continue
        mine = [place for place in spans if place.topic.startswith(begin)]
        answer = await admin.list_consumer_group_offsets(group, partitions=mine)
        found[group] = {place: committed.offset for place, committed in answer.items() if committed.offset >= 0}
    return found


async def _marked(reader: Any, spans: Spans, groups: Iterable[Positions]) -> set[aiokafka.TopicPartition]:
    """Where a transaction's marker is all that a group has before it, which nobody is ever handed."""
    one = {place: (at, at + 1) for group in groups for place, at in group.items() if spans[place][1] == at + 1}
    handed: set[aiokafka.TopicPartition] = set()
    await reading.read(reader, one, lambda record: handed.add(aiokafka.TopicPartition(record.topic, record.partition)))
    return one.keys() - handed


def _behind(
    spans: Spans, groups: Mapping[str, Positions], marked: set[aiokafka.TopicPartition]
) -> dict[str, dict[str, int]]:
    """By topic, how far each group that reads it is behind."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for group, positions in groups.items():
        begin = ".".join(group.split(".")[:2])
        ends = {
            place: (start, end - (place in marked and positions.get(place) == end - 1))
            for place, (start, end) in spans.items()
            if place.topic.startswith(f"{begin}.")
        }
        inputs = f"{group}.inputs" if f".{Owner.PIPELINE}." in group else ""
        for topic, lag in lags(ends, positions, inputs).items():
            found[topic][group] = lag
    return found
