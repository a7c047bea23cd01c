"""How an app leaves its group, on a real broker."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from confluent_kafka.admin import AdminClient, NewTopic

from engine.kafka.offsets import GroupOffsets
from engine.kafka.transport import BatchApp, ConsumerLoop, Intake
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def member(broker: str, group: str, topic: str) -> AsyncIterator[BatchApp]:
    """An app that has joined a group and reads nothing of what it gets."""
    settings = Settings(kafka_broker=broker, session_timeout=30.0)
    consumer_loop, offsets = ConsumerLoop(), GroupOffsets(settings, stable_reads=True)
    intake = Intake(group, consumer_loop, offsets)
    app = BatchApp(group, settings, intake, consumer_loop, holds_fetches=True)

    async def pass_over(stream: Any) -> None:
        async for _ in stream.events():
            pass

    app.agent(app.inputs([topic]), name=group)(pass_over)
    try:
        await app.start()
        await asyncio.wait_for(intake.assigned.wait(), 20)
        yield app
        await asyncio.wait_for(app.stop(), 20)
    finally:
        await offsets.stop()
        consumer_loop.stop()


async def test_an_app_that_a_rebalance_meets_as_it_stops_leaves_its_group(kafka_broker: str, namespace: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_broker})
    admin.create_topics([NewTopic(namespace, 2, 1)])[namespace].result(20)
    async with member(kafka_broker, namespace, namespace) as app:
        # What Faust does when a rebalance reaches an app that is being stopped.
        app._on_rebalance_when_stopped()
        await asyncio.sleep(0)
    # Who is in the group and never joins again keeps all others waiting until its session ends.
    assert admin.describe_consumer_groups([namespace])[namespace].result(20).members == []
