from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from engine.kafka import agents
from engine.kafka.agents import decode
from engine.protocol.messages import ModelInferRequest, ModelInferResponse
from engine.protocol.record import Owner

if TYPE_CHECKING:
    from engine.protocol.columns import Columns

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


def read(*values: tuple[bytes, str | None]) -> list[Any]:
    """For each value its number and whether it was JSON, or why it is refused."""
    groups, refused = decode(values)
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


def test_without_a_type_a_value_may_be_json() -> None:
    assert read((JSON_REQUEST, None)) == [(7, True)]


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


def is_for(owner: Owner, *headers: tuple[str, bytes | None]) -> bool:
    execution: Any = SimpleNamespace(owner=owner, name_bytes=b"fraud")
    return agents._is_for(execution, headers)


@pytest.mark.parametrize("headers", [(), (("pipeline", b"fraud"),), (("x-any", b"1"), ("traceparent", None))])
def test_a_record_without_or_with_our_pipelines_name_is_ours(headers: tuple[tuple[str, bytes | None], ...]) -> None:
    assert is_for(Owner.PIPELINE, *headers)


def test_a_record_that_names_another_pipeline_is_passed_over() -> None:
    assert not is_for(Owner.PIPELINE, ("pipeline", b"other"))


def test_a_model_answers_whatever_pipeline_a_record_names() -> None:
    assert is_for(Owner.MODEL, ("pipeline", b"other"))


@pytest.mark.parametrize("owner", [Owner.PIPELINE, Owner.MODEL])
@pytest.mark.parametrize("name", ["seldon-step", "seldon-pipeline-errors"])
def test_what_steps_wrote_and_errors_are_passed_over(owner: Owner, name: str) -> None:
    assert not is_for(owner, ("x-a", b"1"), (name, b"any"))
