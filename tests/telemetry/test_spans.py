from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from engine.errors import ModelFailed
from engine.protocol.record import RequestIds
from engine.telemetry.spans import Spans

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from engine.telemetry.spans import Trip

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-01".encode())
UNSAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-00".encode())


class Recorded:
    """Spans that are kept in memory, of so many of the requests that bring no decision."""

    def __init__(self, ratio: float = 1.0) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.spans = Spans(provider.get_tracer("test"), ratio)

    @property
    def ended(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self._exporter.get_finished_spans()}


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def taken(recorded: Recorded, *headers: tuple[str, bytes | None]) -> tuple[Trip | None, dict[str, Any]]:
    """As a worker takes a request up."""
    if not recorded.spans.sampled(headers):
        return None, dict(headers)
    trip, its = recorded.spans.take(headers, "fraud", {"partition": 2})
    return trip, dict(its)


def test_a_request_goes_on_under_its_callers_span(recorded: Recorded) -> None:
    trip, headers = taken(recorded, ("x-request-id", b"r1"), SAMPLED, ("x-a", b"1"))
    assert trip is not None
    trip.end(None)
    span = recorded.ended["run fraud"]
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert dict(span.attributes or {}) == {"pipeline": "fraud", "partition": 2, "x-request-id": "r1"}
    assert headers["traceparent"] == f"00-{TRACE}-{span.context.span_id:016x}-01".encode()
    assert (headers["x-request-id"], headers["x-a"]) == (b"r1", b"1")


def test_the_state_of_a_trace_travels_on(recorded: Recorded) -> None:
    _, headers = taken(recorded, SAMPLED, ("tracestate", b"vendor=1"), ("baggage", b"a=b"))
    assert (headers["tracestate"], headers["baggage"]) == (b"vendor=1", b"a=b")


def test_a_caller_that_does_not_want_to_be_traced_is_not(recorded: Recorded) -> None:
    trip, headers = taken(recorded, UNSAMPLED)
    assert trip is None
    assert headers["traceparent"] == UNSAMPLED[1]


@pytest.mark.parametrize("value", [b"", b"nonsense", b"\xff\xfe", b"00-0-0-01", None])
def test_a_context_that_is_none_begins_a_trace_of_its_own(recorded: Recorded, value: bytes | None) -> None:
    trip, headers = taken(recorded, ("traceparent", value))
    assert trip is not None
    assert headers["traceparent"] != value


@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.5, 1.0])
def test_of_those_that_bring_no_decision_so_many_are_traced(ratio: float) -> None:
    spans, new = Recorded(ratio).spans, RequestIds(b"12345", 0, lambda: 1e9).new
    traced = sum(spans.sampled([("x-request-id", new().encode())]) for _ in range(10_000))
    assert traced == pytest.approx(10_000 * ratio, rel=0.3)


@given(request_id=st.text("0123456789abcdef-", min_size=1), ratio=st.floats(0, 1), more=st.floats(0, 1))
def test_all_processes_decide_the_same_of_a_request(request_id: str, ratio: float, more: float) -> None:
    headers = [("x-request-id", request_id.encode())]
    gateway, worker = Recorded(ratio).spans, Recorded(ratio).spans
    span, its = gateway.serve("infer fraud", (("x-a", b"1"),), request_id, {})
    assert (span is not None) == worker.sampled(headers) == gateway.sampled([("x-a", b"1"), *headers])
    # Who traces more traces those, too.
    assert Recorded(max(ratio, more)).spans.sampled(headers) >= worker.sampled(headers)
    assert span is not None or its == (("x-a", b"1"),)


def test_who_is_sampled_is_traced_whatever_the_ratio_here() -> None:
    assert taken(Recorded(0.0), SAMPLED)[0] is not None


def test_steps_are_under_the_request_and_tell_their_failure_without_its_text(recorded: Recorded) -> None:
    trip, _ = taken(recorded)
    assert trip is not None
    trip.step(1, 0, "score")
    trip.stepped(1, 0, ModelFailed("the card number is 4111"))
    trip.end(None)
    step, run = recorded.ended["step score"], recorded.ended["run fraud"]
    assert step.parent == run.context
    assert (step.status.is_ok, step.status.description) == (False, "ModelFailed")
    assert run.status.is_ok


def test_a_step_that_nobody_waits_for_ends_with_its_request(recorded: Recorded) -> None:
    trip, _ = taken(recorded)
    assert trip is not None
    trip.step(1, 0, "slow")
    trip.end(None)
    assert set(recorded.ended) == {"step slow", "run fraud"}


class Traced:
    """Marked as such: of a request, links read the trip alone."""

    def __init__(self, trip: Trip | None) -> None:
        self.trip = trip


def test_a_checkpoint_is_linked_to_those_of_its_requests_that_are_traced(recorded: Recorded) -> None:
    trips = [taken(recorded)[0] for _ in range(2)]
    recorded.spans.checkpoint("group", [*map(Traced, trips), Traced(None), object()], 0.5)
    span = recorded.ended["checkpoint"]
    contexts = [trip.span.get_span_context() for trip in trips if trip]
    assert [link.context for link in span.links] == contexts
    assert span.parent == contexts[0]
    assert dict(span.attributes or {}) == {"group": "group", "requests": 4}
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time - span.start_time >= 0.5e9


def test_what_nobody_traces_has_no_checkpoint_and_no_batch(recorded: Recorded) -> None:
    recorded.spans.checkpoint("group", [Traced(None)], 0.5)
    assert recorded.spans.batch("score", [Traced(None)]) is None
    assert recorded.ended == {}
