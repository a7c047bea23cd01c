"""A remote V2 server whose model `mirror` gives back what it is given, to the byte, parameters too."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import grpc

from engine.protocol.messages import (
    SERVICE,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
)

if TYPE_CHECKING:
    from collections.abc import Callable

# A chain of two steps, each of which is that server.
RESOURCES = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Model
metadata: {{name: mirror}}
spec: {{storageUri: "grpc://127.0.0.1:{port}/mirror"}}
---
apiVersion: mlops.seldon.io/v1alpha1
kind: Model
metadata: {{name: mirror-again}}
spec: {{storageUri: "grpc://127.0.0.1:{port}/mirror"}}
---
apiVersion: mlops.seldon.io/v1alpha1
kind: Pipeline
metadata: {{name: mirrors}}
spec:
  steps: [{{name: mirror}}, {{name: mirror-again, inputs: [mirror]}}]
  output: {{steps: [mirror-again]}}
"""


class Mirror:
    """The server, in threads of this process. Use it in a `with` block."""

    def __init__(self) -> None:
        self._server = grpc.server(ThreadPoolExecutor(4))
        handlers = {
            "ModelInfer": _unary(ModelInferRequest, _infer),
            "ModelReady": _unary(ModelReadyRequest, lambda _: ModelReadyResponse(ready=True)),
            "ModelMetadata": _unary(ModelMetadataRequest, lambda request: ModelMetadataResponse(name=request.name)),
        }
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        self._port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def resources(self) -> str:
        """YAML of the models and of the pipeline that call it."""
        return RESOURCES.format(port=self._port)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()


def _unary(request: Any, answer: Callable[[Any], Any]) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        lambda message, _: answer(message), request.FromString, lambda message: message.SerializeToString()
    )


def _infer(request: Any) -> Any:
    response = ModelInferResponse(model_name=request.model_name, raw_output_contents=request.raw_input_contents)
    for tensor in request.inputs:
        # Both kinds of tensor have the same fields.
        response.outputs.add().MergeFromString(tensor.SerializeToString())
    return response
