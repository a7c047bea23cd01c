"""ModelStreamInfer by clients that nobody here wrote: Triton's, and MLServer's, which expects other responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from programs import python

if TYPE_CHECKING:
    from product import Product

TRITON = """
    import json, queue, sys
    import numpy as np
    import tritonclient.grpc as triton

    client, answers = triton.InferenceServerClient(sys.argv[1]), queue.Queue()

    def tensor(number):
        found = triton.InferInput("x", [1, 2], "INT64")
        found.set_data_from_numpy(np.array([[number, -number]]))
        return found

    def told():
        result, error = answers.get(timeout=30)
        return str(error) if error else [result.get_response().id, result.as_numpy("x").tolist()]

    client.start_stream(lambda result, error: answers.put((result, error)), headers={"x-request-id": "mine"})
    models = [sys.argv[2]] * 20
    models[7] = "nobody"
    for number, model in enumerate(models):
        client.async_stream_infer(model, [tensor(number)], request_id=str(number))
    print(json.dumps([told() for _ in models]))
    client.stop_stream()
    client.close()
"""

MLSERVER = """
    import asyncio, json, sys
    import grpc
    from mlserver.codecs import NumpyCodec
    from mlserver.grpc import converters, dataplane_pb2_grpc
    from mlserver.types import InferenceRequest
    import numpy as np

    def message(number):
        tensor = NumpyCodec.encode_input("x", np.array([[number, -number]]))
        asked = InferenceRequest(id=str(number), inputs=[tensor])
        return converters.ModelInferRequestConverter.from_types(asked, model_name=sys.argv[2])

    async def main():
        async def requests():
            for number in range(5):
                yield message(number)

        async with grpc.aio.insecure_channel(sys.argv[1]) as channel:
            stream = dataplane_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(requests())
            found = [converters.ModelInferResponseConverter.to_types(answer) async for answer in stream]
        print(json.dumps([[each.id, NumpyCodec.decode_output(each.outputs[0]).tolist()] for each in found]))

    asyncio.run(main())
"""


@pytest.mark.parametrize("target", ["same", "sames.pipeline"])
async def test_tritonclients_stream_is_answered_in_order_and_outlives_an_error(identity: Product, target: str) -> None:
    told = await python(TRITON, identity.address, target)
    assert told.pop(7) == 'no model "nobody" is loaded'
    assert told == [[str(number), [[number, -number]]] for number in range(20) if number != 7]


@pytest.mark.parametrize("target", ["same", "sames.pipeline"])
async def test_mlservers_stream_is_answered_in_order(identity: Product, target: str) -> None:
    told = await python(MLSERVER, identity.address, target)
    assert told == [[str(number), [[number, -number]]] for number in range(5)]
