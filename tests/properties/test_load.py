"""Every request of a load is sent and counted from its time, or told of as not sent, whatever the others do."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli.load import UNSENT, Failure, Outcome, Schedule, apply

RATES = st.floats(0.1, 10_000)


class Clock:
    """Time that passes only while a request is answered."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def applied(schedule: Schedule, takes: list[float], *, fails: frozenset[int] = frozenset()) -> tuple[Outcome, int]:
    """What becomes of a load whose requests take so long, one after the other, and how many were sent."""
    clock, outcome, sent = Clock(), Outcome(), 0

    async def send() -> Failure | None:
        nonlocal sent
        clock.now += takes[sent % len(takes)]
        sent += 1
        return Failure("503", "away") if sent - 1 in fails else None

    asyncio.run(apply(schedule, send, clock, outcome, asyncio.Event()))
    return outcome, sent


@given(RATES, st.floats(0.01, 100))
def test_requests_are_due_within_the_time_and_no_sooner_than_the_rate_says(rate: float, seconds: float) -> None:
    schedule = Schedule(rate, seconds, 1)
    assert schedule.due(0) == 0
    assert abs(schedule.requests - rate * seconds) <= 1
    assert schedule.due(schedule.requests - 1) <= seconds
    assert schedule.due_by(seconds) == schedule.requests


@given(RATES, st.integers(0, 10_000))
def test_when_a_request_is_due_it_and_those_before_it_are_due(rate: float, number: int) -> None:
    schedule = Schedule(rate, (number + 1) / rate, 1)
    assert schedule.due_by(schedule.due(number)) == number + 1


@given(st.integers(1, 60), st.lists(st.floats(1.0, 9.0), min_size=1, max_size=60))
def test_a_product_that_is_too_slow_is_told_of_in_full(requests: int, turns: list[float]) -> None:
    # Each takes as long as one to nine turns of the schedule, and only one is in flight.
    schedule = Schedule(10.0, requests / 10.0, 1)
    outcome, sent = applied(schedule, [each / 10.0 for each in turns])
    assert outcome.latencies.count == sent
    assert outcome.done == schedule.requests == sent + outcome.failed[UNSENT]
    ended = sum(turns[number % len(turns)] / 10.0 for number in range(sent))
    assert outcome.latencies.longest == pytest.approx(
        max(
            sum(turns[number % len(turns)] / 10.0 for number in range(last + 1)) - schedule.due(last)
            for last in range(sent)
        )
    )
    assert outcome.seconds == pytest.approx(ended)


def test_what_waited_for_its_turn_is_counted_from_when_it_was_due() -> None:
    outcome, sent = applied(Schedule(10.0, 1.0, 1), [0.3])
    assert sent == 4
    assert outcome.latencies.longest == pytest.approx(0.9)
    assert outcome.latencies.quantile(0.5) == pytest.approx(0.5, rel=0.02)
    assert outcome.failed == {UNSENT: 6}


def test_those_that_fail_are_counted_by_their_status_with_what_was_said_first() -> None:
    outcome, _ = applied(Schedule(10.0, 1.0, 1), [0.1], fails=frozenset({1, 4}))
    assert (outcome.latencies.count, outcome.failed, outcome.reasons) == (8, {"503": 2}, {"503": "away"})


async def test_as_many_as_are_allowed_are_in_flight_at_once() -> None:
    room = 3
    clock, outcome, stop, free = Clock(), Outcome(), asyncio.Event(), asyncio.Event()
    full = asyncio.Event()

    async def send() -> None:
        # The next ones are due while these are on their way.
        clock.now += 0.1
        if outcome.in_flight == room:
            full.set()
        await free.wait()

    applying = asyncio.create_task(apply(Schedule(10.0, 1.0, room), send, clock, outcome, stop))
    await asyncio.wait_for(full.wait(), 20)
    assert outcome.in_flight == room
    clock.now = 2000.0
    free.set()
    await asyncio.wait_for(applying, 20)
    assert (outcome.latencies.count, outcome.failed) == (room, {UNSENT: 10 - room})


async def test_a_load_that_is_stopped_tells_only_of_what_was_due() -> None:
    clock, outcome, stop = Clock(), Outcome(), asyncio.Event()

    async def send() -> None:
        stop.set()

    # The second is due in an hour.
    await asyncio.wait_for(apply(Schedule(1 / 3600, 7200, 2), send, clock, outcome, stop), 20)
    assert (outcome.done, outcome.failed) == (1, {})
