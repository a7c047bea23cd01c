"""What the broker holds: whether exactly-once can be kept there, and whether the settings are within its bounds."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import aiokafka
from aiokafka.errors import KafkaError

from engine.errors import BrokerUnavailable, InvalidSettings
from engine.kafka import client
from engine.kafka.leases import NOBODY
from engine.kafka.transactions import Producer
from engine.kafka.watermark import MOST_METADATA
from engine.settings import AT_LEAST_ONCE, EXACTLY_ONCE

if TYPE_CHECKING:
    from engine.protocol.record import Topics
    from engine.settings import Settings

# Requests that exactly-once needs, and the versions: KIP-447 came with Apache Kafka 2.5, KIP-664 with 3.0.
_NEEDED = {22: 0, 24: 0, 25: 0, 26: 0, 28: 3, 9: 7, 61: 0, 65: 0}

# How long a broker may take to show that it keeps an aborted record back.
_PROBE_SECONDS = 20.0


async def settle(settings: Settings, topology: client.Topology, topics: Topics, instance: str) -> Settings:
    """The settings with the guarantee that holds: the one asked for, or else the best.

    Raises InvalidSettings when it cannot be kept here, or a timeout is out of the broker's bounds, with both numbers.
    """
    reason = _lacking(topology)
    transactions = reason is None and settings.processing_guarantee != AT_LEAST_ONCE
    _check_bounds(settings, await topology.broker_settings(), transactions=transactions)
    if transactions:
        reason = await _probe(settings, topology, topics, instance)
    if reason is not None and settings.processing_guarantee == EXACTLY_ONCE:
        raise InvalidSettings(
            f"processing_guarantee is {EXACTLY_ONCE}, which the broker at {settings.kafka_broker} cannot hold: "
            f"{reason}; use {AT_LEAST_ONCE}, or Apache Kafka 3.0 or later"
        )
    wanted = settings.processing_guarantee or (AT_LEAST_ONCE if reason else EXACTLY_ONCE)
    return replace(settings, processing_guarantee=wanted)


def _lacking(topology: client.Topology) -> str | None:
    if topology.holds_fetches:
        return "the embedded broker shows records that were aborted, and keeps nothing when it ends"
    for api, version in _NEEDED.items():
        if topology.versions.get(api, (0, -1))[1] < version:
            return "it has no transactions that are fenced by a consumer's generation and tell how they ended"
    return None


async def _probe(settings: Settings, topology: client.Topology, topics: Topics, instance: str) -> str | None:
    """Whether a record that was never committed stays unseen, by doing it; what is wrong, or None."""
    await topology.ensure_internal(topics.probe)
    partition = aiokafka.TopicPartition(topics.probe, 0)
    reader = client.new_reader(settings, fetch_wait_ms=client.SHORT_FETCH_WAIT_MS)
    producer = Producer(settings, f"{settings.topic_prefix}.{settings.namespace}.{instance}.probe")
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            await reader.start()
            reader.assign([partition])
            await reader.seek_to_end(partition)
            await reader.position(partition)
            await producer.recover()
            await producer.begin("", [tuple(partition)])
            await producer.produce({tuple(partition): [(None, f"{instance} never".encode(), [])]})
            await producer.recover()
            await producer.transact("", NOBODY, {}, {tuple(partition): [(None, instance.encode(), [])]})
            return await _first_of(reader, instance.encode())
    except (KafkaError, TimeoutError, OSError) as error:
        raise BrokerUnavailable(
            f"the broker at {settings.kafka_broker} ran no transaction within {_PROBE_SECONDS:g} s "
            f"({error or type(error).__name__}); on a single broker set transaction.state.log.replication.factor=1 "
            f"there, or use --processing-guarantee {AT_LEAST_ONCE}"
        ) from error
    finally:
        await client.stop(reader)
        await producer.stop()


async def _first_of(reader: aiokafka.AIOKafkaConsumer, instance: bytes) -> str | None:
    while True:
        for records in (await reader.getmany(timeout_ms=100)).values():
            for record in records:
                if record.value.startswith(instance):
                    return None if record.value == instance else "a record that was aborted can be read there"


def _check_bounds(settings: Settings, broker: dict[str, str], *, transactions: bool) -> None:
    session = int(settings.session_timeout * 1000)
    least, most = broker.get("group.min.session.timeout.ms"), broker.get("group.max.session.timeout.ms")
    if least is not None and session < int(least):
        raise _out_of_bounds("session_timeout", settings.session_timeout, "group.min.session.timeout.ms", least)
    if most is not None and session > int(most):
        raise _out_of_bounds("session_timeout", settings.session_timeout, "group.max.session.timeout.ms", most)
    if not transactions:
        return
    longest = broker.get("transaction.max.timeout.ms")
    if longest is not None and settings.transaction_timeout * 1000 > int(longest):
        raise _out_of_bounds("transaction_timeout", settings.transaction_timeout, "transaction.max.timeout.ms", longest)
    room = broker.get("offset.metadata.max.bytes")
    if room is not None and int(room) < MOST_METADATA:
        raise InvalidSettings(
            f"the broker's offset.metadata.max.bytes is {room}; {EXACTLY_ONCE} needs {MOST_METADATA} "
            "to keep there what is finished"
        )


def _out_of_bounds(name: str, seconds: float, bound: str, milliseconds: str) -> InvalidSettings:
    return InvalidSettings(
        f"{name} is {seconds:g} s, which is {seconds * 1000:.0f} ms, and the broker's {bound} is {milliseconds}; "
        "change one of them"
    )
