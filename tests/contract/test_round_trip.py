"""Tensors of every datatype go out and come back with all their bits, whichever way they are sent.

An example is one request with several tensors of each datatype. It goes to a model and through a pipeline of two steps,
of Python functions and of remote servers, as JSON, as binary behind JSON, as typed and as raw messages, and by Kafka.
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import secrets
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from topics import Kafka, Tap

from engine.protocol import tensors
from engine.protocol.messages import SERVICE, ModelInferRequest, ModelInferResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from product import Product

# `make nightly` makes two hundred examples, each of which is some thirty calls.
pytestmark = pytest.mark.timeout(1800)
EXAMPLES, CALLS_TAKE_LONGER = 10, 100

DEADLINE = 20.0

# A Python function is given BF16 as float32, and gives that back.
PYTHON = ("same", "sames.pipeline")
REMOTE = ("mirror", "mirrors.pipeline")

NAN = {
    "FP16": np.float16(np.nan).tobytes(),
    "BF16": b"\xc0\x7f",
    "FP32": np.float32(np.nan).tobytes(),
    "FP64": np.float64(np.nan).tobytes(),
}


class Tensor(NamedTuple):
    """One tensor, with its raw contents; those of BYTES are UTF-8 text."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes

    @property
    def dtype(self) -> np.dtype[Any] | None:
        return tensors.DATATYPES[self.datatype].dtype

    @property
    def values(self) -> list[Any]:
        """The elements as Python has them."""
        if self.dtype is None:
            return tensors.split_bytes(self.raw)
        if self.datatype == "BF16":
            return (np.frombuffer(self.raw, "<u2").astype("<u4") << 16).view("<f4").tolist()
        return np.frombuffer(self.raw, self.dtype).tolist()

    def with_nan(self, which: Callable[[float], bool]) -> Tensor:
        """Such elements replaced by the NaN that has no bits of its own."""
        if self.datatype not in NAN:
            return self
        size = len(NAN[self.datatype])
        elements = [self.raw[at : at + size] for at in range(0, len(self.raw), size)]
        changed = [
            NAN[self.datatype] if which(value) else element
            for value, element in zip(self.values, elements, strict=True)
        ]
        return self._replace(raw=b"".join(changed))


def is_not_finite(value: float) -> bool:
    return not math.isfinite(value)


def extremes(dtype: np.dtype[Any]) -> list[int]:
    """Bits of numbers at the edges of a datatype: none, all, the highest, the lowest; NaN and infinities of floats."""
    bits = 8 * dtype.itemsize
    found = [0, 1, (1 << bits) - 1, 1 << (bits - 1), (1 << (bits - 1)) - 1]
    if dtype.kind == "f":
        floats = np.array([np.inf, -np.inf, np.nan, np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal], dtype)
        found += floats.view(f"<u{dtype.itemsize}").tolist()
    return found


@st.composite
def contents(draw: st.DrawFn, datatype: str, shape: tuple[int, ...]) -> bytes:
    dtype = tensors.DATATYPES[datatype].dtype
    count = math.prod(shape)
    if dtype is None:
        texts = draw(st.lists(st.text(max_size=4), min_size=count, max_size=count))
        return tensors.join_bytes(text.encode() for text in texts)
    if datatype == "BOOL":
        return draw(arrays(bool, shape)).tobytes()
    elements = st.one_of(st.sampled_from(extremes(dtype)), st.integers(0, (1 << (8 * dtype.itemsize)) - 1))
    return draw(arrays(f"<u{dtype.itemsize}", shape, elements=elements, fill=st.nothing())).tobytes()


@st.composite
def requests(draw: st.DrawFn) -> list[Tensor]:
    """Two tensors of each datatype."""
    found = []
    for datatype in tensors.DATATYPES:
        for number in range(2):
            shape = draw(array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
            found.append(Tensor(f"{datatype}-{number}", datatype, shape, draw(contents(datatype, shape))))
    return found


class Doors:
    """Connections to the product and to its broker."""

    def __init__(self, product: Product, broker: str, topic: Callable[..., str], stack: ExitStack) -> None:
        self._topic = topic
        self._http = stack.enter_context(closing(http.client.HTTPConnection(product.address, timeout=DEADLINE)))
        self._channel = stack.enter_context(grpc.insecure_channel(product.address))
        self._kafka = stack.enter_context(Kafka(broker))
        self._taps = {name: stack.enter_context(self._tap(name)) for name in ("sames", "mirrors")}

    def _tap(self, pipeline: str) -> Tap:
        return self._kafka.tap(self._topic("pipeline", pipeline, "outputs"))

    def rest(self, target: str, body: bytes, json_length: int | None = None) -> tuple[bytes, int]:
        """The body of an answer, and how much of it is JSON."""
        length = {} if json_length is None else {"Inference-Header-Content-Length": str(json_length)}
        self._http.request("POST", "/v2/models/any/infer", body, {"seldon-model": target, **length})
        answer = self._http.getresponse()
        read = answer.read()
        assert answer.status == 200, read
        return read, int(answer.headers.get("Inference-Header-Content-Length", len(read)))

    def grpc(self, target: str, value: bytes) -> Any:
        call = self._channel.unary_unary(f"/{SERVICE}/ModelInfer", response_deserializer=ModelInferResponse.FromString)
        return call(value, metadata=[("seldon-model", target)], timeout=DEADLINE)

    def kafka(self, pipeline: str, *values: bytes) -> list[bytes]:
        """The values of the answers to records of these values."""
        ids = [f"trip-{secrets.token_hex(8)}" for _ in values]
        records = [(value, None, [("x-request-id", id_.encode())]) for value, id_ in zip(values, ids, strict=True)]
        self._kafka.send_many(self._topic("pipeline", pipeline, "inputs"), records)
        found = [self._taps[pipeline].one(id_) for id_ in ids]
        self._taps[pipeline].seen.clear()
        assert [record.error_code for record in found] == [None] * len(values), found
        return [record.value or b"" for record in found]


@pytest.fixture(scope="module")
def doors(identity: Product, embedded_broker: str, topic: Callable[..., str]) -> Iterator[Doors]:
    """Connections that all examples use."""
    with ExitStack() as stack:
        yield Doors(identity, embedded_broker, topic, stack)


def as_json(request: list[Tensor]) -> bytes:
    """JSON as clients write it: NaN as null, infinities by name, text as it is."""
    return json.dumps(
        {"inputs": [{**described(tensor), "data": list(map(written, tensor.values))} for tensor in request]}
    ).encode()


def described(tensor: Tensor) -> dict[str, Any]:
    fields = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    return fields if tensor.dtype is not None else {**fields, "parameters": {"content_type": "str"}}


def written(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float) and is_not_finite(value):
        return None if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def of_json(body: bytes) -> list[Tensor]:
    """The tensors of an answer in JSON, read by Python's own parser."""
    return [
        Tensor(item["name"], item["datatype"], tuple(item["shape"]), read(item)) for item in json.loads(body)["outputs"]
    ]


def read(item: dict[str, Any]) -> bytes:
    datatype, data = tensors.DATATYPES[item["datatype"]], item["data"]
    if datatype.dtype is None:
        is_text = item.get("parameters", {}).get("content_type") == "str"
        return tensors.join_bytes(element.encode() if is_text else base64.b64decode(element) for element in data)
    if datatype.name == "BF16":
        # Each is a BF16 already, so that its upper half is all of it.
        return (np.array(data, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return np.array(data, datatype.dtype).tobytes()


def as_binary(request: list[Tensor]) -> tuple[bytes, int]:
    inputs = [
        {**described(tensor), "parameters": {"binary_data_size": len(tensor.raw), "content_type": "str"}}
        for tensor in request
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return b"".join([head, *(tensor.raw for tensor in request)]), len(head)


def of_binary(body: bytes, json_length: int) -> list[Tensor]:
    found = []
    for item in json.loads(body[:json_length])["outputs"]:
        size = item["parameters"]["binary_data_size"]
        found.append(
            Tensor(item["name"], item["datatype"], tuple(item["shape"]), body[json_length : json_length + size])
        )
        json_length += size
    assert json_length == len(body)
    return found


def as_message(request: list[Tensor], *, typed: bool) -> bytes:
    message = ModelInferRequest()
    for tensor in without_bits_of_nan(request) if typed else request:
        item = message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if typed:
            getattr(item.contents, tensors.DATATYPES[tensor.datatype].contents).extend(tensor.values)
        else:
            message.raw_input_contents.append(tensor.raw)
    return bytes(message.SerializeToString())


def of_message(message: Any) -> list[Tensor]:
    found = []
    for place, item in enumerate(message.outputs):
        kind, shape = tensors.DATATYPES[item.datatype], tuple(item.shape)
        raw = (
            message.raw_output_contents[place]
            if message.raw_output_contents
            else tensors.typed_to_raw(item.contents, kind, shape, item.name)
        )
        found.append(Tensor(item.name, item.datatype, shape, raw))
    return found


def for_target(request: list[Tensor], target: str) -> list[Tensor]:
    return [tensor for tensor in request if target not in PYTHON or tensor.datatype != "BF16"]


def without_bits_of_nan(request: list[Tensor]) -> list[Tensor]:
    """What typed contents can say: a NaN is a NaN there."""
    return [tensor.with_nan(math.isnan) for tensor in request]


def as_json_says(request: list[Tensor]) -> list[Tensor]:
    """What answers in JSON can say: what is not finite is null."""
    return [tensor.with_nan(is_not_finite) for tensor in request]


def trip(
    send: Callable[[list[Tensor]], list[Tensor]], says: Callable[[list[Tensor]], list[Tensor]], target: str
) -> None:
    """Send requests one way; each comes back as that way can say it."""

    @given(requests())
    @settings(
        max_examples=max(EXAMPLES, settings.default.max_examples // CALLS_TAKE_LONGER),
        suppress_health_check=list(HealthCheck),
    )
    def go(request: list[Tensor]) -> None:
        sent = for_target(request, target)
        assert send(sent) == says(sent)

    go()


def bit_for_bit(request: list[Tensor]) -> list[Tensor]:
    return request


@pytest.mark.parametrize("target", [*PYTHON, *REMOTE])
class TestATensorComesBack:
    def test_as_json(self, doors: Doors, target: str) -> None:
        trip(lambda request: of_json(doors.rest(target, as_json(request))[0]), as_json_says, target)

    def test_as_binary_behind_json(self, doors: Doors, target: str) -> None:
        trip(lambda request: of_binary(*doors.rest(target, *as_binary(request))), bit_for_bit, target)

    def test_as_typed_contents(self, doors: Doors, target: str) -> None:
        trip(
            lambda request: of_message(doors.grpc(target, as_message(request, typed=True))),
            without_bits_of_nan,
            target,
        )

    def test_as_raw_contents(self, doors: Doors, target: str) -> None:
        trip(lambda request: of_message(doors.grpc(target, as_message(request, typed=False))), bit_for_bit, target)


@pytest.mark.parametrize("target", [PYTHON[1], REMOTE[1]])
def test_a_tensor_comes_back_by_kafka_however_it_is_written(doors: Doors, target: str) -> None:
    pipeline = target.removesuffix(".pipeline")

    def send(request: list[Tensor]) -> list[Tensor]:
        values = as_message(request, typed=False), as_message(request, typed=True), as_json(request)
        raw, typed, json_ = doors.kafka(pipeline, *values)
        assert of_message(ModelInferResponse.FromString(typed)) == without_bits_of_nan(request)
        assert of_json(json_) == as_json_says(request)
        return of_message(ModelInferResponse.FromString(raw))

    trip(send, bit_for_bit, target)
