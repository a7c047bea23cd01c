"""What aiokafka's protocol lacks: offsets fenced by a generation, stable offset reads (KIP-447), and a client for them.

This module is all that extends aiokafka's protocol; it is pinned to aiokafka 0.14.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from struct import Struct
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from aiokafka import TopicPartition as ClientPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.errors import GroupCoordinatorNotAvailableError, LeaderNotAvailableError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.offset import OffsetRequest, OffsetResetStrategy
from aiokafka.protocol.produce import ProduceRequest_v7
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    TaggedFields,
)

from engine.kafka import client

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.settings import Settings

# A partition of a topic.
Place: TypeAlias = "tuple[str, int]"

# One request to a broker; a broker that does not answer in this time is taken for away.
REQUEST_SECONDS = 10.0

# A coordinator that is not there yet is looked for again after this long.
_LOOKUP_SECONDS = 0.05

_TEXT = CompactString("utf-8")

# Topics, each with numbers of partitions.
_PLACES = CompactArray(("topic", _TEXT), ("partitions", CompactArray(Int32)), ("tags", TaggedFields))

_Struct = TypeVar("_Struct", bound=RequestStruct)

# Of a producer in the answer to DescribeProducers.
_START_OFFSET = 5

# Of a request to produce; the protocol's numbers are big-endian.
_SHORT_TEXT = String("utf-8")
_ACKS_TIMEOUT_TOPICS, _COUNT, _NUMBER_AND_SIZE = Struct(">hii"), Struct(">i"), Struct(">ii")


class _TxnOffsetCommitResponse(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY, API_VERSION = 28, 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "errors",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partition_errors",
                    CompactArray(("partition", Int32), ("error_code", Int16), ("tags", TaggedFields)),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _TxnOffsetCommitRequest(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    """Version 3 names the generation and the member, by which the broker refuses who has left the group (KIP-447)."""

    API_KEY, API_VERSION, FLEXIBLE_VERSION = 28, 3, True
    RESPONSE_TYPE = _TxnOffsetCommitResponse
    SCHEMA = Schema(
        ("transactional_id", _TEXT),
        ("group_id", _TEXT),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", _TEXT),
        ("group_instance_id", _TEXT),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _TEXT),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _OffsetFetchResponse(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY, API_VERSION = 9, 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("offset", Int64),
                        ("leader_epoch", Int32),
                        ("metadata", _TEXT),
                        ("error_code", Int16),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )


class _OffsetFetchRequest(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    """Version 7 can ask for offsets that no open transaction is about to move."""

    API_KEY, API_VERSION, FLEXIBLE_VERSION = 9, 7, True
    RESPONSE_TYPE = _OffsetFetchResponse
    SCHEMA = Schema(
        ("consumer_group", _TEXT),
        ("topics", _PLACES),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )


class _DescribeTransactionsResponse(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY, API_VERSION = 65, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "transactions",
            CompactArray(
                ("error_code", Int16),
                ("transactional_id", _TEXT),
                ("state", _TEXT),
                ("timeout_ms", Int32),
                ("start_time_ms", Int64),
                ("producer_id", Int64),
                ("producer_epoch", Int16),
                ("topics", _PLACES),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _DescribeTransactionsRequest(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    """How a transactional id stands with its coordinator (KIP-664)."""

    API_KEY, API_VERSION, FLEXIBLE_VERSION = 65, 0, True
    RESPONSE_TYPE = _DescribeTransactionsResponse
    SCHEMA = Schema(("transactional_ids", CompactArray(_TEXT)), ("tags", TaggedFields))


class _DescribeProducersResponse(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY, API_VERSION = 61, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("topic", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", _TEXT),
                        (
                            "producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("start_offset", Int64),
                                ("tags", TaggedFields),
                            ),
                        ),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _DescribeProducersRequest(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    """Who writes to partitions, and where their transactions begin that are open there (KIP-664)."""

    API_KEY, API_VERSION, FLEXIBLE_VERSION = 61, 0, True
    RESPONSE_TYPE = _DescribeProducersResponse
    SCHEMA = Schema(
        ("topics", _PLACES),
        ("tags", TaggedFields),
    )


class _AsItStands(Request[_Struct]):  # type: ignore[misc]  # aiokafka has no types
    """A request of one version, made of its fields in their order."""

    API_KEY = -1  # of none: each kind has its own

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def build(self, request_struct_class: Any) -> Any:
        """Return the request in the version that the broker and we both speak."""
        return request_struct_class(*self._fields)


class TxnOffsetCommit(_AsItStands[_TxnOffsetCommitRequest]):
    """Transactional id, group, producer id, epoch, generation, member, instance, topics, tags."""

    API_KEY = 28


class OffsetFetch(_AsItStands[_OffsetFetchRequest]):
    """Group, topics, whether only stable offsets will do, tags."""

    API_KEY = 9


class DescribeTransactions(_AsItStands[_DescribeTransactionsRequest]):
    """Transactional ids, tags."""

    API_KEY = 65


class DescribeProducers(_AsItStands[_DescribeProducersRequest]):
    """Topics with their partitions, tags."""

    API_KEY = 61


class _ProduceRequest(ProduceRequest_v7):  # type: ignore[misc]  # aiokafka has no types
    """Version 7, which every broker since 2.1 takes, put together at once.

    aiokafka's own copies each batch once for every level of the request's structure: a tenth of all CPU of a chain.
    """

    API_KEY, API_VERSION = 0, 7
    RESPONSE_TYPE, SCHEMA = ProduceRequest_v7.RESPONSE_TYPE, ProduceRequest_v7.SCHEMA

    def encode(self) -> bytes:
        parts = [
            _SHORT_TEXT.encode(self.transactional_id),
            _ACKS_TIMEOUT_TOPICS.pack(self.required_acks, self.timeout, len(self.topics)),
        ]
        for topic, partitions in self.topics:
            parts += _SHORT_TEXT.encode(topic), _COUNT.pack(len(partitions))
            for number, batch in partitions:
                parts += _NUMBER_AND_SIZE.pack(number, len(batch)), batch
        return b"".join(parts)


class Produce(_AsItStands[_ProduceRequest]):
    """Transactional id, how many replicas acknowledge, timeout in ms, topics with their partitions' batches."""

    API_KEY = 0


def by_topic(pairs: Iterable[tuple[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Parts of partitions, as requests list them: together with the others of their topic."""
    found: dict[str, list[Any]] = defaultdict(list)
    for topic, part in pairs:
        found[topic].append(part)
    return list(found.items())


class Connection:
    """One client of the cluster, and who coordinates what."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Any = None
        self._starting = asyncio.Lock()
        self._coordinators: dict[tuple[int, str], int] = {}

    async def start(self) -> None:
        """Connect now, and not with the first request. Raises KafkaError or OSError."""
        await self._started()

    async def _started(self) -> Any:
        async with self._starting:
            if self._client is None:
                made = AIOKafkaClient(
                    **client.connection(self._settings),
                    request_timeout_ms=int(REQUEST_SECONDS * 1000),
                    retry_backoff_ms=client.RETRY_BACKOFF_MS,
                )
                try:
                    await made.bootstrap()
                except BaseException:
                    await client.stop(made)
                    raise
                self._client = made
            return self._client

    async def stop(self) -> None:
        """Close it."""
        found, self._client = self._client, None
        if found is not None:
            await client.stop(found)

    async def ask(self, kind: int, key: str, request: Any) -> Any:
        """The answer of the coordinator of a group or a transactional id."""
        found = await self._started()
        node = self._coordinators.get((kind, key))
        if node is None:
            node = self._coordinators[kind, key] = await self._lookup(found, kind, key)
        try:
            return await found.send(node, request, group=ConnectionGroup.COORDINATION)
        except BaseException:
            self.forget(kind, key)
            raise

    async def _lookup(self, found: Any, kind: int, key: str) -> int:
        """A broker makes the topic of its coordinators at the first question, and says meanwhile that there is none."""
        deadline = asyncio.get_running_loop().time() + REQUEST_SECONDS
        while True:
            try:
                return int(await found.coordinator_lookup(kind, key))
            except GroupCoordinatorNotAvailableError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_LOOKUP_SECONDS)

    def forget(self, kind: int, key: str) -> None:
        """Look for this coordinator again: it may have moved, with its broker."""
        self._coordinators.pop((kind, key), None)
        if self._client is not None:
            self._client.force_metadata_update()

    async def leader(self, place: Place) -> int:
        """The broker that takes this partition's records."""
        found = await self._started()
        partition = ClientPartition(*place)
        leader = found.cluster.leader_for_partition(partition)
        while leader is None or leader < 0:
            await found.add_topic(place[0])
            leader = found.cluster.leader_for_partition(partition)
            if leader is None or leader < 0:
                await asyncio.sleep(client.RETRY_BACKOFF_MS / 1000)
                await found.force_metadata_update()
                leader = found.cluster.leader_for_partition(partition)
        return int(leader)

    async def send(self, leader: int, request: Any) -> Any:
        """A leader's answer."""
        found = await self._started()
        return await found.send(leader, request)

    async def ends(self, places: Iterable[Place], *, stable: bool) -> dict[Place, int]:
        """Where partitions end; `stable`: where the first transaction that is open begins, if there is one.

        Raises KafkaError, also when a partition is led by somebody else now or is not there.
        """
        by_leader: dict[int, list[tuple[str, tuple[int, int]]]] = defaultdict(list)
        for topic, number in places:
            by_leader[await self.leader((topic, number))].append((topic, (number, OffsetResetStrategy.LATEST)))
        answers = await asyncio.gather(
            *(self.send(leader, OffsetRequest(-1, int(stable), by_topic(asked))) for leader, asked in by_leader.items())
        )
        found: dict[Place, int] = {}
        for topic, partitions in (entry for answer in answers for entry in answer.topics):
            for number, code, _, offset in partitions:
                if code:
                    self.moved()
                    raise for_code(code)(f"{topic} [{number}]")
                found[topic, number] = offset
        return found

    async def open_places(self, prefix: str, producer: int) -> set[Place]:
        """The partitions in which a producer has a transaction open, of all topics whose names begin so.

        Raises KafkaError, also when nobody leads some of them.
        """
        cluster = await (await self._started()).fetch_all_metadata()
        by_leader: dict[int, list[Place]] = defaultdict(list)
        for topic in sorted(cluster.topics()):
            for number in sorted(cluster.partitions_for_topic(topic) or ()) if topic.startswith(prefix) else ():
                leader = cluster.leader_for_partition(ClientPartition(topic, number))
                if leader is None or leader < 0:
                    raise LeaderNotAvailableError(f"{topic} [{number}]")
                by_leader[leader].append((topic, number))
        requests = [
            self.send(leader, DescribeProducers([(topic, numbers, {}) for topic, numbers in by_topic(places)], {}))
            for leader, places in by_leader.items()
        ]
        found: set[Place] = set()
        for topic, partitions, _ in (entry for answer in await asyncio.gather(*requests) for entry in answer.topics):
            for number, code, _, producers, _ in partitions:
                if code:
                    raise for_code(code)(f"{topic} [{number}]")
                if any(each[0] == producer and each[_START_OFFSET] >= 0 for each in producers):
                    found.add((topic, number))
        return found

    def moved(self) -> None:
        """Partitions are led by others now."""
        if self._client is not None:
            self._client.force_metadata_update()
