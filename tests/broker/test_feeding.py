"""Pipelines that feed pipelines: chained, joined by key and gated, on real brokers."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from product import Product, infer, inputs, message, seldon, values, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from topics import Headers, Kafka, Seen, Tap

    SeldonUp = Callable[..., Product]

MODULE = """\
from engine.errors import InvalidInput


def plus(INPUT):
    if INPUT[0] == 13:
        raise InvalidInput("no thirteens")
    return {"SUM": INPUT + 1}


def times(INPUT):
    return {"PRODUCT": INPUT * 10}


def both(SUM, PRODUCT):
    return {"BOTH": SUM * 1000 + PRODUCT}


def same(SUM):
    return {"SAME": SUM}


def either(SUM=None, PRODUCT=None):
    return {"GIVEN": (0 if SUM is None else SUM) + (0 if PRODUCT is None else PRODUCT)}
"""

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n"


def model(name: str) -> str:
    return HEAD.format(kind="Model", name=name) + f"  storageUri: python:feeding_models:{name}\n"


def pipeline(name: str, step: str, feed: str = "") -> str:
    """A pipeline of one step, with what it reads of others."""
    spec = f"  steps: [{{name: {step}}}]\n  output: {{steps: [{step}]}}\n"
    return HEAD.format(kind="Pipeline", name=name) + (f"  input: {feed}\n" if feed else "") + spec


RESOURCES = [
    *map(model, ("plus", "times", "both", "same", "either")),
    pipeline("sums", "plus"),
    pipeline("products", "times"),
    pipeline("after", "same", "{externalInputs: [sums]}"),
    pipeline("of-step", "same", "{externalInputs: [sums.step.plus.outputs.SUM]}"),
    pipeline("pairs", "both", "{externalInputs: [sums, products.outputs.PRODUCT], joinWindowMs: 20000}"),
    pipeline("gated", "same", "{externalInputs: [sums], externalTriggers: [products], joinWindowMs: 20000}"),
    pipeline("outer", "either", "{externalInputs: [sums, products], joinType: outer, joinWindowMs: 1500}"),
    pipeline("first", "either", "{externalInputs: [sums, products], joinType: any, joinWindowMs: 5000}"),
]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "feeding"
    folder.mkdir()
    (folder / "feeding_models.py").write_text(MODULE)
    path = folder / "feeding.yaml"
    path.write_text("---\n".join(RESOURCES))
    return path


@pytest.fixture
def running(seldon_up: SeldonUp, files: Path) -> Iterator[Product]:
    product = seldon_up("up", files).start()
    yield product
    product.stop()


@pytest.fixture
def topic(namespace: str) -> Callable[..., str]:
    return lambda name, side="outputs": f"seldon.{namespace}.pipeline.{name}.{side}"


def request(number: int, key: str | None = None) -> tuple[bytes, bytes | None, Headers]:
    identity = str(number) if key is None else key
    headers: Headers = [("x-request-id", identity.encode())]
    return message(INPUT=[number]).SerializeToString(), identity.encode(), headers


def send(kafka: Kafka, topic: Callable[..., str], name: str, *numbers: int) -> None:
    kafka.send_many(topic(name, "inputs"), [request(number) for number in numbers])


def answers(tap: Tap, count: int, tensor: str) -> dict[str, list[int]]:
    """The answers of `count` requests by their ids, each of which came once."""
    seen = tap.until(lambda tap: len(tap.seen) >= count, f"{count} answers")
    found = {record.request_id or "": values(record.response, tensor) for record in seen}
    assert len(found) == len(seen), "a request was answered twice"
    return found


def test_a_pipeline_runs_what_another_answered_under_its_id_and_key(
    running: Product, kafka: Kafka, topic: Callable[..., str]
) -> None:
    with kafka.tap(topic("after"), topic("after", "inputs")) as tap:
        answer = infer(
            running.address, "pipelines/sums", inputs(INPUT=[4]), [("x-request-id", "chained"), ("x-any", "1")]
        )
        assert answer.output("SUM") == [5], answer
        fed, answered = sorted(tap.of("chained", 2), key=lambda record: record.topic)
    assert values(answered.response, "SAME") == [5]
    assert fed.key == answered.key
    assert fed.partition == answered.partition
    assert fed.header("pipeline") == "after"
    assert fed.header("x-any") == "1"
    assert fed.header("seldon-reply") is None, "the caller of another pipeline waits for that one's answer alone"


def test_a_step_of_a_pipeline_feeds_a_pipeline(running: Product, kafka: Kafka, topic: Callable[..., str]) -> None:
    assert running.running
    with kafka.tap(topic("of-step")) as tap:
        send(kafka, topic, "sums", 1, 2, 3)
        assert answers(tap, 3, "SAME") == {"1": [2], "2": [3], "3": [4]}


def test_a_pipeline_that_others_feed_can_be_called(running: Product) -> None:
    assert infer(running.address, "pipelines/after", inputs(SUM=[7])).output("SAME") == [7]
    assert infer(running.address, "pipelines/pairs", inputs(SUM=[7], PRODUCT=[8])).output("BOTH") == [7008]


def test_answers_of_two_pipelines_meet_by_their_key(running: Product, kafka: Kafka, topic: Callable[..., str]) -> None:
    assert running.running
    numbers = [number for number in range(300) if number != 13]
    with kafka.tap(topic("pairs")) as tap:
        send(kafka, topic, "sums", *numbers)
        send(kafka, topic, "products", *reversed(numbers))
        found = answers(tap, len(numbers), "BOTH")
    assert found == {str(number): [(number + 1) * 1000 + 10 * number] for number in numbers}


def test_equal_keys_pair_in_their_order(running: Product, kafka: Kafka, topic: Callable[..., str]) -> None:
    assert running.running
    with kafka.tap(topic("pairs")) as tap:
        for number in (1, 2, 3):
            kafka.send_many(topic("sums", "inputs"), [request(number, "equal")])
            kafka.send_many(topic("products", "inputs"), [request(number, "equal")])
        seen = tap.until(lambda tap: len(tap.seen) >= 3, "three answers")
    assert [values(record.response, "BOTH") for record in seen] == [[2010], [3020], [4030]]


def test_a_trigger_of_another_pipeline_gates(running: Product, kafka: Kafka, topic: Callable[..., str]) -> None:
    assert running.running
    with kafka.tap(topic("gated")) as tap:
        send(kafka, topic, "sums", 1, 2)
        send(kafka, topic, "products", 2)
        assert answers(tap, 1, "SAME") == {"2": [3]}


def test_an_outer_join_goes_on_alone_when_its_window_has_passed(
    running: Product, kafka: Kafka, topic: Callable[..., str]
) -> None:
    assert running.running
    with kafka.tap(topic("outer")) as tap:
        send(kafka, topic, "sums", 1, 2)
        send(kafka, topic, "products", 2)
        assert answers(tap, 2, "GIVEN") == {"1": [2], "2": [23]}


def test_an_any_join_goes_on_with_the_first_and_never_again(
    running: Product, kafka: Kafka, topic: Callable[..., str]
) -> None:
    assert running.running
    with kafka.tap(topic("first"), topic("products")) as tap:
        send(kafka, topic, "sums", 1)
        tap.until(lambda tap: _on(tap, topic("first")) == ["1"], "the answer of the first")
        send(kafka, topic, "products", 1, 2)
        tap.until(lambda tap: set(_on(tap, topic("first"))) >= {"1", "2"}, "the answer of another request")
    assert sorted(_on(tap, topic("first"))) == ["1", "2"]


def _on(tap: Tap, topic: str) -> list[str | None]:
    return [record.request_id for record in tap.seen if record.topic == topic]


def test_an_error_of_a_pipeline_does_not_reach_those_that_it_feeds(
    running: Product, kafka: Kafka, topic: Callable[..., str]
) -> None:
    assert running.running
    with kafka.tap(topic("after"), topic("sums")) as tap:
        send(kafka, topic, "sums", 13, 14)
        tap.until(lambda tap: {"13", "14"} <= set(_on(tap, topic("sums"))), "both of the first pipeline")
        tap.until(lambda tap: bool(_on(tap, topic("after"))), "the good one")
    assert _on(tap, topic("after")) == ["14"]


def test_a_record_without_a_key_is_told_of_where_it_cannot_be_joined(
    running: Product, kafka: Kafka, namespace: str, topic: Callable[..., str]
) -> None:
    assert running.running

    def told(tap: Tap) -> list[Seen]:
        return [record for record in tap.seen if record.request_id == "keyless" and record.topic.endswith("errors")]

    with kafka.tap(f"seldon.{namespace}.errors.errors", topic("after")) as tap:
        kafka.send(
            topic("sums", "inputs"), message(INPUT=[1]).SerializeToString(), headers=[("x-request-id", b"keyless")]
        )
        # Of the five pipelines that it feeds, one and a step's take it as it is.
        tap.until(lambda tap: len(told(tap)) == 4 and bool(_on(tap, topic("after"))), "four errors and an answer")
    assert {record.header("seldon-pipeline-errors") for record in told(tap)} == {"pairs", "gated", "outer", "first"}
    assert {record.error_code for record in told(tap)} == {"INVALID_ARGUMENT"}
    text = next(record.value or b"" for record in told(tap) if record.header("pipeline") == "pairs").decode()
    assert text.endswith('the record has no key, and pipeline "pairs" joins sums.outputs by it'), text


def test_what_waits_for_its_partner_outlives_a_kill(
    seldon_up: SeldonUp, kafka: Kafka, files: Path, topic: Callable[..., str]
) -> None:
    first = seldon_up("worker", files).start()
    numbers = [number for number in range(200) if number != 13]
    with kafka.all_of(topic("pairs")) as tap, kafka.all_of(topic("sums"), topic("products")) as answered:
        send(kafka, topic, "sums", *numbers)
        answered.until(lambda tap: len(tap.seen) >= len(numbers), "all sums")
        send(kafka, topic, "products", *numbers[:100])
        tap.until(lambda tap: len(tap.seen) >= 20, "the first pairs")
        first.process.send_signal(signal.SIGKILL)
        first.wait()
        second = seldon_up("worker", files).start()
        send(kafka, topic, "products", *numbers[100:])
        wanted = set(map(str, numbers))
        tap.until(lambda tap: {record.request_id for record in tap.seen} >= wanted, "a pair for each", 60)
    for record in tap.seen:
        number = int(record.request_id or "")
        assert values(record.response, "BOTH") == [(number + 1) * 1000 + 10 * number]
    second.stop()


def test_a_window_that_passes_while_no_worker_runs_ends_when_one_does(
    seldon_up: SeldonUp, kafka: Kafka, files: Path, topic: Callable[..., str]
) -> None:
    first = seldon_up("worker", files).start()
    with kafka.all_of(topic("outer")) as tap, kafka.all_of(topic("sums")) as answered:
        send(kafka, topic, "sums", 5)
        answered.one("5")
        first.process.send_signal(signal.SIGKILL)
        first.wait()
        second = seldon_up("worker", files).start()
        assert answers(tap, 1, "GIVEN") == {"5": [6]}
    second.stop()


def test_two_workers_join_what_is_spread_over_both(
    seldon_up: SeldonUp, kafka: Kafka, files: Path, topic: Callable[..., str]
) -> None:
    first, second = seldon_up("worker", files), seldon_up("worker", files)
    first.start()
    second.start()
    numbers = [number for number in range(100) if number != 13]
    with kafka.tap(topic("pairs")) as tap:
        send(kafka, topic, "products", *numbers)
        send(kafka, topic, "sums", *numbers)
        wanted = set(map(str, numbers))
        tap.until(lambda tap: {record.request_id for record in tap.seen} >= wanted, "a pair for each", 40)
    first.stop()
    second.stop()


def test_a_topic_with_another_partition_count_is_refused_with_its_name_and_only_its_readers(
    seldon_up: SeldonUp, broker: str, namespace: str, files: Path, topic: Callable[..., str]
) -> None:
    admin = AdminClient({"bootstrap.servers": broker})
    admin.create_topics([NewTopic(topic("sums"), 3, 1)])[topic("sums")].result(20)
    worker = seldon_up("worker", files, partitions=2).launch()

    def state(name: str) -> dict[str, str]:
        said = seldon("pipeline", "status", name, "--kafka-broker", broker, "--namespace", namespace)
        found: dict[str, str] = json.loads(said.out)["versions"][0]["state"] if said.code == 0 else {}
        return found

    wait_until(lambda: state("pairs").get("status") == "PipelineFailed", "the pipeline that reads it has failed", 40)
    for name in ("sums", "pairs"):
        assert state(name)["reason"].startswith(f"topic {topic('sums')} has 3 partitions and the namespace 2"), name
    wait_until(lambda: state("products").get("status") == "PipelineReady", "its neighbours run", 40)
    worker.kill()
