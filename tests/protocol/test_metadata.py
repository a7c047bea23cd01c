from __future__ import annotations

from typing import Any

import orjson
import pytest

from engine.errors import InvalidInput
from engine.protocol import rest_json
from engine.protocol.messages import ModelMetadataResponse
from engine.protocol.metadata import decode_metadata, encode_metadata, example
from engine.protocol.tensors import DATATYPES


def test_metadata_is_written_as_the_protocol_has_it() -> None:
    message = ModelMetadataResponse(name="m", versions=["1"], platform="p")
    message.inputs.add(name="x", datatype="FP32", shape=[-1, 4])
    message.outputs.add(name="y", datatype="BYTES", shape=[])
    assert orjson.loads(encode_metadata(message)) == {
        "name": "m",
        "versions": ["1"],
        "platform": "p",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "BYTES", "shape": []}],
    }


def test_metadata_survives_being_json() -> None:
    message = ModelMetadataResponse(name="m", platform="p", versions=["1", "2"])
    message.inputs.add(name="x", datatype="FP32", shape=[-1, 4])
    message.outputs.add(name="y")
    assert decode_metadata(encode_metadata(message)) == message


def test_what_servers_leave_out_of_metadata_is_empty() -> None:
    assert decode_metadata(b'{"name": "m", "platform": null, "inputs": null}') == ModelMetadataResponse(name="m")


@pytest.mark.parametrize(
    "document", [[], {}, 1, {"name": 1}, {"name": "m", "inputs": [{"name": "x"}]}, {"name": "m", "versions": [1]}]
)
def test_metadata_that_is_none_of_v2_is_refused(document: Any) -> None:
    with pytest.raises(InvalidInput, match="the metadata is none of V2"):
        decode_metadata(orjson.dumps(document))


@pytest.mark.parametrize("datatype", DATATYPES)
def test_an_example_of_any_datatype_is_a_request(datatype: str) -> None:
    message = ModelMetadataResponse(name="m")
    message.inputs.add(name="x", datatype=datatype, shape=[-1, 4])
    request = rest_json.decode_request(orjson.dumps(example(message)))
    assert [(each.name, each.datatype, each.shape[:]) for each in request.inputs] == [("x", datatype, [1, 4])]


def test_an_example_of_what_tells_only_its_names_has_one_number_for_each() -> None:
    message = ModelMetadataResponse(name="m")
    message.inputs.add(name="x")
    message.inputs.add(name="y", datatype="INT32", shape=[])
    assert example(message) == {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]},
            {"name": "y", "datatype": "INT32", "shape": [], "data": [1]},
        ]
    }


@pytest.mark.parametrize(
    ("shape", "said"), [(None, "does not tell"), ([1 << 20, 1 << 20], "1,099,511,627,776 elements")]
)
def test_there_is_no_example_of_nothing_and_none_that_fills_the_memory(shape: list[int] | None, said: str) -> None:
    message = ModelMetadataResponse(name="m")
    if shape:
        message.inputs.add(name="x", datatype="FP32", shape=shape)
    with pytest.raises(InvalidInput, match=said):
        example(message)
