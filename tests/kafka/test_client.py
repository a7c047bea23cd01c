"""Clients of a broker that goes away."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import KafkaError
from brokers import EmbeddedInThread, free_ports

from engine.kafka import client
from engine.kafka.reconnecting import LONGEST_PAUSE
from engine.settings import Settings


@pytest.mark.broker
async def test_a_producer_that_is_stopped_while_its_broker_is_away_leaves_nothing_that_would_write_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "STOP_TIMEOUT", 2 * LONGEST_PAUSE)  # whoever waits for a turn has had it by then
    before = asyncio.all_tasks()
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    port, _ = free_ports(0)
    with EmbeddedInThread(f"127.0.0.1:{port}") as broker:
        settings = Settings(kafka_broker=broker.address)
        topology, producer = client.Topology(settings), client.new_producer(settings)
        await topology.start()
        await topology.ensure(["there"])
        await topology.stop()
        await client.start(producer, settings)
        await producer.send_and_wait("there", b"written", partition=0)
        broker.kill()
        held = await producer.send("there", b"held", partition=0)
        await asyncio.wait({held}, timeout=0.1)  # long enough to be sent in vain, and to wait to be sent again
        await client.stop(producer)
        with pytest.raises(KafkaError):
            await held
    assert asyncio.all_tasks() == before
    assert not faults
