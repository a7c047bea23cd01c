"""The producer that is made anew, with a fake one in its place."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from engine.errors import BrokerUnavailable
from engine.kafka import client, outlet
from engine.kafka.outlet import Outlet
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeProducer:
    """Marked as such: what aiokafka's producer is asked for. `refusal`: of a record that it does not even take."""

    def __init__(self, error: Exception | None = None, refusal: Exception | None = None) -> None:
        self.sent: dict[tuple[str, int], list[Any]] = {}
        self.error, self.refusal, self.silent = error, refusal, False
        self.opening = asyncio.Event()
        self.opening.set()
        self.stopped = asyncio.Event()

    async def start(self) -> None:
        await self.opening.wait()
        if self.refusal is not None:
            raise self.refusal

    async def send(self, topic: str, value: bytes, *, key: bytes, partition: int, headers: Any) -> asyncio.Future[None]:
        del key, headers
        if self.refusal is not None:
            raise self.refusal
        return self._acknowledged((topic, partition), value)

    def _acknowledged(self, place: tuple[str, int], values: Any) -> asyncio.Future[None]:
        acknowledged = asyncio.get_running_loop().create_future()
        if self.error is not None:
            acknowledged.set_exception(self.error)
        elif not self.silent:
            self.sent.setdefault(place, []).append(values)
            acknowledged.set_result(None)
        return acknowledged

    async def stop(self) -> None:
        self.stopped.set()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outlet]:
    """An outlet that gets these producers, one after the other."""

    def make(*producers: FakeProducer) -> Outlet:
        waiting = iter(producers)
        monkeypatch.setattr(client, "new_producer", lambda *_, **__: next(waiting))
        return Outlet(Settings(kafka_broker="none:1"))

    return make


async def test_a_broken_producer_is_left_behind_and_a_new_one_goes_on(made: Callable[..., Outlet]) -> None:
    broken, good = FakeProducer(KafkaConnectionError("away")), FakeProducer()
    found = made(broken, good)
    with pytest.raises(KafkaConnectionError):
        await found.send("out", 0, b"k", b"0", ())
    await found.send("out", 0, b"k", b"1", ())
    await asyncio.wait_for(broken.stopped.wait(), 5)
    assert good.sent == {("out", 0): [b"1"]}
    await found.stop()
    assert good.stopped.is_set()


async def test_a_record_that_the_client_refuses_costs_no_producer(made: Callable[..., Outlet]) -> None:
    producer = FakeProducer(refusal=None)
    found = made(producer)
    await found.producer()
    producer.refusal = MessageSizeTooLargeError()
    with pytest.raises(MessageSizeTooLargeError):
        await found.send("out", 0, b"k", b"v", ())
    assert await found.producer() is producer


async def test_a_record_that_the_broker_refuses_costs_the_producer(made: Callable[..., Outlet]) -> None:
    refused, good = FakeProducer(MessageSizeTooLargeError()), FakeProducer()
    found = made(refused, good)
    with pytest.raises(MessageSizeTooLargeError):
        await found.send("out", 0, b"k", b"v", ())
    await found.send("out", 0, b"k", b"next", ())
    assert good.sent == {("out", 0): [b"next"]}


async def test_a_broker_that_does_not_acknowledge_in_time_costs_the_producer(
    made: Callable[..., Outlet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "SEND_SECONDS", 0.01)
    mute, good = FakeProducer(), FakeProducer()
    mute.silent = True
    found = made(mute, good)
    with pytest.raises(TimeoutError):
        await found.send("out", 0, b"k", b"v", ())
    assert await found.producer() is good


async def test_a_caller_whose_own_time_is_over_costs_nobody_the_producer(made: Callable[..., Outlet]) -> None:
    mute = FakeProducer()
    mute.silent = True
    found = made(mute)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(found.send("out", 0, b"k", b"v", ()), 0.01)
    assert await found.producer() is mute


async def test_a_producer_is_made_for_the_next_caller_when_the_first_gives_up(made: Callable[..., Outlet]) -> None:
    slow = FakeProducer()
    slow.opening.clear()
    found = made(slow)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(found.producer(), 0.01)
    slow.opening.set()
    assert await asyncio.wait_for(found.producer(), 5) is slow


async def test_a_broker_that_is_away_is_told_of_and_asked_again_by_the_next_caller(made: Callable[..., Outlet]) -> None:
    away, good = FakeProducer(refusal=KafkaConnectionError("away")), FakeProducer()
    found = made(away, good)
    with pytest.raises(BrokerUnavailable):
        await found.producer()
    assert await found.producer() is good
