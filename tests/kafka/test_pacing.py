"""How fast a worker takes what waits for it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kafka import pacing
from engine.kafka.pacing import FEWEST, MOST, Pace, PollSize


@given(st.lists(st.integers(0, MOST)))
def test_a_poll_is_never_smaller_or_larger_than_is_good(brought: list[int]) -> None:
    size = PollSize()
    for records in brought:
        size.adapt(min(records, size.most))
        assert FEWEST <= size.most <= MOST


def test_polls_are_the_larger_the_more_of_them_were_full_and_as_at_first_after_a_while_without() -> None:
    size, full = PollSize(), []
    for _ in range(24):
        full.append(size.most)
        size.adapt(size.most)
    assert full == sorted(set(full))
    assert size.most == MOST
    for _ in range(25):
        size.adapt(size.most - 1)
    assert size.most == FEWEST


class Work:
    """Requests that are done and not written."""

    def __init__(self, unwritten: int) -> None:
        self.unwritten = unwritten
        self._progress = asyncio.Event()
        self.pace = Pace(lambda: self.unwritten, self._progressed)

    async def _progressed(self) -> None:
        self._progress.clear()
        await self._progress.wait()

    def write(self, count: int) -> None:
        self.unwritten -= count
        self._progress.set()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "PACE_SECONDS", 60.0)


async def passes(waiting: asyncio.Task[None]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return waiting.done()


@pytest.mark.usefixtures("patient")
async def test_while_polls_grow_one_waits_until_what_was_taken_before_the_last_is_written() -> None:
    work = Work(0)
    await work.pace.room(600)
    work.unwritten = 1000
    waiting = asyncio.create_task(work.pace.room(FEWEST))
    assert not await passes(waiting)
    work.write(399)
    assert not await passes(waiting)
    work.write(1)
    await asyncio.wait_for(waiting, 5)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("last", [0, FEWEST - 1, MOST])
async def test_after_a_poll_that_was_not_full_or_has_grown_none_waits(last: int) -> None:
    work = Work(5000)
    await asyncio.wait_for(work.pace.room(last), 5)
    await asyncio.wait_for(work.pace.room(FEWEST), 5)


async def test_a_broker_that_writes_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "PACE_SECONDS", 0.0)
    work = Work(5000)
    await work.pace.room(FEWEST)
    await asyncio.wait_for(work.pace.room(FEWEST), 5)
