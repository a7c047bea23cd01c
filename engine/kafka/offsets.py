"""How far groups have read, as the broker keeps it: offsets, and the text that stands beside each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aiokafka.client import CoordinationType
from aiokafka.errors import for_code
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest

from engine.kafka.leases import TopicPartition
from engine.kafka.wire import Connection, OffsetFetch, by_topic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.kafka.leases import Membership
    from engine.settings import Settings

# Coordinator loading, not available, another one's.
COORDINATOR_AWAY = {14, 15, 16}
# Illegal generation, unknown member, rebalance in progress, fenced instance.
STALE = {22, 25, 27, 82}

_OK, _UNSTABLE = 0, 88


class Unstable(Exception):
    """Offsets are in a transaction that is not at its end."""


class Committed(NamedTuple):
    """An offset of a group, and the text that stands beside it."""

    offset: int
    metadata: str


class GroupOffsets:
    """How far groups have read, as the broker keeps it. `stable_reads`: whether it knows OffsetFetch v7."""

    def __init__(self, settings: Settings, *, stable_reads: bool, connection: Connection | None = None) -> None:
        self._connection, self._stable_reads = connection or Connection(settings), stable_reads

    async def stop(self) -> None:
        """Close the connection."""
        await self._connection.stop()

    async def fetch(
        self, group: str, partitions: Iterable[TopicPartition], *, stable: bool
    ) -> dict[TopicPartition, Committed]:
        """The committed offsets of those partitions that have one.

        Raises Unstable when `stable` is asked for and a transaction is open, and KafkaError, to be tried again.
        """
        topics = by_topic((partition.topic, partition.partition) for partition in partitions)
        request = (
            OffsetFetch(group, [(topic, numbers, {}) for topic, numbers in topics], stable, {})
            if self._stable_reads
            else OffsetFetchRequest(group, topics)
        )
        answer = await self._connection.ask(CoordinationType.GROUP, group, request)
        found: dict[TopicPartition, Committed] = {}
        codes = {getattr(answer, "error_code", _OK)}
        for topic, numbers, *_ in answer.topics:
            for entry in numbers:
                # number, offset, leader epoch (7), metadata, error code, tags (7)
                metadata, code = entry[3:5] if self._stable_reads else entry[2:4]
                codes.add(code)
                if entry[1] >= 0:
                    found[TopicPartition(topic, entry[0])] = Committed(entry[1], metadata or "")
        self._check(group, codes)
        return found

    def _check(self, group: str, codes: Iterable[int]) -> None:
        for code in set(codes) - {_OK}:
            if code == _UNSTABLE:
                raise Unstable
            if code in COORDINATOR_AWAY:
                self._connection.forget(CoordinationType.GROUP, group)
            raise for_code(code)

    async def ends(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Where partitions end for readers of what is committed: an open transaction is nobody's stall.

        Not asked over a consumer's own connection, on which the broker answers nothing while a fetch waits.
        """
        found = await self._connection.ends(partitions, stable=True)
        return {TopicPartition(*place): end for place, end in found.items()}

    async def commit(self, group: str, membership: Membership, offsets: Mapping[TopicPartition, Committed]) -> bool:
        """Move offsets outside a transaction; False when they are no longer ours to move. Raises KafkaError."""
        topics = by_topic((at.topic, (at.partition, found.offset, found.metadata)) for at, found in offsets.items())
        request = OffsetCommitRequest(group, membership.generation, membership.member, -1, topics)
        answer = await self._connection.ask(CoordinationType.GROUP, group, request)
        codes = {code for _, partitions in answer.topics for _, code in partitions}
        if codes & STALE:
            return False
        self._check(group, codes)
        return True
