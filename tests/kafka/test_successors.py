"""What a successor ends of a worker that died, on a real broker."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiokafka.errors import KafkaError
from confluent_kafka.admin import AdminClient, NewTopic

from engine.kafka.transactions import Producer
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from engine.kafka.wire import Place

PARTITIONS = 3


@asynccontextmanager
async def producer(broker: str, namespace: str) -> AsyncIterator[Producer]:
    made = Producer(Settings(kafka_broker=broker, namespace=namespace), f"{namespace}.one")
    try:
        yield made
    finally:
        await made.stop()


async def begin(producer: Producer, places: set[Place]) -> None:
    """Write a record to each, and leave it at that; a broker that has just made them may not know it yet."""
    async with asyncio.timeout(20):
        while True:
            await producer.recover()
            try:
                await producer.begin("", places)
                await producer.produce({place: [(b"k", b"v", [])] for place in places})
            except KafkaError:
                await asyncio.sleep(0.05)
            else:
                return


async def test_what_a_worker_left_open_is_found_wherever_it_is_and_ended(kafka_broker: str, namespace: str) -> None:
    prefix = f"seldon.{namespace}."
    topics = [f"{prefix}pipeline.p.{side}" for side in ("inputs", "outputs")]
    admin = AdminClient({"bootstrap.servers": kafka_broker})
    for done in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in topics]).values():
        done.result(20)
    written = {(topics[0], 1), (topics[1], 2)}
    async with producer(kafka_broker, namespace) as dead, producer(kafka_broker, namespace) as successor:
        await begin(dead, written)
        connection = successor._connection
        assert await connection.open_places(prefix, dead._id) == written
        await successor.take_over("group")
        assert await connection.open_places(prefix, dead._id) == set()
        ends = await connection.ends(written, stable=False)
        assert await connection.ends(written, stable=True) == ends, "nothing holds readers up"


async def test_of_what_was_committed_a_slow_owner_still_learns_it_from_a_successor(
    kafka_broker: str, namespace: str
) -> None:
    topic = f"seldon.{namespace}.pipeline.p.outputs"
    admin = AdminClient({"bootstrap.servers": kafka_broker})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
    async with producer(kafka_broker, namespace) as owner, producer(kafka_broker, namespace) as successor:
        await begin(owner, {(topic, 0)})
        await owner.end()
        await successor.take_over("group")
        assert await owner.recover()
