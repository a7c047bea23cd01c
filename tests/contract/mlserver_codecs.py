"""Run by a Python that has MLServer: its codecs encode, a model and a pipeline give back, the codecs decode.

It prints the codecs whose answers were what was sent; its complaint, and 1, when one was not.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pandas as pd
import requests
from mlserver.codecs import (
    Base64Codec,
    DatetimeCodec,
    NumpyCodec,
    NumpyRequestCodec,
    PandasCodec,
    StringCodec,
    StringRequestCodec,
)
from mlserver.grpc import converters
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest, InferenceResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[[InferenceRequest], InferenceResponse]

# Codecs of one tensor, with what they encode.
TENSORS: list[tuple[Any, Any]] = [
    (NumpyCodec, np.array([[1.5, -0.0], [2, 3]], np.float32)),
    (NumpyCodec, np.array([[2**63 - 1, -(2**63)]], np.int64)),
    (NumpyCodec, np.array([[True], [False]])),
    (NumpyCodec, np.zeros((0, 3), np.int8)),
    (StringCodec, ["a", "\u00e9\u20ac", ""]),
    (Base64Codec, [b"\0\xff", b"abcd"]),
    # Local times, as the codec's ISO format has them.
    (DatetimeCodec, [datetime(2026, 1, 2, 3, 4, 5), datetime(1999, 12, 31)]),  # noqa: DTZ001  it keeps what it is given
]

# MLServer writes null for it, which has no place in a message: it is sent over REST alone.
NOT_A_NUMBER = (NumpyCodec, np.array([[1.5, np.nan], [2, 3]], np.float32))

TABLE = pd.DataFrame(
    {
        "number": [1, 2],
        "fraction": [0.5, 0.25],
        # pandas' own kind of text is none that MLServer knows.
        "text": pd.Series(["x", "\u00e9"], dtype=object),
        "document": pd.Series([{"k": 1}, [2]], dtype=object),
    }
)

# Codecs of a whole request.
REQUESTS: list[tuple[Any, Any]] = [
    (NumpyRequestCodec, np.arange(6.0).reshape(2, 3)),
    (StringRequestCodec, ["a", "\u00e9"]),
    (PandasCodec, TABLE),
]


def by_rest(address: str, path: str) -> Call:
    """Calls that are JSON, as MLServer writes and reads it."""

    def call(request: InferenceRequest) -> InferenceResponse:
        body = request.model_dump_json()
        answer = requests.post(f"http://{address}/v2/{path}/infer", body, timeout=30)
        assert answer.status_code == requests.codes.ok, answer.text
        return InferenceResponse.model_validate_json(answer.content)

    return call


def by_grpc(address: str, path: str, *, raw: bool) -> Call:
    """Calls that are messages, with typed or with raw contents."""
    owner, _, name = path.partition("/")
    infer = GRPCInferenceServiceStub(grpc.insecure_channel(address)).ModelInfer

    def call(request: InferenceRequest) -> InferenceResponse:
        message = converters.ModelInferRequestConverter.from_types(request, model_name=name, use_raw=raw)
        routed = [("seldon-model", f"{name}.pipeline")] if owner == "pipelines" else []
        return converters.ModelInferResponseConverter.to_types(infer(message, metadata=routed, timeout=30))

    return call


def same(sent: Any, found: Any) -> bool:
    """Whether the two are equal, a NaN to a NaN too."""
    if isinstance(sent, pd.DataFrame):
        # Over gRPC its table leaves text as bytes, over REST pandas makes its own kind of text of it.
        read = found.map(lambda cell: cell.decode() if isinstance(cell, bytes) else cell)
        return bool(sent.equals(read.astype(sent.dtypes.to_dict())))
    if isinstance(sent, np.ndarray):
        return sent.dtype == found.dtype and np.array_equal(sent, found, equal_nan=sent.dtype.kind == "f")
    return bool(sent == found)


def check(call: Call, codecs: list[tuple[Any, Any]], *, use_bytes: bool) -> None:
    """Call with codecs of one tensor, and with all of requests; AssertionError names one that does not read its own."""
    for codec, sent in codecs:
        tensor = codec.encode_input("x", sent, use_bytes=use_bytes)
        answer = call(InferenceRequest(id="7", inputs=[tensor]))
        [output] = answer.outputs
        found = codec.decode_output(output)
        assert same(sent, found), f"{codec.__name__}: {sent!r} came back as {found!r}"
        assert answer.id == "7", answer
        assert output.parameters.content_type == codec.ContentType, output
    for codec, sent in REQUESTS:
        found = codec.decode_response(call(codec.encode_request(sent, use_bytes=use_bytes)))
        assert same(sent, found), f"{codec.__name__}: {sent!r} came back as {found!r}"


if __name__ == "__main__":
    door, address, *paths = sys.argv[1:]
    for path in paths:
        if door == "rest":
            check(by_rest(address, path), [*TENSORS, NOT_A_NUMBER], use_bytes=False)
        else:
            check(by_grpc(address, path, raw=False), TENSORS, use_bytes=True)
            check(by_grpc(address, path, raw=True), TENSORS, use_bytes=True)
    print(json.dumps(sorted({codec.__name__ for codec, _ in (*TENSORS, *REQUESTS)})))  # noqa: T201  its output
