"""Run by the Python of `.venv-kserve`, with HOST:PORT: kserve's REST and gRPC clients call a model and a pipeline.

It prints as JSON what the clients said, and fails when an answer is not what was sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

# A model by its name, and a pipeline by the header.
ROUTES: dict[str, dict[str, str]] = {"model": {}, "pipeline": {"seldon-model": "mirrors.pipeline"}}

# What kserve does not write into JSON and typed contents.
BINARY_ONLY = {"FP16": (True,)}
# How the outputs are asked for: all in binary, or one by its name.
OUTPUTS: dict[bool, dict[str, Any]] = {
    True: {"parameters": {"binary_data_output": True}},
    False: {"request_outputs": [RequestedOutput("x")]},
}

ARRAYS: dict[str, np.ndarray] = {
    "BOOL": np.array([[True, False]]),
    "FP16": np.array([[0.5, -0.0]], np.float16),
    "FP32": np.array([[0.5, 1e-45]], np.float32),
    "FP64": np.array([[0.1, -1e300]], np.float64),
    "BYTES": np.array([["a", "\u00e9\u20ac"]], object),
    **{f"INT{bits}": np.array([[2 ** (bits - 1) - 1, -(2 ** (bits - 1))]], f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.array([[2**bits - 1, 0]], f"uint{bits}") for bits in (8, 16, 32, 64)},
}


def request(datatype: str, model: str, *, binary: bool, **more: Any) -> InferRequest:
    """A request of one tensor `x`."""
    array = ARRAYS[datatype]
    tensor = InferInput("x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    if not binary and datatype == "BYTES":
        # kserve's own server answers text in JSON as text; ours wants to be told that it is some.
        tensor.parameters = {"content_type": "str"}
    return InferRequest(model, [tensor], request_id="7", **more)


def same(datatype: str, answer: Any) -> bool:
    """Whether an answer has the bits that were sent."""
    [output] = answer.outputs
    array, found = ARRAYS[datatype], output.as_numpy()
    if datatype == "BYTES":
        texts = [item.decode() if isinstance(item, bytes) else item for item in found.reshape(-1)]
        return texts == array.reshape(-1).tolist() and found.shape == array.shape
    return found.shape == array.shape and found.tobytes() == array.tobytes()


async def by_rest(address: str) -> dict[str, Any]:
    url = f"http://{address}"
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    told: dict[str, Any] = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model": await client.is_model_ready(url, "mirror"),
        "none": await client.is_model_ready(url, "none"),
    }
    for route, headers in ROUTES.items():
        for datatype in ARRAYS:
            for binary in BINARY_ONLY.get(datatype, (True, False)):
                asked = request(datatype, "mirror", binary=binary, **OUTPUTS[binary])
                answer = await client.infer(url, asked, model_name="mirror", headers=dict(headers))
                told[f"{route} {datatype}"] = told.get(f"{route} {datatype}", True) and same(datatype, answer)
                told["id"] = answer.id
    try:
        await client.infer(url, request("BOOL", "none", binary=True), model_name="none")
    except httpx.HTTPStatusError as error:
        told["error"] = [error.response.status_code, error.response.json()["error"]]
    await client.close()
    return told


async def by_grpc(address: str) -> dict[str, Any]:
    client = InferenceGRPCClient(address)
    told: dict[str, Any] = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model": await client.is_model_ready("mirror"),
    }
    for route, headers in ROUTES.items():
        for datatype in ARRAYS:
            for binary in BINARY_ONLY.get(datatype, (True, False)):
                answer = await client.infer(request(datatype, "mirror", binary=binary), headers=tuple(headers.items()))
                told[f"{route} {datatype}"] = told.get(f"{route} {datatype}", True) and same(datatype, answer)
                told["id"] = answer.id
    try:
        await client.infer(request("BOOL", "none", binary=True))
    except grpc.RpcError as error:
        told["error"] = [error.code().name, error.details()]
    await client.close()
    return told


if __name__ == "__main__":
    # The clients log what fails, which stands in the answer as well.
    logging.disable(logging.CRITICAL)
    called = {"rest": by_rest, "grpc": by_grpc}[sys.argv[1]](sys.argv[2])
    print(json.dumps(asyncio.run(called)))  # noqa: T201  the output of this program
