"""Where spans go: to an OTLP collector, by the reference's tracing file. Needs the extra `otel`."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from engine.errors import InvalidSettings
from engine.telemetry.spans import Spans

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

# A collector that is away must not hold up the end of the process.
FLUSH_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Tracing:
    """The reference's tracing file.

    endpoint   HOST:PORT of an OTLP collector that speaks gRPC
    ratio      share of the requests that bring no decision of their own and are sampled, 0 to 1
    """

    endpoint: str
    ratio: float

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """What the file asks for; None when it disables tracing. Raises InvalidSettings."""
        try:
            said: Any = json.loads(path.read_text(encoding="utf-8"))
            disabled, endpoint = bool(said.get("disable", False)), str(said.get("otelExporterEndpoint", ""))
            protocol, ratio = str(said.get("otelExporterProtocol", "grpc")), float(said.get("ratio", 1))
        except OSError as error:
            raise InvalidSettings(f"{path}: {error.strerror or error}") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise InvalidSettings(f"{path} is no tracing file: {error}") from error
        if disabled:
            return None
        if not endpoint:
            raise InvalidSettings(f'{path} has no otelExporterEndpoint; write HOST:PORT, or "disable": true')
        if protocol != "grpc":
            raise InvalidSettings(f'{path}: otelExporterProtocol is "{protocol}"; only grpc is spoken')
        if not 0 <= ratio <= 1:
            raise InvalidSettings(f"{path}: ratio is {ratio:g}; it must be from 0 to 1")
        return cls(endpoint, ratio)


def connect(tracing: Tracing, instance: str, namespace: str) -> tuple[Spans, Callable[[], None]]:
    """Who makes spans for the collector, and what sends the last of them and ends. Raises InvalidSettings."""
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  an extra
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415
    except ImportError as error:
        raise InvalidSettings("tracing needs the extra otel: pip install 'millrace[otel]'") from error
    about = {"service.name": "millrace", "service.instance.id": instance, "service.namespace": namespace}
    # What is not sampled never comes so far.
    provider = TracerProvider(sampler=ALWAYS_ON, resource=Resource.create(about))
    # They tell each span that is dropped and each attempt: `_Told` says once what there is to know.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    exporter: Any = _Told(OTLPSpanExporter(endpoint=tracing.endpoint, insecure=True), tracing.endpoint)
    # Whatever does not fit its queue while the collector is away is dropped, and costs no request.
    provider.add_span_processor(BatchSpanProcessor(exporter))

    def stop() -> None:
        last = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(FLUSH_SECONDS)

    return Spans(provider.get_tracer("millrace"), tracing.ratio), stop


class _Told:
    """An exporter that says once in the log that its collector is away, and once that it is back."""

    def __init__(self, exporter: Any, endpoint: str) -> None:
        self._exporter, self._endpoint, self._is_away = exporter, endpoint, False
        self.shutdown, self.force_flush = exporter.shutdown, exporter.force_flush

    def export(self, spans: Sequence[Any]) -> Any:
        """As exporters have it."""
        result = self._exporter.export(spans)
        was_away, self._is_away = self._is_away, result.name != "SUCCESS"
        if self._is_away and not was_away:
            log.warning("the collector at %s takes no spans: they are dropped until it does", self._endpoint)
        elif was_away and not self._is_away:
            log.warning("the collector at %s takes spans again", self._endpoint)
        return result
