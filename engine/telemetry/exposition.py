"""The figures of a process as Prometheus reads them: the reference's names where it has them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from engine.protocol.record import Owner
from engine.telemetry.figures import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from engine.telemetry.figures import Distribution, Figures, Flow, Group

    Answered: TypeAlias = "tuple[tuple[str, str, str], Distribution]"

# Who answers. The reference's dashboards ask for the first.
_SERVERS = {Owner.PIPELINE: "pipeline-gateway", Owner.MODEL: "millrace", Owner.EXPERIMENT: "millrace"}


async def scrape(figures: Figures, accept: str) -> tuple[bytes, str]:
    """The figures in the format that a scraper accepts, and its content type."""
    figures.forget()
    members = dict(figures.groups)
    measured = await asyncio.gather(*(member.measure() for member in members.values()))
    encode, content_type = choose_encoder(accept)
    told = _Told(figures, dict(zip(members, measured, strict=True)))
    # Hundreds of pipelines take a while, in which requests go on.
    return await asyncio.to_thread(encode, told), content_type


def families(figures: Figures, groups: Mapping[str, Group]) -> Iterator[Metric]:
    """Every family, those without a sample included."""
    yield from _calls(figures)
    yield from _pipelines({name: flow for (owner, name), flow in [*figures.flows.items()] if owner is Owner.PIPELINE})
    yield from _groups(groups)
    yield _gauge("seldon_kafka_up", "Whether the broker answers: 1 or 0.", (), [((), 0 if figures.kafka() else 1)])


class _Told(Collector):
    """All that one scrape gets."""

    def __init__(self, figures: Figures, groups: Mapping[str, Group]) -> None:
        self._figures, self._groups = figures, groups

    def collect(self) -> Iterable[Metric]:
        yield from families(self._figures, self._groups)
        # Without a registry of its own: MLServer has what it tells of itself in the library's global one.
        yield from ProcessCollector(registry=None).collect()


def _calls(figures: Figures) -> Iterator[Metric]:
    for owner, answers in figures.answers.items():
        yield from _answers(owner, [*answers.items()])
        yield from _aggregates(owner, [*answers.items()], figures)
    yield _gauge(
        "seldon_gateway_requests_in_flight",
        "Calls that the gateway is answering.",
        ("method_type",),
        [((method,), count) for method, count in figures.calls.items()],
    )


def _answers(owner: Owner, answers: Sequence[Answered]) -> Iterator[Metric]:
    server = _SERVERS[owner]
    internal = ("model_internal", "server_replica") if owner is Owner.MODEL else ()
    names = ("server", str(owner), "method_type", "code", *internal)

    def labels(name: str, method: str, code: str) -> tuple[str, ...]:
        return (server, name, method, code, *((name, "0") if internal else ()))

    yield _counter(
        f"seldon_{owner}_infer",
        f"Calls of {owner}s.",
        names,
        [(labels(*key), seconds.count) for key, seconds in answers],
    )
    yield _counter(
        f"seldon_{owner}_infer_seconds",
        f"Seconds that calls of {owner}s took, together.",
        names,
        [(labels(*key), seconds.sum) for key, seconds in answers],
    )
    yield _histogram(
        f"seldon_{owner}_infer_api_seconds",
        f"Seconds that a call of a {owner} takes.",
        ("server", str(owner), "method", "code"),
        [((server, *key), seconds) for key, seconds in answers],
    )


def _aggregates(owner: Owner, answers: Sequence[Answered], figures: Figures) -> Iterator[Metric]:
    server = _SERVERS[owner]
    totals = {method: figures.forgotten.get((owner, method), (0, 0.0)) for method in METHODS}
    for (_, method, _), seconds in answers:
        count, total = totals[method]
        totals[method] = (count + seconds.count, total + seconds.sum)
    names = ("server", "method_type")
    yield _counter(
        f"seldon_{owner}_aggregate_infer",
        f"Calls of all {owner}s.",
        names,
        [((server, method), count) for method, (count, _) in totals.items()],
    )
    yield _counter(
        f"seldon_{owner}_aggregate_infer_seconds",
        f"Seconds that calls of all {owner}s took, together.",
        names,
        [((server, method), total) for method, (_, total) in totals.items()],
    )


def _pipelines(flows: Mapping[str, Flow]) -> Iterator[Metric]:
    one = ("pipeline",)
    yield _counter(
        "seldon_pipeline_requests",
        "Requests that workers have taken.",
        one,
        [((name,), flow.taken) for name, flow in flows.items()],
    )
    yield _gauge(
        "seldon_pipeline_requests_in_flight",
        "Requests that workers have taken and not finished.",
        one,
        [((name,), flow.in_flight) for name, flow in flows.items()],
    )
    yield _counter(
        "seldon_pipeline_requests_unanswered",
        "Requests that ended with an error.",
        ("pipeline", "code"),
        [((name, code), count) for name, flow in flows.items() for code, count in [*flow.unanswered.items()]],
    )
    yield _counter(
        "seldon_pipeline_step_errors",
        "Failures of a step, those included that did not cost a request its answer.",
        ("pipeline", "step", "code"),
        [((name, *key), count) for name, flow in flows.items() for key, count in [*flow.errors.items()]],
    )
    steps = [((name, step), figures) for name, flow in flows.items() for step, figures in [*flow.steps.items()]]
    yield _histogram(
        "seldon_pipeline_step_seconds",
        "Seconds that a step's model takes to answer a request.",
        ("pipeline", "step"),
        [(labels, figures.seconds) for labels, figures in steps],
    )
    yield _histogram(
        "seldon_pipeline_step_batch_requests",
        "Requests that a step's model gets at once.",
        ("pipeline", "step"),
        [(labels, figures.sizes) for labels, figures in steps],
    )


def _groups(groups: Mapping[str, Group]) -> Iterator[Metric]:
    behind = [(key, count) for group in groups.values() for key, count in group.behind.items()]
    for owner in (Owner.PIPELINE, Owner.MODEL, Owner.EXPLAINER):
        yield _gauge(
            f"seldon_{owner}_lag_records",
            f"Records on the topics that the {owner} reads here, which are not finished.",
            (str(owner),),
            [((name,), count) for (its, name), count in behind if its is owner],
        )
    one = ("group",)
    yield _gauge(
        "seldon_join_waiting_requests",
        "Requests that wait for their partners in a join of pipelines.",
        one,
        [((name,), group.waiting) for name, group in groups.items() if group.waiting is not None],
    )
    yield _histogram(
        "seldon_checkpoint_seconds",
        "Seconds until what a checkpoint holds is written.",
        one,
        [((name,), group.checkpoint_seconds) for name, group in groups.items()],
    )
    yield _histogram(
        "seldon_checkpoint_requests",
        "Requests in a checkpoint.",
        one,
        [((name,), group.checkpoint_requests) for name, group in groups.items()],
    )
    yield _counter(
        "seldon_checkpoint_failures",
        "Checkpoints that had to be tried again.",
        one,
        [((name,), group.checkpoint_failures) for name, group in groups.items()],
    )
    yield _counter(
        "seldon_group_rebalances",
        "How often the group has shared out its partitions anew, since its member here joined it.",
        one,
        [((name,), group.rebalances) for name, group in groups.items()],
    )


def _counter(name: str, text: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _histogram(
    name: str, text: str, labels: tuple[str, ...], samples: Iterable[tuple[tuple[str, ...], Distribution]]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, found in samples:
        below, buckets = 0, []
        for bound, count in zip((*map(str, found.bounds), "+Inf"), [*found.counts], strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric(values, buckets, found.sum)
    return family
