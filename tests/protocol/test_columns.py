from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from engine.errors import InvalidInput
from engine.protocol import columns, tensors
from engine.protocol.columns import REQUEST, RESPONSE, Columns, Kind, TensorSpec
from engine.protocol.messages import ModelInferRequest
from engine.protocol.tensors import DATATYPES

SHAPES = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
KINDS = st.sampled_from([REQUEST, RESPONSE])

BAD_ROWS = ("garbage", "empty", "datatype", "negative", "absurd", "short", "count")


class Row(NamedTuple):
    """A message as it was made: `fault` names what was broken in it."""

    id: str
    values: tuple[bytes, ...]
    specs: tuple[tuple[str, str, tuple[int, ...]], ...]
    typed: bool
    fault: str


@st.composite
def raw_contents(draw: st.DrawFn, name: str, shape: tuple[int, ...]) -> bytes:
    dtype = DATATYPES[name].dtype
    if dtype is None:
        count = math.prod(shape)
        return tensors.join_bytes(draw(st.lists(st.binary(max_size=5), min_size=count, max_size=count)))
    if dtype.kind == "f" or name == "BF16":
        # Any number will do, but a NaN may come back from typed contents with other bits.
        numbers = draw(arrays(np.float16, shape, elements=st.floats(allow_nan=False, width=16)))
        return tensors.raw_of(numbers, DATATYPES[name])
    return draw(arrays(dtype, shape)).tobytes()


@st.composite
def batches(draw: st.DrawFn) -> list[Row]:
    """Messages of few signatures, bad ones among them."""
    tensor = st.tuples(st.sampled_from(sorted(DATATYPES)), SHAPES)
    signatures = draw(st.lists(st.lists(tensor, min_size=1, max_size=2), min_size=1, max_size=3))
    rows = []
    for number in range(draw(st.integers(0, 6))):
        signature = draw(st.sampled_from(signatures))
        values = tuple(draw(raw_contents(name, shape)) for name, shape in signature)
        specs = tuple((f"t{place}", name, shape) for place, (name, shape) in enumerate(signature))
        fault = draw(st.sampled_from(("", "", "", *BAD_ROWS)))
        rows.append(Row(draw(st.sampled_from(["", f"é{number}"])), values, specs, draw(st.booleans()), fault))
    return rows


def written(row: Row, kind: Kind) -> bytes:
    message = kind.message(id=row.id)
    message.parameters["p"].bool_param = True
    for (name, datatype, shape), value in zip(row.specs, row.values, strict=True):
        item = getattr(message, kind.tensors).add(name=name, datatype=datatype, shape=shape)
        item.parameters["content_type"].string_param = "np"
        if row.typed:
            tensors.raw_to_typed(value, DATATYPES[datatype], item.contents)
        else:
            getattr(message, kind.raw).append(value)
    return spoilt(message, row, kind)


def spoilt(message: Any, row: Row, kind: Kind) -> bytes:
    first, raws = getattr(message, kind.tensors)[0], getattr(message, kind.raw)
    if row.fault == "garbage":
        return b"\xff\xff"
    if row.fault == "empty":
        return b""
    if row.fault == "datatype":
        first.datatype = "TEXT"
    elif row.fault == "negative":
        first.shape.append(-1)
    elif row.fault == "absurd":
        first.shape.append(1 << 41)
    elif row.fault == "short":
        first.shape[:] = [math.prod(row.specs[0][2]) + 1]
    elif row.fault == "count":
        raws.extend([b""] * (len(row.specs) + 1))
    return bytes(message.SerializeToString())


@settings(max_examples=120, deadline=None)
@given(batches(), KINDS)
def test_good_rows_come_out_unchanged_and_bad_rows_are_refused_by_number(batch: list[Row], kind: Kind) -> None:
    groups, refused = columns.decode([written(row, kind) for row in batch], kind)
    assert sorted(item.row for item in refused) == [number for number, row in enumerate(batch) if row.fault]
    assert sorted(row for rows, _ in groups for row in rows) == [n for n, row in enumerate(batch) if not row.fault]
    for rows, group in groups:
        assert len(rows) == len(group)
        for number, value in zip(rows, columns.encode(group, kind, "m", "1"), strict=True):
            assert_written_as(kind.message.FromString(value), batch[number], kind)


def assert_written_as(message: Any, row: Row, kind: Kind) -> None:
    assert (message.model_name, message.model_version, message.id) == ("m", "1", row.id)
    assert message.parameters["p"].bool_param
    items = getattr(message, kind.tensors)
    assert tuple((item.name, item.datatype, tuple(item.shape)) for item in items) == row.specs
    assert all(item.parameters["content_type"].string_param == "np" for item in items)
    assert tuple(getattr(message, kind.raw)) == row.values


@settings(max_examples=60, deadline=None)
@given(batches(), KINDS)
def test_a_row_as_a_typed_message_decodes_to_the_same_row(batch: list[Row], kind: Kind) -> None:
    for row in batch:
        if row.fault:
            continue
        cells = columns.from_message(kind.message.FromString(written(row, kind)), kind)
        typed = columns.to_message(cells, 0, kind, typed=True)
        assert not getattr(typed, kind.raw)
        again = columns.from_message(typed, kind)
        assert columns.encode(again, kind) == columns.encode(cells, kind)


def request(
    row_id: str = "", *, datatype: str = "INT32", shape: tuple[int, ...] = (1,), raw: bytes = bytes(4)
) -> bytes:
    message = ModelInferRequest(id=row_id, raw_input_contents=[raw])
    message.inputs.add(name="x", datatype=datatype, shape=shape)
    return bytes(message.SerializeToString())


def messages_of(group: Columns) -> list[bytes]:
    """A group's rows as protobuf itself writes them, with fields in the order of their numbers."""
    return [bytes(ModelInferRequest.FromString(value).SerializeToString()) for value in columns.encode(group, REQUEST)]


def one_group(values: list[bytes]) -> Columns:
    groups, refused = columns.decode(values, REQUEST)
    assert not refused
    ((_, group),) = groups
    return group


def test_rows_that_agree_stand_in_one_array() -> None:
    group = one_group([request(raw=np.int32(n).tobytes()) for n in range(3)])
    assert isinstance(group.cells[0], np.ndarray)
    assert group.cells[0].tolist() == [[0], [1], [2]]
    assert group.names == ("x",)


def test_rows_of_another_shape_stand_apart() -> None:
    groups, _ = columns.decode([request(), request(shape=(1, 1)), request()], REQUEST)
    assert [rows for rows, _ in groups] == [[0, 2], [1]]


def test_rows_with_other_parameters_stand_apart() -> None:
    message = ModelInferRequest.FromString(request())
    message.inputs[0].parameters["content_type"].string_param = "np"
    groups, _ = columns.decode([request(), message.SerializeToString()], REQUEST)
    assert len(groups) == 2


def test_a_refused_row_says_why() -> None:
    _, refused = columns.decode([request(), b"\xff", request(raw=b"abc"), b""], REQUEST)
    assert [(item.row, item.error.text) for item in sorted(refused)] == [
        (1, "the value is no V2 ModelInferRequest message"),
        (2, 'tensor "x" has 3 bytes of raw contents; INT32 [1] takes 4'),
        (3, "the message has no inputs"),
    ]


def test_nothing_decodes_to_nothing() -> None:
    assert columns.decode([], REQUEST) == ([], [])


def test_typed_integers_that_do_not_fit_refuse_only_their_row() -> None:
    values = []
    for number in (1, 300, -1):
        message = ModelInferRequest()
        message.inputs.add(name="x", datatype="INT8", shape=[1]).contents.int_contents.append(number)
        values.append(message.SerializeToString())
    ((rows, group),), refused = columns.decode(values, REQUEST)
    assert rows == [0, 2]
    assert np.asarray(group.cells[0]).tolist() == [[1], [-1]]
    assert [(item.row, item.error.text) for item in refused] == [(1, 'tensor "x" is INT8 and cannot hold 300')]


def test_a_zero_among_absurd_dimensions_is_refused() -> None:
    _, refused = columns.decode([request(shape=(0, 1 << 40, 1 << 40), raw=b"")], REQUEST)
    assert "elements are too many" in refused[0].error.text


def test_a_message_with_raw_contents_for_some_tensors_only_is_refused() -> None:
    message = ModelInferRequest.FromString(request())
    message.inputs.add(name="y", datatype="INT32", shape=[1])
    with pytest.raises(InvalidInput, match="2 inputs and 1 entries in raw_input_contents"):
        columns.from_message(message, REQUEST)


@pytest.mark.parametrize("kind", [REQUEST, RESPONSE])
def test_a_message_with_raw_and_typed_contents_is_refused(kind: Kind) -> None:
    message = kind.message()
    for name in ("x", "y"):
        getattr(message, kind.tensors).add(name=name, datatype="INT32", shape=[1])
        getattr(message, kind.raw).append(bytes(4))
    message_with_empty_ones = kind.message.FromString(message.SerializeToString())
    getattr(message_with_empty_ones, kind.tensors)[1].contents.SetInParent()
    getattr(message, kind.tensors)[1].contents.int_contents.append(1)
    values = [bytes(each.SerializeToString()) for each in (message, message_with_empty_ones)]
    [(rows, _)], refused = columns.decode(values, kind)
    assert rows == [1]
    assert [(item.row, item.error.text) for item in refused] == [
        (0, f'tensor "y" has contents, and the message has {kind.raw} too; give one of them')
    ]


@pytest.mark.parametrize(
    ("datatype", "shape", "given", "told"),
    [
        ("FP32", [1], {"fp32_contents": [1.0], "int_contents": [1]}, "int_contents; FP32 takes those in fp32_contents"),
        ("BYTES", [1], {"bytes_contents": [b"a"], "int_contents": [1]}, "int_contents; BYTES takes those in bytes_con"),
        ("INT32", [0], {"int64_contents": [1]}, "int64_contents; INT32 takes those in int_contents"),
        ("BYTES", [0], {"int_contents": [1]}, "int_contents; BYTES takes those in bytes_contents"),
    ],
)
def test_elements_beside_those_of_the_datatype_refuse_only_their_row(
    datatype: str, shape: list[int], given: dict[str, list[Any]], told: str
) -> None:
    message = ModelInferRequest()
    contents = message.inputs.add(name="x", datatype=datatype, shape=shape).contents
    good = ModelInferRequest.FromString(message.SerializeToString())
    right = DATATYPES[datatype].contents
    getattr(good.inputs[0].contents, right).extend(given.get(right, []))
    for name, elements in given.items():
        getattr(contents, name).extend(elements)
    values = [bytes(each.SerializeToString()) for each in (message, good)]
    [(rows, _)], [refused] = columns.decode(values, REQUEST)
    assert rows == [1]
    assert refused.row == 0
    assert f'tensor "x" has elements in {told}' in refused.error.text


def test_some_of_the_rows_can_be_taken_in_any_order() -> None:
    group = one_group([request(f"r{n}", raw=np.int32(n).tobytes()) for n in range(3)])
    taken = messages_of(group.take([2, 0]))
    assert taken == [request("r2", raw=np.int32(2).tobytes()), request("r0", raw=np.int32(0).tobytes())]


def test_taking_all_rows_copies_nothing() -> None:
    group = one_group([request(), request()])
    assert group.take([0, 1]) is group


def test_taking_no_rows_gives_no_messages() -> None:
    assert columns.encode(one_group([request()]).take([]), REQUEST) == []


@pytest.mark.parametrize(("datatype", "raw"), [("INT32", bytes(4)), ("BYTES", tensors.join_bytes([b"a"]))])
def test_columns_put_together_have_all_rows(datatype: str, raw: bytes) -> None:
    parts = [one_group([request(row_id, datatype=datatype, raw=raw)]) for row_id in ("a", "b")]
    together = columns.concatenate(parts)
    assert messages_of(together) == [
        request("a", datatype=datatype, raw=raw),
        request("b", datatype=datatype, raw=raw),
    ]


@pytest.mark.parametrize("name", sorted(DATATYPES))
def test_a_row_without_dimensions_is_an_array_without_dimensions(name: str) -> None:
    dtype = DATATYPES[name].dtype
    raw = tensors.join_bytes([b"a"]) if dtype is None else bytes(dtype.itemsize)
    array = one_group([request(datatype=name, shape=(), raw=raw)]).array(0, 0)
    assert isinstance(array, np.ndarray)
    assert array.shape == ()


def test_rows_from_a_model_are_cast_to_the_datatype_they_are_said_to_have() -> None:
    made = Columns([b"", b""], (TensorSpec("y", "FP32", (1,)),), (np.array([[1.0], [2.0]]),))
    first, second = (RESPONSE.message.FromString(value) for value in columns.encode(made, RESPONSE))
    assert first.raw_output_contents[0] == np.float32(1).tobytes()
    assert second.raw_output_contents[0] == np.float32(2).tobytes()


def test_rows_that_lie_in_columns_order_are_written_row_major() -> None:
    rows = np.asfortranarray(np.arange(8192, dtype=np.int32).reshape(2, 2, 2048))
    made = Columns([b"", b""], (TensorSpec("y", "INT32", (2, 2048)),), (rows,))
    raws = [RESPONSE.message.FromString(value).raw_output_contents[0] for value in columns.encode(made, RESPONSE)]
    assert b"".join(raws) == np.arange(8192, dtype="<i4").tobytes()


def test_turning_a_message_with_lying_raw_contents_into_typed_is_refused() -> None:
    message = ModelInferRequest.FromString(request(datatype="BYTES", raw=b"\xff\0\0\0a"))
    with pytest.raises(InvalidInput, match="end inside element 0"):
        columns.to_typed(message, REQUEST)


def test_a_long_id_and_large_raw_contents_have_their_lengths_written_right() -> None:
    raw = np.arange(5000, dtype="<i4").tobytes()
    value = request("i" * 300, shape=(5000,), raw=raw)
    assert messages_of(one_group([value])) == [value]


@pytest.mark.parametrize("choice", ["bool_param", "int64_param", "string_param", "double_param", "uint64_param"])
def test_a_parameter_of_every_kind_survives(choice: str) -> None:
    message = ModelInferRequest.FromString(request())
    setattr(message.parameters["p"], choice, {"string_param": "é"}.get(choice, 1))
    value = message.SerializeToString()
    assert ModelInferRequest.FromString(columns.encode(one_group([value]), REQUEST)[0]) == message


@given(KINDS)
def test_a_name_may_stand_twice_in_a_response_and_not_in_a_request(kind: Kind) -> None:
    message = kind.message()
    for _ in range(2):
        getattr(message, kind.tensors).add(name="x", datatype="BOOL", shape=[0])
    if kind is REQUEST:
        with pytest.raises(InvalidInput, match='input "x" stands twice'):
            columns.from_message(message, kind)
    else:
        assert columns.from_message(message, kind).names == ("x", "x")
