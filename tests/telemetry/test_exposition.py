from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as text

from engine.errors import ModelFailed
from engine.protocol.record import Owner
from engine.telemetry.exposition import scrape
from engine.telemetry.figures import SIZES, STEP_SECONDS, Distribution, Figures, Group

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.telemetry.figures import Resource


class Member:
    """Of a consumer group, that is so far behind."""

    def __init__(self, behind: Mapping[Resource, int], waiting: int | None = None) -> None:
        self.seconds, self.sizes = Distribution(STEP_SECONDS), Distribution(SIZES)
        self.seconds.observe(0.004)
        self.sizes.observe(100)
        self._behind, self._waiting = behind, waiting

    async def measure(self) -> Group:
        return Group(self.seconds, self.sizes, 2, 3, self._behind, self._waiting)


async def samples(figures: Figures) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What a scraper reads, by name and labels."""
    body, _ = await scrape(figures, "text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text(body.decode())
        for sample in family.samples
    }


def labelled(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


async def test_calls_have_the_reference_names_and_labels() -> None:
    figures = Figures()
    figures.answered(Owner.PIPELINE, "fraud", "rest", "200", 0.02)
    figures.answered(Owner.PIPELINE, "fraud", "rest", "200", 0.04)
    figures.answered(Owner.MODEL, "score", "grpc", "OK", 1.5)
    found = await samples(figures)
    call = {"server": "pipeline-gateway", "pipeline": "fraud", "code": "200"}
    assert found[labelled("seldon_pipeline_infer_total", method_type="rest", **call)] == 2
    assert found[labelled("seldon_pipeline_infer_seconds_total", method_type="rest", **call)] == 0.06
    assert found[labelled("seldon_pipeline_infer_api_seconds_bucket", method="rest", le="0.025", **call)] == 1
    assert found[labelled("seldon_pipeline_infer_api_seconds_bucket", method="rest", le="+Inf", **call)] == 2
    assert found[labelled("seldon_pipeline_infer_api_seconds_count", method="rest", **call)] == 2
    model = {"server": "millrace", "server_replica": "0", "model": "score", "model_internal": "score"}
    assert found[labelled("seldon_model_infer_total", method_type="grpc", code="OK", **model)] == 1
    every = {"server": "pipeline-gateway", "method_type": "rest"}
    assert found[labelled("seldon_pipeline_aggregate_infer_total", **every)] == 2
    assert found[labelled("seldon_pipeline_aggregate_infer_seconds_total", **every)] == 0.06


async def test_sums_over_all_do_not_fall_when_a_pipeline_is_unloaded() -> None:
    loaded = {"fraud"}
    figures = Figures(lambda _, name: name in loaded)
    figures.answered(Owner.PIPELINE, "fraud", "grpc", "OK", 0.5)
    loaded.clear()
    found = await samples(figures)
    every = {"server": "pipeline-gateway", "method_type": "grpc"}
    assert found[labelled("seldon_pipeline_aggregate_infer_total", **every)] == 1
    assert not [name for name, labels in found if ("pipeline", "fraud") in labels]


async def test_a_pipelines_steps_show_their_time_their_batches_and_their_errors() -> None:
    figures = Figures()
    flow = figures.flow(Owner.PIPELINE, "fraud")
    flow.taken, flow.in_flight = 7, 2
    flow.step("score").seconds.observe(0.003, 7)
    flow.step("score").sizes.observe(7)
    flow.failed("score", ModelFailed("broke"))
    flow.ended_unanswered(ModelFailed("broke"))
    found = await samples(figures)
    step = {"pipeline": "fraud", "step": "score"}
    assert found[labelled("seldon_pipeline_requests_total", pipeline="fraud")] == 7
    assert found[labelled("seldon_pipeline_requests_in_flight", pipeline="fraud")] == 2
    assert found[labelled("seldon_pipeline_requests_unanswered_total", pipeline="fraud", code="INTERNAL")] == 1
    assert found[labelled("seldon_pipeline_step_errors_total", code="INTERNAL", **step)] == 1
    assert found[labelled("seldon_pipeline_step_seconds_bucket", le="0.005", **step)] == 7
    assert found[labelled("seldon_pipeline_step_seconds_bucket", le="0.0025", **step)] == 0
    assert found[labelled("seldon_pipeline_step_batch_requests_sum", **step)] == 7


async def test_groups_show_how_far_behind_they_are_and_how_their_checkpoints_go() -> None:
    figures = Figures()
    figures.groups["seldon.ns.pipeline.fraud"] = Member({(Owner.PIPELINE, "fraud"): 12}, waiting=4)
    figures.groups["seldon.ns.models"] = Member({(Owner.MODEL, "score"): 1, (Owner.EXPLAINER, "why"): 0})
    found = await samples(figures)
    assert found[labelled("seldon_pipeline_lag_records", pipeline="fraud")] == 12
    assert found[labelled("seldon_model_lag_records", model="score")] == 1
    assert found[labelled("seldon_explainer_lag_records", explainer="why")] == 0
    group = {"group": "seldon.ns.pipeline.fraud"}
    assert found[labelled("seldon_join_waiting_requests", **group)] == 4
    assert labelled("seldon_join_waiting_requests", group="seldon.ns.models") not in found
    assert found[labelled("seldon_checkpoint_seconds_count", **group)] == 1
    assert found[labelled("seldon_checkpoint_requests_sum", **group)] == 100
    assert found[labelled("seldon_checkpoint_failures_total", **group)] == 2
    assert found[labelled("seldon_group_rebalances_total", **group)] == 3


async def test_a_broker_that_does_not_answer_is_down() -> None:
    figures = Figures()
    assert (await samples(figures))[labelled("seldon_kafka_up")] == 1
    figures.kafka = lambda: "no broker answers at localhost:9092"
    assert (await samples(figures))[labelled("seldon_kafka_up")] == 0


async def test_scrapers_that_ask_for_openmetrics_get_it() -> None:
    figures = Figures()
    figures.answered(Owner.PIPELINE, "fraud", "rest", "200", 0.02)
    body, content_type = await scrape(figures, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    families = {family.name: family for family in openmetrics(body.decode())}
    assert families["seldon_pipeline_infer"].type == "counter"
    assert families["seldon_pipeline_infer_api_seconds"].type == "histogram"
