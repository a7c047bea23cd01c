"""A collector for traces in the test's own process: takes what OTLP exporters send by gRPC, and keeps it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"


@dataclass(frozen=True)
class Seen:
    """A span as it came, with ids in hexadecimal digits and what it says of itself as text."""

    instance: str
    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, str]
    links: tuple[str, ...]
    failed: bool


class Collector:
    """Listens on a free port, or where it is told to, while it is entered."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.spans: list[Seen] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        export = grpc.unary_unary_rpc_method_handler(
            self._export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
        )
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Export": export})])
        self.address = f"127.0.0.1:{self._server.add_insecure_port(address)}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def named(self, name: str) -> list[Seen]:
        """The spans of a name, as they came."""
        return [span for span in self.spans if span.name == name]

    def _export(self, request: Any, _: Any) -> Any:
        for resource in request.resource_spans:
            instance = _attributes(resource.resource.attributes)["service.instance.id"]
            for scope in resource.scope_spans:
                self.spans += [_seen(instance, span) for span in scope.spans]
        return ExportTraceServiceResponse()


def _seen(instance: str, span: Any) -> Seen:
    return Seen(
        instance,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        _attributes(span.attributes),
        tuple(link.span_id.hex() for link in span.links),
        span.status.code == span.status.STATUS_CODE_ERROR,
    )


def _attributes(pairs: Any) -> dict[str, str]:
    return {pair.key: str(getattr(pair.value, pair.value.WhichOneof("value"))) for pair in pairs}
