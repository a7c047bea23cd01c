"""Requests that nobody should send, at both doors: each is told what is wrong with which tensor, and no more happens.

The connection can be used for the next request, other callers notice nothing, and the memory does not grow.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import struct
import sys
from itertools import product as pairs
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from engine.protocol.messages import SERVICE, ModelInferRequest, ModelInferResponse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from product import Product

DEADLINE = 20.0
ROUNDS = 20
GROWTH = 24 << 20

# A model that is called directly, and a pipeline, which is called through Kafka.
TARGETS = {"model": "same", "pipeline": "mirrors.pipeline"}


def document(**fields: Any) -> bytes:
    """A request in JSON whose only tensor is called `bad`."""
    tensor = {"name": "bad", "datatype": "INT32", "shape": [1], "data": [1], **fields}
    return json.dumps({"inputs": [tensor]}).encode()


def nested(depth: int) -> bytes:
    return document(data=["DEEP"]).replace(b'"DEEP"', b"[" * depth + b"1" + b"]" * depth)


GOOD = document()

# body, and what the error must say
DOCUMENTS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "nested more deeply than is read": (nested(3000), ("not JSON", "depth limit")),
    "nested more deeply than arrays go": (nested(100), ('"bad"', "31 arrays")),
    "not UTF-8": (GOOD.replace(b"bad", b"b\xffd"), ("not JSON", "UTF-8")),
    "UTF-16": (GOOD.decode().encode("utf-16"), ("not JSON", "UTF-8")),
    "half a document": (GOOD[: len(GOOD) // 2], ("not JSON",)),
    "a shape of 2^80": (document(shape=[1 << 40, 1 << 40]), ('"bad"', "1099511627776", "too many")),
    "a shape of 2^40": (document(shape=[1 << 40]), ('"bad"', "1 elements", "takes 1099511627776")),
    "nothing of 2^124": (document(shape=[1 << 62, 1 << 62, 0], data=[]), ('"bad"', "too many")),
    "a dimension of -1": (document(shape=[-1]), ('"bad"', "-1", "whole number from 0")),
    "a dimension of 2^63": (document(shape=[1 << 63]), ('"bad"', "9223372036854775808", "too many")),
    "a dimension of 2^64": (document(shape=[1 << 64]), ('"bad"', "whole number from 0")),
    "5000 dimensions": (document(shape=[1] * 5000), ('"bad"', "5000 dimensions", "at most 31")),
    "300 as INT8": (document(datatype="INT8", data=[300]), ('"bad"', "300", "-128 to 127")),
    "-1 as UINT8": (document(datatype="UINT8", data=[-1]), ('"bad"', "-1", "0 to 255")),
    "2^63 as INT64": (document(datatype="INT64", data=[1 << 63]), ('"bad"', "9223372036854775808", "INT64")),
    "2^64 as UINT64": (document(datatype="UINT64", data=[1 << 64]), ('"bad"', "at most 64 bits")),
    "10^6 as FP16": (document(datatype="FP16", data=[1e6]), ('"bad"', "FP16", "1000000")),
    "10^300 as FP32": (document(datatype="FP32", data=[1e300]), ('"bad"', "FP32", "1e+300")),
    "a number of 5000 digits": (document(data=["BIG"]).replace(b'"BIG"', b"9" * 5000), ("not JSON", "number")),
    "text for a number": (document(data=["1"]), ('"bad"', "whole numbers", '"1"')),
    "text for a fraction": (document(datatype="FP32", data=["1"]), ('"bad"', "takes numbers", '"1"')),
    "a number for a boolean": (document(datatype="BOOL", data=[1]), ('"bad"', "true or false", "element 0 is 1")),
    "a number for text": (document(datatype="BYTES", data=[1]), ('"bad"', "strings", "element 0 is 1")),
    "no base64": (
        document(datatype="BYTES", data=["$"], parameters={"content_type": "base64"}),
        ('"bad"', "base64", "element 0"),
    ),
    "an unknown datatype": (document(datatype="INT33"), ('"bad"', "INT33", "known are BOOL")),
    "a name twice": (
        json.dumps({"inputs": json.loads(GOOD)["inputs"] * 2}).encode(),
        ('"bad"', "twice", "names must differ"),
    ),
}


def binary(size: object, raw: bytes, **fields: Any) -> tuple[bytes, int]:
    """A request whose tensor's contents stand behind the JSON, and how long the JSON is."""
    tensor = {"name": "bad", "datatype": "BYTES", "shape": [1], **fields, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + raw, len(head)


def of_length(length: int) -> bytes:
    """A BYTES element that says to be so long, and is not."""
    return struct.pack("<I", length) + b"abcd"


# body, how much of it is JSON, and what the error must say
BINARY: dict[str, tuple[bytes, int, tuple[str, ...]]] = {
    "an element of 2^30 bytes": (*binary(8, of_length(1 << 30)), ('"bad"', "end inside element 0")),
    "an element of 2^32-1 bytes": (*binary(8, of_length((1 << 32) - 1)), ('"bad"', "end inside element 0")),
    "less than a length": (*binary(2, b"\1\0"), ('"bad"', "end inside element 0")),
    "a size of 2^40": (*binary(1 << 40, of_length(4)), ('"bad"', "1099511627776", "8 bytes are left")),
    "a size of -1": (*binary(-1, of_length(4)), ('"bad"', "-1", "8 bytes are left")),
    "a size in text": (*binary("8", of_length(4)), ('"bad"', '"8"', "8 bytes are left")),
    "more than the tensors say": (*binary(8, of_length(4) + b"more"), ("4 bytes", "belong to no tensor")),
    "less than the shape says": (*binary(3, b"abc", datatype="INT32"), ('"bad"', "3 bytes", "takes 4")),
    "a JSON longer than the body": (GOOD, len(GOOD) + 1, (f"{len(GOOD) + 1} bytes long",)),
    "a JSON shorter than it is": (GOOD, len(GOOD) - 1, ("not JSON",)),
}


def message(*raws: bytes, times: int = 1, typed: dict[str, list[Any]] | None = None, **fields: Any) -> bytes:
    """A gRPC request whose only tensor is called `bad`, with raw contents where there are any."""
    request = ModelInferRequest(raw_input_contents=raws)
    for _ in range(times):
        tensor = request.inputs.add(**{"name": "bad", "datatype": "INT32", "shape": [1], **fields})
        if not raws:
            for field, elements in (typed or {"int_contents": [1]}).items():
                getattr(tensor.contents, field).extend(elements)
    return bytes(request.SerializeToString())


# message, and what the error must say
MESSAGES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "no message": (b"\xff\xfe no message", ("no inference.ModelInferRequest message",)),
    "no inputs": (b"", ("no inputs",)),
    "a shape of 2^80": (message(shape=[1 << 40, 1 << 40]), ('"bad"', "1099511627776", "too many")),
    "a shape of 2^40": (message(shape=[1 << 40]), ('"bad"', "1 elements", "takes 1099511627776")),
    "raw contents of 2^40": (message(b"abcd", shape=[1 << 40]), ('"bad"', "4 bytes", f"takes {4 << 40}")),
    "a dimension of -1": (message(shape=[-1]), ('"bad"', "cannot be -1")),
    "dimensions that overflow": (message(shape=[(1 << 63) - 1] * 2), ('"bad"', "too many")),
    "5000 dimensions": (message(shape=[1] * 5000), ('"bad"', "5000 dimensions", "at most 31")),
    "300 as INT8": (message(datatype="INT8", typed={"int_contents": [300]}), ('"bad"', "INT8", "300")),
    "300 as UINT8": (message(datatype="UINT8", typed={"uint_contents": [300]}), ('"bad"', "UINT8", "300")),
    "10^6 as FP16": (message(datatype="FP16", typed={"fp32_contents": [1e6]}), ('"bad"', "FP16", "1000000")),
    "text for a number": (message(typed={"bytes_contents": [b"1"]}), ('"bad"', "0 elements in int_contents")),
    "an element of 2^30 bytes": (message(of_length(1 << 30), datatype="BYTES"), ('"bad"', "end inside element 0")),
    "less than a length": (message(b"\1\0", datatype="BYTES"), ('"bad"', "end inside element 0")),
    "less than the shape says": (message(b"abc"), ('"bad"', "3 bytes", "takes 4")),
    "more contents than tensors": (message(b"abcd", b"abcd"), ("1 inputs and 2 entries",)),
    "an unknown datatype": (message(datatype="INT33"), ('"bad"', "INT33", "known are BOOL")),
    "a name twice": (message(times=2), ('"bad"', "twice", "names must differ")),
    "a name twice with raw contents": (message(b"abcd", b"abcd", times=2), ('"bad"', "twice", "names must differ")),
}


class Rest:
    """One HTTP connection, which has to hold."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=DEADLINE)
        self._connection.connect()
        self._socket = self._connection.sock

    def infer(self, target: str, body: bytes, json_length: int | None = None) -> tuple[int, str]:
        """The status, and the error's text or nothing."""
        headers = {"seldon-model": target}
        if json_length is not None:
            headers["Inference-Header-Content-Length"] = str(json_length)
        self._connection.request("POST", "/v2/models/any/infer", body, headers)
        answer = self._connection.getresponse()
        text = json.loads(answer.read()).get("error", "")
        assert self._connection.sock is self._socket, "the connection was closed"
        return answer.status, text

    def close(self) -> None:
        self._connection.close()


class Grpc:
    """One gRPC connection."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._infer = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")

    def infer(self, target: str, value: bytes) -> tuple[str, str]:
        """The status, and the error's text or nothing."""
        try:
            answer = self._infer(value, metadata=[("seldon-model", target)], timeout=DEADLINE)
        except grpc.RpcError as error:
            return error.code().name, error.details()
        assert ModelInferResponse.FromString(answer).outputs
        return "OK", ""

    def close(self) -> None:
        self._channel.close()


@pytest.fixture(scope="module")
def rest(identity: Product) -> Iterator[Rest]:
    """A connection that all tests use."""
    with contextlib.closing(Rest(identity.address)) as it:
        yield it


@pytest.fixture(scope="module")
def calls(identity: Product) -> Iterator[Grpc]:
    """The same over gRPC."""
    with contextlib.closing(Grpc(identity.address)) as it:
        yield it


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_document_is_refused_with_the_reason_and_the_connection_holds(rest: Rest, case: str, target: str) -> None:
    body, words = DOCUMENTS[case]
    status, text = rest.infer(TARGETS[target], body)
    assert status == 400
    assert [word for word in words if word not in text] == [], text
    assert rest.infer(TARGETS[target], GOOD) == (200, "")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", BINARY)
def test_binary_tensors_are_refused_with_the_reason_and_the_connection_holds(
    rest: Rest, case: str, target: str
) -> None:
    body, json_length, words = BINARY[case]
    status, text = rest.infer(TARGETS[target], body, json_length)
    assert status == 400
    assert [word for word in words if word not in text] == [], text
    assert rest.infer(TARGETS[target], GOOD) == (200, "")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", MESSAGES)
def test_a_message_is_refused_with_the_reason_and_the_connection_holds(calls: Grpc, case: str, target: str) -> None:
    value, words = MESSAGES[case]
    status, text = calls.infer(TARGETS[target], value)
    assert status == "INVALID_ARGUMENT"
    assert [word for word in words if word not in text] == [], text
    assert calls.infer(TARGETS[target], message()) == ("OK", "")


HEAD = b"POST /v2/models/same/infer HTTP/1.1\r\nHost: h\r\n"


def length(says: object) -> bytes:
    return HEAD + f"Content-Length: {says}\r\n\r\n".encode() + GOOD


def encoded(name: str) -> bytes:
    return HEAD + f"Content-Encoding: {name}\r\nContent-Length: {len(GOOD)}\r\n\r\n".encode() + GOOD


# what is sent, the status, and what the error must say
LIES: dict[str, tuple[bytes, int, str]] = {
    "a length below what comes": (length(5), 400, "malformed"),
    "a length above what comes": (HEAD + b"x-request-timeout-ms: 100\r\n" + length(5000)[len(HEAD) :], 408, "0.1 s"),
    "a length below zero": (length(-1), 400, "Content-Length"),
    "two lengths": (length("84, 85"), 400, "Content-Length"),
    "a length that is no number": (length("many"), 400, "Content-Length"),
    "a length of 20 digits": (length("9" * 20), 400, "Content-Length"),
    "a chunk without a size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "chunk size"),
    "an unknown transfer encoding": (HEAD + b"Transfer-Encoding: gzip\r\n\r\n" + GOOD, 400, "Transfer-Encoding"),
    "an unknown encoding": (encoded("secret"), 400, '"secret"; known are gzip'),
    "two encodings": (encoded("gzip, gzip"), 400, '"gzip, gzip"; known are gzip'),
    "gzip that is none": (encoded("gzip"), 400, "gzip"),
    "deflate that is none": (encoded("deflate"), 400, "deflate"),
    "brotli that is none": (encoded("br"), 400, "br"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_body_that_lies_is_refused_and_others_are_served(identity: Product, rest: Rest, lie: str) -> None:
    sent, status, words = LIES[lie]
    answered, text = ask_raw(identity, sent)
    assert (answered, words in text) == (status, True), text
    assert rest.infer("same", GOOD) == (200, "")


def ask_raw(product: Product, sent: bytes) -> tuple[int, str]:
    """The answer's status and error to bytes that no HTTP library would send."""
    host, _, port = product.address.rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE) as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection, method="POST")
        answer.begin()
        return answer.status, json.loads(answer.read())["error"]


@pytest.mark.parametrize(
    "half",
    [
        HEAD,
        length(len(GOOD))[:-10],
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n10\r\nhalf",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x04\x00\x00\x00\x00\x00\x00nonsense",
    ],
    ids=["head", "body", "chunk", "preface", "frames"],
)
def test_who_leaves_amid_a_request_harms_nobody(identity: Product, rest: Rest, calls: Grpc, half: bytes) -> None:
    host, _, port = identity.address.rpartition(":")
    for _ in range(ROUNDS):
        with socket.create_connection((host, int(port)), DEADLINE) as connection:
            connection.sendall(half)
    assert rest.infer("same", GOOD) == (200, "")
    assert calls.infer("same", message()) == ("OK", "")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_memory_does_not_grow_by_what_is_refused(identity: Product, rest: Rest, calls: Grpc) -> None:
    def refuse_everything() -> None:
        for (body, _), target in pairs(DOCUMENTS.values(), TARGETS.values()):
            rest.infer(target, body)
        for (body, json_length, _), target in pairs(BINARY.values(), TARGETS.values()):
            rest.infer(target, body, json_length)
        for (value, _), target in pairs(MESSAGES.values(), TARGETS.values()):
            calls.infer(target, value)

    for _ in range(3):
        refuse_everything()
    before = resident(identity)
    for _ in range(ROUNDS):
        refuse_everything()
    assert resident(identity) - before < GROWTH


def resident(product: Product) -> int:
    """Bytes of memory that the process holds."""
    pages = int(Path(f"/proc/{product.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
