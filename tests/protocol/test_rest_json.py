from __future__ import annotations

import base64
import contextlib
import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from engine.errors import InvalidInput
from engine.protocol import rest_json, tensors
from engine.protocol.columns import REQUEST, RESPONSE, to_typed
from engine.protocol.messages import ModelInferRequest, ModelInferResponse
from engine.protocol.tensors import DATATYPES

QUICK = settings(max_examples=80, deadline=None)
FLOATS = ("FP16", "BF16", "FP32", "FP64")
INTEGERS = tuple(name for name in DATATYPES if "INT" in name)


def body(data: Any, datatype: str = "INT32", shape: Any = None, **members: Any) -> bytes:
    """A request with the one tensor "x"."""
    shape = [len(data)] if shape is None else shape
    tensor = {"name": "x", "shape": shape, "datatype": datatype, "data": data, **members}
    return orjson.dumps({"inputs": [tensor]})


def array(message: Any) -> Any:
    """The one tensor of a message."""
    item = (message.inputs if isinstance(message, ModelInferRequest) else message.outputs)[0]
    raws = message.raw_input_contents if isinstance(message, ModelInferRequest) else message.raw_output_contents
    return tensors.array_of(raws[0], DATATYPES[item.datatype], item.shape)


def read(data: Any, datatype: str = "INT32", shape: Any = None, **members: Any) -> list[Any]:
    """The elements that a request's tensor is read as."""
    elements: list[Any] = array(rest_json.decode_request(body(data, datatype, shape, **members))).tolist()
    return elements


def response(datatype: str, shape: list[int], raw: bytes, content_type: str = "") -> Any:
    message = ModelInferResponse(model_name="m", raw_output_contents=[raw])
    item = message.outputs.add(name="y", datatype=datatype, shape=shape)
    if content_type:
        item.parameters["content_type"].string_param = content_type
    return message


def written(message: Any) -> Any:
    return orjson.loads(rest_json.encode_response(message))


def refused(request: bytes) -> str:
    with pytest.raises(InvalidInput) as caught:
        rest_json.decode_request(request)
    return caught.value.text


# What is read.


def test_a_request_is_read_with_all_that_it_has() -> None:
    message = rest_json.decode_request(
        orjson.dumps(
            {
                "id": "r1",
                "parameters": {"a": True, "b": -3, "c": 2**64 - 1, "d": 1.5, "e": "é"},
                "inputs": [
                    {
                        "name": "x",
                        "shape": [2, 2],
                        "datatype": "INT32",
                        "data": [[1, 2], [3, 4]],
                        "parameters": {"n": 1},
                    },
                    {"name": "y", "shape": [1], "datatype": "BYTES", "data": ["é"]},
                ],
                "outputs": [{"name": "z", "parameters": {"binary_data": False}}, {"name": "w"}],
            }
        )
    )
    expected = ModelInferRequest(id="r1")
    expected.parameters["a"].bool_param = True
    expected.parameters["b"].int64_param = -3
    expected.parameters["c"].uint64_param = 2**64 - 1
    expected.parameters["d"].double_param = 1.5
    expected.parameters["e"].string_param = "é"
    expected.inputs.add(name="x", shape=[2, 2], datatype="INT32").parameters["n"].int64_param = 1
    expected.inputs.add(name="y", shape=[1], datatype="BYTES")
    expected.outputs.add(name="z")  # what says how the answer is to be written goes no further
    expected.outputs.add(name="w")
    expected.raw_input_contents.extend([np.arange(1, 5, dtype="<i4").tobytes(), b"\x02\0\0\0\xc3\xa9"])
    assert message == expected


def test_members_that_are_null_count_as_absent() -> None:
    tensor = {"name": "x", "shape": [1], "datatype": "BOOL", "data": [True], "parameters": {"headers": None}}
    message = rest_json.decode_request(
        orjson.dumps({"id": None, "parameters": None, "outputs": None, "inputs": [tensor]})
    )
    assert (message.id, len(message.parameters), len(message.inputs[0].parameters)) == ("", 0, 0)


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]], [[[1], [2]], [[3], [4]]], [[1, 2, 3, 4]]])
def test_flat_and_nested_data_are_one_tensor_row_by_row(data: Any) -> None:
    assert read(data, shape=[2, 2]) == [[1, 2], [3, 4]]


def test_integers_of_64_bits_keep_all_their_digits() -> None:
    assert read([2**63 - 1, -(2**63), 2**53 + 1], "INT64") == [2**63 - 1, -(2**63), 2**53 + 1]
    assert read([2**64 - 1, 0], "UINT64") == [2**64 - 1, 0]


@pytest.mark.parametrize("name", FLOATS)
def test_nan_and_infinities_are_read_from_null_and_their_names(name: str) -> None:
    values = read([None, "NaN", "Infinity", "-Infinity", 1, 0.5], name)
    np.testing.assert_array_equal(values, [np.nan, np.nan, np.inf, -np.inf, 1.0, 0.5])


def test_whole_numbers_written_with_a_point_are_integers() -> None:
    assert rest_json.decode_request(b'{"inputs":[{"name":"x","shape":[2],"datatype":"INT8","data":[1.0,-1e1]}]}')
    assert read([1.0, 2], "INT64") == [1, 2]


def test_bytes_are_read_as_utf8_text() -> None:
    assert read(["é", ""], "BYTES") == ["é".encode(), b""]


def test_bytes_are_read_as_base64_when_their_content_type_says_so() -> None:
    assert read(["/wA="], "BYTES", parameters={"content_type": "base64"}) == [b"\xff\0"]


def test_a_tensor_without_dimensions_takes_one_element() -> None:
    assert array(rest_json.decode_request(body([7], shape=[]))).tolist() == 7


@pytest.mark.parametrize(("shape", "data"), [([0], []), ([2, 0], [[], []]), ([0, 3], [])])
@pytest.mark.parametrize("name", sorted(DATATYPES))
def test_an_empty_tensor_of_every_datatype_is_read(name: str, shape: list[int], data: list[Any]) -> None:
    assert array(rest_json.decode_request(body(data, name, shape))).shape == tuple(shape)


# What is refused.


@pytest.mark.parametrize(
    ("request_body", "text"),
    [
        (b"", "the body is empty; expected a JSON object"),
        (b" \n", "the body is empty; expected a JSON object"),
        (b"[1]", "the body is an array; expected a JSON object"),
        (b"null", "the body is null; expected a JSON object"),
        (b"{}", 'the request has no "inputs"; expected an array'),
        (b'{"inputs":[]}', "the request has no inputs"),
        (b'{"inputs":{}}', 'the request has an object as "inputs"; expected an array'),
        (b'{"inputs":[3]}', 'the request has 3 as entry 0 of "inputs"; expected an object'),
        (b'{"inputs":[{}]}', 'input 0 has no "name"; expected a string'),
        (b'{"inputs":[{"name":5}]}', 'input 0 has 5 as "name"; expected a string'),
        (b'{"inputs":[{"name":""}]}', 'input 0 has an empty "name"'),
        (b'{"inputs":[{"name":"x"}]}', 'tensor "x" has no "datatype"; expected a string'),
        (b'{"inputs":[{"name":"x","datatype":"INT8"}]}', 'tensor "x" has no "shape"; expected an array'),
        (b'{"id":7,"inputs":[]}', 'the request has 7 as "id"; expected a string'),
        (b'{"parameters":[],"inputs":[]}', 'the request has an array as "parameters"; expected an object'),
        (
            b'{"parameters":{"p":{}},"inputs":[]}',
            'the request has an object as parameter "p"; expected a string, a number or a boolean',
        ),
    ],
)
def test_a_malformed_request_is_refused_with_what_was_expected(request_body: bytes, text: str) -> None:
    assert refused(request_body) == text


@pytest.mark.parametrize("request_body", [b"{", b"inputs", b'{"a":NaN}', b'{"a":"\xff"}', b'"\\ud800"', b'{"a":1e999}'])
def test_a_body_that_is_not_json_is_refused(request_body: bytes) -> None:
    assert refused(request_body).startswith("the body is not JSON: ")


def test_a_body_nested_beyond_the_parsers_depth_is_refused() -> None:
    assert "the body is not JSON" in refused(b"[" * 100_000)


def test_data_nested_deeper_than_any_tensor_is_refused() -> None:
    nested = b"[" * 900 + b"1" + b"]" * 900
    request = b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":' + nested + b"}]}"
    assert refused(request) == 'tensor "x" has data nested deeper than 31 arrays'


def test_a_deep_value_in_the_wrong_place_is_refused() -> None:
    nested = b"[" * 900 + b"]" * 900
    assert refused(b'{"id":' + nested + b"}") == 'the request has an array as "id"; expected a string'


@pytest.mark.parametrize("member", ["name", "shape", "datatype", "data"])
def test_a_tensor_without_a_member_that_it_needs_is_refused(member: str) -> None:
    document = orjson.loads(body([1]))
    del document["inputs"][0][member]
    assert f'has no "{member}"' in refused(orjson.dumps(document))


def test_an_unknown_datatype_is_refused() -> None:
    assert 'tensor "x" has unknown datatype "INT4"; known are BOOL' in refused(body([1], "INT4"))


@pytest.mark.parametrize(
    ("dimension", "found"),
    [(-1, "-1"), (1.0, "1.0"), ("1", '"1"'), (True, "true"), (None, "null"), ([1], "an array")],
)
def test_a_dimension_that_is_no_whole_number_is_refused(dimension: object, found: str) -> None:
    text = refused(body([1], shape=[dimension]))
    assert text == f'tensor "x" has the dimension {found}; expected a whole number from 0'


@pytest.mark.parametrize("shape", [[2**40 + 1], [2**63], [2**64 - 1, 0], [1] * 32])
def test_an_absurd_shape_is_refused(shape: list[int]) -> None:
    assert 'tensor "x" has ' in refused(body([], shape=shape))


@pytest.mark.parametrize(("data", "count"), [([1, 2, 3], 3), ([], 0), ([[1, 2], [3, 4], [5, 6]], 6)])
def test_data_that_does_not_fill_the_shape_is_refused_with_both_counts(data: list[Any], count: int) -> None:
    text = refused(body(data, shape=[2, 2]))
    assert text == f'tensor "x" has {count} elements in data; INT32 [2, 2] takes 4'


@pytest.mark.parametrize("data", [[[1, 2], [3]], [[1], 2], [1, [2]], [[[1, 2]], [[3], [4]]], [[], [1, 2, 3, 4]]])
def test_ragged_data_is_refused(data: list[Any]) -> None:
    assert 'tensor "x" has ragged data: ' in refused(body(data, shape=[4]))


@pytest.mark.parametrize(
    ("datatype", "wrong", "found"),
    [
        *((name, "1", '"1"') for name in ("BOOL", *INTEGERS, *FLOATS)),
        *((name, True, "true") for name in ("BYTES", *INTEGERS, *FLOATS)),
        *((name, 1.5, "1.5") for name in ("BOOL", "BYTES", *INTEGERS)),
        *((name, None, "null") for name in ("BOOL", "BYTES", *INTEGERS)),
        *((name, {}, "an object") for name in DATATYPES),
        ("BOOL", 1, "1"),
        ("BYTES", 1, "1"),
    ],
)
def test_an_element_of_the_wrong_type_is_refused_with_its_place(datatype: str, wrong: object, found: str) -> None:
    good: Any = {"BOOL": True, "BYTES": "a"}.get(datatype, 1)
    text = refused(body([good, wrong], datatype))
    assert text.startswith(f'tensor "x" is {datatype} and takes ')
    assert text.endswith(f"; element 1 is {found}")


@pytest.mark.parametrize("datatype", INTEGERS)
def test_integers_out_of_range_are_refused_with_the_range(datatype: str) -> None:
    dtype = DATATYPES[datatype].dtype
    assert dtype is not None
    limits = np.iinfo(dtype)
    assert read([int(limits.min), int(limits.max)], datatype) == [limits.min, limits.max]
    for wrong in (int(limits.min) - 1, int(limits.max) + 1):
        if -(2**63) <= wrong < 2**64:
            expected = f'tensor "x" is {datatype} and cannot hold {wrong}; it takes {limits.min} to {limits.max}'
            assert refused(body([0, wrong], datatype)) == expected


@pytest.mark.parametrize("number", [b"18446744073709551616", b"-9223372036854775809", b"9007199254740993.0"])
@pytest.mark.parametrize("datatype", [b"INT64", b"UINT64"])
def test_integers_that_the_parser_would_round_are_refused(number: bytes, datatype: bytes) -> None:
    tensor = b'{"name":"x","shape":[1],"datatype":"%s","data":[%s]}' % (datatype, number)
    # The last one is 2**53 + 1: as a double it is 2**53, which is read, since nothing tells them apart.
    if number.endswith(b".0"):
        assert rest_json.decode_request(b'{"inputs":[%s]}' % tensor)
    else:
        assert "takes whole numbers of at most 64 bits" in refused(b'{"inputs":[%s]}' % tensor)


@pytest.mark.parametrize(("datatype", "wrong"), [("FP16", 70000.0), ("BF16", 3.4e38), ("FP32", -1e39)])
def test_numbers_that_would_become_infinite_are_refused(datatype: str, wrong: float) -> None:
    assert refused(body([0, wrong, None], datatype)) == f'tensor "x" is {datatype} and cannot hold {wrong}'


@pytest.mark.parametrize("wrong", ["a", "é", "YQ", "Y Q=="])
def test_base64_that_cannot_be_decoded_is_refused_with_its_place(wrong: str) -> None:
    text = refused(body(["YQ==", wrong], "BYTES", parameters={"content_type": "base64"}))
    assert f'tensor "x" is BYTES in base64; element 1 is "{wrong}"' in text


def test_two_inputs_of_one_name_are_refused() -> None:
    tensor = orjson.loads(body([1]))["inputs"][0]
    text = refused(orjson.dumps({"inputs": [tensor, tensor]}))
    assert text == 'input "x" stands twice in the request; names must differ'


def test_an_error_quotes_only_the_beginning_of_a_long_value() -> None:
    assert refused(body(["a" * 10_000])).endswith('element 0 is "' + "a" * 39 + "…")


@QUICK
@given(
    st.sampled_from(("INT8", "FP16", "BYTES", "BOOL")),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
        st.lists,
        max_leaves=8,
    ),
)
def test_any_data_is_read_or_refused_and_nothing_else(datatype: str, data: Any) -> None:
    with contextlib.suppress(InvalidInput):
        rest_json.decode_request(body(data, datatype, [1]))


# What is written.


def test_a_response_is_written_with_all_that_it_has() -> None:
    message = response("INT32", [2], np.array([1, -1], dtype="<i4").tobytes())
    message.model_version, message.id = "2", "r1"
    message.parameters["b"].double_param = 0.5
    message.parameters["a"].uint64_param = 2**64 - 1
    message.outputs[0].parameters["content_type"].string_param = "np"
    assert rest_json.encode_response(message) == (
        b'{"model_name":"m","model_version":"2","id":"r1","parameters":{"a":18446744073709551615,"b":0.5},'
        b'"outputs":[{"name":"y","shape":[2],"datatype":"INT32","data":[1,-1],"parameters":{"content_type":"np"}}]}'
    )


def test_a_response_leaves_out_what_is_empty() -> None:
    assert written(ModelInferResponse()) == {"model_name": "", "outputs": []}


@pytest.mark.parametrize("name", FLOATS)
def test_nan_and_infinities_are_written_as_null(name: str) -> None:
    raw = tensors.raw_of(np.array([np.nan, np.inf, -np.inf, 0.5]), DATATYPES[name])
    assert written(response(name, [4], raw))["outputs"][0]["data"] == [None, None, None, 0.5]


@pytest.mark.parametrize("typed", [False, True])
def test_fp32_is_written_with_the_digits_it_has(typed: bool) -> None:  # noqa: FBT001 - pytest passes it by name
    message = response("FP32", [1], np.float32(0.1).tobytes())
    if typed:
        to_typed(message, RESPONSE)
    assert b'"data":[0.1]' in rest_json.encode_response(message)


def test_integers_of_64_bits_are_written_with_all_their_digits() -> None:
    raw = np.array([2**63 - 1, -(2**63)], dtype="<i8").tobytes()
    assert b"[9223372036854775807,-9223372036854775808]" in rest_json.encode_response(response("INT64", [2], raw))


def test_bytes_are_written_as_base64() -> None:
    output = written(response("BYTES", [1], tensors.join_bytes([b"hi"])))["outputs"][0]
    assert output["data"] == ["aGk="]
    assert "parameters" not in output


@pytest.mark.parametrize("content_type", ["str", "string", "datetime"])
def test_bytes_are_written_as_text_when_their_content_type_says_so(content_type: str) -> None:
    message = response("BYTES", [1], tensors.join_bytes(["é".encode()]), content_type)
    assert written(message)["outputs"][0]["data"] == ["é"]


def test_bytes_that_are_said_to_be_text_and_are_not_say_that_they_are_base64() -> None:
    output = written(response("BYTES", [2], tensors.join_bytes([b"a", b"\xff"]), "str"))["outputs"][0]
    assert (output["data"], output["parameters"]) == (["YQ==", "/w=="], {"content_type": "base64"})


def test_bytes_of_content_type_base64_are_not_encoded_once_more() -> None:
    output = written(response("BYTES", [2], tensors.join_bytes([b"/w==", b""]), "base64"))["outputs"][0]
    assert (output["data"], output["parameters"]) == (["/w==", ""], {"content_type": "base64"})


@pytest.mark.parametrize("element", [b"\xff", b"/w=", b"no base64"])
def test_bytes_of_content_type_base64_that_are_none_are_encoded(element: bytes) -> None:
    output = written(response("BYTES", [2], tensors.join_bytes([b"/w==", element]), "base64"))["outputs"][0]
    assert [base64.b64decode(text) for text in output["data"]] == [b"/w==", element]


def test_writing_leaves_the_message_as_it_was() -> None:
    message = response("BYTES", [1], tensors.join_bytes([b"\xff"]), "str")
    before = message.SerializeToString()
    rest_json.encode_response(message)
    assert message.SerializeToString() == before


def test_a_response_whose_contents_do_not_fill_its_shape_is_refused() -> None:
    with pytest.raises(InvalidInput, match='tensor "y" has 3 bytes of raw contents'):
        rest_json.encode_response(response("INT32", [1], b"abc"))


def test_a_response_with_raw_contents_for_some_tensors_only_is_refused() -> None:
    message = response("INT32", [1], bytes(4))
    message.outputs.add(name="z", datatype="INT32", shape=[1])
    with pytest.raises(InvalidInput, match="2 outputs and 1 entries"):
        rest_json.encode_response(message)


def test_a_request_with_bytes_that_are_no_text_says_that_they_are_base64() -> None:
    message = ModelInferRequest(raw_input_contents=[tensors.join_bytes([b"\xff"])])
    message.inputs.add(name="x", datatype="BYTES", shape=[1])
    tensor = orjson.loads(rest_json.encode_request(message))["inputs"][0]
    assert (tensor["data"], tensor["parameters"]) == (["/w=="], {"content_type": "base64"})


def test_an_answer_of_another_server_has_its_bytes_as_text_on_demand() -> None:
    answer = b'{"model_name":"m","outputs":[{"name":"y","shape":[1],"datatype":"BYTES","data":["abcd"]}]}'
    assert array(rest_json.decode_response(answer, text=True)).tolist() == [b"abcd"]
    assert array(rest_json.decode_response(answer)).tolist() == [base64.b64decode("abcd")]


@pytest.mark.parametrize(
    ("data", "element"), [("/w==", b"\xff"), ("YWJjZA==", b"YWJjZA=="), ("no base64", b"no base64"), ("", b"")]
)
def test_base64_of_another_server_is_written_again_as_it_came(data: str, element: bytes) -> None:
    output = {"name": "y", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}, "data": [data]}
    message = rest_json.decode_response(orjson.dumps({"model_name": "m", "outputs": [output]}), text=True)
    assert array(message).tolist() == [element]
    again = base64.b64encode(element).decode() if data == "no base64" else data
    assert written(message)["outputs"][0]["data"] == [again]


def test_an_answer_without_outputs_is_refused() -> None:
    with pytest.raises(InvalidInput, match='the response has no "outputs"'):
        rest_json.decode_response(b'{"model_name":"m"}')


def test_an_error_is_a_v2_error_object() -> None:
    assert rest_json.encode_error('no "x"') == b'{"error":"no \\"x\\""}'


def test_an_error_may_quote_what_is_no_text() -> None:
    assert orjson.loads(rest_json.encode_error("\udcff")) == {"error": "?"}


# There and back.

PARAMETERS = st.dictionaries(
    st.text(max_size=3),
    st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    max_size=3,
)


@st.composite
def requests(draw: st.DrawFn) -> Any:
    message = ModelInferRequest(id=draw(st.text(max_size=3)))
    fill_parameters(message, draw(PARAMETERS))
    for number in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(DATATYPES)))
        shape = draw(array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
        item = message.inputs.add(name=f"t{number}", datatype=name, shape=shape)
        fill_parameters(item, draw(PARAMETERS))
        message.raw_input_contents.append(draw(raw_contents(name, shape)))
    for name in draw(st.lists(st.text(min_size=1, max_size=3), max_size=2, unique=True)):
        fill_parameters(message.outputs.add(name=name), draw(PARAMETERS))
    return message


@st.composite
def raw_contents(draw: st.DrawFn, name: str, shape: tuple[int, ...]) -> bytes:
    dtype = DATATYPES[name].dtype
    if dtype is None:
        count = math.prod(shape)
        return tensors.join_bytes(draw(st.lists(st.binary(max_size=4), min_size=count, max_size=count)))
    return draw(arrays(dtype, shape)).tobytes()


def fill_parameters(item: Any, parameters: dict[str, Any]) -> None:
    for name, value in parameters.items():
        if isinstance(value, bool):
            item.parameters[name].bool_param = value
        elif isinstance(value, int) and value < 2**63:
            item.parameters[name].int64_param = value
        elif isinstance(value, int):
            item.parameters[name].uint64_param = value
        elif isinstance(value, float):
            item.parameters[name].double_param = value
        else:
            item.parameters[name].string_param = value


def expected_after(message: Any, items: str, raws: str) -> Any:
    """What JSON makes of a message: infinities and every NaN become the one NaN."""
    changed = type(message).FromString(message.SerializeToString())
    for number, item in enumerate(getattr(changed, items)):
        if item.datatype in FLOATS:
            datatype = DATATYPES[item.datatype]
            values = tensors.array_of(getattr(changed, raws)[number], datatype, (-1,))
            finite = np.where(np.isfinite(values), values, np.nan)
            getattr(changed, raws)[number] = tensors.raw_of(finite, datatype)
    return changed


def out_of_base64(raw: bytes) -> bytes:
    """Elements that are base64 throughout are said in JSON as they stand, and read as what they say."""
    with contextlib.suppress(ValueError):
        return tensors.join_bytes(base64.b64decode(element, validate=True) for element in tensors.split_bytes(raw))
    return raw


@QUICK
@given(requests())
def test_a_request_survives_being_json(message: Any) -> None:
    back = rest_json.decode_request(rest_json.encode_request(message))
    expected = expected_after(message, "inputs", "raw_input_contents")
    for mine, other in zip(expected.inputs, back.inputs, strict=True):
        # Bytes that are no text are told apart by a parameter that was not there before.
        if other.datatype == "BYTES" and "content_type" in other.parameters:
            mine.parameters["content_type"].CopyFrom(other.parameters["content_type"])
    assert back == expected


@QUICK
@given(requests(), st.booleans(), st.sampled_from(["", "np", "base64", "str"]))
def test_a_response_survives_being_json(request: Any, typed: bool, content_type: str) -> None:  # noqa: FBT001
    message = ModelInferResponse(model_name="m", model_version="1", id=request.id)
    message.raw_output_contents.extend(request.raw_input_contents)
    for item in request.inputs:
        message.outputs.add(name=item.name, datatype=item.datatype, shape=item.shape)
        if content_type:
            message.outputs[-1].parameters["content_type"].string_param = content_type
    expected = expected_after(message, "outputs", "raw_output_contents")
    if typed:
        to_typed(message, RESPONSE)
    back = rest_json.decode_response(rest_json.encode_response(message))
    for number, (mine, other) in enumerate(zip(expected.outputs, back.outputs, strict=True)):
        if content_type == "base64" and other.datatype == "BYTES":
            expected.raw_output_contents[number] = out_of_base64(expected.raw_output_contents[number])
        if content_type in rest_json.TEXT and other.datatype == "BYTES":
            mine.parameters["content_type"].CopyFrom(other.parameters["content_type"])
    assert back == expected


@QUICK
@given(requests())
def test_typed_and_raw_requests_are_written_alike(message: Any) -> None:
    raw = rest_json.encode_request(message)
    to_typed(message, REQUEST)
    assert rest_json.encode_request(message) == raw


# Binary tensors behind the JSON.


def binary_body(*tensors_: dict[str, Any], behind: bytes = b"", **members: Any) -> tuple[bytes, int]:
    head = orjson.dumps({"inputs": list(tensors_), **members})
    return head + behind, len(head)


def described(name: str, datatype: str, shape: list[int], size: object, **members: Any) -> dict[str, Any]:
    parameters = {"binary_data_size": size, "mine": 1}
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters, **members}


def test_binary_tensors_are_read_from_behind_the_json_in_their_order_beside_others() -> None:
    numbers, texts = np.arange(4, dtype="<f8").tobytes(), b"\x02\0\0\0ab\0\0\0\0"
    plain = {"name": "p", "datatype": "INT8", "shape": [1], "data": [7]}
    tensors_ = (described("x", "FP64", [2, 2], 32), plain, described("y", "BYTES", [2], 10))
    message, binary = rest_json.decode_call(*binary_body(*tensors_, behind=numbers + texts))
    assert message.raw_input_contents[:] == [numbers, b"\x07", texts]
    assert [sorted(tensor.parameters) for tensor in message.inputs] == [["mine"], [], ["mine"]]
    assert "z" not in binary


def test_a_binary_tensor_may_be_empty() -> None:
    message, _ = rest_json.decode_call(*binary_body(described("x", "FP32", [0, 3], 0)))
    assert message.raw_input_contents[:] == [b""]


@pytest.mark.parametrize(
    ("tensor", "behind", "text"),
    [
        (described("x", "INT32", [1], 8), b"\0" * 4, '"x" has 8 as parameter "binary_data_size"; 4 bytes are left'),
        (described("x", "INT32", [1], -1), b"\0" * 4, '"x" has -1'),
        (described("x", "INT32", [1], True), b"\0" * 4, '"x" has true'),
        (described("x", "INT32", [1], "4"), b"\0" * 4, '"x" has "4"'),
        (described("x", "INT32", [2], 4), b"\0" * 4, '"x" has 4 bytes of raw contents; INT32 [2] takes 8'),
        (described("x", "BYTES", [1], 5), b"\xff\0\0\0a", "end inside element 0"),
        (described("x", "INT32", [1], 4), b"\0" * 6, "2 bytes behind the JSON belong to no tensor"),
        (described("x", "INT32", [1], 4, data=[1]), b"\0" * 4, "one of them says where it is"),
        (described("x", "INT32", [1 << 40], 4), b"\0" * 4, '"x" has'),
    ],
)
def test_binary_tensors_that_do_not_add_up_are_refused_by_name(
    tensor: dict[str, Any], behind: bytes, text: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        rest_json.decode_call(*binary_body(tensor, behind=behind))
    assert text in caught.value.text


@pytest.mark.parametrize("length", [-1, 1000])
def test_a_json_that_is_said_to_be_longer_than_its_body_is_refused(length: int) -> None:
    with pytest.raises(InvalidInput, match="the JSON is said to be"):
        rest_json.decode_call(b"{}", length)


@pytest.mark.parametrize(
    ("members", "in_binary"),
    [
        ({}, {"a": False, "b": False}),
        ({"parameters": {"binary_data_output": True}}, {"a": True, "b": True}),
        ({"outputs": [{"name": "a", "parameters": {"binary_data": True}}]}, {"a": True, "b": False}),
        (
            {
                "parameters": {"binary_data_output": True},
                "outputs": [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}],
            },
            {"a": False, "b": True},
        ),
    ],
)
def test_outputs_are_in_binary_where_the_request_asks_for_it(
    members: dict[str, Any], in_binary: dict[str, bool]
) -> None:
    plain = {"name": "p", "datatype": "INT8", "shape": [1], "data": [7]}
    message, binary = rest_json.decode_call(*binary_body(plain, **members))
    assert {name: name in binary for name in in_binary} == in_binary
    assert not message.parameters
    assert not any(output.parameters for output in message.outputs)
    answer = ModelInferResponse(model_name="m")
    for name in in_binary:
        answer.outputs.add(name=name, datatype="INT16", shape=[1])
        answer.raw_output_contents.append(b"\x01\0")
    body, length = rest_json.encode_answer(answer, binary)
    count = sum(in_binary.values())
    assert (length is None) == (count == 0)
    head, behind = (body, b"") if length is None else (body[:length], body[length:])
    assert behind == b"\x01\0" * count
    for output in orjson.loads(head)["outputs"]:
        if in_binary[output["name"]]:
            assert (output["parameters"], "data" in output) == ({"binary_data_size": 2}, False)
        else:
            assert output["data"] == [1]
