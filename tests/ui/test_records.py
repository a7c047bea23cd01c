from __future__ import annotations

import json
from typing import Any

from engine.inspect import Source
from engine.protocol.messages import ModelInferRequest
from engine.protocol.record import Record, Side
from engine.ui.records import MOST_HEADERS, MOST_JSON, in_order, shown
from engine.ui.requests import _summary
from engine.ui.streams import dumps

STEP = Source("seldon.ns.model.a.inputs", Side.INPUTS)
INPUTS, OUTPUTS = (Source(f"seldon.ns.pipeline.p.{side}", side) for side in Side)
ERRORS = Source("seldon.ns.errors.errors", None)


def record(source: Source, value: bytes = b"", timestamp: int = 0, offset: int = 0, **headers: str) -> Record:
    pairs = tuple((name.replace("_", "-"), text.encode()) for name, text in headers.items())
    return Record(source.topic, 0, offset, timestamp, None, value, pairs)


def failed(source: Source, step: str, timestamp: int = 0) -> Record:
    return record(
        source, b"it broke", timestamp, pipeline="p", seldon_pipeline_errors=step, seldon_error_code="INTERNAL"
    )


def request() -> bytes:
    message = ModelInferRequest()
    message.inputs.add(name="x", datatype="INT32", shape=[2]).contents.int_contents.extend([1, 2])
    return bytes(message.SerializeToString())


def test_a_record_is_told_with_its_place_and_the_node_that_it_belongs_to() -> None:
    found = shown(record(STEP, request(), 1500, 3, x_a="b"), STEP)
    assert (found["node"], found["side"], found["offset"], found["at"]) == ("a", "inputs", 3, 1.5)
    assert (found["tensors"][0]["first"], found["headers"], found["error"]) == ([1, 2], [["x-a", "b"]], None)
    assert [shown(record(source), source)["node"] for source in (INPUTS, OUTPUTS)] == ["p.inputs", "p.outputs"]


def test_an_error_is_told_at_the_step_that_failed_and_at_the_outputs_when_none_did() -> None:
    found = shown(failed(ERRORS, "a"), ERRORS)
    assert (found["node"], found["side"]) == ("a", "outputs")
    assert found["error"] == {"status": "INTERNAL", "step": "a", "message": "it broke"}
    assert shown(failed(ERRORS, "p"), ERRORS)["node"] == "p.outputs"


def test_json_is_shown_as_the_message_it_is_and_too_much_of_it_by_its_size() -> None:
    tensor = {"name": "x", "datatype": "INT32", "shape": [1], "data": [5]}
    assert shown(record(STEP, json.dumps({"inputs": [tensor]}).encode()), STEP)["tensors"][0]["first"] == [5]
    large = shown(record(STEP, b"{" + b" " * MOST_JSON), STEP)
    assert (large["tensors"], "1,048,577 bytes" in large["note"]) == ([], True)


def test_what_is_no_message_is_shown_as_text_in_a_bounded_size() -> None:
    found = shown(record(STEP, b"\xff" * 1_000_000), STEP)
    assert found["tensors"] == []
    assert found["note"].startswith("no V2 message: \\xff")
    assert len(found["note"]) < 2000


def test_headers_are_text_whatever_they_hold_and_no_more_than_can_be_read() -> None:
    pairs = (("x-mark", "\u202e\x00<b>".encode()), ("x-raw", b"\xff"), ("x-none", None), ("x-long", b"a" * 100_000))
    found = shown(Record(STEP.topic, 0, 0, 0, None, b"", pairs + (("x", b""),) * 1000), STEP)["headers"]
    assert found[:3] == [["x-mark", "\u202e\x00<b>"], ["x-raw", "\\xff"], ["x-none", ""]]
    assert (len(found[3][1]), len(found)) == (1000, MOST_HEADERS)


def test_what_utf8_cannot_say_is_replaced() -> None:
    assert json.loads(dumps({"a": ["\ud800"], "\udfff": ("b", 1)})) == {"a": ["?"], "?": ["b", 1]}


def test_records_that_were_written_at_once_stand_in_the_order_of_the_plan() -> None:
    topics = [
        "t.model.a.inputs",
        "t.model.a.outputs",
        "t.model.b.inputs",
        "t.pipeline.p.inputs",
        "t.pipeline.p.outputs",
    ]

    def seen(topic: str, offset: int) -> dict[str, Any]:
        _, owner, name, side = topic.split(".")
        node = name if owner == "model" else f"{name}.{side}"
        return {"node": node, "side": side, "topic": topic, "partition": 0, "offset": offset, "at": 1.0}

    # Step a is run twice before b.
    records = [seen(topic, offset) for topic in reversed(topics) for offset in ((9, 8) if ".a." in topic else (0,))]
    assert [(each["node"], each["side"], each["offset"]) for each in in_order(records, topics)] == [
        ("p.inputs", "inputs", 0),
        ("a", "inputs", 8),
        ("a", "outputs", 8),
        ("b", "inputs", 0),
        ("a", "inputs", 9),
        ("a", "outputs", 9),
        ("p.outputs", "outputs", 0),
    ]


def summary(*parts: tuple[Record, Source], answers: bool = True, overdue: float = 0.0) -> tuple[str, Any, Any]:
    found = _summary("p", "r", parts, answers=answers, overdue=overdue)
    return found["state"], found["seconds"], found["error"]


def test_a_request_is_done_with_its_answer_and_failed_with_its_error() -> None:
    came = (record(INPUTS, timestamp=1000), INPUTS)
    assert summary(came, (record(OUTPUTS, timestamp=1500), OUTPUTS)) == ("done", 0.5, None)
    assert summary(came, (failed(OUTPUTS, "a", 1500), OUTPUTS)) == ("failed", 0.5, "it broke")
    assert summary(came, (failed(ERRORS, "a", 1500), ERRORS)) == ("failed", 0.5, "it broke")


def test_a_steps_error_need_not_cost_a_request_its_answer() -> None:
    parts = ((record(OUTPUTS, timestamp=1500), OUTPUTS), (failed(ERRORS, "a", 1200), ERRORS))
    assert summary((record(INPUTS, timestamp=1000), INPUTS), *parts) == ("done", 0.5, None)


def test_a_request_without_an_answer_runs_until_callers_wait_no_longer() -> None:
    came = (record(INPUTS, timestamp=1000), INPUTS)
    assert summary(came, overdue=0.5) == ("running", None, None)
    assert summary(came, overdue=1.5) == ("unknown", None, None)
    assert summary(came, answers=False) == ("unknown", None, None)


def test_how_long_it_took_is_not_told_where_its_begin_is_gone() -> None:
    assert summary((record(OUTPUTS, timestamp=1500), OUTPUTS)) == ("done", None, None)
