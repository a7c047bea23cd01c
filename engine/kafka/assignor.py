"""Which member of a group gets which partitions: one partition number of all topics to one member, and it stays there.

A join of several topics by key needs the records of a key in one place, and a rebalance should move as little as it
can. aiokafka's sticky assignor does the second for single partitions, so it is asked about one topic that all members
read, and the others follow it number by number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class CoPartitionedSticky(StickyPartitionAssignor):  # type: ignore[misc]  # aiokafka has no types
    """Equal partition numbers of all topics go to one member.

    aiokafka keeps the state of a member on the class: each consumer needs a subclass of its own.
    """

    name = "copartitioned-sticky"

    @classmethod
    def assign(
        cls, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """The partitions of each member; a topic that only some read, as the others are about to, goes to those."""
        read = {member: set(metadata.subscription) for member, metadata in members.items()}
        shared = [topic for topic in sorted(set.intersection(*read.values())) if cluster.partitions_for_topic(topic)]
        if not shared:
            alone: dict[str, ConsumerProtocolMemberAssignment] = super().assign(cluster, members)
            return alone
        leader = max(shared, key=lambda topic: len(cluster.partitions_for_topic(topic)))
        narrowed = {
            member: ConsumerProtocolMemberMetadata(metadata.version, [leader], metadata.user_data)
            for member, metadata in members.items()
        }
        holders: dict[int, str] = {}
        for member, assignment in super().assign(cluster, narrowed).items():
            for _, partitions in assignment.assignment:
                holders.update(dict.fromkeys(partitions, member))
        given: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in members}
        for topic in sorted(set().union(*read.values())):
            readers = sorted(member for member, topics in read.items() if topic in topics)
            shares = _shares(cluster.partitions_for_topic(topic) or (), holders, readers)
            for member, partitions in shares.items():
                given[member].append((topic, partitions))
        return {member: ConsumerProtocolMemberAssignment(cls.version, topics, b"") for member, topics in given.items()}

    @classmethod
    def parse_member_metadata(cls, metadata: ConsumerProtocolMemberMetadata) -> Any:
        """What a member had before, of the topics in question only: others would count as taken away from it."""
        parsed = super().parse_member_metadata(metadata)
        return parsed._replace(partitions=[tp for tp in parsed.partitions if tp.topic in parsed.subscription])


def _shares(partitions: Iterable[int], holders: Mapping[int, str], readers: list[str]) -> dict[str, list[int]]:
    """Each reader's partitions of a topic: those numbers that it holds, and its part of those that no reader holds."""
    shares: dict[str, list[int]] = {}
    for partition in sorted(partitions):
        holder = holders.get(partition)
        member = holder if holder in readers else readers[partition % len(readers)]
        shares.setdefault(str(member), []).append(partition)
    return shares
