from __future__ import annotations

import pytest

from engine.errors import InvalidInput
from engine.gateway import routing
from engine.gateway.inference import Target
from engine.protocol.record import Owner


@pytest.mark.parametrize(
    ("header", "owner", "name", "expected"),
    [
        (None, Owner.MODEL, "m", Target(Owner.MODEL, "m")),
        (None, Owner.PIPELINE, "p", Target(Owner.PIPELINE, "p")),
        (None, Owner.EXPLAINER, "e", Target(Owner.EXPLAINER, "e")),
        (None, None, "m", Target(Owner.MODEL, "m")),
        (None, None, "p.pipeline", Target(Owner.PIPELINE, "p")),
        ("m", None, None, Target(Owner.MODEL, "m")),
        ("m.model", None, "x", Target(Owner.MODEL, "m")),
        ("p.pipeline", Owner.MODEL, "m", Target(Owner.PIPELINE, "p")),
        ("e.explainer", Owner.PIPELINE, "p", Target(Owner.EXPLAINER, "e")),
        ("ab.experiment", Owner.MODEL, "m", Target(Owner.EXPERIMENT, "ab")),
        ("under_score-1", None, "", Target(Owner.MODEL, "under_score-1")),
    ],
)
def test_the_header_wins_over_the_path(
    header: str | None, owner: Owner | None, name: str | None, expected: Target
) -> None:
    assert routing.target(header, owner, name) == expected


@pytest.mark.parametrize("name", [None, ""])
def test_a_call_that_names_nothing_is_told_which_header_to_set(name: str | None) -> None:
    with pytest.raises(InvalidInput, match="seldon-model"):
        routing.target(None, None, name)


@pytest.mark.parametrize(
    "header",
    [
        "",
        ".",
        "m.",
        ".pipeline",
        "a.b.pipeline",
        "M",
        "a/b",
        "..",
        "m.step",
        "a\r\nb",
        "é",
        "m" * 64,
        "a\x00",
    ],
)
def test_a_name_that_no_resource_can_have_is_refused(header: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        routing.target(header, None, "m")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["p.pipeline", "A", "a b"])
def test_a_path_names_its_kind_itself(name: str) -> None:
    with pytest.raises(InvalidInput):
        routing.target(None, Owner.MODEL, name)


def test_x_headers_and_the_trace_context_travel_in_order_with_repeated_names() -> None:
    pairs = (
        ("accept", b"*/*"),
        ("x-b", b"1"),
        ("x-a", b"2"),
        ("x-b", b"3"),
        ("x-seldon-route", b":m:"),
        ("x-empty", b""),
        ("x-utf8", "é".encode()),
        ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", b"a=1"),
        ("baggage", b"b=2"),
    )
    assert routing.travelling(pairs) == pairs[1:]


def test_reserved_headers_and_those_that_are_handled_apart_do_not_travel() -> None:
    names = (
        "pipeline",
        "x-pipeline-version",
        "seldon-reply",
        "seldon-model",
        "x-request-id",
        "x-request-timeout-ms",
    )
    assert routing.travelling(tuple((name, b"1") for name in names)) == ()


@pytest.mark.parametrize("value", [b"a\r\nb", b"a\nb", b"\0", b"\x7f", b"a\tb", b"\xff\xfe", b"\xc3"])
def test_a_value_that_cannot_be_echoed_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidInput, match="x-a"):
        routing.travelling((("x-a", value),))


@pytest.mark.parametrize("name", ["x-a.b", "x-a b", "x-a\r\nb", "x-é", "x-" + "a" * 127])
def test_a_name_that_cannot_be_echoed_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        routing.travelling(((name, b"1"),))


def test_a_name_of_128_characters_travels() -> None:
    pairs = (("x-" + "a" * 126, b"1"),)
    assert routing.travelling(pairs) == pairs


def test_only_fit_x_headers_go_back() -> None:
    headers = (
        ("x-a", b"1"),
        ("X-A", b"2"),
        ("pipeline", b"p"),
        ("seldon-reply", b"r"),
        ("x-request-id", b"i"),
        ("x-null", None),
        ("x-crlf", b"a\r\nx-b: 1"),
        ("x-nul", b"\0"),
        ("x-latin", b"\xe9"),
        ("x bad", b"1"),
        ("x-utf8", "é".encode()),
        ("x-b-bin", b"1"),
        ("x-pipeline-version", b"3"),
    )
    both = [("x-a", "1"), ("x-a", "2")]
    assert routing.returning(headers) == [
        *both,
        ("x-utf8", "é"),
        ("x-b-bin", "1"),
        ("x-pipeline-version", "3"),
    ]
    assert routing.returning_ascii(headers) == [*both, ("x-pipeline-version", "3")]


@pytest.mark.parametrize("value", [b"a", b"x" * 128, b"a b~!"])
def test_a_callers_request_id_is_kept(value: bytes) -> None:
    assert routing.request_id((("x-request-id", value),)) == value.decode()


@pytest.mark.parametrize("value", [b"", b"x" * 129, b"\xc3\xa9", b"a\nb", b"\0"])
def test_a_request_id_that_is_not_printable_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidInput):
        routing.request_id((("x-request-id", value),))


def test_no_request_id_is_none() -> None:
    assert routing.request_id((("x-a", b"1"),)) is None


@pytest.mark.parametrize(
    ("header", "remaining", "expected"),
    [
        (None, None, 30.0),
        (b"1500", None, 1.5),
        (b"60000", None, 30.0),
        (None, 2.0, 2.0),
        (None, 99.0, 30.0),
        (b"500", 2.0, 0.5),
        (b"5000", 2.0, 2.0),
        (None, -1.0, 0.0),
        (b"000000000000001", None, 0.001),
    ],
)
def test_the_least_limit_holds(header: bytes | None, remaining: float | None, expected: float) -> None:
    pairs = () if header is None else (("x-request-timeout-ms", header),)
    assert routing.timeout(pairs, remaining, 30.0) == expected


@pytest.mark.parametrize("value", [b"", b"0", b"-1", b"1.5", b"1e3", b"abc", b" 1", b"\xd9\xa1", b"9" * 16])
def test_a_timeout_that_is_no_whole_number_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidInput, match="x-request-timeout-ms"):
        routing.timeout((("x-request-timeout-ms", value),), None, 30.0)
