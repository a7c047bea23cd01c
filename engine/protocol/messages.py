"""The V2 protobuf messages of the Open Inference Protocol, in a descriptor pool of their own.

Two packages that register `inference.*` in protobuf's default pool cannot be imported together, and MLServer,
tritonclient and kserve all do. These messages stand in a private pool, so this package imports beside any of
them, and their bytes are the same on the wire. The descriptor is compiled from
`apis/mlops/v2_dataplane/v2_dataplane.proto` by `make proto`.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

__all__ = [
    "POOL",
    "SERVICE",
    "DecodeError",
    "InferParameter",
    "InferTensorContents",
    "Message",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelMetadataRequest",
    "ModelMetadataResponse",
    "ModelReadyRequest",
    "ModelReadyResponse",
    "ModelStreamInferResponse",
    "ServerLiveRequest",
    "ServerLiveResponse",
    "ServerMetadataRequest",
    "ServerMetadataResponse",
    "ServerReadyRequest",
    "ServerReadyResponse",
]

SERVICE = "inference.GRPCInferenceService"

_DESCRIPTORS = descriptor_pb2.FileDescriptorSet.FromString(
    files("engine.protocol").joinpath("v2_dataplane.binpb").read_bytes()
)

POOL = descriptor_pool.DescriptorPool()
for _file in _DESCRIPTORS.file:
    POOL.Add(_file)


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


ModelInferRequest = _message("ModelInferRequest")
ModelInferResponse = _message("ModelInferResponse")
ModelStreamInferResponse = _message("ModelStreamInferResponse")
InferParameter = _message("InferParameter")
InferTensorContents = _message("InferTensorContents")
ModelMetadataRequest = _message("ModelMetadataRequest")
ModelMetadataResponse = _message("ModelMetadataResponse")
ModelReadyRequest = _message("ModelReadyRequest")
ModelReadyResponse = _message("ModelReadyResponse")
ServerLiveRequest = _message("ServerLiveRequest")
ServerLiveResponse = _message("ServerLiveResponse")
ServerMetadataRequest = _message("ServerMetadataRequest")
ServerMetadataResponse = _message("ServerMetadataResponse")
ServerReadyRequest = _message("ServerReadyRequest")
ServerReadyResponse = _message("ServerReadyResponse")
