"""Callers of a gateway whose broker has gone, with a broker that takes nothing in its place."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, Self

import pytest

from engine.errors import TimedOut, Unreachable
from engine.kafka.replies import ReplyDesk
from engine.protocol.record import Topics
from engine.settings import Settings


class FakeOutlet:
    """Marked as such: a broker that takes nothing of what is sent to it, or all and answers nothing."""

    def __init__(self, *, takes: bool) -> None:
        self.asked, self.takes = asyncio.Event(), takes

    async def send(self, *_: Any) -> None:
        self.asked.set()
        if not self.takes:
            await asyncio.Event().wait()


class Desk:
    """A reply desk that speaks to a fake broker."""

    def __init__(self, *, takes: bool) -> None:
        topology: Any = SimpleNamespace(holds_fetches=True, ensure=self._ensure)
        self.desk = ReplyDesk(Settings(kafka_broker="none:1"), Topics("seldon", "d"), topology, "me")
        self.outlet: Any = FakeOutlet(takes=takes)
        self.desk._outlet = self.outlet

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.desk.waiting == 0
        await self.desk._reader.stop()

    async def _ensure(self, _: list[str]) -> None:
        """All topics are there."""

    async def call(self, seconds: float) -> Any:
        return await asyncio.wait_for(self.desk.call("in", b"k", b"v", (), seconds), 5)


@pytest.mark.parametrize(
    ("takes", "error", "says"),
    [(True, TimedOut, "no answer came within 0.05 s"), (False, Unreachable, "did not take the request within 0.05 s")],
)
async def test_a_call_that_waits_too_long_is_told_what_it_waited_for(
    error: type[Exception], says: str, *, takes: bool
) -> None:
    async with Desk(takes=takes) as desk:
        with pytest.raises(error, match=says):
            await desk.call(0.05)


@pytest.mark.parametrize("takes", [True, False])
async def test_callers_are_told_at_once_when_no_answer_will_come_any_more(*, takes: bool) -> None:
    async with Desk(takes=takes) as desk:
        waits = asyncio.create_task(desk.call(60))
        await desk.outlet.asked.wait()
        desk.desk.give_up("the broker has gone")
        for call in (waits, desk.call(60)):
            with pytest.raises(Unreachable, match="the broker has gone"):
                await call


class FakeReader:
    """Marked as such: a reader whose client falls over."""

    _fetcher = SimpleNamespace()

    async def getmany(self, timeout_ms: int) -> Any:
        del timeout_ms
        raise ValueError("not even an error of Kafka's")

    async def stop(self) -> None:
        """Nothing is open."""


async def test_who_cannot_read_replies_any_more_says_so() -> None:
    async with Desk(takes=True) as desk:
        await desk.desk._reader.stop()
        desk.desk._reader = FakeReader()
        desk.desk._task = asyncio.create_task(desk.desk._read())
        with pytest.raises(ValueError, match="not even an error of Kafka's"):
            await asyncio.wait_for(desk.desk.ended(), 5)
