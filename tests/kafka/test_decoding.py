from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engine.errors import TooLarge
from engine.kafka import decoding
from engine.protocol import columns as col
from engine.protocol import rest_json, tensors
from engine.protocol.messages import ModelInferRequest, ModelInferResponse

if TYPE_CHECKING:
    from engine.errors import RequestError
    from engine.protocol.columns import Columns, Kind

LIMIT = 1000

JSON_REQUEST = b'{"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [7]}]}'
JSON_RESPONSE = b'{"model_name": "m", "outputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [8]}]}'


def request(number: int) -> bytes:
    message = ModelInferRequest(model_name="m", id=f"r{number}")
    message.inputs.add(name="x", datatype="INT64", shape=[1])
    message.raw_input_contents.append(np.array([number], "<i8").tobytes())
    return bytes(message.SerializeToString())


def response(number: int) -> bytes:
    message = ModelInferResponse(model_name="m", id=f"r{number}")
    message.outputs.add(name="x", datatype="INT64", shape=[1])
    message.raw_output_contents.append(np.array([number], "<i8").tobytes())
    return bytes(message.SerializeToString())


def decode(
    values: list[tuple[bytes, str | None]], written: Kind | None = None
) -> tuple[list[decoding.Group], list[tuple[int, RequestError]]]:
    return decoding.decode(values, written, most_bytes=LIMIT)


def read(*values: tuple[bytes, str | None]) -> list[Any]:
    """For each value its number and whether it was JSON, or why it is refused."""
    groups, refused = decode(list(values))
    found: dict[int, Any] = {row: str(error) for row, error in refused}
    for group in groups:
        for place, row in enumerate(group.rows):
            assert row not in found
            found[row] = (number(group.columns, place), group.json)
    assert sorted(found) == list(range(len(values)))
    return [found[row] for row in range(len(values))]


def number(columns: Columns, row: int) -> int:
    return int(columns.array(0, row)[0])


def test_without_a_type_a_value_is_a_request() -> None:
    assert read((request(1), None)) == [(1, False)]


@pytest.mark.parametrize("blank", [b"", b"\n  "])
def test_without_a_type_a_value_may_be_json(blank: bytes) -> None:
    assert read((blank + JSON_REQUEST, None)) == [(7, True)]


def test_without_a_type_a_value_may_be_a_response() -> None:
    assert read((response(3), None), (JSON_RESPONSE, None)) == [(3, False), (8, True)]


@pytest.mark.parametrize("infer_type", [None, "proto/InferModelRequest"])
def test_a_request_with_contents_in_two_places_is_refused_and_no_response(infer_type: str | None) -> None:
    both, raws_of_another, fields = (ModelInferRequest.FromString(request(1)) for _ in range(3))
    both.inputs[0].contents.int64_contents.append(2)
    raws_of_another.inputs[0].contents.int64_contents.append(2)
    raws_of_another.raw_input_contents.append(b"")
    del fields.raw_input_contents[:]
    fields.inputs[0].contents.int64_contents.append(2)
    fields.inputs[0].contents.int_contents.append(2)
    values = [(bytes(each.SerializeToString()), infer_type) for each in (both, raws_of_another, fields)]
    assert read(*values) == [
        'tensor "x" has contents, and the message has raw_input_contents too; give one of them',
        "the message has 1 inputs and 2 entries in raw_input_contents",
        'tensor "x" has elements in int_contents; INT64 takes those in int64_contents, and no others',
    ]


# Two elements of each datatype.
ELEMENTS: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "BYTES": [b"\xff\x00", "é".encode()],
    **{f"FP{bits}": [0.5, -2.0] for bits in (16, 32, 64)},
    "BF16": [0.5, -2.0],
    **{f"INT{bits}": [2 ** (bits - 1) - 1, -(2 ** (bits - 1))] for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": [2**bits - 1, 0] for bits in (8, 16, 32, 64)},
}


def answer(datatype: str, elements: list[Any], form: str) -> bytes:
    """A response of two tensors, as a model writes it."""
    kind = tensors.DATATYPES[datatype]
    message = ModelInferResponse(model_name="m", model_version="1", id="r")
    dtype = np.float32 if datatype == "BF16" else object if kind.dtype is None else kind.dtype
    array = np.array(elements, dtype=dtype)
    for name, shape in (("x", [len(elements)]), ("y", [1, len(elements)])):
        message.outputs.add(name=name, datatype=datatype, shape=shape)
        message.raw_output_contents.append(tensors.raw_of(array, kind))
    if form == "json":
        return rest_json.encode_response(message)
    if form == "typed":
        col.to_typed(message, col.RESPONSE)
    return bytes(message.SerializeToString())


def test_every_datatype_has_elements() -> None:
    assert ELEMENTS.keys() == tensors.DATATYPES.keys()


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("form", ["raw", "typed", "json"])
@pytest.mark.parametrize("datatype", ELEMENTS)
def test_an_answer_of_a_model_is_a_request_to_another(datatype: str, form: str, *, empty: bool, typed: bool) -> None:
    elements = [] if empty else ELEMENTS[datatype]
    infer_type = "json/inferModelResponse" if form == "json" else "proto/InferModelResponse"
    [group], refused = decode([(answer(datatype, elements, form), infer_type if typed else None)])
    assert (refused, group.json) == ([], form == "json")
    assert [spec[:3] for spec in group.columns.specs] == [
        ("x", datatype, (len(elements),)),
        ("y", datatype, (1, len(elements))),
    ]
    assert [group.columns.array(index, 0).reshape(-1).tolist() for index in (0, 1)] == [elements, elements]
    # And this is what the model is asked.
    [asked] = col.encode(group.columns, col.REQUEST)
    assert ModelInferRequest.FromString(asked).id == "r"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b'{"outputs": [{"name": "y"}]}', 'tensor "y" has no "datatype"; expected a string'),
        (b'{"outputs": []}', "the message has no outputs"),
        (b'{"inputs": [], "outputs": []}', "the request has no inputs"),
        (b"{}", 'the request has no "inputs"; expected an array'),
        (b"\x0a\xff", "the value is no V2 ModelInferRequest message"),
    ],
)
def test_a_value_that_is_nothing_is_refused_as_what_it_looks_like(value: bytes, told: str) -> None:
    assert read((value, None)) == [told]


def test_values_of_one_kind_are_columns_together() -> None:
    [group], refused = decode([(request(1), None), (request(2), None)])
    assert (group.rows, len(group.columns), refused) == ([0, 1], 2, [])


@pytest.mark.parametrize(
    ("value", "infer_type", "found"),
    [
        (request(1), "proto/InferModelRequest", (1, False)),
        (response(2), "proto/InferModelResponse", (2, False)),
        (JSON_REQUEST, "json/inferModelRequest", (7, True)),
        (JSON_RESPONSE, "json/inferModelResponse", (8, True)),
        (JSON_RESPONSE, "JSON/INFERMODELRESPONSE", (8, True)),
    ],
)
def test_a_type_says_what_a_value_is(value: bytes, infer_type: str, found: tuple[int, bool]) -> None:
    assert read((value, infer_type)) == [found]


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    assert read((request(1), "text/plain")) == [
        (
            'header seldon-infer-type is "text/plain"; known are json/inferModelRequest, json/inferModelResponse, '
            "proto/InferModelRequest, proto/InferModelResponse"
        )
    ]


def test_a_value_that_is_not_what_its_type_says_is_refused() -> None:
    [refusal] = read((b"\xff\xff", "proto/InferModelRequest"))
    assert refusal == "the value is no V2 ModelInferRequest message"


def test_an_empty_value_is_refused_for_what_it_lacks() -> None:
    assert read((b"", None)) == ["the message has no inputs"]


def test_json_that_is_none_is_refused_as_json() -> None:
    [refusal] = read((b'{"inputs": ', None))
    assert "JSON" in refusal


def test_each_value_of_a_mixed_fetch_is_read_as_what_it_is() -> None:
    values = [
        (request(1), None),
        (b"\xff", None),
        (JSON_REQUEST, None),
        (response(4), "proto/InferModelResponse"),
        (request(5), None),
        (b"{", "json/inferModelRequest"),
    ]
    found = read(*values)
    assert [found[row] for row in (0, 2, 3, 4)] == [(1, False), (7, True), (4, False), (5, False)]
    assert all(isinstance(found[row], str) for row in (1, 5))


def test_a_value_without_a_type_is_what_we_have_written_there() -> None:
    [group], refused = decode([(response(3), None)], col.RESPONSE)
    assert (number(group.columns, 0), refused) == (3, [])


def test_a_foreign_value_where_we_write_is_refused() -> None:
    assert [str(error) for _, error in decode([(b"\xff", None)], col.RESPONSE)[1]] == [
        "the value is no V2 ModelInferResponse message"
    ]


@pytest.mark.parametrize("typed", [True, False])
def test_a_request_with_a_name_twice_is_taken_for_no_response(*, typed: bool) -> None:
    message = ModelInferRequest()
    for _ in range(2):
        tensor = message.inputs.add(name="x", datatype="INT64", shape=[1])
        if typed:
            tensor.contents.int64_contents.append(1)
        else:
            message.raw_input_contents.append(bytes(8))
    assert read((message.SerializeToString(), None)) == ['input "x" stands twice in the request; names must differ']


@pytest.mark.parametrize("infer_type", [None, "json/inferModelRequest", "text/plain"])
def test_a_value_over_the_limit_is_not_looked_at_and_harms_no_other(infer_type: str | None) -> None:
    fitting = JSON_REQUEST + b" " * (LIMIT - len(JSON_REQUEST))
    groups, [(row, error)] = decode([(fitting, None), (fitting + b" ", infer_type), (request(1), None)])
    assert (row, type(error), str(error)) == (1, TooLarge, "the request takes 1001 bytes; the limit is 1000")
    assert sorted(row for group in groups for row in group.rows) == [0, 2]
