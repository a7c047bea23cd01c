"""Spans of requests: where one came from, what it went through, and how each of it ended.

Nothing is recorded here by itself: `export` makes a tracer where tracing is asked for, and without one there are no
`Spans` at all, so that requests pay nothing. Only requests that are sampled have a trip.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING
from zlib import crc32

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from engine.protocol.record import REQUEST_ID, TRACE_PARENT, header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.trace import Span, SpanKind, Tracer
    from opentelemetry.util.types import AttributeValue

    from engine.errors import RequestError
    from engine.protocol.record import HeaderPairs

    HeaderList = list[tuple[str, bytes | None]]
    Attributes = Mapping[str, AttributeValue]
    Begun = tuple[Span | None, HeaderPairs]

# What the propagator reads and writes; baggage travels as it came.
_NAMES = (TRACE_PARENT, "tracestate")
_TRACEPARENT = re.compile(b"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})(-.*)?")
_CONTEXT = TraceContextTextMapPropagator()

# How many values a checksum has.
_NUMBERS = 1 << 32


class Trip:
    """One request in a worker: a span from when it was taken until it is done, and one for each call of a step."""

    __slots__ = ("_request_id", "_steps", "_tracer", "span")

    def __init__(self, tracer: Tracer, span: Span, request_id: str) -> None:
        self._tracer, self.span, self._request_id = tracer, span, request_id
        self._steps: dict[tuple[int, int], Span] = {}

    def step(self, node: int, visit: int, name: str) -> None:
        """A step is called for the so many-th time."""
        context = trace.set_span_in_context(self.span)
        self._steps[node, visit] = self._tracer.start_span(
            f"step {name}", context, attributes={"step": name, REQUEST_ID: self._request_id}
        )

    def under(self, node: int, visit: int, headers: HeaderPairs) -> HeaderPairs:
        """The headers for whoever answers that call: its spans are to be under the step's."""
        span = self._steps.get((node, visit))
        return headers if span is None else _naming(span, headers)

    def stepped(self, node: int, visit: int, error: RequestError | None) -> None:
        """It has answered, or failed."""
        span = self._steps.pop((node, visit), None)
        if span is not None:
            Spans.end(span, error)

    def end(self, error: RequestError | None) -> None:
        """The request is done; what it waits for no more is over too."""
        for span in self._steps.values():
            span.end()
        Spans.end(self.span, error)


class Spans:
    """Makes the spans of one process.

    ratio   the share of the requests that bring no decision of their own and are traced; whatever the tracer is asked
            to begin, it is to record
    """

    def __init__(self, tracer: Tracer, ratio: float = 1.0) -> None:
        self._tracer, self._bound = tracer, round(ratio * _NUMBERS)

    def serve(self, name: str, headers: HeaderPairs, request_id: str, attributes: Attributes) -> Begun:
        """A gateway answers a call; no span when it is not sampled."""
        if not self.sampled(headers, request_id.encode()):
            return None, headers
        return self._start(name, trace.SpanKind.SERVER, headers, {**attributes, REQUEST_ID: request_id})

    def publish(self, name: str, headers: HeaderPairs, attributes: Attributes) -> Begun:
        """A request goes to a topic; no span when it is not sampled."""
        if not self.sampled(headers):
            return None, headers
        return self._start(name, trace.SpanKind.PRODUCER, headers, attributes)

    def sampled(self, headers: HeaderPairs, request_id: bytes | None = None) -> bool:
        """Whether a request is traced: as whoever began its trace has decided, otherwise one of so many.

        Which ones hangs on their ids alone, so that all processes decide the same and need not tell each other: a
        decision in a header of every record cost more than all else that is done for requests that are not traced.
        """
        for name, value in headers:
            if name == TRACE_PARENT and value and (found := _TRACEPARENT.fullmatch(value)):
                return bool(int(found["flags"], 16) & 1)
            if name == REQUEST_ID:
                request_id = value
        return crc32(request_id or b"") < self._bound

    def take(self, headers: HeaderPairs, pipeline: str, attributes: Attributes) -> tuple[Trip, HeaderList]:
        """A worker takes a request up that is sampled."""
        span, its = self._start(
            f"run {pipeline}", trace.SpanKind.CONSUMER, headers, {"pipeline": pipeline, **attributes}
        )
        return Trip(self._tracer, span, header(its, REQUEST_ID) or ""), its

    def batch(self, model: str, requests: Sequence[object]) -> Span | None:
        """A model is called for several requests at once; None when none of them is sampled."""
        return self._linked(f"call {model}", {"model": model}, requests)

    def checkpoint(self, group: str, units: Sequence[object], seconds: float) -> None:
        """What these requests gave was written, which took so long until now."""
        span = self._linked("checkpoint", {"group": group}, units, time.time_ns() - int(seconds * 1e9))
        if span is not None:
            span.end()

    def _start(
        self, name: str, kind: SpanKind, headers: HeaderPairs, attributes: Attributes
    ) -> tuple[Span, HeaderList]:
        """A span under the one that the headers name, if they name one; and the headers with it in that one's place."""
        context = _CONTEXT.extract(
            {name: value.decode("latin-1") for name, value in headers if name in _NAMES and value}
        )
        request_id = header(headers, REQUEST_ID)
        named = {**attributes, REQUEST_ID: request_id} if request_id else attributes
        span = self._tracer.start_span(name, context, kind, named)
        return span, _naming(span, headers)

    def _linked(
        self, name: str, about: Attributes, requests: Sequence[object], since: int | None = None
    ) -> Span | None:
        """A span under the first of the requests that are traced, with links to all of them."""
        # Of hundreds of requests few are traced, and most often none.
        trips = [trip.span for request in requests if (trip := getattr(request, "trip", None)) is not None]
        if not trips:
            return None
        links = [trace.Link(span.get_span_context()) for span in trips]
        context, named = trace.set_span_in_context(trips[0]), {**about, "requests": len(requests)}
        return self._tracer.start_span(name, context, attributes=named, links=links, start_time=since)

    @staticmethod
    def end(span: Span | None, error: BaseException | None = None) -> None:
        """A span, if there is one, is over; its error is told by kind alone: the text may repeat what callers sent."""
        if span is not None:
            if error is not None:
                span.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
            span.end()


def _naming(span: Span, headers: HeaderPairs) -> HeaderList:
    """The headers with this span in the place of the one that they name."""
    carrier: dict[str, str] = {}
    _CONTEXT.inject(carrier, trace.set_span_in_context(span))
    kept = [pair for pair in headers if pair[0] not in _NAMES]
    return [*kept, *((name, text.encode()) for name, text in carrier.items())]
