"""What inspect shows: the choice of topics and records without a broker, and reading on one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiokafka
import pytest

from engine import inspect as inspection
from engine.errors import BrokerUnavailable, InvalidInput, UnknownResource
from engine.inspect import Source, TopicRecords, readable, resolve
from engine.inspect.latest import belongs, newest, of_latest_requests
from engine.kafka import client
from engine.kafka.view import View
from engine.protocol import messages
from engine.protocol.record import Record, Side, Topics
from engine.settings import Settings

if TYPE_CHECKING:
    from engine.protocol.record import Headers

TOPICS = Topics("seldon", "default")
PIPELINE = {
    "apiVersion": "mlops.seldon.io/v1alpha1",
    "kind": "Pipeline",
    "metadata": {"name": "chain"},
    # Written against the plan's order.
    "spec": {"steps": [{"name": "second", "inputs": ["first"]}, {"name": "first"}], "output": {"steps": ["second"]}},
}


@pytest.fixture
def view() -> View:
    view = View()
    envelope = {"resource": PIPELINE, "version": 1, "folder": "/"}
    view.resource_record(b"pipeline.chain", json.dumps(envelope).encode())
    assert list(view.resources) == [("pipeline", "chain")]
    return view


def record(  # a record with only what a test is about
    *, topic: str = "t", partition: int = 0, offset: int = 0, timestamp: int = 0, value: bytes = b"", **headers: str
) -> Record:
    pairs: Headers = tuple((name.replace("_", "-"), text.encode()) for name, text in headers.items())
    return Record(topic, partition, offset, timestamp, b"k", value, pairs)


def response(*, raw: bool = False) -> Any:
    message = messages.ModelInferResponse(model_name="m")
    for name in ("a", "b"):
        tensor = message.outputs.add(name=name, datatype="INT32", shape=[2])
        if raw:
            message.raw_output_contents.append(b"\1\0\0\0\2\0\0\0")
        else:
            tensor.contents.int_contents.extend([1, 2])
    return message


def names(view: View, expression: str) -> list[str]:
    return [source.topic for source in resolve(view, TOPICS, expression)[1]]


def test_a_pipeline_is_every_steps_topics_in_plan_order_then_its_own_then_errors(view: View) -> None:
    assert names(view, "chain") == [
        "seldon.default.model.first.inputs",
        "seldon.default.model.first.outputs",
        "seldon.default.model.second.inputs",
        "seldon.default.model.second.outputs",
        "seldon.default.pipeline.chain.inputs",
        "seldon.default.pipeline.chain.outputs",
        "seldon.default.errors.errors",
    ]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("chain.inputs", ["pipeline.chain.inputs"]),
        ("chain.outputs", ["pipeline.chain.outputs"]),
        ("chain.first", ["model.first.inputs", "model.first.outputs"]),
        ("chain.first.outputs", ["model.first.outputs"]),
        ("chain.first.outputs.OUT", ["model.first.outputs"]),
    ],
)
def test_an_expression_names_its_topics(view: View, expression: str, expected: list[str]) -> None:
    assert names(view, expression) == [f"seldon.default.{name}" for name in expected]


def test_a_tensors_name_may_hold_dots(view: View) -> None:
    assert [source.tensor for source in resolve(view, TOPICS, "chain.first.outputs.a.b")[1]] == ["a.b"]


def test_an_unknown_pipeline_is_refused_with_the_nearest_name(view: View) -> None:
    with pytest.raises(UnknownResource, match=r'no pipeline "chian" is loaded; did you mean "chain"\?'):
        resolve(view, TOPICS, "chian.first")


def test_an_unknown_step_is_refused_with_the_nearest_name(view: View) -> None:
    with pytest.raises(InvalidInput, match=r'pipeline "chain" has no step "zecond"; did you mean "second"\?'):
        resolve(view, TOPICS, "chain.zecond.outputs")


@pytest.mark.parametrize("expression", ["chain.first.output", "chain.first.x", "chain.inputs.", "chain.first."])
def test_an_expression_that_names_nothing_is_refused_with_what_to_write(view: View, expression: str) -> None:
    with pytest.raises(InvalidInput, match=r"write PIPELINE, PIPELINE\.STEP"):
        resolve(view, TOPICS, expression)


@pytest.mark.parametrize(
    ("headers", "unnamed", "expected"),
    [
        ((("pipeline", b"chain"),), False, True),
        ((("pipeline", b"other"),), False, False),
        ((("pipeline", b"other"),), True, False),
        ((), False, False),
        ((), True, True),
        ((("pipeline", None),), True, True),
    ],
)
def test_a_record_belongs_to_the_pipeline_that_its_header_names(
    headers: Headers, *, unnamed: bool, expected: bool
) -> None:
    assert belongs(headers, "chain", unnamed=unnamed) is expected


def test_only_the_pipelines_own_inputs_take_records_that_name_no_pipeline(view: View) -> None:
    unnamed = [source.topic for source in resolve(view, TOPICS, "chain")[1] if source.unnamed]
    assert unnamed == ["seldon.default.pipeline.chain.inputs"]


def test_the_last_records_are_the_newest_of_all_partitions_together() -> None:
    records = [record(partition=p, offset=o, timestamp=t) for p, o, t in ((0, 0, 5), (1, 0, 1), (0, 1, 7), (2, 0, 6))]
    assert [item.timestamp for item in newest(records, 2)] == [6, 7]


def test_an_old_error_is_not_shown_beside_the_last_request() -> None:
    found = [
        TopicRecords(Source("t", Side.INPUTS), (record(timestamp=9, x_request_id="new"),)),
        TopicRecords(Source("errors", None), (record(timestamp=1, x_request_id="old"),)),
    ]
    assert [len(item.records) for item in of_latest_requests(found, 1)] == [1, 0]
    assert [len(item.records) for item in of_latest_requests(found, 2)] == [1, 1]


def test_a_record_without_a_request_id_is_shown() -> None:
    found = [TopicRecords(Source("t", Side.INPUTS), (record(timestamp=1),))]
    assert of_latest_requests(found, 1) == found


@pytest.mark.parametrize("raw", [True, False])
def test_a_message_is_shown_with_typed_contents(*, raw: bool) -> None:
    shown = readable(record(value=response(raw=raw).SerializeToString()), Source("t", Side.OUTPUTS))
    assert shown["outputs"][0] == {
        "name": "a",
        "datatype": "INT32",
        "shape": ["2"],
        "contents": {"intContents": [1, 2]},
    }
    assert "rawOutputContents" not in shown


def test_one_tensor_is_shown_when_one_is_asked_for() -> None:
    value = response(raw=True).SerializeToString()
    shown = readable(record(value=value), Source("t", Side.OUTPUTS, tensor="b"))
    assert [tensor["name"] for tensor in shown["outputs"]] == ["b"]


def test_an_error_is_shown_as_text() -> None:
    failed = record(value=b"it broke", seldon_pipeline_errors="first")
    assert readable(failed, Source("t", Side.OUTPUTS)) == "it broke"
    assert readable(record(value=b"it broke"), Source("errors", None)) == "it broke"


@pytest.mark.parametrize("headers", [{}, {"seldon_infer_type": "json/inferModelRequest"}])
def test_json_on_a_topic_is_shown_as_the_message_it_is(headers: dict[str, str]) -> None:
    body = {"inputs": [{"name": "x", "datatype": "INT32", "shape": [1], "data": [3]}]}
    shown = readable(record(value=json.dumps(body).encode(), **headers), Source("t", Side.INPUTS))
    assert shown["inputs"][0]["contents"] == {"intContents": [3]}


def test_a_response_on_an_inputs_topic_is_shown_as_a_response() -> None:
    shown = readable(record(value=response(raw=True).SerializeToString()), Source("t", Side.INPUTS))
    assert [tensor["name"] for tensor in shown["outputs"]] == ["a", "b"]


def test_bytes_that_are_no_message_are_shown_as_text() -> None:
    assert readable(record(value=b"\xff\xfe"), Source("t", Side.INPUTS)) == "\\xff\\xfe"


async def produce(settings: Settings, topic: str, *sent: tuple[int, int, str, str]) -> None:
    """Partition, timestamp, pipeline, request id of each record."""
    producer = client.new_producer(settings)
    await producer.start()
    for partition, timestamp, pipeline, request_id in sent:
        headers = [("pipeline", pipeline.encode())] if pipeline else []
        headers.append(("x-request-id", request_id.encode()))
        await producer.send_and_wait(
            topic, request_id.encode(), key=b"k", partition=partition, timestamp_ms=timestamp, headers=headers
        )
    await producer.stop()


async def created(settings: Settings, *topics: str) -> None:
    topology = client.Topology(settings)
    await topology.start()
    await topology.ensure(topics)
    await topology.stop()


async def ids(settings: Settings, view: View, expression: str, **choice: Any) -> list[list[str]]:
    found = await inspection.inspect(settings, expression, view=view, timeout=20, **choice)
    return [[(item.value or b"").decode() for item in topic.records] for topic in found.topics]


# When the first record of a test was written, in milliseconds.
T = 1_700_000_000_000


async def test_the_last_request_is_found_behind_the_records_of_others(broker: str, namespace: str, view: View) -> None:
    settings = Settings(kafka_broker=broker, namespace=namespace, partitions=3)
    topic = f"seldon.{namespace}.model.first.outputs"
    await created(settings, topic)
    others = [(1, T + 100 + n, "other", f"o{n}") for n in range(40)]
    await produce(settings, topic, (0, T, "chain", "r0"), (1, T + 2, "chain", "r2"), (2, T + 1, "chain", "r1"), *others)
    assert await ids(settings, view, "chain.first.outputs") == [["r2"]]
    assert await ids(settings, view, "chain.first.outputs", offset=2) == [["r1", "r2"]]
    assert await ids(settings, view, "chain.first.outputs", request_id="r0") == [["r0"]]
    assert await ids(settings, view, "chain.first.outputs", request_id="o1") == [[]]
    assert await ids(settings, view, "chain.first.outputs", offset=None, since=T + 1) == [["r1", "r2"]]
    assert await ids(settings, view, "chain.first.outputs", offset=1, since=T + 1) == [["r2"]]


async def test_a_record_that_names_no_pipeline_is_shown_on_its_inputs(broker: str, namespace: str, view: View) -> None:
    settings = Settings(kafka_broker=broker, namespace=namespace, partitions=2)
    topic = f"seldon.{namespace}.pipeline.chain.inputs"
    await created(settings, topic)
    await produce(settings, topic, (0, T, "", "r0"), (1, T + 1, "other", "r1"))
    assert await ids(settings, view, "chain.inputs", offset=5) == [["r0"]]


async def test_looking_creates_no_topic(broker: str, namespace: str, view: View) -> None:
    settings = Settings(kafka_broker=broker, namespace=namespace, partitions=2)
    assert await ids(settings, view, "chain") == [[]] * 7
    with pytest.raises(UnknownResource):
        await inspection.inspect(settings, "chain", timeout=20)
    topology = client.Topology(settings)
    await topology.start()
    listed = await topology._admin.list_topics()
    await topology.stop()
    assert [name for name in listed if f".{namespace}." in name] == []


async def test_records_are_found_behind_a_transactions_marker(kafka_broker: str, namespace: str, view: View) -> None:
    settings = Settings(kafka_broker=kafka_broker, namespace=namespace, partitions=1)
    topic = f"seldon.{namespace}.model.first.outputs"
    await created(settings, topic)
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=kafka_broker, transactional_id=f"{namespace}-t")
    await producer.start()
    for number in range(2):
        async with producer.transaction():
            await producer.send_and_wait(topic, f"r{number}".encode(), headers=[("pipeline", b"chain")])
    await producer.stop()
    assert await ids(settings, view, "chain.first.outputs") == [["r1"]]
    assert await ids(settings, view, "chain.first.outputs", offset=2) == [["r0", "r1"]]


async def test_a_broker_that_is_not_there_is_told_of(view: View) -> None:
    with pytest.raises(BrokerUnavailable, match="--kafka-broker"):
        await inspection.inspect(Settings(kafka_broker="127.0.0.1:1"), "chain", view=view)
