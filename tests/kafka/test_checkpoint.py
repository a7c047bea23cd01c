"""Checkpoints with a fake writer and a fake intake: no broker, and the order of everything that is asked of it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import KafkaConnectionError

from engine.kafka import checkpoint
from engine.kafka.budget import Budget
from engine.kafka.checkpoint import AtLeastOnce, Made, Taken
from engine.kafka.leases import Lease, Place, TopicPartition
from engine.kafka.watermark import Watermark
from engine.kafka.writing import BatchTooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class FakeRequest:
    """Marked as such: what a checkpoint reads of a request."""

    def __init__(self, lease: Lease, offset: int, *, value: bytes = b"") -> None:
        self.origin, self.offset, self.size, self.key = lease, offset, 10, b"k"
        self.replaced, self.place = False, f"in [0] offset {offset}"
        self.records = [("out", 0, value or b"%d" % offset, [("x-request-id", b"r")])]
        self.tell: Any = None


class FakeWriter:
    """Marked as such: keeps what was written; `errors` are raised by the first writes, too large values always."""

    def __init__(self) -> None:
        self.written: list[list[int]] = []
        self.topics: list[list[str]] = []
        self.errors: list[Exception] = []
        self.tries = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_gate = asyncio.Event()

    async def write(self, requests: list[FakeRequest]) -> None:
        self.tries += 1
        self.at_gate.set()
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        if any(request.records and request.records[0][2] == b"too large" for request in requests):
            raise BatchTooLarge(("out", 0), 0, 1, 2000)
        self.written.append([getattr(request, "offset", -1) for request in requests])
        self.topics.append([record[0] for request in requests for record in request.records])


class FakeIntake:
    """Marked as such: commits the lease's watermark."""

    def __init__(self, lease: Lease) -> None:
        self.lease, self.commits, self.errors = lease, list[int](), list[Exception]()
        self.committed = asyncio.Event()
        self.told: Callable[[], object] = lambda: None

    async def commit(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.told()
        self.commits.append(self.lease.watermark.offset)
        self.committed.set()


class Bench:
    def __init__(self) -> None:
        self.lease = Lease(TopicPartition("t", 0), 0, Watermark(0), Place(0))
        self.writer, self.intake, self.budget = FakeWriter(), FakeIntake(self.lease), Budget(30).share()
        self.oversized: list[int] = []
        self.checkpoints = AtLeastOnce(self.writer, self.intake, self.budget, self._oversized)  # type: ignore[arg-type]

    def _oversized(self, request: Any) -> None:
        self.oversized.append(request.offset)
        request.records = [("out", 0, b"an error", [])]

    def requests(self, count: int) -> list[Any]:
        """That many requests of the lease, taken."""
        self.lease.watermark.take(range(count), count)
        self.budget.take(10 * count)
        return [FakeRequest(self.lease, offset) for offset in range(count)]

    async def drain(self) -> None:
        await asyncio.wait_for(self.checkpoints.drain(), 5)


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
    monkeypatch.setattr(checkpoint, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(checkpoint, "COMMIT_INTERVAL", 0.001)


async def test_what_is_finished_is_written_and_then_its_offset_is_free() -> None:
    async with running() as bench:
        bench.checkpoints.finished(bench.requests(2))
        await bench.drain()
        assert bench.writer.written == [[0, 1]]
        assert bench.intake.commits[-1] == 2


async def test_no_offset_is_free_before_its_records_are_written() -> None:
    async with running() as bench:
        bench.writer.gate.clear()
        bench.checkpoints.finished(bench.requests(1))
        await bench.writer.at_gate.wait()
        assert bench.lease.watermark.offset == 0
        bench.writer.gate.set()
        await bench.drain()
        assert bench.lease.watermark.offset == 1


async def test_what_finishes_during_a_checkpoint_is_the_next_one() -> None:
    async with running() as bench:
        first, *others = bench.requests(3)
        bench.writer.gate.clear()
        bench.checkpoints.finished([first])
        await bench.writer.at_gate.wait()
        for request in others:
            bench.checkpoints.finished([request])
        assert bench.checkpoints.unwritten == 3
        bench.writer.gate.set()
        await bench.drain()
        assert bench.writer.written == [[0], [1, 2]]
        assert bench.checkpoints.unwritten == 0


async def test_what_is_written_is_not_held_until_something_else_is_finished() -> None:
    async with running() as bench:
        requests = bench.requests(2)
        held = [weakref.ref(request) for request in requests]
        bench.checkpoints.finished(requests)
        del requests
        await bench.drain()
        gc.collect()
        assert [each() for each in held] == [None, None]


async def test_a_broker_that_is_away_loses_nothing() -> None:
    async with running() as bench:
        bench.writer.errors = [KafkaConnectionError("away"), OSError("still away")]
        bench.checkpoints.finished(bench.requests(2))
        await bench.drain()
        assert bench.writer.written == [[0, 1]]
        assert bench.writer.tries == 3


async def test_requests_of_a_lost_lease_are_not_written() -> None:
    async with running() as bench:
        requests = bench.requests(2)
        bench.lease.held = False
        bench.checkpoints.finished(requests)
        await bench.drain()
        assert bench.writer.written == []
        assert bench.lease.watermark.offset == 0


async def test_requests_of_a_lease_that_is_lost_between_two_tries_are_not_written() -> None:
    async with running() as bench:
        bench.writer.gate.clear()
        bench.writer.errors = [KafkaConnectionError("away")]
        bench.checkpoints.finished(bench.requests(1))
        await bench.writer.at_gate.wait()
        bench.lease.held = False
        bench.writer.gate.set()
        await bench.drain()
        assert bench.writer.written == []


async def test_a_budget_gets_back_what_was_written_and_what_was_lost() -> None:
    async with running() as bench:
        kept, lost, other = bench.requests(3)
        lost.origin = Lease(TopicPartition("t", 1), 0, Watermark(0), Place(0), held=False)
        bench.checkpoints.finished([kept, lost, other])
        await asyncio.wait_for(bench.budget.room(), 5)
        assert bench.budget._out == 0


async def test_a_drain_waits_for_what_is_being_written() -> None:
    async with running() as bench:
        bench.writer.gate.clear()
        bench.checkpoints.finished(bench.requests(1))
        draining = asyncio.create_task(bench.checkpoints.drain())
        await bench.writer.at_gate.wait()
        assert not draining.done()
        bench.writer.gate.set()
        await asyncio.wait_for(draining, 5)
        assert bench.writer.written == [[0]]


async def test_a_drain_of_nothing_returns() -> None:
    async with running() as bench:
        await bench.drain()
        assert bench.writer.tries == 0


async def test_only_the_request_that_is_too_large_gets_an_error() -> None:
    async with running() as bench:
        requests = bench.requests(3)
        requests[1].records = [("out", 0, b"too large", [])]
        bench.checkpoints.finished(requests)
        await bench.drain()
        assert bench.oversized == [1]
        assert sorted(offset for batch in bench.writer.written for offset in batch) == [0, 1, 2]
        assert requests[1].records == [("out", 0, b"an error", [])]


async def test_what_finishes_while_a_writing_takes_long_is_written_in_bounded_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint, "MOST_UNITS", 2)
    async with running() as bench:
        bench.checkpoints.finished(bench.requests(5))
        await bench.drain()
        assert bench.writer.written == [[0, 1], [2, 3], [4]]
        assert bench.intake.commits[-1] == 5


async def test_records_that_were_passed_over_are_committed() -> None:
    async with running() as bench:
        bench.lease.watermark.take([], 9)
        bench.checkpoints.skipped()
        await asyncio.wait_for(bench.intake.committed.wait(), 5)
        assert bench.intake.commits == [9]


async def test_a_commit_that_fails_is_tried_again() -> None:
    async with running() as bench:
        bench.intake.errors = [KafkaConnectionError("away")]
        bench.checkpoints.skipped()
        await asyncio.wait_for(bench.intake.committed.wait(), 5)


async def test_a_request_of_which_not_even_the_error_is_taken_is_given_up_and_its_neighbours_are_written() -> None:
    async with running() as bench:
        bench.checkpoints._oversized = lambda request: bench.oversized.append(request.offset)  # still too large
        good, bad = bench.requests(2)
        bad.records = [("out", 0, b"too large", [])]
        bench.checkpoints.finished([bad, good])
        await bench.drain()
    assert (bench.oversized, bench.writer.written, bench.intake.commits[-1]) == ([1], [[0]], 2)


async def test_what_is_answered_early_is_written_and_its_offset_stays() -> None:
    async with running() as bench:
        [request] = bench.requests(1)
        bench.checkpoints.answered([request])
        await bench.drain()
        assert (len(bench.writer.written), request.records) == (1, [])
        assert not bench.lease.watermark.idle
        bench.checkpoints.finished([request])
        await bench.drain()
    assert bench.lease.watermark.idle


async def test_a_change_of_state_is_written_after_what_it_tells_of_and_before_the_offset_is_free() -> None:
    async with running() as bench:
        lease = bench.lease
        lease.watermark.take([4], 5)
        change = Made(lease, "in [0]", b"k", ("state", 0, b"s", []))
        bench.checkpoints.finished(
            [Made(lease, "in [0]", b"k", ("out", 0, b"r", [])), Taken(lease, "in [0]", 4, 0, [change])]
        )
        await bench.drain()
        assert bench.writer.topics == [["out"], ["state"]]
        assert bench.intake.commits[-1] == 5


async def test_changes_that_time_alone_caused_free_no_offset() -> None:
    async with running() as bench:
        bench.lease.watermark.take([4], 5)
        change = Made(bench.lease, "in [0]", b"k", ("state", 0, None, []))
        bench.checkpoints.finished([Taken(bench.lease, "in [0]", None, 0, [change])])
        await bench.drain()
        assert bench.lease.watermark.offset == 4
        assert bench.writer.topics[-1] == ["state"]


async def test_what_a_lost_partition_made_is_not_written_nor_its_changes() -> None:
    async with running() as bench:
        bench.lease.held = False
        made = Made(bench.lease, "in [0]", b"k", ("out", 0, b"r", []))
        bench.checkpoints.finished([made, Taken(bench.lease, "in [0]", 4, 0, [made])])
        await bench.drain()
        assert [write for write in bench.writer.topics if write] == []


async def test_a_caller_in_this_process_is_told_when_the_answer_is_written() -> None:
    async with running() as bench:
        [request] = bench.requests(1)
        written: list[int] = []
        request.tell = lambda: written.append(len(bench.writer.written))
        bench.checkpoints.finished([request])
        await bench.drain()
    assert written == [1]


async def test_a_checkpoint_is_counted_with_its_requests() -> None:
    async with running() as bench:
        bench.checkpoints.finished(bench.requests(3))
        await bench.drain()
        assert (bench.checkpoints.seconds.count, bench.checkpoints.sizes.sum) == (1, 3)
        assert bench.checkpoints.failures == 0


async def test_a_checkpoint_that_is_tried_again_is_a_failure_and_still_one_checkpoint() -> None:
    async with running() as bench:
        bench.writer.errors.append(KafkaConnectionError("away"))
        bench.checkpoints.finished(bench.requests(1))
        await bench.drain()
        assert (bench.checkpoints.sizes.count, bench.checkpoints.failures) == (1, 1)


async def test_who_waits_for_room_goes_on_when_a_commit_finds_it() -> None:
    async with running() as bench:
        mark = bench.lease.watermark
        bench.intake.told = mark.spans
        requests = bench.requests(4000)
        bench.checkpoints.finished(requests[1::2])
        await bench.drain()
        assert mark.crowded

        async def room() -> None:
            while mark.crowded:
                await bench.checkpoints.progressed()

        waits = asyncio.create_task(room())
        await asyncio.sleep(0)
        # All but one end together, and after that nothing more.
        bench.checkpoints.finished(requests[2::2])
        await asyncio.wait_for(waits, 5)
