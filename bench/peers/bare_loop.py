"""The least that a Python program can do with these records: read, parse, serialise, write five topics, commit.

No model, no routing, no errors, no answers to callers. The message is serialised once and the same bytes go to all
five topics, so this is what the client and the broker cost and nothing else.

BOOTSTRAP=host:port NAMESPACE=name python -m bench.peers.bare_loop
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.chain import ChainTopics
from engine.protocol.messages import ModelInferRequest

BOOTSTRAP = os.environ["BOOTSTRAP"]
TOPICS = ChainTopics(os.environ["NAMESPACE"])

# The same as the product's (engine/kafka/transport.py and client.py), so that both do as much in one round trip.
MAX_POLL_RECORDS = 4000
FETCH_BYTES = 4 * 1024 * 1024
BATCH_BYTES = 512 * 1024


async def main() -> None:
    consumer = AIOKafkaConsumer(
        TOPICS.inputs,
        bootstrap_servers=BOOTSTRAP,
        group_id=f"{TOPICS.namespace}.bare",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    producer = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all", linger_ms=0, max_batch_size=BATCH_BYTES)
    await consumer.start()
    await producer.start()
    try:
        while True:
            polled = await consumer.getmany(timeout_ms=500, max_records=MAX_POLL_RECORDS)
            if polled:
                await asyncio.gather(*(copy(producer, tp.partition, records) for tp, records in polled.items()))
                await consumer.commit()
    finally:
        await producer.stop()
        await consumer.stop()


async def copy(producer: Any, partition: int, records: list[Any]) -> None:
    parse = ModelInferRequest.FromString
    copied = [(record.key, parse(record.value).SerializeToString(), list(record.headers)) for record in records]
    await asyncio.gather(*(write(producer, topic, partition, copied) for topic in TOPICS.written))


async def write(producer: Any, topic: str, partition: int, copied: list[Any]) -> None:
    batch = producer.create_batch()
    for key, value, headers in copied:
        if batch.append(timestamp=None, key=key, value=value, headers=headers) is None:
            await send(producer, batch, topic, partition)
            batch = producer.create_batch()
            batch.append(timestamp=None, key=key, value=value, headers=headers)
    await send(producer, batch, topic, partition)


async def send(producer: Any, batch: Any, topic: str, partition: int) -> None:
    batch.close()
    await (await producer.send_batch(batch, topic, partition=partition))


if __name__ == "__main__":
    asyncio.run(main())
