"""Which partitions are ours, how far they are read and how far they are finished. Pure state, without a client.

A `Lease` is our ownership of one partition through generations without a gap (the same member, each generation one
higher). A `Reader` is one stretch of reading under a lease, from one seek to the next. The consumer's thread numbers
the polls of a reader; a number that is missing means that Faust dropped a poll in between (it does at a rebalance, in
silence), and the partition is read again from where it was taken last. Measured without that count: 4,000 of 60,000
records lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.kafka.watermark import Watermark

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class TopicPartition(NamedTuple):
    """A partition of a topic; equal to the clients' own tuples of the same name."""

    topic: str
    partition: int


class Membership(NamedTuple):
    """What a consumer is in its group at one time."""

    generation: int
    member: str


# Before a consumer has joined its group.
NOBODY = Membership(-1, "")


class Place(NamedTuple):
    """How far a partition is finished: below the offset, and in spans above it (see `watermark`)."""

    offset: int
    spans: tuple[int, ...] = ()


@dataclass(eq=False)
class Lease:
    """Our ownership of one partition. `next` is the offset after the last record taken."""

    partition: TopicPartition
    next: int
    watermark: Watermark
    committed: Place
    reader: Reader | None = None
    held: bool = True


@dataclass(eq=False)
class Reader:
    """One stretch of reading: polls are counted on the consumer's thread and when they are taken."""

    lease: Lease
    polls: int = 0
    taken: int = 0


class Stand(NamedTuple):
    """Where reading stands in a partition, and where the partition ends."""

    position: int
    end: int


class Poll(NamedTuple):
    """What one fetch gave for one partition: its reader, the reader's count of it, and the records."""

    reader: Reader
    number: int
    records: Sequence[Any]


@dataclass
class Leases:
    """The leases of one group member."""

    membership: Membership = NOBODY
    mine: frozenset[TopicPartition] = frozenset()
    held: dict[TopicPartition, Lease] = field(default_factory=dict)

    def assign(self, partitions: Iterable[TopicPartition], membership: Membership) -> None:
        """A rebalance ended: leases of kept partitions live on when no generation was missed, others are lost."""
        unbroken = (
            membership.member == self.membership.member and membership.generation == self.membership.generation + 1
        )
        self.membership, self.mine = membership, frozenset(partitions)
        for partition in [tp for tp in self.held if not (unbroken and tp in self.mine)]:
            self.lose(partition)

    def lose(self, partition: TopicPartition) -> None:
        """What was taken under this lease is no longer ours to finish."""
        lease = self.held.pop(partition, None)
        if lease is not None:
            lease.held = False

    @property
    def fresh(self) -> list[TopicPartition]:
        """Partitions of ours that have no lease yet: their committed offsets are needed."""
        return [tp for tp in self.mine if tp not in self.held]

    @property
    def crowded(self) -> bool:
        """Whether nothing more should be taken until something that is unfinished has ended.

        What an earlier owner left may fill a watermark too: where nothing of ours runs, only reading on empties it.
        """
        return any(lease.watermark.crowded and not lease.watermark.idle for lease in self.held.values())

    def grant(self, places: Mapping[TopicPartition, Place]) -> None:
        """Begin leases where the partitions were committed."""
        for partition, place in places.items():
            self.held[partition] = Lease(partition, place.offset, Watermark(*place), place)

    def place(self) -> dict[TopicPartition, Reader]:
        """A new reader for each lease, which goes on at the lease's `next`."""
        for lease in self.held.values():
            lease.reader = Reader(lease)
        return {tp: lease.reader for tp, lease in self.held.items() if lease.reader}

    def take(
        self, polled: Mapping[TopicPartition, Poll]
    ) -> tuple[list[tuple[Lease, Sequence[Any]]], list[TopicPartition]]:
        """What of a fetch is ours to work on, and the partitions of which a fetch went missing before it."""
        work, gaps = [], []
        for partition, (reader, number, records) in polled.items():
            lease = reader.lease
            if lease.reader is not reader or self.held.get(partition) is not lease:
                continue
            if number != reader.taken + 1:
                gaps.append(partition)
                continue
            reader.taken, lease.next = number, records[-1].offset + 1
            work.append((lease, records))
        return work, gaps

    def behind(self, stands: Mapping[TopicPartition, Stand]) -> dict[TopicPartition, int]:
        """How many records of each partition are not read yet, or being worked on."""
        return {tp: _unfinished(lease, stands[tp]) for tp, lease in self.held.items() if tp in stands}

    def commits(self) -> dict[TopicPartition, Place]:
        """How far the partitions are finished that have moved since they were committed."""
        places = {tp: Place(lease.watermark.offset, lease.watermark.spans()) for tp, lease in self.held.items()}
        return {tp: place for tp, place in places.items() if place != self.held[tp].committed}

    def committed(self, places: Mapping[TopicPartition, Place]) -> None:
        """So much stands in the broker now."""
        for partition, place in places.items():
            if partition in self.held:
                self.held[partition].committed = place


def _unfinished(lease: Lease, stand: Stand) -> int:
    reader = lease.reader
    # What ends a transaction takes an offset and is no record: only reading itself knows that nothing follows it.
    is_taken = reader is not None and reader.taken == reader.polls
    return max(0, stand.end - (stand.position if is_taken else lease.next)) + lease.watermark.unfinished
