from __future__ import annotations

import doctest
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import errors
from engine.protocol import record
from engine.protocol.record import Owner, ReplyAddress, RequestIds, Side, Topics

TOPICS = Topics("seldon", "default")
NAMES = st.sampled_from(
    [
        "x-a",
        "x-b",
        "x-request-id",
        "pipeline",
        "x-pipeline-version",
        "seldon-step",
        "seldon-reply",
        "other",
        "X-A",
    ]
)
HEADERS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=4)))


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(record)
    assert result.attempted > 0
    assert result.failed == 0


@given(HEADERS)
def test_headers_that_travel_keep_their_order_and_repeated_names(
    headers: list[tuple[str, bytes | None]],
) -> None:
    expected = [pair for pair in headers if not record.reserved(pair[0])]
    assert record.travelling(headers) == expected


def test_a_name_that_stands_twice_travels_twice() -> None:
    headers = [("x-a", b"1"), ("pipeline", b"p"), ("x-b", None), ("x-a", b"0"), ("seldon-step", b"s")]
    assert record.travelling(headers) == [("x-a", b"1"), ("x-b", None), ("x-a", b"0")]


def test_marks_are_read_as_their_first_value_whether_they_travel_or_not() -> None:
    found = record.sort_out(
        [("x-request-id", b"r"), ("seldon-reply", b"0.i.1"), ("x-request-id", b"s"), ("pipeline", None), ("x-a", b"1")]
    )
    assert found.travelling == [("x-request-id", b"r"), ("x-request-id", b"s"), ("x-a", b"1")]
    assert found.marks == {"x-request-id": b"r", "seldon-reply": b"0.i.1", "pipeline": None}
    assert [found.text(name) for name in ("seldon-reply", "pipeline", "seldon-step")] == ["0.i.1", None, None]


@pytest.mark.parametrize("name", ["pipeline", "x-pipeline-version", "seldon-model", "seldon-reply", "seldon-step"])
def test_names_of_our_own_are_reserved(name: str) -> None:
    assert record.reserved(name)


@pytest.mark.parametrize("name", ["x-request-id", "x-seldon-route", "pipelines", "x-pipeline", "traceparent"])
def test_other_names_are_the_callers(name: str) -> None:
    assert not record.reserved(name)


def test_a_header_is_read_as_its_first_value() -> None:
    assert record.header([("a", b"1"), ("b", b"2"), ("b", b"3")], "b") == "2"


def test_a_header_that_is_absent_or_null_is_none() -> None:
    assert record.header([("a", None)], "a") is None
    assert record.header([("a", b"1")], "b") is None


def test_a_header_that_is_no_text_is_read_all_the_same() -> None:
    assert record.header([("a", b"\xff")], "a") == "\ufffd"


@given(st.integers(0, 2**31 - 1), st.text(st.characters(codec="utf-8"), min_size=1), st.integers(0, 2**63 - 1))
def test_a_reply_address_is_read_back_as_it_was_written(partition: int, instance: str, number: int) -> None:
    address = ReplyAddress(partition, instance, number)
    assert ReplyAddress.parse(address.encode().decode()) == address


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.2", "1..2", "a.b.1", "1.b.c", "-1.b.2", "1.b.-2", "²3.b.4", "1.b.", "9" * 5000 + ".b.1"],
)
def test_a_text_that_is_no_reply_address_is_none(text: str) -> None:
    assert ReplyAddress.parse(text) is None


def test_topics_are_named_by_namespace_kind_name_and_side() -> None:
    assert TOPICS.of(Owner.PIPELINE, "fraud", Side.INPUTS) == "seldon.default.pipeline.fraud.inputs"
    assert TOPICS.of(Owner.EXPLAINER, "why", Side.OUTPUTS) == "seldon.default.explainer.why.outputs"


def test_the_topics_of_a_namespace_stand_beside_those_of_its_resources() -> None:
    found = (TOPICS.errors, TOPICS.replies, TOPICS.resources, TOPICS.status)
    assert found == (
        "seldon.default.errors.errors",
        "seldon.default.replies",
        "seldon.default.resources",
        "seldon.default.status",
    )


def test_each_pipeline_has_its_consumer_group_and_all_models_share_one() -> None:
    assert TOPICS.group(Owner.PIPELINE, "fraud") == "seldon.default.pipeline.fraud"
    assert TOPICS.group(Owner.MODEL, "") == "seldon.default.models"


@pytest.mark.parametrize("name", ["a", "a-b_c", "0", "a" * 63])
def test_lower_case_names_are_legal(name: str) -> None:
    assert record.legal_name(name)


@pytest.mark.parametrize("name", ["", "A", "a.b", "-a", "a-", "a" * 64, "é", "a\n", "a b"])
def test_names_that_topics_or_kubernetes_refuse_are_not_legal(name: str) -> None:
    assert not record.legal_name(name)


def test_a_prefix_may_have_capitals_and_no_dot() -> None:
    assert record.legal_prefix("Seldon-1")
    assert not record.legal_prefix("a.b")


def test_request_ids_are_twenty_characters_and_sort_by_their_time() -> None:
    clock = iter((1.0, 2.9, 2.9))
    ids = RequestIds(b"abcde", 0xFFFFFF, lambda: next(clock))
    made = [ids.new() for _ in range(3)]
    assert all(re.fullmatch("[0-9a-v]{20}", text) for text in made)
    assert [seconds_of(text) for text in made] == [1, 2, 2]
    assert len(set(made)) == 3


def seconds_of(text: str) -> int:
    """The time that an id carries: its first four bytes, as base 32 with the digits 0-9a-v."""
    return int(text[:7], 32) >> 3


@given(st.integers(0, 2**32 - 1), st.binary(min_size=5, max_size=5), st.integers(0, 2**24 - 1))
def test_the_time_of_a_request_id_can_be_read_back(seconds: int, machine: bytes, counter: int) -> None:
    assert seconds_of(record.xid(seconds, machine, counter)) == seconds


@pytest.mark.parametrize(
    "kind",
    [kind for kind in record.ERROR_CODES if kind not in (errors.NoOutput, errors.TooManyVisits, errors.Overloaded)],
)
def test_an_error_comes_back_from_the_wire_as_what_it_was(kind: type[errors.RequestError]) -> None:
    back = record.error_of(record.ERROR_CODES[kind], "text", "step")
    assert (type(back), back.text, back.step) == (kind, "text", "step")


def test_too_many_visits_come_back_as_the_end_without_an_answer_that_they_are() -> None:
    code = record.ERROR_CODES[errors.TooManyVisits]
    assert type(record.error_of(code, "text", "step")) is errors.NoAnswer


def test_every_request_error_has_a_code() -> None:
    assert set(record.ERROR_CODES) == set(errors.RequestError.__subclasses__())


def test_an_unknown_code_is_the_models_failure() -> None:
    assert type(record.error_of("CANCELLED", "text", None)) is errors.ModelFailed
