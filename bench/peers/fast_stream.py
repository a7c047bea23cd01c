"""The tfsimples chain as a batch subscriber of FastStream on confluent-kafka, which commits after each batch.

BOOTSTRAP=host:port NAMESPACE=name python -m bench.peers.fast_stream
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker, KafkaMessage, KafkaPublishMessage

from bench.chain import ChainTopics
from bench.peers.tfsimples import STEPS
from engine.protocol.messages import ModelInferRequest

names = ChainTopics(os.environ["NAMESPACE"])
broker = KafkaBroker(os.environ["BOOTSTRAP"], log_level=logging.ERROR, logger=None, allow_auto_create_topics=False)
app = FastStream(broker, logger=None)

# Records of one batch: its default of what `consume` may return.
MAX_RECORDS = 1000


async def parse(message: KafkaMessage) -> list[Any]:
    return [ModelInferRequest.FromString(value) for value in message.body]


@broker.subscriber(
    names.inputs,
    group_id=f"{names.namespace}.faststream",
    auto_offset_reset="earliest",
    ack_policy=AckPolicy.ACK,
    batch=True,
    max_records=MAX_RECORDS,
    decoder=parse,
)
async def tfsimples(messages: list[Any], received: KafkaMessage) -> None:
    keys = [record.key() for record in received.raw_message]
    for step, topic in zip(STEPS, names.written, strict=True):
        messages = [step(message) for message in messages]
        answers = (
            KafkaPublishMessage(message.SerializeToString(), key=key)
            for message, key in zip(messages, keys, strict=True)
        )
        await broker.publish_batch(*answers, topic=topic, headers=received.headers)


if __name__ == "__main__":
    asyncio.run(app.run())
