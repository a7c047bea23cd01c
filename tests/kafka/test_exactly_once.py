"""Exactly-once checkpoints with a fake producer that fails as told: what is written, with which offsets, when again."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import KafkaConnectionError

from engine.kafka import exactly_once
from engine.kafka.budget import Budget
from engine.kafka.checkpoint import Made, Taken
from engine.kafka.exactly_once import ExactlyOnce
from engine.kafka.leases import Leases, Membership, Place, TopicPartition
from engine.kafka.offsets import Committed
from engine.kafka.transactions import Stale, Unclear
from engine.kafka.watermark import Standing
from engine.kafka.writing import BatchTooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from engine.kafka.leases import Lease

P0 = TopicPartition("in", 0)
ME = Membership(1, "me")


class FakeRequest:
    """Marked as such: what a checkpoint reads of a request."""

    def __init__(self, lease: Lease, offset: int) -> None:
        self.origin, self.offset, self.size, self.key = lease, offset, 10, b"k"
        self.replaced, self.place = False, f"in [0] offset {offset}"
        self.records: list[Any] = [("out", 0, b"%d" % offset, []), ("replies", 3, b"%d" % offset, [])]
        self.told = 0
        self.tell: Any = None

    def count(self) -> None:
        self.told += 1


class FakeProducer:
    """Marked as such: keeps what was committed; `errors` are raised by the first transactions."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.committed: list[tuple[Membership, dict[TopicPartition, Committed], list[bytes]]] = []
        self.usable, self.resets, self.tries = False, 0, 0
        self.commits_unclear = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_gate = asyncio.Event()

    async def recover(self) -> bool:
        self.resets += 1
        self.usable = True
        return bool(self.committed)

    async def transact(
        self,
        group: str,
        membership: Membership,
        offsets: Mapping[TopicPartition, Committed],
        records: Mapping[tuple[str, int], Sequence[Any]],
    ) -> None:
        assert group == "group"
        assert self.usable
        self.tries += 1
        self.at_gate.set()
        await self.gate.wait()
        error = self.errors.pop(0) if self.errors else None
        if error is None or (isinstance(error, Unclear) and self.commits_unclear):
            values = [value for place in records for _, value, _ in records[place] if place[0] == "out"]
            self.committed.append((membership, dict(offsets), values))
        if error is not None:
            self.usable = False
            raise error

    @property
    def written(self) -> list[list[bytes]]:
        return [values for _, _, values in self.committed]


class FakeTransactions:
    """Marked as such: one producer."""

    committer = "here"

    def __init__(self, producer: FakeProducer) -> None:
        self.producer = producer
        self.free, self.asked = asyncio.Event(), asyncio.Event()
        self.free.set()
        self.numbers = itertools.count(1)

    def standing(self, spans: tuple[int, ...]) -> Standing:
        return Standing(self.committer, spans, next(self.numbers))

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[FakeProducer]:
        self.asked.set()
        await self.free.wait()
        yield self.producer

    def too_large(self, error: BatchTooLarge) -> bool:
        return error.count > 1


class FakeOutlet:
    """Marked as such: keeps what was written."""

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.refused = b""
        self.wrote = asyncio.Event()

    async def write(self, parts: Sequence[Any]) -> None:
        values = [record[2] for part in parts for record in part.records]
        if self.refused in values:
            raise BatchTooLarge(("replies", 3), values.index(self.refused), 1, 2000)
        self.values += values
        self.wrote.set()


class FakeIntake:
    """Marked as such: one partition that is ours."""

    group = "group"

    def __init__(self) -> None:
        self.leases = Leases()
        self.leases.assign([P0], ME)
        self.leases.grant({P0: Place(0)})
        self.committing, self.assigned = asyncio.Lock(), asyncio.Event()
        self.assigned.set()
        self.flush: Any = None
        self.positions: list[int] = []
        self.positioned = asyncio.Event()

    async def commit_positions(self) -> None:
        self.positions += [place.offset for place in self.leases.commits().values()]
        self.positioned.set()


class Bench:
    def __init__(self) -> None:
        self.producer, self.outlet, self.budget = FakeProducer(), FakeOutlet(), Budget(1000).share()
        self.intake = FakeIntake()
        self.oversized: list[int] = []
        self.transactions = FakeTransactions(self.producer)
        self.checkpoints = ExactlyOnce(
            self.transactions,  # type: ignore[arg-type]
            self.outlet,  # type: ignore[arg-type]
            "replies",
            self.intake,  # type: ignore[arg-type]
            self.budget,
            self._oversized,
        )

    @property
    def lease(self) -> Lease:
        return self.intake.leases.held[P0]

    def _oversized(self, request: Any) -> None:
        self.oversized.append(request.offset)
        request.records = [("out", 0, b"an error", [])]

    def requests(self, count: int) -> list[Any]:
        """That many requests of the lease, taken."""
        self.lease.watermark.take(range(count), count)
        self.budget.take(10 * count)
        return [FakeRequest(self.lease, offset) for offset in range(count)]

    async def finished(self, *units: Any) -> None:
        self.checkpoints.finished(units)
        await asyncio.wait_for(self.checkpoints.written(), 5)


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    bench = Bench()
    bench.checkpoints.start()
    try:
        yield bench
    finally:
        await bench.checkpoints.stop()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRY_SECONDS", "STALE_SECONDS", "POSITION_SECONDS"):
        monkeypatch.setattr(exactly_once, name, 0.001)


async def test_records_and_the_offset_that_they_free_are_one_transaction() -> None:
    async with running() as bench:
        await bench.finished(*bench.requests(2))
        [(membership, offsets, values)] = bench.producer.committed
        assert (membership, values) == (ME, [b"0", b"1"])
        assert offsets == {P0: Committed(2, Standing("here", (), 1).encode())}


async def test_what_finishes_during_a_transaction_is_the_next_one() -> None:
    async with running() as bench:
        first, *others = bench.requests(3)
        bench.producer.gate.clear()
        bench.checkpoints.finished([first])
        await bench.producer.at_gate.wait()
        for request in others:
            bench.checkpoints.finished([request])
        assert bench.checkpoints.unwritten == 3
        bench.producer.gate.set()
        await asyncio.wait_for(bench.checkpoints.written(), 5)
        assert bench.producer.written == [[b"0"], [b"1", b"2"]]
        assert bench.checkpoints.unwritten == 0


async def test_who_waits_for_others_to_be_written_goes_on_when_their_transaction_has_ended() -> None:
    async with running() as bench:
        bench.producer.gate.clear()
        bench.checkpoints.finished(bench.requests(1))
        await bench.producer.at_gate.wait()
        waits = asyncio.create_task(bench.checkpoints.progressed())
        await asyncio.sleep(0)
        bench.producer.gate.set()
        await asyncio.wait_for(waits, 5)


async def test_a_transaction_has_so_many_requests_at_most_and_the_rest_are_the_next_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exactly_once, "MOST_UNITS", 2)
    async with running() as bench:
        await bench.finished(*bench.requests(5))
        assert bench.producer.written == [[b"0", b"1"], [b"2", b"3"], [b"4"]]
        assert bench.producer.committed[-1][1][P0].offset == 5


async def test_a_transaction_that_is_tried_again_has_no_more_requests_than_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exactly_once, "MOST_UNITS", 2)
    async with running() as bench:
        bench.producer.errors = [TimeoutError()] * 2
        await bench.finished(*bench.requests(3))
        assert bench.producer.written == [[b"0", b"1"], [b"2"]]


async def test_all_that_is_finished_is_committed_before_a_rebalance_in_as_many_transactions_as_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exactly_once, "MOST_UNITS", 2)
    bench = Bench()
    bench.checkpoints.finished(bench.requests(5))
    await bench.checkpoints.flush()
    assert bench.producer.written == [[b"0", b"1"], [b"2", b"3"], [b"4"]]


async def test_a_slow_request_does_not_hold_up_its_neighbours() -> None:
    async with running() as bench:
        slow, quick, _ = bench.requests(3)
        await bench.finished(quick)
        assert bench.producer.committed[-1][1][P0] == Committed(0, Standing("here", (1, 1), 1).encode())
        await bench.finished(slow)
        assert bench.producer.committed[-1][1][P0] == Committed(2, Standing("here", (), 2).encode())


@pytest.mark.parametrize("error", [KafkaConnectionError("away"), TimeoutError(), OSError("gone"), Stale("old")])
async def test_a_transaction_that_failed_is_written_again_whole_by_a_producer_made_anew(error: Exception) -> None:
    async with running() as bench:
        bench.producer.errors = [error]
        await bench.finished(*bench.requests(2))
        assert bench.producer.written == [[b"0", b"1"]]
        assert (bench.producer.resets, bench.budget._out) == (2, 0)


@pytest.mark.parametrize(("happened", "tries"), [(True, 1), (False, 2)])
async def test_of_a_commit_without_an_answer_it_is_asked_whether_it_happened(*, happened: bool, tries: int) -> None:
    async with running() as bench:
        bench.producer.errors, bench.producer.commits_unclear = [Unclear("no answer")], happened
        await bench.finished(*bench.requests(2))
        assert (bench.producer.written, bench.producer.tries) == ([[b"0", b"1"]], tries)


async def test_requests_of_a_partition_that_was_lost_meanwhile_are_not_written() -> None:
    async with running() as bench:
        requests = bench.requests(2)
        bench.producer.gate.clear()
        bench.producer.errors = [Stale("old")]
        bench.checkpoints.finished(requests)
        await bench.producer.at_gate.wait()
        bench.intake.leases.lose(P0)
        bench.producer.gate.set()
        await asyncio.wait_for(bench.checkpoints.written(), 5)
        assert (bench.producer.written, bench.budget._out) == ([], 0)


async def test_nothing_is_written_between_a_rebalance_and_its_end() -> None:
    async with running() as bench:
        bench.intake.assigned.clear()
        bench.checkpoints.finished(bench.requests(1))
        await asyncio.sleep(0.01)
        assert bench.producer.tries == 0
        bench.intake.assigned.set()
        await asyncio.wait_for(bench.checkpoints.written(), 5)
        assert bench.producer.written == [[b"0"]]


async def test_a_transaction_after_another_one_begins_at_once() -> None:
    async with running() as bench:
        for request in bench.requests(3):
            await bench.finished(request)
        # The first of a producer makes it; nothing is to be ended after one that was committed.
        assert (bench.producer.resets, bench.producer.tries) == (1, 3)


async def test_offsets_go_under_the_membership_that_they_were_ours_in_though_a_rebalance_ends_meanwhile() -> None:
    async with running() as bench:
        bench.transactions.free.clear()
        bench.checkpoints.finished(bench.requests(1))
        await bench.transactions.asked.wait()
        # The partition is another member's from here on; the broker knows that by the generation alone.
        bench.intake.leases.assign([], Membership(ME.generation + 1, ME.member))
        bench.transactions.free.set()
        await asyncio.wait_for(bench.checkpoints.written(), 5)
        assert [membership for membership, _, _ in bench.producer.committed] == [ME]


async def test_a_rebalance_that_begins_has_what_is_finished_committed_first() -> None:
    async with running() as bench:
        bench.intake.assigned.clear()
        bench.checkpoints.finished(bench.requests(1))
        await bench.intake.flush()
        assert bench.producer.written == [[b"0"]]


async def test_only_the_request_whose_record_is_too_large_gets_an_error() -> None:
    async with running() as bench:
        bench.producer.errors = [BatchTooLarge(("out", 0), 0, 3, 900), BatchTooLarge(("out", 0), 1, 1, 300)]
        await bench.finished(*bench.requests(3))
        assert (bench.oversized, bench.producer.written) == ([1], [[b"0", b"an error", b"2"]])


async def test_a_record_of_nobody_that_is_too_large_is_given_up() -> None:
    async with running() as bench:
        bench.producer.errors = [BatchTooLarge(("out", 0), 0, 1, 900)]
        bench.lease.watermark.take([0], 1)
        made = Made(bench.lease, "in [0]", b"k", ("out", 0, b"large", []))
        await bench.finished(made, Taken(bench.lease, "in [0]", 0, 0, []))
        assert bench.producer.written == [[]]


async def test_changes_of_state_are_in_the_transaction_and_time_alone_is_fenced_by_an_offset_that_stays() -> None:
    async with running() as bench:
        change = Made(bench.lease, "in [0]", b"k", ("out", 0, b"state", []))
        await bench.finished(Taken(bench.lease, "in [0]", None, 0, [change]))
        [(_, offsets, values)] = bench.producer.committed
        assert (offsets[P0].offset, values) == (0, [b"state"])


async def test_an_answer_ahead_of_its_request_is_no_part_of_the_transaction_and_the_rest_is() -> None:
    async with running() as bench:
        [request] = bench.requests(1)
        bench.checkpoints.answered([request])
        await asyncio.wait_for(bench.outlet.wrote.wait(), 5)
        assert (bench.outlet.values, bench.producer.tries) == ([b"0"], 0)
        await bench.finished(request)
        assert bench.producer.written == [[b"0"]]


async def test_an_answer_that_its_topic_does_not_take_is_given_up_alone() -> None:
    async with running() as bench:
        requests = bench.requests(3)
        bench.outlet.refused = b"1"
        bench.checkpoints.answered(requests)
        await asyncio.wait_for(bench.outlet.wrote.wait(), 5)
        await bench.finished(*requests)
        assert (bench.outlet.values, bench.checkpoints.crashed) == ([b"0", b"2"], False)
        assert bench.producer.written == [[b"0", b"1", b"2"]]


async def test_records_that_were_passed_over_need_no_transaction() -> None:
    async with running() as bench:
        bench.lease.watermark.take([], 9)
        bench.checkpoints.skipped()
        await asyncio.wait_for(bench.intake.positioned.wait(), 5)
        assert (bench.intake.positions, bench.producer.tries) == ([9], 0)


async def test_a_caller_in_this_process_is_told_once_and_after_the_commit() -> None:
    async with running() as bench:
        [request] = bench.requests(1)
        request.tell = request.count
        bench.producer.errors = [KafkaConnectionError("away")]
        bench.producer.gate.clear()
        bench.checkpoints.finished([request])
        await bench.producer.at_gate.wait()
        assert request.told == 0
        bench.producer.gate.set()
        await asyncio.wait_for(bench.checkpoints.written(), 5)
        assert (request.told, bench.producer.tries) == (1, 2)


async def test_a_caller_in_this_process_is_not_told_of_what_another_owner_does_again() -> None:
    async with running() as bench:
        [request] = bench.requests(1)
        request.tell = request.count
        bench.intake.leases.lose(P0)
        await bench.finished(request)
        assert (request.told, bench.producer.written) == (0, [])


async def test_a_caller_in_this_process_is_told_early_where_the_answer_is() -> None:
    async with running() as bench:
        [request] = bench.requests(1)
        request.tell = request.count
        bench.checkpoints.answered([request])
        await asyncio.wait_for(bench.outlet.wrote.wait(), 5)
        await bench.finished(request)
        assert request.told == 1


async def test_a_transaction_is_counted_with_its_requests_and_one_that_failed_as_tried_again() -> None:
    async with running() as bench:
        bench.producer.errors.append(KafkaConnectionError("away"))
        await bench.finished(*bench.requests(2))
        found = bench.checkpoints
        assert (found.seconds.count, found.sizes.count, found.sizes.sum, found.failures) == (1, 1, 2, 1)
