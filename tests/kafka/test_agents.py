from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import KafkaConnectionError

from engine.kafka import agents
from engine.kafka.agents import Worker
from engine.kafka.leases import Lease, Place, Poll, Reader, TopicPartition
from engine.kafka.pacing import Pace
from engine.kafka.watermark import Watermark
from engine.protocol.record import Owner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def is_for(owner: Owner, *headers: tuple[str, bytes | None]) -> bool:
    execution: Any = SimpleNamespace(owner=owner, name_bytes=b"fraud")
    record = SimpleNamespace(headers=list(headers))
    return [found for found, _ in agents._requests(execution, [record])] == [record]


@pytest.mark.parametrize("headers", [(), (("pipeline", b"fraud"),), (("x-any", b"1"), ("traceparent", None))])
def test_a_record_without_or_with_our_pipelines_name_is_ours(headers: tuple[tuple[str, bytes | None], ...]) -> None:
    assert is_for(Owner.PIPELINE, *headers)


def test_a_record_that_names_another_pipeline_is_passed_over() -> None:
    assert not is_for(Owner.PIPELINE, ("pipeline", b"other"))


def test_a_model_answers_whatever_pipeline_a_record_names() -> None:
    assert is_for(Owner.MODEL, ("pipeline", b"other"))


@pytest.mark.parametrize("owner", [Owner.PIPELINE, Owner.MODEL])
@pytest.mark.parametrize("name", ["seldon-step", "seldon-pipeline-errors"])
def test_what_steps_wrote_and_errors_are_passed_over(owner: Owner, name: str) -> None:
    assert not is_for(owner, ("x-a", b"1"), (name, b"any"))


P0, P1 = TopicPartition("in", 0), TopicPartition("in", 1)


class FakeIntake:
    """Marked as such: an intake whose reading stands at `places`, before more records."""

    def __init__(self) -> None:
        self.places: dict[TopicPartition, int] = {P0: 5, P1: 7}
        self.error: Exception | None = None
        self.assigned = asyncio.Event()
        self.assigned.set()

    async def behind(self) -> dict[TopicPartition, int]:
        if self.error is not None:
            raise self.error
        return dict(self.places)


class Clock:
    """Seconds, as a test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(agents, "time", made)
    return made


@pytest.fixture
def worker() -> Any:
    """What the watchdog sees of a worker."""
    return SimpleNamespace(
        _draining=False, _waits=True, _polls=1, _stalled=False, _suspicion=None, group="g", intake=FakeIntake()
    )


async def watched(worker: Any, clock: Clock, *seconds: float) -> bool:
    """Whether it is stalled when it was looked at so many seconds apart."""
    for each in seconds:
        clock.now += each
        await Worker.watch(worker)
    return bool(worker._stalled)


async def test_records_that_nobody_brings_for_long_are_a_stall(worker: Any, clock: Clock) -> None:
    assert not await watched(worker, clock, 0, 15, 15)
    assert await watched(worker, clock, 15)


async def test_one_partition_that_stands_still_is_enough(worker: Any, clock: Clock) -> None:
    await watched(worker, clock, 0, 15)
    worker.intake.places[P1] = 8
    assert await watched(worker, clock, 20)


async def test_a_worker_that_reads_is_not_stalled(worker: Any, clock: Clock) -> None:
    for poll in range(10):
        worker._polls = poll
        assert not await watched(worker, clock, 15)


async def test_a_worker_that_is_at_work_is_not_stalled(worker: Any, clock: Clock) -> None:
    await watched(worker, clock, 0, 15)
    worker._waits = False
    assert not await watched(worker, clock, 60)
    worker._waits = True
    assert not await watched(worker, clock, 15)


async def test_a_worker_with_nothing_before_it_is_not_stalled(worker: Any, clock: Clock) -> None:
    worker.intake.places.clear()
    assert not await watched(worker, clock, 0, 60, 60)


async def test_a_broker_that_is_away_stalls_nobody(worker: Any, clock: Clock) -> None:
    await watched(worker, clock, 0, 15)
    worker.intake.error = KafkaConnectionError("away")
    assert not await watched(worker, clock, 60)
    worker.intake.error = None
    assert not await watched(worker, clock, 15)


async def test_a_worker_between_two_rebalances_is_not_stalled(worker: Any, clock: Clock) -> None:
    await watched(worker, clock, 0, 15)
    worker.intake.assigned.clear()
    assert not await watched(worker, clock, 60)


async def test_after_a_gap_reading_begins_again_when_the_transaction_that_runs_has_ended() -> None:
    # It may commit what was taken before the gap, and nothing would fence it.
    placed = asyncio.Event()

    class FakeGap(FakeIntake):
        """Marked as such: an intake of which a poll went missing."""

        committing = asyncio.Lock()

        def take(self, _: Any) -> tuple[list[Any], bool]:
            return [], True

        async def place(self) -> None:
            placed.set()

    worker: Any = SimpleNamespace(_draining=False, intake=FakeGap())
    async with worker.intake.committing:
        taking = asyncio.create_task(Worker.take(worker, {}))
        await asyncio.sleep(0)
        assert not placed.is_set()
    await asyncio.wait_for(taking, 5)
    assert placed.is_set()


async def test_the_records_of_a_poll_are_not_held_until_the_next_one_comes() -> None:
    # Faust's stream holds its event, and this stream does as much.
    poll = Poll(Reader(Lease(P0, 0, Watermark(0), Place(0))), 1, ["record"])
    event, taken = SimpleNamespace(value={P0: poll}), list[dict[TopicPartition, Poll]]()

    class FakeStream:
        """Marked as such: a stream of one poll."""

        async def events(self) -> AsyncIterator[Any]:
            yield event

    async def take(polled: dict[TopicPartition, Poll]) -> None:
        taken.append(dict(polled))

    opened, leases = asyncio.Event(), SimpleNamespace(crowded=False)
    opened.set()
    budget, intake = SimpleNamespace(room=opened.wait), SimpleNamespace(leases=leases)
    pace = Pace(lambda: 0, opened.wait)
    worker: Any = SimpleNamespace(_polls=0, _budget=budget, opened=opened, intake=intake, take=take, _pace=pace)
    await asyncio.wait_for(Worker._consume(worker, FakeStream()), 5)
    assert taken == [{P0: poll}]
    assert not event.value
