"""One call over several processes is one trace, as a collector that the test runs has it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from collector import Collector
from product import infer, inputs, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from collector import Seen
    from product import Product

    SeldonUp = Callable[..., Product]

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\n"
MODELS = "def double(INPUT):\n    return {'INPUT': INPUT * 2}\n"
PIPELINES = {
    "first": "{steps: [{name: double}], output: {steps: [double]}}",
    "second": "{input: {externalInputs: [first.outputs]}, steps: [{name: double}]}",
}
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SOON = 30.0


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as it:
        yield it


@pytest.fixture
def settings(tmp_path: Path, collector: Collector) -> dict[str, str]:
    path = tmp_path / "tracing.json"
    path.write_text(json.dumps({"otelExporterEndpoint": collector.address, "ratio": "0"}))
    return {"SELDON_TRACING_CONFIG_PATH": str(path), "OTEL_BSP_SCHEDULE_DELAY": "100"}


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    folder = tmp_path / "resources"
    folder.mkdir()
    (folder / "traced.py").write_text(MODELS)
    model = f"{HEAD}kind: Model\nmetadata: {{name: double}}\nspec: {{storageUri: 'python:traced:double'}}\n"
    pipelines = [
        f"---\n{HEAD}kind: Pipeline\nmetadata: {{name: {name}}}\nspec: {spec}\n" for name, spec in PIPELINES.items()
    ]
    path = folder / "resources.yaml"
    path.write_text("".join([model, *pipelines]))
    return path


def connected(collector: Collector, wanted: set[str]) -> dict[str, Seen]:
    """The spans of requests by their ids, as soon as those that are wanted and the parents of all are there."""

    def spans() -> dict[str, Seen]:
        return {span.id: span for span in collector.spans if "x-request-id" in span.attributes}

    def complete() -> bool:
        found = spans()
        names = {span.name for span in collector.spans}
        return wanted <= names and {span.parent for span in found.values()} <= {CALLER, *found}

    wait_until(complete, lambda: f"all spans of one trace\n{collector.spans}", SOON)
    return spans()


def test_one_call_is_one_connected_trace_from_the_gateway_through_pipelines_and_their_steps(
    seldon_up: SeldonUp, resources: Path, settings: dict[str, str], collector: Collector
) -> None:
    seldon_up("worker", resources, settings=settings).start()
    gateway = seldon_up("gateway", settings=settings).start()
    headers = [("traceparent", f"00-{TRACE}-{CALLER}-01"), ("x-request-id", "traced-1")]
    answer = infer(gateway.address, "pipelines/first", inputs(INPUT=[3]), headers)
    infer(gateway.address, "pipelines/first", inputs(INPUT=[4]))
    assert answer.status == 200
    wanted = {"infer first", "publish and wait", "run first", "step double", "run second", "checkpoint"}
    wait_until(lambda: len(collector.named("step double")) == 2, lambda: str(collector.spans), SOON)
    spans = connected(collector, wanted)
    # Of two calls only the one whose caller is traced is: the ratio is nothing.
    assert {span.trace for span in spans.values()} == {TRACE}
    assert {span.attributes["x-request-id"] for span in spans.values()} == {"traced-1"}
    assert len({span.instance for span in spans.values()}) == 2
    [run] = collector.named("run first")
    assert {"pipeline", "version", "partition", "offset"} <= set(run.attributes)
    assert run.id in {link for span in collector.named("checkpoint") for link in span.links}


def test_one_call_is_one_connected_trace_over_two_workers_of_which_one_calls_the_other(
    seldon_up: SeldonUp, resources: Path, settings: dict[str, str], collector: Collector, namespace: str, tmp_path: Path
) -> None:
    there = seldon_up("worker", resources, settings=settings, namespace=f"{namespace}b").start()
    door = seldon_up("gateway", settings=settings, namespace=f"{namespace}b").start()
    chain = tmp_path / "chain.yaml"
    chain.write_text(
        f"{HEAD}kind: Model\nmetadata: {{name: remote}}\nspec: {{storageUri: 'grpc://{door.address}/double'}}\n---\n"
        f"{HEAD}kind: Pipeline\nmetadata: {{name: chain}}\n"
        "spec: {steps: [{name: remote}], output: {steps: [remote]}}\n"
    )
    seldon_up("worker", chain, settings=settings).start()
    gateway = seldon_up("gateway", settings=settings).start()
    headers = [("traceparent", f"00-{TRACE}-{CALLER}-01"), ("x-request-id", "traced-1")]
    answer = infer(gateway.address, "pipelines/chain", inputs(INPUT=[3]), headers)
    assert answer.output("INPUT") == [6], there.said
    wanted = {"infer chain", "run chain", "step remote", "infer double", "run double", "step double"}
    spans = connected(collector, wanted)
    assert {span.trace for span in spans.values()} == {TRACE}
    assert {span.attributes["x-request-id"] for span in spans.values()} == {"traced-1"}
    [step], [call] = collector.named("step remote"), collector.named("infer double")
    assert call.parent == step.id
    # Two gateways and two workers.
    assert len({span.instance for span in spans.values()}) == 4


def test_a_collector_that_is_away_costs_no_request_and_no_end_and_is_told_once(
    seldon_up: SeldonUp, resources: Path, settings: dict[str, str], collector: Collector
) -> None:
    collector.__exit__()
    product = seldon_up("up", resources, settings={**settings, "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "0.1"}).start()
    headers = [("traceparent", f"00-{TRACE}-{CALLER}-01")]
    for number in range(20):
        assert infer(product.address, "pipelines/first", inputs(INPUT=[number]), headers).status == 200
    wait_until(lambda: product.err, "the collector in the log", SOON)
    product.stop()
    [line] = product.err.splitlines()
    assert line.endswith(f"the collector at {collector.address} takes no spans: they are dropped until it does")
