"""A V2 server over gRPC that stands in for a remote one: `tfsimple1`, `tfsimple2` and `slow` are sum and difference.

Requests are parsed, computed by numpy and answered as MLServer would, at a fraction of its cost: with MLServer behind
the chain its own CPU would be all that is measured. `slow` answers DELAY_MS later, and keeps nobody else waiting.

[DELAY_MS=5] python -m bench.peers.v2_server prints its port.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import grpc
import numpy as np

from bench.chain import MODELS
from bench.peers.tfsimples import computed
from engine.protocol import messages

NAMES = (*MODELS, "slow")
DELAY_SECONDS = float(os.environ.get("DELAY_MS", "0")) / 1000


async def infer(request: Any, context: Any) -> Any:
    if request.model_name not in NAMES:
        await context.abort(grpc.StatusCode.NOT_FOUND, f'no model "{request.model_name}" is here')
    if request.model_name == "slow":
        await asyncio.sleep(DELAY_SECONDS)
    if not request.raw_input_contents:
        for tensor in request.inputs:
            request.raw_input_contents.append(np.array(tensor.contents.int_contents, np.int32).tobytes())
    return computed(request.model_name, request)


async def live(_request: Any, _context: Any) -> Any:
    return messages.ServerLiveResponse(live=True)


async def ready(_request: Any, _context: Any) -> Any:
    return messages.ServerReadyResponse(ready=True)


async def model_ready(request: Any, _context: Any) -> Any:
    return messages.ModelReadyResponse(ready=request.name in NAMES)


async def metadata(_request: Any, _context: Any) -> Any:
    return messages.ServerMetadataResponse(name="bench", version="1")


async def model_metadata(request: Any, _context: Any) -> Any:
    answer = messages.ModelMetadataResponse(name=request.name, platform="numpy")
    for tensors, prefix in ((answer.inputs, "INPUT"), (answer.outputs, "OUTPUT")):
        for number in range(2):
            tensors.add(name=f"{prefix}{number}", datatype="INT32", shape=[-1, 16])
    return answer


METHODS = {
    "ModelInfer": (infer, messages.ModelInferRequest),
    "ServerLive": (live, messages.ServerLiveRequest),
    "ServerReady": (ready, messages.ServerReadyRequest),
    "ModelReady": (model_ready, messages.ModelReadyRequest),
    "ServerMetadata": (metadata, messages.ServerMetadataRequest),
    "ModelMetadata": (model_metadata, messages.ModelMetadataRequest),
}


async def main() -> None:
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(method, asked.FromString, lambda answer: answer.SerializeToString())
        for name, (method, asked) in METHODS.items()
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(messages.SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"port {port}", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main())
