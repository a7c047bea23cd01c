"""What happens between two scrapes of `/metrics`: requests a second, times and errors of each pipeline and its steps.

Counters become rates, so that those of several processes add up, even when one of them has begun anew; gauges stay
what they are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from engine.errors import EngineError
from engine.protocol.record import Owner
from engine.telemetry.quantiles import quantile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.telemetry.quantiles import Quantile

# The samples of one name, by their labels in the order of the labels' names.
Labels: TypeAlias = "tuple[tuple[str, str], ...]"
Scrape: TypeAlias = "Mapping[str, Mapping[Labels, float]]"

# How the names of samples end that only ever grow.
_GROWING = ("_total", "_count", "_sum", "_bucket")

# What every process of ours tells.
_KAFKA_UP = "seldon_kafka_up"

# A line of Prometheus' text format, without the time that we do not write.
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")

# How much of a line is told that is none.
_QUOTED = 60

# Codes of calls that were answered, and how calls come that a caller has made.
_FINE = {"200", "OK"}
_CALLERS = {"rest", "grpc"}


class NoFigures(EngineError):
    """What was read is no page of figures of this product."""


@dataclass(frozen=True, slots=True)
class Row:
    """How a pipeline, a step of it, a model or an experiment is doing; None where that is not told of its kind.

    kind       pipeline, step, model or experiment
    requests   requests per second
    p50, p99   of a pipeline, a model and an experiment as callers of the gateway met it, of a step its model's time
    failed     per second
    lag        records on its topics that are not finished
    """

    kind: str
    name: str
    requests: float
    failed: float
    p50: Quantile | None = None
    p99: Quantile | None = None
    lag: float | None = None
    in_flight: float | None = None


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of gateways: per second, of them those that failed by their codes, and how many are being answered."""

    rate: float
    failed: Mapping[str, float]
    in_flight: float
    kafka: bool


def parse(text: str) -> Scrape:
    """One process' figures. Raises NoFigures for anything else.

    The library's parser takes five times as long: of 200 pipelines with five steps a second and more.
    """
    found: dict[str, dict[Labels, float]] = defaultdict(dict)
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        sample = _SAMPLE.fullmatch(line)
        try:
            name, labels, value = sample.groups() if sample else ("", "", "")
            found[name][_labels(labels or "")] = float(value)
        except ValueError:
            raise NoFigures(f"it is not in Prometheus' text format: {line[:_QUOTED]!r}") from None
    if _KAFKA_UP not in found:
        raise NoFigures(f"it has no {_KAFKA_UP}")
    return found


def _labels(text: str) -> Labels:
    return tuple(
        sorted(
            (name, _ESCAPED.sub(_unescape, value) if "\\" in value else value) for name, value in _LABEL.findall(text)
        )
    )


def _unescape(match: re.Match[str]) -> str:
    return "\n" if match[1] == "n" else match[1]


def change(before: Scrape, after: Scrape, seconds: float) -> Scrape:
    """What has happened in a process per second; what has begun anew counts from nothing, and gauges stay."""
    return {
        name: {
            labels: _grown(before.get(name, {}).get(labels, 0.0), value) / seconds if name.endswith(_GROWING) else value
            for labels, value in samples.items()
        }
        for name, samples in after.items()
    }


def together(changes: Sequence[Scrape]) -> Scrape:
    """Those of several processes as one; the broker is there for all of them or is away."""
    found: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
    for each in changes:
        for name, samples in each.items():
            for labels, value in samples.items():
                found[name][labels] += value
    if changes:
        found[_KAFKA_UP] = {(): min(min(each[_KAFKA_UP].values()) for each in changes)}
    return found


def calls(figures: Scrape) -> Calls:
    """What the gateways among the processes do, whomever is called."""
    failed: dict[str, float] = defaultdict(float)
    rate = 0.0
    for owner in (Owner.PIPELINE, Owner.MODEL, Owner.EXPERIMENT):
        for labels, value in _samples(figures, f"seldon_{owner}_infer_total"):
            if labels["method_type"] in _CALLERS:
                rate += value
                if value and labels["code"] not in _FINE:
                    failed[labels["code"]] += value
    in_flight = sum(value for _, value in _samples(figures, "seldon_gateway_requests_in_flight"))
    return Calls(rate, failed, in_flight, kafka=bool(figures[_KAFKA_UP][()]))


def rows(figures: Scrape) -> list[tuple[Row, ...]]:
    """Pipelines by name, each with its steps behind it, then models and experiments that were called by themselves."""
    return [*_pipelines(figures), *_called(figures, Owner.MODEL), *_called(figures, Owner.EXPERIMENT)]


def _pipelines(figures: Scrape) -> Iterator[tuple[Row, ...]]:
    names = ("pipeline",)
    taken = _sums(figures, "seldon_pipeline_requests_total", names)
    unanswered = _sums(figures, "seldon_pipeline_requests_unanswered_total", names)
    in_flight = _sums(figures, "seldon_pipeline_requests_in_flight", names)
    lag = _sums(figures, "seldon_pipeline_lag_records", names)
    asked = _buckets(figures, "seldon_pipeline_infer_api_seconds", names)
    # The gateway's own figures are all there is where no worker is among the processes.
    called = _sums(figures, "seldon_pipeline_infer_total", names)
    steps = _steps(figures)
    for key in sorted({*taken, *lag} or {key for key in called if key[0]}):
        buckets = asked.get(key, ())
        requests = taken.get(key) if taken else called.get(key)
        pipeline = Row(
            "pipeline",
            key[0],
            requests or 0.0,
            unanswered.get(key, 0.0),
            quantile(0.5, buckets),
            quantile(0.99, buckets),
            lag.get(key),
            in_flight.get(key),
        )
        yield (pipeline, *steps.get(key[0], ()))


def _steps(figures: Scrape) -> dict[str, list[Row]]:
    names = ("pipeline", "step")
    took = _buckets(figures, "seldon_pipeline_step_seconds", names)
    failed = _sums(figures, "seldon_pipeline_step_errors_total", names)
    found: dict[str, list[Row]] = defaultdict(list)
    # In the order in which they were first run, which is roughly that of the pipeline.
    for pipeline, step in dict.fromkeys([*took, *failed]):
        if (pipeline, step) not in took and step == pipeline:
            continue  # no step is at fault
        buckets = took.get((pipeline, step), ())
        rate = buckets[-1][1] if buckets else 0.0
        errors = failed.get((pipeline, step), 0.0)
        found[pipeline].append(Row("step", step, rate, errors, quantile(0.5, buckets), quantile(0.99, buckets)))
    return found


def _called(figures: Scrape, owner: Owner) -> Iterator[tuple[Row, ...]]:
    name = str(owner)
    asked = _buckets(figures, f"seldon_{owner}_infer_api_seconds", (name,), _CALLERS)
    lag = _sums(figures, f"seldon_{owner}_lag_records", (name,))
    failed: dict[str, float] = defaultdict(float)
    for labels, value in _samples(figures, f"seldon_{owner}_infer_total"):
        if labels["method_type"] in _CALLERS and labels["code"] not in _FINE:
            failed[labels[name]] += value
    for key in sorted({*asked, *(key for key, behind in lag.items() if behind)}):
        if not key[0]:
            continue  # calls of names that are not known
        buckets = asked.get(key, ())
        rate = buckets[-1][1] if buckets else 0.0
        p50, p99 = quantile(0.5, buckets), quantile(0.99, buckets)
        yield (Row(name, key[0], rate, failed[key[0]], p50, p99, lag.get(key)),)


def _grown(before: float, after: float) -> float:
    return after - before if after >= before else after


def _samples(figures: Scrape, name: str) -> Iterator[tuple[dict[str, str], float]]:
    for labels, value in figures.get(name, {}).items():
        yield dict(labels), value


def _sums(figures: Scrape, name: str, by: tuple[str, ...]) -> dict[tuple[str, ...], float]:
    """The samples of a name, those with the same values of some labels as one."""
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for labels, value in _samples(figures, name):
        found[tuple(labels[each] for each in by)] += value
    return dict(found)


def _buckets(
    figures: Scrape, name: str, by: tuple[str, ...], methods: set[str] | None = None
) -> dict[tuple[str, ...], list[tuple[float, float]]]:
    """A histogram's bounds with what lies below each, for each value of some labels."""
    found: dict[tuple[str, ...], dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for labels, value in _samples(figures, f"{name}_bucket"):
        if methods is None or labels["method"] in methods:
            found[tuple(labels[each] for each in by)][float(labels["le"])] += value
    return {key: sorted(bounds.items()) for key, bounds in found.items()}
