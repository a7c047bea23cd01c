"""What `/metrics` says of requests, compared with how many the test has made."""

from __future__ import annotations

import os
import signal
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from product import CALL_DEADLINE, Product, get, grpc_infer, infer, inputs, message, wait_until
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    SeldonUp = Callable[..., Product]
    Scraped = Mapping[tuple[str, frozenset[tuple[str, str]]], float]

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\n"
MODELS = """
def double(INPUT):
    return {"OUTPUT": INPUT * 2}


def positive(INPUT):
    if (INPUT < 0).any():
        raise ValueError("it is below zero")
    return {"OUTPUT": INPUT}
"""
CALLS, FAILURES = 12, 3
SOON = 20.0
# A broker is given twenty seconds to answer.
AWAY = 60.0
ANY_PORT = "127.0.0.1:0"


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    """Two models, and the pipeline that asks one after the other."""
    folder = tmp_path / "resources"
    folder.mkdir()
    (folder / "figured.py").write_text(MODELS)
    models = [
        f"{HEAD}kind: Model\nmetadata: {{name: {name}}}\nspec: {{storageUri: 'python:figured:{name}'}}\n---\n"
        for name in ("double", "positive")
    ]
    steps = "[{name: double}, {name: positive, inputs: [double], tensorMap: {double.outputs.OUTPUT: INPUT}}]"
    pipeline = (
        f"{HEAD}kind: Pipeline\nmetadata: {{name: flow}}\nspec:\n  steps: {steps}\n  output: {{steps: [positive]}}\n"
    )
    path = folder / "resources.yaml"
    path.write_text("".join([*models, pipeline]))
    return path


def scraped(address: str) -> Scraped:
    """What a scraper reads, by name and labels."""
    answer = get(address, "/metrics")
    assert answer.status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def total(figures: Scraped, name: str, **labels: str) -> float:
    """The sum of the samples of a name that have these labels."""
    return sum(
        value for (its, found), value in figures.items() if its == name and labels.items() <= dict(found).items()
    )


def until_read(address: str) -> Scraped:
    """The figures once everything that was sent is finished."""
    wait_until(
        lambda: [
            value
            for (name, _), value in scraped(address).items()
            if name == "seldon_pipeline_lag_records" and not value
        ],
        "the pipeline is behind no more",
        SOON,
    )
    return scraped(address)


def test_what_was_called_is_what_is_counted(seldon_up: SeldonUp, resources: Path) -> None:
    product = seldon_up("up", resources).start()
    for number in range(CALLS):
        infer(product.address, "pipelines/flow", inputs(INPUT=[number]))
        grpc_infer(product.address, message("flow.pipeline", INPUT=[number]))
    for _ in range(FAILURES):
        infer(product.address, "pipelines/flow", inputs(INPUT=[-1]))
        infer(product.address, "pipelines/nobody", inputs(INPUT=[1]))
    found = until_read(product.address)
    called = {"server": "pipeline-gateway", "pipeline": "flow"}
    assert total(found, "seldon_pipeline_infer_total", method_type="rest", code="200", **called) == CALLS
    assert total(found, "seldon_pipeline_infer_total", method_type="grpc", code="OK", **called) == CALLS
    assert total(found, "seldon_pipeline_infer_total", method_type="rest", code="500", **called) == FAILURES
    assert total(found, "seldon_pipeline_infer_total", code="404") == FAILURES
    assert not [labels for _, labels in found if ("pipeline", "nobody") in labels]
    every = 2 * CALLS + FAILURES
    assert total(found, "seldon_pipeline_requests_total", pipeline="flow") == every
    assert total(found, "seldon_pipeline_requests_in_flight", pipeline="flow") == 0
    assert total(found, "seldon_pipeline_requests_unanswered_total", pipeline="flow", code="INTERNAL") == FAILURES
    assert total(found, "seldon_pipeline_step_errors_total", step="positive", code="INTERNAL") == FAILURES
    assert total(found, "seldon_pipeline_step_seconds_count", step="double") == every
    assert total(found, "seldon_model_infer_total", model="positive", code="OK") == 2 * CALLS
    group = next(dict(labels)["group"] for name, labels in found if name == "seldon_checkpoint_requests_count")
    assert total(found, "seldon_checkpoint_requests_sum") == every, group
    assert total(found, "seldon_group_rebalances_total", group=group) >= 1
    assert total(found, "seldon_kafka_up") == 1
    assert total(found, "process_cpu_seconds_total") > 0


def test_a_worker_without_a_gateway_shows_its_figures_where_it_is_told_to(seldon_up: SeldonUp, resources: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    seldon_up("worker", resources, settings={"SELDON_METRICS_LISTEN": address}).start()
    gateway = seldon_up("gateway").start()
    infer(gateway.address, "pipelines/flow", inputs(INPUT=[1]))
    worker = until_read(address)
    assert total(worker, "seldon_pipeline_requests_total", pipeline="flow") == 1
    assert total(worker, "seldon_pipeline_infer_total") == 0
    assert total(scraped(gateway.address), "seldon_pipeline_infer_total", pipeline="flow") == 1
    assert get(address, "/v2/health/kafka").json == {"ready": True}


def test_scrapers_that_go_away_in_the_middle_of_an_answer_cost_nothing(seldon_up: SeldonUp, resources: Path) -> None:
    product = seldon_up("up", resources).start()
    host, _, port = product.address.rpartition(":")
    for number in range(20):
        with socket.create_connection((host, int(port)), CALL_DEADLINE) as scraper:
            # A connection that is reset rather than closed: nobody reads the rest.
            scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
            if number % 2:
                assert scraper.recv(1)
        assert infer(product.address, "pipelines/flow", inputs(INPUT=[number])).status == 200
    assert total(scraped(product.address), "seldon_gateway_requests_in_flight") == 0
    assert product.err == ""


def test_a_broker_that_freezes_is_told_of_in_words_until_it_goes_on(tmp_path: Path, resources: Path) -> None:
    product = Product(tmp_path / "up", "up", resources, "--listen", ANY_PORT, "--kafka-listen", ANY_PORT)
    try:
        address, number = product.start().address, product.process.pid
        (broker,) = map(int, Path(f"/proc/{number}/task/{number}/children").read_text().split())
        os.kill(broker, signal.SIGSTOP)
        try:
            wait_until(lambda: get(address, "/v2/health/kafka").status == 503, product.said, AWAY)
            told = get(address, "/v2/health/kafka").json["error"]
            assert told.startswith(f"no Kafka broker answers at {product.broker}")
            assert get(address, "/v2/health/ready").status == 200
        finally:
            os.kill(broker, signal.SIGCONT)
        wait_until(lambda: get(address, "/v2/health/kafka").json == {"ready": True}, product.said, AWAY)
        assert infer(address, "pipelines/flow", inputs(INPUT=[1])).status == 200
    finally:
        product.kill()
