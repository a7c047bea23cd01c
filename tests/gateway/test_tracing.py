from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from engine.errors import TimedOut
from engine.gateway.inference import Answer, Target
from engine.gateway.tracing import TracedDesk, TracedInference
from engine.protocol.record import Owner
from engine.telemetry.spans import Spans

if TYPE_CHECKING:
    from engine.protocol.record import Headers

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER: Headers = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01".encode()), ("x-a", b"1"))


class Desk:
    """Marked as such: keeps what headers it was given, and fails when it is told to."""

    waiting = 3

    def __init__(self) -> None:
        self.headers: dict[str, bytes | None] = {}
        self.failure: Exception | None = None

    async def call(self, _topic: str, _key: bytes, _value: bytes, headers: Headers, _timeout: float) -> Any:
        self.headers = dict(headers)
        if self.failure is not None:
            raise self.failure
        return "the reply"


class Inference(Desk):
    """Marked as such: a data plane with a desk behind it."""

    def __init__(self, desk: Any) -> None:
        super().__init__()
        self._desk = desk

    def new_request_id(self) -> str:
        return "made"

    check_room = ready = unready = metadata = server_ready = new_request_id

    async def infer(
        self, _target: Target, _request: Any, headers: Headers, *, request_id: str, timeout: float
    ) -> Answer:
        sent = (*headers, ("x-request-id", request_id.encode()))
        return Answer(await self._desk.call("topic", b"", b"", sent, timeout), headers)


class Bench:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        spans = Spans(provider.get_tracer("test"))
        self.desk = Desk()
        self.traced = TracedInference(Inference(TracedDesk(self.desk, spans)), spans)  # type: ignore[arg-type]

    async def infer(self) -> Answer:
        return await self.traced.infer(Target(Owner.PIPELINE, "fraud"), None, CALLER, request_id="r1", timeout=1.0)


async def test_a_call_is_under_its_callers_span_and_what_is_published_under_the_call() -> None:
    bench = Bench()
    answer = await bench.infer()
    published, call = bench.exporter.get_finished_spans()
    assert answer.message == "the reply"
    assert (call.name, published.name) == ("infer fraud", "publish and wait")
    assert call.context is not None
    assert published.context is not None
    assert f"{call.context.trace_id:032x}" == TRACE
    assert published.parent is not None
    assert published.parent.span_id == call.context.span_id
    assert dict(call.attributes or {}) == {"pipeline": "fraud", "x-request-id": "r1"}
    assert bench.desk.headers["traceparent"] == f"00-{TRACE}-{published.context.span_id:016x}-01".encode()
    assert bench.desk.headers["x-a"] == b"1"


async def test_a_failure_ends_both_spans_and_goes_on_to_the_caller() -> None:
    bench = Bench()
    bench.desk.failure = TimedOut("no answer came")
    with pytest.raises(TimedOut):
        await bench.infer()
    assert [(span.status.is_ok, span.status.description) for span in bench.exporter.get_finished_spans()] == [
        (False, "TimedOut"),
        (False, "TimedOut"),
    ]
