"""The tfsimples chain as a Faust agent, written as Faust's documentation teaches: one event at a time.

BOOTSTRAP=host:port NAMESPACE=name python -m bench.peers.plain_faust worker --loglevel error
"""

from __future__ import annotations

import os
from typing import Any

import faust
import numpy as np

from bench.chain import DATATYPE, INPUTS, MODELS, OUTPUTS, PIPELINE, SHAPE, ChainTopics
from engine.protocol.messages import ModelInferRequest, ModelInferResponse

topics = ChainTopics(os.environ["NAMESPACE"])
app = faust.App(
    f"{topics.namespace}.faust",
    broker=f"kafka://{os.environ['BOOTSTRAP']}",
    store="memory://",
    key_serializer="raw",
    value_serializer="raw",
    topic_disable_leader=True,
    topic_replication_factor=1,
    web_enabled=False,
)
inputs = app.topic(topics.inputs)
first_inputs, first_outputs, second_inputs, second_outputs, outputs = map(app.topic, topics.written)


@app.agent(inputs)
async def tfsimples(stream: Any) -> None:
    async for event in stream.events():
        request = ModelInferRequest.FromString(event.value)
        first = add_sub(*tensors(request))
        second = add_sub(*first)

        async def write(topic: Any, message: Any, event: Any = event) -> None:
            await topic.send(key=event.key, value=message.SerializeToString(), headers=event.headers)

        await write(first_inputs, request_message(MODELS[0], request.id, tensors(request)))
        await write(first_outputs, response_message(MODELS[0], request.id, first))
        await write(second_inputs, request_message(MODELS[1], request.id, first))
        await write(second_outputs, response_message(MODELS[1], request.id, second))
        await write(outputs, response_message(PIPELINE, request.id, second))


def add_sub(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return left + right, left - right


def tensors(request: Any) -> list[np.ndarray]:
    if request.raw_input_contents:
        return [np.frombuffer(raw, np.int32).reshape(SHAPE) for raw in request.raw_input_contents]
    return [np.array(item.contents.int_contents, np.int32).reshape(item.shape) for item in request.inputs]


def request_message(name: str, request_id: str, arrays: Any) -> Any:
    message = ModelInferRequest(model_name=name, id=request_id)
    for tensor, array in zip(INPUTS, arrays, strict=True):
        message.inputs.add(name=tensor, datatype=DATATYPE, shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    return message


def response_message(name: str, request_id: str, arrays: Any) -> Any:
    message = ModelInferResponse(model_name=name, id=request_id)
    for tensor, array in zip(OUTPUTS, arrays, strict=True):
        message.outputs.add(name=tensor, datatype=DATATYPE, shape=array.shape)
        message.raw_output_contents.append(array.tobytes())
    return message


if __name__ == "__main__":
    app.main()
