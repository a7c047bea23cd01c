"""Bodies of REST and gRPC calls as no client would send them: each is a request or is refused in words, and no more."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidInput
from engine.protocol import columns, rest_json, tensors
from engine.protocol.messages import ModelInferRequest

# `make nightly` tries each twenty thousand times.
pytestmark = pytest.mark.timeout(900)

NAMES = st.sampled_from(["x", "y", "", "\ud7ff", "a" * 300])
SIZES = st.one_of(
    st.integers(-2, 4), st.sampled_from([1 << 31, 1 << 40, 1 << 62, 1 << 63, -(1 << 63), 1.5, "2", None, True, [1], {}])
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["NaN", "Infinity", "", "é", "/wA=", "1"]),
)
ELEMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
PARAMETERS = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "binary_data_output", "content_type", "mine"]),
    st.one_of(SIZES, st.sampled_from(["base64", "str"])),
    max_size=3,
)
ANYTHING = st.one_of(ELEMENTS, st.dictionaries(st.text(max_size=3), SCALARS, max_size=2))


def mostly(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is meant to stand there, and now and then anything."""
    return st.one_of(strategy, strategy, strategy, ANYTHING)


TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": mostly(NAMES),
        "datatype": mostly(st.sampled_from([*tensors.DATATYPES, "INT33", "int32"])),
        "shape": mostly(st.lists(SIZES, max_size=4)),
        "data": mostly(st.lists(ELEMENTS, max_size=4)),
        "parameters": mostly(PARAMETERS),
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"inputs": mostly(st.lists(mostly(TENSORS), max_size=3))},
    optional={
        "id": mostly(st.text(max_size=4)),
        "outputs": mostly(st.lists(mostly(TENSORS), max_size=2)),
        "parameters": mostly(PARAMETERS),
    },
)


def check(body: bytes, json_length: int | None) -> None:
    """A request whose tensors can be worked with and written again, or a refusal in words."""
    try:
        message, _ = rest_json.decode_call(body, json_length)
    except InvalidInput as refusal:
        text = refusal.text
    else:
        assert columns.from_message(message, columns.REQUEST).names == tuple(tensor.name for tensor in message.inputs)
        text = rest_json.encode_request(message).decode()
    assert text


@given(DOCUMENTS, st.binary(max_size=12), st.one_of(st.none(), st.integers(-1, 3)))
def test_any_document_is_a_request_or_is_refused(document: Any, behind: bytes, wrong_by: int | None) -> None:
    head = orjson.dumps(document)
    if wrong_by is None:
        check(head, None)
    else:
        check(head + behind, len(head) + wrong_by)


@given(st.data())
def test_a_request_with_bytes_changed_is_a_request_or_is_refused(data: st.DataObject) -> None:
    tensor = {"name": "x", "shape": [2], "datatype": "INT32", "parameters": {"binary_data_size": 8}}
    other = {"name": "y", "shape": [1, 2], "datatype": "BYTES", "data": [["a", "é"]]}
    head = orjson.dumps({"id": "1", "inputs": [tensor, other], "outputs": [{"name": "z"}]})
    body = bytearray(head + b"\1\0\0\0\2\0\0\0")
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(body[: data.draw(st.integers(0, len(body)))]), data.draw(st.sampled_from([len(head), None])))


@given(st.binary(max_size=60), st.one_of(st.none(), st.integers(0, 60)))
def test_any_bytes_are_a_request_or_are_refused(body: bytes, json_length: int | None) -> None:
    check(body, json_length)


# gRPC: the door's parser, then what a model's or a pipeline's worker makes of the message.


def check_message(value: bytes) -> None:
    """A request whose tensors can be worked with, as typed contents too, or a refusal in words."""
    groups, refused = columns.decode([value], columns.REQUEST)
    assert len(groups) + len(refused) == 1
    assert all(error.text for _, error in refused)
    for _, read in groups:
        for index in range(len(read.specs)):
            assert read.array(index, 0).shape == read.specs[index].shape
        [again] = columns.encode(read, columns.REQUEST)
        message = ModelInferRequest.FromString(again)
        columns.to_typed(message, columns.REQUEST)
        assert rest_json.encode_request(message)


INT64S = st.one_of(st.integers(-1, 4), st.sampled_from([1 << 31, 1 << 40, (1 << 63) - 1, -(1 << 63)]))
RAWS = st.one_of(
    st.binary(max_size=12),
    st.integers(0, (1 << 32) - 1).map(lambda size: size.to_bytes(4, "little") + b"abcd"),
)
TYPED = {
    "bool_contents": st.booleans(),
    "int_contents": st.integers(-(1 << 31), (1 << 31) - 1),
    "int64_contents": st.integers(-(1 << 63), (1 << 63) - 1),
    "uint_contents": st.integers(0, (1 << 32) - 1),
    "uint64_contents": st.integers(0, (1 << 64) - 1),
    "fp32_contents": st.floats(width=32),
    "fp64_contents": st.floats(),
    "bytes_contents": st.binary(max_size=4),
}


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Messages whose tensors may lack what they say to have."""
    message = ModelInferRequest(raw_input_contents=draw(st.lists(RAWS, max_size=2)))
    for _ in range(draw(st.integers(0, 2))):
        tensor = message.inputs.add(
            name=draw(st.sampled_from(["x", "y", ""])),
            datatype=draw(st.sampled_from([*tensors.DATATYPES, "INT33"])),
            shape=draw(st.lists(INT64S, max_size=4)),
        )
        for field in draw(st.sets(st.sampled_from(sorted(TYPED)), max_size=2)):
            getattr(tensor.contents, field).extend(draw(st.lists(TYPED[field], max_size=4)))
    return bytes(message.SerializeToString())


@given(messages())
def test_any_message_is_a_request_or_is_refused(value: bytes) -> None:
    check_message(value)


@given(messages(), st.data())
def test_a_message_with_bytes_changed_is_a_request_or_is_refused(value: bytes, data: st.DataObject) -> None:
    changed = bytearray(value + b"\0")
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    check_message(bytes(changed[: data.draw(st.integers(0, len(changed)))]))
