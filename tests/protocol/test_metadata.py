from __future__ import annotations

from typing import Any

import orjson
import pytest

from engine.errors import InvalidInput
from engine.protocol.messages import ModelMetadataResponse
from engine.protocol.metadata import decode_metadata, encode_metadata


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
