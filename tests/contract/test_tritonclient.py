"""Clients that nobody here wrote call the port: tritonclient by HTTP and gRPC, and grpcurl by reflection.

tritonclient registers `inference.*` in protobuf's default pool, as other clients do: it has its own process.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from programs import python, run

from engine.errors import UnknownResource
from engine.gateway.inference import Answer
from engine.gateway.server import Gateway
from engine.protocol import messages, tensors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from engine.gateway.inference import Target
    from engine.protocol.record import Headers


class EchoInference:
    """NOT the product's data plane: answers each request to the model "echo" with its inputs."""

    def new_request_id(self) -> str:
        return "made"

    def check_room(self, _: Target) -> None:
        pass

    async def infer(
        self,
        target: Target,
        request: Any,
        headers: Headers,
        *,
        request_id: str,  # noqa: ARG002
        timeout: float,  # noqa: ARG002
    ) -> Answer:
        await self.ready(target)
        message = messages.ModelInferResponse(model_name=target.name, id=request.id)
        for number, tensor in enumerate(request.inputs):
            out = message.outputs.add(name=f"{tensor.name}_out", datatype=tensor.datatype, shape=tensor.shape)
            if tensor.datatype == "BYTES":
                # Without it the elements stand as base64 in JSON.
                out.parameters["content_type"].string_param = "str"
            kind = tensors.DATATYPES[tensor.datatype]
            message.raw_output_contents.append(
                request.raw_input_contents[number]
                if request.raw_input_contents
                else tensors.typed_to_raw(tensor.contents, kind, tensor.shape, tensor.name)
            )
        return Answer(message, headers)

    async def ready(self, target: Target, version: str = "") -> bool:  # noqa: ARG002  a stand-in has but one
        if target.name != "echo":
            raise UnknownResource(f'no {target.owner} "{target.name}"')
        return True

    async def metadata(self, target: Target, version: str = "") -> Any:  # noqa: ARG002  a stand-in has but one
        await self.ready(target)
        message = messages.ModelMetadataResponse(name=target.name, versions=["1"], platform="echo")
        message.inputs.add(name="x", datatype="INT32", shape=[-1, 2])
        return message

    async def server_ready(self) -> bool:
        return True


@pytest.fixture
async def authority() -> AsyncIterator[str]:
    gateway = Gateway(EchoInference(), max_message_bytes=64 << 20, request_timeout=30)
    await gateway.start("127.0.0.1", 0)
    host, port = gateway.address
    yield f"{host}:{port}"
    await gateway.stop(0)


SCRIPT = """
    import json, sys
    import ml_dtypes
    import numpy as np
    import tritonclient.{kind} as triton
    from tritonclient.utils import InferenceServerException

    client = triton.InferenceServerClient(sys.argv[1])
    told = dict(
        live=client.is_server_live(), ready=client.is_server_ready(), model=client.is_model_ready("echo"),
        version=client.is_model_ready("echo", "1"),
    )
    arrays = dict(
        BOOL=np.array([[True, False]]), BYTES=np.array([["a", "\\u00e9\\u20ac"]], object),
        FP32=np.array([[0.5, 1.5]], np.float32), FP64=np.array([[0.1, -1e300]], np.float64),
        FP16=np.array([[0.5, 1.5]], np.float16), BF16=np.array([[0.5, 1.5]], ml_dtypes.bfloat16),
    )
    for bits in (8, 16, 32, 64):
        arrays[f"INT{{bits}}"] = np.array([[2 ** (bits - 1) - 1, -(2 ** (bits - 1))]], f"int{{bits}}")
        arrays[f"UINT{{bits}}"] = np.array([[2**bits - 1, 0]], f"uint{{bits}}")
    for unsaid in {left_out}:
        del arrays[unsaid]
    for datatype, array in arrays.items():
        tensor = triton.InferInput("x", array.shape, datatype)
        tensor.set_data_from_numpy(array{as_json})
        back = client.infer(
            "echo", [tensor], request_id="7", headers={{"x-request-id": "mine", "x-a": "1"}}
        )
        found = back.as_numpy("x_out")
        told[datatype] = [
            item.decode() if isinstance(item, bytes) else item for item in found.reshape(-1).tolist()
        ]
        assert found.shape == array.shape
        again = client.infer("other", [tensor], headers={{"seldon-model": "echo.pipeline"}})
        assert again.as_numpy("x_out").tolist() == found.tolist()
    try:
        client.infer("none", [tensor])
    except InferenceServerException as error:
        told["error"] = error.message()
    server, model = client.get_server_metadata({as_dict}), client.get_model_metadata("echo"{comma}{as_dict})
    told["server"], told["platform"] = server["name"], model["platform"]
    told["inputs"] = [[int(size) for size in tensor["shape"]] for tensor in model["inputs"]]
    client.close()
    print(json.dumps(told))
"""
# What Triton's client does not write in JSON.
ONLY_BINARY = ("FP16", "BF16")

ARRAYS: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "BYTES": ["a", "é€"],
    "FP32": [0.5, 1.5],
    "FP64": [0.1, -1e300],
    "FP16": [0.5, 1.5],
    "BF16": [0.5, 1.5],
    **{f"INT{bits}": [2 ** (bits - 1) - 1, -(2 ** (bits - 1))] for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": [2**bits - 1, 0] for bits in (8, 16, 32, 64)},
}
TOLD = {
    "live": True,
    "ready": True,
    "model": True,
    "version": True,
    "error": 'no model "none"',
    "server": "millrace",
    "platform": "echo",
    "inputs": [[-1, 2]],
}


@pytest.mark.parametrize("binary", [True, False])
async def test_tritonclient_by_http(authority: str, *, binary: bool) -> None:
    left_out = () if binary else ONLY_BINARY
    script = SCRIPT.format(kind="http", as_json=f", binary_data={binary}", as_dict="", comma="", left_out=left_out)
    told = {name: numbers for name, numbers in ARRAYS.items() if name not in left_out}
    assert await python(script, authority) == {**TOLD, **told}


async def test_tritonclient_by_grpc(authority: str) -> None:
    script = SCRIPT.format(kind="grpc", as_json="", as_dict="as_json=True", comma=", ", left_out=())
    assert await python(script, authority) == {**TOLD, **ARRAYS}


class TestGrpcurl:
    @pytest.fixture(autouse=True)
    def binary(self, grpcurl: str) -> None:
        self.grpcurl = grpcurl

    async def call(self, authority: str, *arguments: str, stdin: str = "") -> str:
        before = [argument for argument in arguments if argument.startswith("-")]
        after = [argument for argument in arguments if not argument.startswith("-")]
        return await run(self.grpcurl, "-plaintext", "-max-time", "30", *before, authority, *after, stdin=stdin)

    async def test_services_are_listed(self, authority: str) -> None:
        assert set((await self.call(authority, "list")).split()) == {
            "inference.GRPCInferenceService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }

    async def test_the_service_is_described(self, authority: str) -> None:
        described = await self.call(authority, "describe", "inference.GRPCInferenceService")
        assert "rpc ModelStreamInfer ( stream .inference.ModelInferRequest )" in described

    async def test_an_inference_by_reflection(self, authority: str) -> None:
        tensor = {"name": "x", "datatype": "INT32", "shape": [2], "contents": {"int_contents": [1, 2]}}
        request = json.dumps({"model_name": "echo", "inputs": [tensor]})
        out = await self.call(authority, "-d=@", "inference.GRPCInferenceService/ModelInfer", stdin=request)
        assert json.loads(out)["outputs"][0]["contents"] == {"intContents": [1, 2]}

    async def test_health_by_reflection(self, authority: str) -> None:
        assert json.loads(await self.call(authority, "grpc.health.v1.Health/Check")) == {"status": "SERVING"}
