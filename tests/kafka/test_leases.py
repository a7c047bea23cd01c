from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.kafka.leases import Lease, Leases, Membership, Place, Poll, Reader, Stand, TopicPartition
from engine.kafka.watermark import Watermark

P0, P1 = TopicPartition("t", 0), TopicPartition("t", 1)


class FakeRecord(NamedTuple):
    """Marked as such: of a record, leases read the offset alone."""

    offset: int


def records(*offsets: int) -> list[Any]:
    return [FakeRecord(offset) for offset in offsets]


def holding(*partitions: TopicPartition, offset: int = 0) -> Leases:
    """Leases of generation 1, granted at an offset, with a reader each."""
    leases = Leases()
    leases.assign(partitions, Membership(1, "me"))
    leases.grant(dict.fromkeys(partitions, Place(offset)))
    leases.place()
    return leases


def reader(leases: Leases, partition: TopicPartition = P0) -> Reader:
    found = leases.held[partition].reader
    assert found is not None
    return found


def poll(leases: Leases, number: int, *offsets: int) -> tuple[list[tuple[Lease, Any]], list[TopicPartition]]:
    return leases.take({P0: Poll(reader(leases), number, records(*offsets))})


def test_partitions_without_a_lease_are_fresh() -> None:
    leases = Leases()
    leases.assign([P0, P1], Membership(1, "me"))
    leases.grant({P0: Place(3)})
    assert leases.fresh == [P1]


def test_polls_in_their_order_are_work() -> None:
    leases = holding(P0)
    for number, offset in ((1, 0), (2, 1)):
        work, gaps = poll(leases, number, offset)
        assert [(lease.partition, list(found)) for lease, found in work] == [(P0, records(offset))]
        assert gaps == []
    assert leases.held[P0].next == 2


def test_a_missing_poll_is_a_gap_and_no_work() -> None:
    leases = holding(P0)
    assert poll(leases, 2, 5) == ([], [P0])


def test_a_poll_after_a_gap_is_a_gap_still() -> None:
    leases = holding(P0)
    poll(leases, 2, 5)
    assert poll(leases, 3, 6) == ([], [P0])


def test_a_poll_of_an_older_reader_is_passed_over() -> None:
    leases = holding(P0)
    old = reader(leases)
    leases.place()
    assert leases.take({P0: Poll(old, 1, records(0))}) == ([], [])


def test_a_poll_of_a_lost_lease_is_passed_over() -> None:
    leases = holding(P0)
    old = reader(leases)
    leases.lose(P0)
    assert leases.take({P0: Poll(old, 1, records(0))}) == ([], [])


def test_a_gap_of_one_partition_leaves_the_others_alone() -> None:
    leases = holding(P0, P1)
    work, gaps = leases.take({P0: Poll(reader(leases), 2, records(5)), P1: Poll(reader(leases, P1), 1, records(0))})
    assert [lease.partition for lease, _ in work] == [P1]
    assert gaps == [P0]


def test_a_kept_partition_keeps_its_lease_through_the_next_generation() -> None:
    leases = holding(P0, P1)
    kept = leases.held[P0]
    leases.assign([P0], Membership(2, "me"))
    assert leases.held == {P0: kept}
    assert kept.held


def test_a_lost_partition_is_told_to_whoever_holds_its_lease() -> None:
    leases = holding(P0, P1)
    lost = leases.held[P1]
    leases.assign([P0], Membership(2, "me"))
    assert not lost.held


def test_a_missed_generation_loses_everything() -> None:
    leases = holding(P0)
    leases.assign([P0], Membership(3, "me"))
    assert leases.fresh == [P0]


def test_another_member_has_none_of_our_leases() -> None:
    leases = holding(P0)
    leases.assign([P0], Membership(2, "another"))
    assert leases.fresh == [P0]


def test_a_new_reader_goes_on_behind_the_last_record_taken() -> None:
    leases = holding(P0)
    poll(leases, 1, 0, 1)
    placed = leases.place()[P0]
    assert (placed.lease.next, placed.taken) == (2, 0)


def test_only_offsets_that_moved_are_committed() -> None:
    leases = holding(P0, P1, offset=4)
    leases.held[P0].watermark.take([], 6)
    assert leases.commits() == {P0: Place(6)}


def test_what_is_committed_is_not_committed_again() -> None:
    leases = holding(P0)
    leases.held[P0].watermark.take([], 6)
    leases.committed({P0: Place(6)})
    assert leases.commits() == {}


def test_what_is_finished_above_a_slow_request_is_committed_beside_the_offset() -> None:
    leases = holding(P0)
    leases.held[P0].watermark.take([0, 1, 2], 3)
    leases.held[P0].watermark.finish([1])
    assert leases.commits() == {P0: Place(0, (1, 1))}


def test_what_an_earlier_owner_left_keeps_nobody_from_reading_on_who_has_nothing_running() -> None:
    dead = Watermark(0)
    dead.take(range(4000), 4000)
    dead.finish(list(range(1, 4000, 2)))
    leases = Leases()
    leases.assign([P0], Membership(1, "me"))
    leases.grant({P0: Place(dead.offset, dead.spans())})
    mark = leases.held[P0].watermark
    mark.take([0], 2)
    leases.commits()
    assert mark.crowded
    assert leases.crowded
    mark.finish([0])
    leases.commits()
    assert mark.crowded
    assert not leases.crowded


def test_a_commit_of_a_lost_partition_is_forgotten() -> None:
    leases = holding(P0)
    leases.lose(P0)
    leases.committed({P0: Place(6)})
    assert leases.commits() == {}


class Reading(RuleBasedStateMachine):
    """One partition through polls that Faust may drop, rebalances, and requests that finish in any order.

    `finished` is what was done under leases that were held; nothing below a committed offset may be missing in it.
    """

    @initialize()
    def join(self) -> None:
        self.leases = Leases()
        self.generation = 0
        self.broker = Place(0)
        self.position = 0
        self.queue: list[Poll] = []
        self.out: list[tuple[Lease, int]] = []
        self.finished: set[int] = set()
        self._assign("me")

    def _assign(self, member: str, *, skipped: int = 0) -> None:
        self.generation += 1 + skipped
        self.leases.assign([P0], Membership(self.generation, member))
        self._place()

    def _place(self) -> None:
        self.leases.grant(dict.fromkeys(self.leases.fresh, self.broker))
        self.reader = self.leases.place()[P0]
        self.position = self.reader.lease.next

    @rule(count=st.integers(1, 4), gap=st.integers(0, 2))
    def fetch(self, count: int, gap: int) -> None:
        """The consumer's thread polls; offsets may be missing from the log, as behind a compaction."""
        self.reader.polls += 1
        first = self.position + gap
        # Records that are not in the log are nobody's to finish.
        self.finished.update(range(self.position, first))
        self.position = first + count
        self.queue.append(Poll(self.reader, self.reader.polls, records(*range(first, self.position))))

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.queue.pop(data.draw(st.integers(0, len(self.queue) - 1)))

    @precondition(lambda self: self.queue)
    @rule(mine=st.lists(st.booleans(), min_size=4, max_size=4))
    def take(self, mine: list[bool]) -> None:
        """The next poll comes through; some records are passed over."""
        polled = self.queue.pop(0)
        expected = self.leases.held[P0].next
        work, gaps = self.leases.take({P0: polled})
        for lease, found in work:
            offsets = [record.offset for record in found]
            # Nothing between the last record taken and these was skipped.
            assert set(range(expected, offsets[0])) <= self.finished
            again = [offset for offset in offsets if lease.watermark.done(offset)]
            assert set(again) <= self.finished
            ours = [offset for offset, is_mine in zip(offsets, mine, strict=False) if is_mine]
            self.finished.update(set(offsets) - set(ours))
            kept = [offset for offset in ours if offset not in again]
            lease.watermark.take(kept, offsets[-1] + 1)
            self.out += [(lease, offset) for offset in kept]
        for partition in gaps:
            self.leases.lose(partition)
        if gaps:
            self._place()

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        lease, offset = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        if lease.held:
            self.finished.add(offset)
            lease.watermark.finish([offset])

    @rule(answered=st.booleans())
    def commit(self, *, answered: bool) -> None:
        """The broker may take a commit and its answer be lost."""
        offsets = self.leases.commits()
        self.broker = offsets.get(P0, self.broker)
        if answered:
            self.leases.committed(offsets)

    @rule(skipped=st.integers(0, 1), member=st.sampled_from(["me", "me", "another"]))
    def rebalance(self, skipped: int, member: str) -> None:
        self._assign(member, skipped=skipped)

    @invariant()
    def nothing_below_the_watermark_is_unfinished(self) -> None:
        lease = self.leases.held[P0]
        assert set(range(lease.watermark.offset)) <= self.finished
        assert all(offset >= lease.watermark.offset for owner, offset in self.out if owner is lease)

    @invariant()
    def what_is_committed_is_finished(self) -> None:
        assert set(range(self.broker.offset)) <= self.finished


TestReading = Reading.TestCase
TestReading.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_what_is_not_read_and_what_is_being_worked_on_is_behind() -> None:
    leases = holding(P0, P1)
    reader(leases).polls = 1
    poll(leases, 1, 0, 1, 2)
    leases.held[P0].watermark.take([0, 1, 2], 3)
    leases.held[P0].watermark.finish([1])
    assert leases.behind({P0: Stand(3, 10), P1: Stand(0, 4)}) == {P0: 9, P1: 4}


def test_polls_that_wait_to_be_taken_are_behind() -> None:
    leases = holding(P0)
    reader(leases).polls = 2
    poll(leases, 1, 0)
    assert leases.behind({P0: Stand(5, 5)}) == {P0: 4}


def test_the_mark_behind_a_transaction_is_no_record() -> None:
    leases = holding(P0)
    reader(leases).polls = 1
    poll(leases, 1, 0, 1)
    assert leases.behind({P0: Stand(3, 3)}) == {P0: 0}


def test_a_partition_of_which_nothing_is_known_is_not_told_of() -> None:
    assert holding(P0, P1).behind({P1: Stand(0, 0)}) == {P1: 0}
