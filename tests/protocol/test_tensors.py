from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from engine.errors import InvalidInput
from engine.protocol import tensors
from engine.protocol.messages import InferTensorContents
from engine.protocol.tensors import DATATYPES, Datatype

QUICK = settings(max_examples=60, deadline=None)
SHAPES = array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
FLOATS = ("FP16", "BF16", "FP32", "FP64")


@st.composite
def filled(draw: st.DrawFn, names: Any = tuple(DATATYPES)) -> tuple[Datatype, tuple[int, ...], bytes]:
    """A datatype, a shape, and raw contents that fill it."""
    datatype = DATATYPES[draw(st.sampled_from(names))]
    shape = draw(SHAPES)
    if datatype.dtype is None:
        count = math.prod(shape)
        return (
            datatype,
            shape,
            tensors.join_bytes(draw(st.lists(st.binary(), min_size=count, max_size=count))),
        )
    return datatype, shape, draw(arrays(datatype.dtype, shape)).tobytes()


def assert_same(raw: bytes, other: bytes, datatype: Datatype) -> None:
    """Equal bytes; for floating point equal values, as casting may change what a NaN carries."""
    if datatype.name in FLOATS:
        one, two = (tensors.array_of(side, datatype, (-1,)) for side in (raw, other))
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(np.signbit(one[~np.isnan(one)]), np.signbit(two[~np.isnan(two)]))
    else:
        assert raw == other


@QUICK
@given(filled())
def test_raw_contents_survive_being_an_array(tensor: tuple[Datatype, tuple[int, ...], bytes]) -> None:
    datatype, shape, raw = tensor
    tensors.check_raw(raw, datatype, shape, "x")
    array = tensors.array_of(raw, datatype, shape)
    assert isinstance(array, np.ndarray)
    assert array.shape == shape
    assert_same(tensors.raw_of(array, datatype), raw, datatype)


@QUICK
@given(filled())
def test_raw_contents_survive_being_typed(tensor: tuple[Datatype, tuple[int, ...], bytes]) -> None:
    datatype, shape, raw = tensor
    contents = InferTensorContents()
    tensors.raw_to_typed(raw, datatype, contents)
    assert len(getattr(contents, datatype.contents)) == math.prod(shape)
    assert_same(tensors.typed_to_raw(contents, datatype, shape, "x"), raw, datatype)


@QUICK
@given(filled(names=("INT8", "UINT16", "FP32", "BF16", "BYTES")), st.binary(min_size=1, max_size=3))
def test_raw_contents_with_bytes_left_over_are_refused(
    tensor: tuple[Datatype, tuple[int, ...], bytes], more: bytes
) -> None:
    datatype, shape, raw = tensor
    with pytest.raises(InvalidInput, match='tensor "x"'):
        tensors.check_raw(raw + more, datatype, shape, "x")


@QUICK
@given(st.binary(max_size=40), st.integers(0, 5))
def test_raw_bytes_that_pass_the_check_split_into_their_count_of_elements(raw: bytes, count: int) -> None:
    try:
        tensors.check_raw(raw, DATATYPES["BYTES"], (count,), "x")
    except InvalidInput:
        return
    elements = tensors.split_bytes(raw)
    assert len(elements) == count
    assert tensors.join_bytes(elements) == raw


@pytest.mark.parametrize("length", [4, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_bytes_element_that_claims_more_than_there_is_is_refused(length: int) -> None:
    with pytest.raises(InvalidInput, match='tensor "x" has raw BYTES contents that end inside element 1'):
        tensors.check_raw(tensors.join_bytes([b"a"]) + struct.pack("<I", length) + b"abc", DATATYPES["BYTES"], [2], "x")


def test_a_bytes_length_that_is_cut_off_is_refused() -> None:
    with pytest.raises(InvalidInput, match="end inside element 0"):
        tensors.check_raw(b"\x01\x00", DATATYPES["BYTES"], [1], "x")


def test_a_wrong_count_of_bytes_elements_is_refused() -> None:
    with pytest.raises(InvalidInput, match="has 2 BYTES elements; its shape holds 3"):
        tensors.check_raw(tensors.join_bytes([b"a", b""]), DATATYPES["BYTES"], [3], "x")


def test_bytes_elements_keep_zero_bytes_at_their_end() -> None:
    array = tensors.array_of(tensors.join_bytes([b"a\0", b"\0\0"]), DATATYPES["BYTES"], [2])
    assert array.tolist() == [b"a\0", b"\0\0"]


@pytest.mark.parametrize("shape", [[-1], [2, -3], [0, -1], [-(1 << 63)]])
def test_negative_dimensions_are_refused(shape: list[int]) -> None:
    with pytest.raises(InvalidInput, match="a dimension cannot be -"):
        tensors.element_count(shape, "x")


@pytest.mark.parametrize("shape", [[(1 << 40) + 1], [1 << 20, 1 << 21], [(1 << 63) - 1] * 3, [0, 1 << 40, 1 << 40]])
def test_shapes_beyond_all_memory_are_refused(shape: list[int]) -> None:
    with pytest.raises(InvalidInput, match="elements are too many"):
        tensors.element_count(shape, "x")


def test_a_shape_at_the_bound_takes_nothing_until_its_contents_come() -> None:
    assert tensors.element_count([1 << 40], "x") == 1 << 40
    with pytest.raises(InvalidInput, match="takes 4398046511104"):
        tensors.check_raw(b"\0\0\0\0", DATATYPES["FP32"], [1 << 40], "x")


def test_more_dimensions_than_arrays_can_have_are_refused() -> None:
    assert tensors.element_count([1] * tensors.MAX_DIMENSIONS, "x") == 1
    with pytest.raises(InvalidInput, match="32 dimensions; at most 31"):
        tensors.element_count([1] * 32, "x")


def test_a_shape_without_dimensions_holds_one_element() -> None:
    assert tensors.element_count([], "x") == 1


def test_an_unknown_datatype_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(InvalidInput, match='tensor "x" has unknown datatype "float"; known are BOOL, INT8'):
        tensors.datatype("float", "x")


@pytest.mark.parametrize("name", sorted(DATATYPES))
def test_typed_contents_that_do_not_fill_the_shape_are_refused(name: str) -> None:
    datatype = DATATYPES[name]
    contents = InferTensorContents()
    getattr(contents, datatype.contents).extend([b"a"] if name == "BYTES" else [1])
    with pytest.raises(InvalidInput, match=rf'"x" has 1 elements in {datatype.contents}; {name} \[2, 1\] takes 2'):
        tensors.typed_to_raw(contents, datatype, (2, 1), "x")


def test_typed_contents_in_the_field_of_another_datatype_are_refused() -> None:
    with pytest.raises(InvalidInput, match="0 elements in fp32_contents"):
        tensors.typed_to_raw(InferTensorContents(fp64_contents=[1.0]), DATATYPES["FP32"], [1], "x")


@pytest.mark.parametrize(
    ("name", "value"),
    [("INT8", 128), ("INT8", -129), ("INT16", 1 << 15), ("UINT8", 256), ("UINT16", 1 << 16)],
)
def test_typed_integers_out_of_the_datatypes_range_are_refused(name: str, value: int) -> None:
    contents = InferTensorContents()
    getattr(contents, DATATYPES[name].contents).extend([0, value])
    with pytest.raises(InvalidInput, match=f'tensor "x" is {name} and cannot hold {value}'):
        tensors.typed_to_raw(contents, DATATYPES[name], [2], "x")


@pytest.mark.parametrize(("name", "value"), [("FP16", 70000.0), ("FP16", -70000.0), ("BF16", 3.4e38)])
def test_typed_floats_that_would_become_infinite_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=f'tensor "x" is {name} and cannot hold'):
        tensors.typed_to_raw(InferTensorContents(fp32_contents=[value]), DATATYPES[name], [1], "x")


@pytest.mark.parametrize("name", FLOATS)
def test_infinities_and_nan_are_values_like_others(name: str) -> None:
    values = np.array([np.inf, -np.inf, np.nan, 1.0])
    array = tensors.array_of(tensors.raw_of(values, DATATYPES[name]), DATATYPES[name], [4])
    np.testing.assert_array_equal(array.astype(np.float64), values)


def test_bf16_takes_the_nearest_value_and_ties_go_to_even() -> None:
    # One is 0x3F80; its neighbours are 2**-7 apart, so halves of that are ties.
    values = np.array([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, 1.0 + 2**-8 + 2**-20], dtype=np.float32)
    assert tensors.bf16_of_float32(values).tolist() == [0x3F80, 0x3F80, 0x3F82, 0x3F81]


def test_every_bf16_value_but_nan_survives_being_float32() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = tensors.float32_of_bf16(bits)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(tensors.bf16_of_float32(values)[number], bits[number])
    assert np.isnan(tensors.float32_of_bf16(tensors.bf16_of_float32(values)[~number])).all()


@pytest.mark.parametrize("name", sorted(set(DATATYPES) - {"BF16"}))
def test_an_array_tells_its_datatype(name: str) -> None:
    dtype = DATATYPES[name].dtype
    assert tensors.datatype_of(np.empty(1, dtype=object if dtype is None else dtype)) == name


def test_text_is_bytes() -> None:
    array = np.array([["é", "b"]])
    assert tensors.datatype_of(array) == "BYTES"
    assert tensors.split_bytes(tensors.raw_of(array, DATATYPES["BYTES"])) == ["é".encode(), b"b"]


def test_complex_numbers_have_no_datatype() -> None:
    with pytest.raises(TypeError, match="complex128 has no datatype"):
        tensors.datatype_of(np.array([1j]))


def test_raw_contents_of_an_array_in_columns_order_are_row_major() -> None:
    array = np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3))
    assert tensors.raw_of(array, DATATYPES["INT16"]) == np.arange(6, dtype="<i2").tobytes()
