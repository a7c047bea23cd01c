"""The tfsimples chain as a Faust agent, written as Faust's documentation teaches: one event at a time.

BOOTSTRAP=host:port NAMESPACE=name python -m bench.peers.plain_faust worker --loglevel error
"""

from __future__ import annotations

import os
from typing import Any

import faust

from bench.chain import ChainTopics
from bench.peers.tfsimples import STEPS
from engine.protocol.messages import ModelInferRequest

names = ChainTopics(os.environ["NAMESPACE"])
app = faust.App(
    f"{names.namespace}.faust",
    broker=f"kafka://{os.environ['BOOTSTRAP']}",
    store="memory://",
    key_serializer="raw",
    value_serializer="raw",
    topic_disable_leader=True,
    topic_replication_factor=1,
    web_enabled=False,
)
inputs = app.topic(names.inputs)
written = [app.topic(name) for name in names.written]


@app.agent(inputs)
async def tfsimples(stream: Any) -> None:
    async for event in stream.events():
        message = ModelInferRequest.FromString(event.value)
        for step, topic in zip(STEPS, written, strict=True):
            message = step(message)
            await topic.send(key=event.key, value=message.SerializeToString(), headers=event.headers)


if __name__ == "__main__":
    app.main()
