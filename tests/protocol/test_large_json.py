"""Large bodies mean what small ones do: spaces behind a small one make it large."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from engine.errors import InvalidInput
from engine.protocol import large_json, rest_json
from engine.protocol.tensors import DATATYPES

QUICK = settings(max_examples=200, deadline=None)
NUMERIC = [name for name in DATATYPES if name not in {"BOOL", "BYTES"}]
NUMBERS = st.one_of(
    st.integers(-3, 300), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(allow_nan=False, allow_infinity=False)
)
ODD = st.sampled_from([None, True, "NaN", "[", "1", {}, {"a": [1]}, [], [1], [[1, 2], 3], 1 << 64, 1e300])


def body(*items: Any, **members: Any) -> bytes:
    return json.dumps({"inputs": list(items), **members}).encode()


def tensor(data: Any, datatype: str = "FP32", shape: Any = None, **members: Any) -> dict[str, Any]:
    return {
        "name": "x",
        "shape": [len(data)] if shape is None else shape,
        "datatype": datatype,
        "data": data,
        **members,
    }


def large(small: bytes) -> bytes:
    return small + b" " * large_json.LARGE


def outcome(request: bytes) -> bytes | str:
    """The request that a body is read as, or why it is refused."""
    try:
        return bytes(rest_json.decode_request(request).SerializeToString(deterministic=True))
    except InvalidInput as refusal:
        return str(refusal)


def data(small: bytes) -> Any:
    """The elements of the one tensor as they are read from a large body; None when that is left to orjson."""
    document = large_json.document(large(small), "inputs")
    return None if document is None else document["inputs"][0]["data"]


@QUICK
@given(st.sampled_from(NUMERIC), st.lists(NUMBERS, max_size=8), st.integers(0, 2))
def test_numbers_are_read_or_refused_as_in_a_small_body(datatype: str, numbers: list[Any], depth: int) -> None:
    nested, shape = numbers, [1] * depth + [len(numbers)]
    for _ in range(depth):
        nested = [nested]
    request = body(tensor(nested, datatype, shape))
    assert outcome(large(request)) == outcome(request)


@QUICK
@given(
    st.sampled_from([*DATATYPES, "INT33"]),
    st.recursive(st.one_of(NUMBERS, ODD), lambda inner: st.lists(inner, max_size=4), max_leaves=12),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.sampled_from(["id", "parameters", "outputs", "inputs\0", "["]), ODD, max_size=2),
)
def test_whatever_stands_there_is_read_or_refused_as_in_a_small_body(
    datatype: str, elements: Any, shape: list[int], members: dict[str, Any]
) -> None:
    request = body(tensor([0.5], "FP32"), {**tensor([], datatype, shape), "name": "y", "data": elements}, **members)
    assert outcome(large(request)) == outcome(request)


@QUICK
@given(arrays(np.float32, array_shapes(max_dims=3, min_side=0, max_side=12), elements={"allow_nan": False}))
def test_every_bit_of_a_number_is_kept(array: Any) -> None:
    finite = np.nan_to_num(array, posinf=1.0, neginf=-1.0)
    message = rest_json.decode_request(large(body(tensor(finite.tolist(), "FP32", list(array.shape)))))
    assert message.raw_input_contents[0] == finite.tobytes()


@pytest.mark.parametrize(
    ("datatype", "dtype"), [("FP16", np.float64), ("FP64", np.float64), ("INT8", np.int64), ("UINT64", np.uint64)]
)
def test_numbers_come_as_an_array(datatype: str, dtype: type) -> None:
    found = data(body(tensor([1, 2, 3], datatype)))
    assert (found.dtype, found.tolist()) == (dtype, [1, 2, 3])


def test_nested_numbers_come_as_a_flat_array() -> None:
    rows = np.arange(64.0).reshape(2, 2, 16)
    assert data(body(tensor(rows.tolist(), "FP32", [2, 2, 16]))).tolist() == list(range(64))


@pytest.mark.parametrize(
    "elements",
    [
        [1, [2]],
        [[1] * 16, 2, [[4] * 16]],
        [[1] * 16, [2] * 17],
        [[1] * 16, [*range(15), [2]]],
        [[1]] * 64,
        [1, None],
        [1, True],
        [1, "2"],
        [1 << 64],
    ],
    ids=str,
)
def test_what_is_more_than_rows_of_numbers_is_left_to_orjson(elements: list[Any]) -> None:
    assert data(body(tensor(elements))) is None


@pytest.mark.parametrize(
    "request_",
    [
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1], "data": [2]}]}',
        b'{"inputs": [], "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}',
        b'{"inputs\\u0000": 1, "inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}',
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]} 2',
        b'{"inputs": [{"name": "\\udc00", "datatype": "FP32", "shape": [1], "data": [1]}]}',
        b'{"inputs": [{"name": "\xff", "datatype": "FP32", "shape": [1], "data": [1]}]}',
        b'{"inputs": ' + b"[" * 2000 + b"]" * 2000 + b"}",
        b'[{"inputs": []}]',
        b"1",
        b"",
    ],
)
def test_odd_documents_mean_what_they_mean_in_a_small_body(request_: bytes) -> None:
    assert outcome(large(request_)) == outcome(request_)


def test_a_parser_in_use_is_no_matter() -> None:
    request = large(body(tensor([1, 2, 3])))
    held = large_json._PARSER.parse(request)
    assert large_json.document(request, "inputs") is None
    del held
    assert large_json.document(request, "inputs") is not None


def test_numbers_of_answers_are_read_as_those_of_requests() -> None:
    answer = large(orjson.dumps({"model_name": "m", "outputs": [tensor([1.5, 2.5])]}))
    assert large_json.document(answer, "outputs") is not None
    assert np.frombuffer(rest_json.decode_response(answer).raw_output_contents[0], np.float32).tolist() == [1.5, 2.5]
