"""The least that a Python program can do with these records: read, parse, serialise, write every topic, commit.

No model, no routing, no errors, no answers to callers. The message is serialised once and the same bytes go to all
topics, so this is what the client and the broker cost and nothing else. With GUARANTEE=exactly-once the outputs and the
offsets of each poll are one transaction.

BOOTSTRAP=host:port READS=topic WRITES=topic,topic GROUP=name [GUARANTEE=exactly-once] python -m bench.peers.bare_loop
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from engine.protocol.messages import ModelInferRequest

BOOTSTRAP, GROUP = os.environ["BOOTSTRAP"], os.environ["GROUP"]
WRITES = os.environ["WRITES"].split(",")
EXACTLY_ONCE = os.environ.get("GUARANTEE") == "exactly-once"

# The same as the product's (engine/kafka/transport.py and client.py), so that both do as much in one round trip.
MAX_POLL_RECORDS = 4000
FETCH_BYTES = 4 * 1024 * 1024
BATCH_BYTES = 512 * 1024
LARGEST_BYTES = 100 * 1024 * 1024
# A producer that begins a transaction right after the last one is told to wait; its default would be 100 ms.
BACKOFF_MS = 2


async def main() -> None:
    consumer = AIOKafkaConsumer(
        os.environ["READS"],
        bootstrap_servers=BOOTSTRAP,
        group_id=GROUP,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=FETCH_BYTES,
    )
    producer = AIOKafkaProducer(
        bootstrap_servers=BOOTSTRAP,
        acks="all",
        linger_ms=0,
        max_batch_size=BATCH_BYTES,
        max_request_size=LARGEST_BYTES,
        transactional_id=GROUP if EXACTLY_ONCE else None,
        retry_backoff_ms=BACKOFF_MS,
    )
    await consumer.start()
    await producer.start()
    try:
        while True:
            polled = await consumer.getmany(timeout_ms=500, max_records=MAX_POLL_RECORDS)
            if polled and EXACTLY_ONCE:
                async with producer.transaction():
                    await copy_all(producer, polled)
                    offsets = {tp: records[-1].offset + 1 for tp, records in polled.items()}
                    await producer.send_offsets_to_transaction(offsets, GROUP)
            elif polled:
                await copy_all(producer, polled)
                await consumer.commit()
    finally:
        await producer.stop()
        await consumer.stop()


async def copy_all(producer: Any, polled: dict[Any, list[Any]]) -> None:
    await asyncio.gather(*(copy(producer, tp.partition, records) for tp, records in polled.items()))


async def copy(producer: Any, partition: int, records: list[Any]) -> None:
    parse = ModelInferRequest.FromString
    copied = [(record.key, parse(record.value).SerializeToString(), list(record.headers)) for record in records]
    await asyncio.gather(*(write(producer, topic, partition, copied) for topic in WRITES))


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
