"""Callers of a gateway whose broker has gone, with a broker that takes nothing in its place."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from engine.errors import Unreachable
from engine.kafka.replies import ReplyDesk
from engine.protocol.record import Topics
from engine.settings import Settings


class MuteOutlet:
    """Marked as such: a broker that does not take what is sent to it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def send(self, *_: Any) -> None:
        self.asked.set()
        await asyncio.Event().wait()


async def test_callers_are_told_at_once_when_no_answer_will_come_any_more() -> None:
    async def ensure(_: list[str]) -> None:
        """All topics are there."""

    topology: Any = SimpleNamespace(holds_fetches=True, ensure=ensure)
    desk = ReplyDesk(Settings(kafka_broker="none:1"), Topics("seldon", "d"), topology, "me")
    outlet: Any = MuteOutlet()
    desk._outlet = outlet
    waits_for_the_broker = asyncio.create_task(desk.call("in", b"k", b"v", (), 60))
    await outlet.asked.wait()
    desk.give_up("the broker has gone")
    for call in (waits_for_the_broker, desk.call("in", b"k", b"v", (), 60)):
        with pytest.raises(Unreachable, match="the broker has gone"):
            await asyncio.wait_for(call, 5)
    assert desk.waiting == 0
    await desk._reader.stop()
