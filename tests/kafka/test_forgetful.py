"""Whatever dies when: what is committed is committed everywhere, and its owner, or its successor, knows."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, TypeVar

from aiokafka.errors import KafkaError
from forgetful import ABORTED, COMMITTED, OFFSETS, OPEN, ForgetfulBroker, ForgetfulConnection, VirtualLoop
from hypothesis import given
from hypothesis import strategies as st

from engine.kafka.leases import Membership, TopicPartition
from engine.kafka.offsets import Committed
from engine.kafka.transactions import Producer, Unclear
from engine.kafka.watermark import Standing
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ME, IN = Membership(1, "me"), TopicPartition("in", 0)
TOPICS = ("first", "second")
TRANSACTIONS = 6

Answer = TypeVar("Answer")


class Run:
    """An owner that writes one transaction after the other, and successors that take it for dead."""

    def __init__(self, seed: int, deaths: int) -> None:
        self.chance = random.Random(seed)
        self.broker = ForgetfulBroker(self.chance, deaths)
        self.has_successor = False

    def producer(self) -> Producer:
        made = Producer(Settings(kafka_broker="none:1"), "id")
        connection = ForgetfulConnection(self.broker, self.chance)
        made._connection = made._offsets._connection = connection  # type: ignore[assignment]
        return made

    async def own(self) -> None:
        """As exactly-once checkpoints do it."""
        producer = self.producer()
        for number in range(TRANSACTIONS):
            while not await self._transact(producer, number):
                pass
        await until_done(producer.settle)

    async def _transact(self, producer: Producer, number: int) -> bool:
        value = f"{number}".encode()
        moved = {IN: Committed(number, Standing("me", (), number + 1).encode())}
        try:
            if not producer.usable:
                await until_done(producer.recover)
            await producer.transact("group", ME, moved, {(topic, 0): [(None, value, [])] for topic in TOPICS})
        except Unclear:
            return await until_done(producer.recover)
        except (KafkaError, TimeoutError):
            await until_done(producer.recover)
            return False
        return True

    async def take_over(self, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(self.chance.random() * 0.05)
            successor = self.producer()
            try:
                await successor.take_over("group")
            except (KafkaError, TimeoutError):
                continue

    async def end(self) -> None:
        """Until the group's offsets are stable, as who has its partitions next waits for it."""
        self.broker.calm_down()
        while self.broker.values(OFFSETS, OPEN):
            self.has_successor = True
            await until_done(lambda: self.producer().take_over("group"))
            self.broker.calm_down()


async def until_done(step: Callable[[], Awaitable[Answer]]) -> Answer:
    while True:
        try:
            return await step()
        except (KafkaError, TimeoutError):
            await asyncio.sleep(0.01)


def run(coroutine: Awaitable[None]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(coroutine)  # type: ignore[arg-type]


@given(seed=st.integers(0, 1 << 32), deaths=st.integers(0, 5), takers=st.integers(0, 3))
def test_every_transaction_is_committed_once_in_all_partitions(seed: int, deaths: int, takers: int) -> None:
    found = Run(seed, deaths)

    async def all_of_them() -> None:
        await asyncio.gather(found.own(), *(found.take_over(2) for _ in range(takers)))
        found.broker.calm_down()

    run(all_of_them())
    wanted = [f"{number}" for number in range(TRANSACTIONS)]
    for topic in TOPICS:
        assert found.broker.values(topic, COMMITTED) == wanted
        assert not found.broker.values(topic, OPEN)
    numbers = [Standing.parse(metadata).number for metadata in found.broker.values(OFFSETS, COMMITTED)]
    assert sorted(set(numbers)) == [*range(1, TRANSACTIONS + 1)], "offsets went back, for who had the partition next"
    assert Standing.parse(found.broker.metadata).number == TRANSACTIONS


@given(seed=st.integers(0, 1 << 32), deaths=st.integers(0, 3), takers=st.integers(0, 2))
def test_offsets_tell_a_successor_what_of_a_worker_that_died_is_committed(seed: int, deaths: int, takers: int) -> None:
    found = Run(seed, deaths)

    async def until_it_dies() -> None:
        owner = asyncio.create_task(found.own())
        others = [asyncio.create_task(found.take_over(1)) for _ in range(takers)]
        for _ in range(found.chance.randrange(400)):
            await asyncio.sleep(0)
        owner.cancel()
        await asyncio.gather(owner, *others, return_exceptions=True)
        await found.end()

    run(until_it_dies())
    number = Standing.parse(found.broker.metadata).number
    for topic in TOPICS:
        # What hangs can neither be read nor is it gone: its fate is that of the offsets, when it has one.
        done, gone = found.broker.values(topic, COMMITTED), found.broker.values(topic, ABORTED)
        assert done == [f"{n}" for n in range(len(done))]
        assert len(done) <= number <= len(done) + len(found.broker.values(topic, OPEN))
        assert len(done) == number or f"{number - 1}" not in gone
        assert not (found.has_successor and found.broker.values(topic, OPEN)), "readers would wait for ever"
