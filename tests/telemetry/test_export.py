from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from collector import Collector

from engine.errors import InvalidSettings
from engine.telemetry.export import Tracing, connect

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.telemetry.spans import Spans


def written(folder: Path, **said: Any) -> Path:
    path = folder / "tracing.json"
    path.write_text(json.dumps(said))
    return path


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def test_the_reference_file_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, disable=False, otelExporterEndpoint="otel:4317", otelExporterProtocol="grpc", ratio="0.25")
    assert Tracing.read(path) == Tracing("otel:4317", 0.25)


def test_what_is_disabled_is_not_traced(tmp_path: Path) -> None:
    assert Tracing.read(written(tmp_path, disable=True)) is None


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({}, "has no otelExporterEndpoint"),
        ({"otelExporterEndpoint": "a:1", "otelExporterProtocol": "http"}, 'otelExporterProtocol is "http"'),
        ({"otelExporterEndpoint": "a:1", "ratio": "1.5"}, "ratio is 1.5; it must be from 0 to 1"),
        ({"otelExporterEndpoint": "a:1", "ratio": "nan"}, "ratio is nan"),
        ({"otelExporterEndpoint": "a:1", "ratio": "many"}, "is no tracing file"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_reason(tmp_path: Path, said: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidSettings, match=re.escape(reason)):
        Tracing.read(written(tmp_path, **said))


def test_a_file_that_is_not_there_or_no_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="No such file"):
        Tracing.read(tmp_path / "none.json")
    path = tmp_path / "tracing.json"
    path.write_text("[1]")
    with pytest.raises(InvalidSettings, match="is no tracing file"):
        Tracing.read(path)


def ended(spans: Spans, number: int) -> None:
    span, _ = spans.serve("infer fraud", (), f"r{number}", {})
    spans.end(span)


def test_a_collector_that_goes_away_is_told_once_and_once_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.1")
    with Collector() as collector:
        spans, stop = connect(Tracing(collector.address, 1.0), "here", "ns")
        ended(spans, 0)
        wait_until(lambda: collector.spans)
    for number in range(20):
        ended(spans, number)
        wait_until(lambda: caplog.messages)
    with Collector(collector.address) as again:

        def arrived() -> bool:
            ended(spans, 1)
            return bool(again.spans)

        wait_until(arrived)
        wait_until(lambda: len(caplog.messages) > 1)
        stop()
    assert caplog.messages == [
        f"the collector at {collector.address} takes no spans: they are dropped until it does",
        f"the collector at {collector.address} takes spans again",
    ]


def test_what_was_recorded_last_is_sent_before_the_end() -> None:
    with Collector() as collector:
        spans, stop = connect(Tracing(collector.address, 1.0), "here", "ns")
        span, _ = spans.serve("infer fraud", (), "r1", {"pipeline": "fraud"})
        spans.end(span)
        stop()
        [seen] = collector.spans
    assert (seen.instance, seen.name, seen.attributes) == (
        "here",
        "infer fraud",
        {"pipeline": "fraud", "x-request-id": "r1"},
    )
