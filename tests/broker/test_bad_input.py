"""Bad input: one error on the errors topic, one on the outputs topic, and the partition goes on."""

from __future__ import annotations

import contextlib
import http.client
import json
import struct
from typing import TYPE_CHECKING

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from product import GrpcFailed, Product, grpc_infer, infer, inputs, message, values
from topics import Kafka

from engine.protocol.messages import ModelInferRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from topics import Headers

    TopicOf = Callable[..., str]

LIMIT = 100_000


def request_with(**fields: object) -> bytes:
    request = ModelInferRequest()
    tensor = request.inputs.add(**{"name": "INPUT", "datatype": "INT32", "shape": [1, 2], **fields})
    tensor.contents.int_contents.extend([1, 2])
    return bytes(request.SerializeToString())


def raw_of_wrong_size() -> bytes:
    request = ModelInferRequest(raw_input_contents=[b"\0" * 5])
    request.inputs.add(name="INPUT", datatype="INT32", shape=[1, 2])
    return bytes(request.SerializeToString())


# value, pipeline, model, the step that is named, the error's code, what its text must name
CASES: dict[str, tuple[bytes | None, str, str, str | None, str, str]] = {
    "not protobuf": (b"\xff\xfeno protobuf", "echoes", "echo", None, "INVALID_ARGUMENT", ""),
    "empty value": (b"", "echoes", "echo", None, "INVALID_ARGUMENT", "no inputs"),
    "null value": (None, "echoes", "echo", None, "INVALID_ARGUMENT", "no inputs"),
    "size is not shape": (request_with(shape=[1, 3]), "echoes", "echo", None, "INVALID_ARGUMENT", "INPUT"),
    "raw size is not shape": (raw_of_wrong_size(), "echoes", "echo", None, "INVALID_ARGUMENT", "INPUT"),
    "negative shape": (request_with(shape=[1, -2]), "echoes", "echo", None, "INVALID_ARGUMENT", "INPUT"),
    "huge shape": (request_with(shape=[1 << 40, 1 << 40]), "echoes", "echo", None, "INVALID_ARGUMENT", "INPUT"),
    "unknown datatype": (request_with(datatype="INT33"), "echoes", "echo", None, "INVALID_ARGUMENT", "INT33"),
    "JSON that is none": (b'{"inputs": [', "echoes", "echo", None, "INVALID_ARGUMENT", "JSON"),
    "JSON nested deeply": (b'{"inputs":' + b"[" * 3000, "echoes", "echo", None, "INVALID_ARGUMENT", "JSON"),
    "wrong tensor name": (request_with(name="WRONG"), "echoes", "echo", "echo", "INVALID_ARGUMENT", "WRONG"),
    "model refuses": (
        message(INPUT=[13]).SerializeToString(), "strict", "refuse", "refuse", "INVALID_ARGUMENT", "thirteen",
    ),
    "model raises": (
        message(INPUT=[13]).SerializeToString(), "fragile", "explode", "explode", "INTERNAL", "ValueError: thirteen",
    ),
    "model server is down": (message(INPUT=[1]).SerializeToString(), "cut", "gone", "gone", "UNAVAILABLE", ":1"),
}  # fmt: skip


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("owner", ["pipeline", "model"])
@pytest.mark.parametrize("case", CASES)
def test_it_gives_one_error_on_each_topic_and_the_partition_goes_on(
    kafka: Kafka, topic: TopicOf, request_id: str, case: str, owner: str
) -> None:
    value, pipeline, model, step, code, text = CASES[case]
    name = pipeline if owner == "pipeline" else model
    headers: Headers = [("x-request-id", request_id.encode()), ("mine", b"1"), ("mine", b"2")]
    after: Headers = [("x-request-id", f"{request_id}-after".encode())]
    with kafka.tap(topic(owner, name, "outputs"), topic("errors", "errors")) as tap:
        kafka.send(topic(owner, name, "inputs"), value, key=b"k", headers=headers, partition=3)
        tap.of(request_id, 2)
        good = message(INPUT=[1]).SerializeToString()
        kafka.send(topic(owner, name, "inputs"), good, headers=after, partition=3)
        follower = tap.one(f"{request_id}-after")
    errors = tap.records_of(request_id)
    assert {record.topic for record in errors} == {topic(owner, name, "outputs"), topic("errors", "errors")}
    assert len(errors) == 2, errors
    for record in errors:
        assert record.error_code == code, record
        assert record.header("seldon-pipeline-errors") == (step or name), record
        assert text in (record.value or b"").decode(), record
        assert (record.key, record.partition) == (b"k", 3), record
        assert record.all("mine") == [b"1", b"2"], record
    if name not in ("cut", "gone"):
        assert values(follower.response, "OUTPUT") == [1]


@pytest.mark.usefixtures("product")
def test_a_missing_tensor_is_told_by_the_step_that_wants_it(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    with kafka.tap(topic("pipeline", "tfsimples", "outputs"), topic("errors", "errors")) as tap:
        value = message(INPUT0=[1] * 16).SerializeToString()
        headers: Headers = [("x-request-id", request_id.encode())]
        kafka.send(topic("pipeline", "tfsimples", "inputs"), value, headers=headers)
        for record in tap.of(request_id, 2):
            assert (record.error_code, record.header("seldon-pipeline-errors")) == ("INVALID_ARGUMENT", "tfsimple1")
            assert b"INPUT1" in (record.value or b""), record


@pytest.mark.usefixtures("product")
def test_an_unknown_infer_type_is_told(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    with kafka.tap(topic("pipeline", "echoes", "outputs")) as tap:
        headers: Headers = [("x-request-id", request_id.encode()), ("seldon-infer-type", b"json/inferRequest")]
        kafka.send(topic("pipeline", "echoes", "inputs"), message(INPUT=[1]).SerializeToString(), headers=headers)
        record = tap.one(request_id)
    assert record.error_code == "INVALID_ARGUMENT", record
    assert b"json/inferModelRequest" in (record.value or b""), record


@pytest.mark.usefixtures("product")
def test_bad_records_among_good_ones_harm_none_of_them(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    good = message(INPUT=[1]).SerializeToString()
    bad = [value for value, pipeline, *_ in CASES.values() if pipeline == "echoes"]
    records = [
        (
            good if number % 2 else bad[number // 2 % len(bad)],
            None,
            [("x-request-id", f"{request_id}-{number}".encode())],
        )
        for number in range(120)
    ]
    with kafka.tap(topic("pipeline", "echoes", "outputs")) as tap:
        kafka.send_many(topic("pipeline", "echoes", "inputs"), records, partition=2)
        ids = {f"{request_id}-{number}" for number in range(120)}
        tap.until(lambda tap: ids <= {record.request_id for record in tap.seen}, "an answer or error for each")
    ours = [record for record in tap.seen if record.request_id in ids]
    assert len(ours) == 120
    for record in ours:
        is_good = int((record.request_id or "").rpartition("-")[2]) % 2
        assert (record.error_code is None) == bool(is_good), record


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize(
    "reply",
    [b"", b"nonsense", b"7.nobody.1", b"9999999.nobody.1", b"-1.nobody.1", b"1." * 500, b"\xff", None],
    ids=repr,
)
def test_a_foreign_reply_address_harms_nobody(
    kafka: Kafka, topic: TopicOf, request_id: str, reply: bytes | None
) -> None:
    headers: Headers = [("x-request-id", request_id.encode()), ("seldon-reply", reply)]
    after: Headers = [("x-request-id", f"{request_id}-after".encode())]
    with kafka.tap(topic("pipeline", "echoes", "outputs")) as tap:
        for pairs in (headers, after):
            value = message(INPUT=[1]).SerializeToString()
            kafka.send(topic("pipeline", "echoes", "inputs"), value, headers=pairs, partition=1)
        tap.one(request_id)
        tap.one(f"{request_id}-after")


@pytest.fixture
def small_limit(seldon_up: Callable[..., Product]) -> Product:
    """A product that takes messages of up to 100 kB."""
    from product import RESOURCES

    settings = {"SELDON_KAFKA_MAX_MESSAGE_SIZE_BYTES": str(LIMIT)}
    return seldon_up("up", RESOURCES / "resources.yaml", settings=settings).start()


def test_what_is_over_the_limit_is_refused_and_the_rest_goes_on(
    small_limit: Product, broker: str, namespace: str, request_id: str
) -> None:
    address = small_limit.address
    over = infer(address, "pipelines/echoes", inputs(INPUT=[1000000] * 20_000))
    assert over.status == 413, over
    assert str(LIMIT) in over.json["error"], over
    # 40 kB as JSON, and the limit only once it is a message of INT64.
    inside = infer(address, "pipelines/echoes", inputs("INT64", INPUT=[1] * 15_000))
    assert inside.status == 413, inside
    assert infer(address, "pipelines/echoes", inputs(INPUT=[1])).output("OUTPUT") == [1]
    inputs_topic = f"seldon.{namespace}.pipeline.echoes.inputs"
    with Kafka(broker) as kafka, kafka.tap(f"seldon.{namespace}.pipeline.echoes.outputs") as tap:
        for size, id_ in ((30_000, "over"), (10, "under")):
            headers: Headers = [("x-request-id", f"{request_id}-{id_}".encode())]
            value = message(INPUT=[1000000] * size).SerializeToString()
            kafka.send(inputs_topic, value, headers=headers, partition=0)
        error, answer = tap.one(f"{request_id}-over"), tap.one(f"{request_id}-under")
    # A model alone writes nothing of what it is given: it is the record itself that is refused.
    model = f"seldon.{namespace}.model.grow"
    with Kafka(broker) as kafka, kafka.tap(f"{model}.outputs") as tap:
        alone: Headers = [("x-request-id", f"{request_id}-alone".encode())]
        value = message(INPUT=[1] + [1000000] * 40_000).SerializeToString()
        kafka.send(f"{model}.inputs", value, headers=alone, partition=0)
        assert tap.one(f"{request_id}-alone").error_code == "RESOURCE_EXHAUSTED"
    assert error.error_code == "RESOURCE_EXHAUSTED", error
    assert answer.error_code is None, answer
    small_limit.stop()


def test_an_answer_over_the_limit_is_an_error_at_once_by_every_way(
    small_limit: Product, broker: str, namespace: str, request_id: str
) -> None:
    address = small_limit.address
    for target in ("models/grow", "pipelines/grows"):
        # Each number takes four bytes, and two as JSON; of 40,000 none does fit, of 15,000 both do.
        over = infer(address, target, inputs(INPUT=[40_000]))
        assert (over.status, over.seconds < 10) == (413, True), over
        assert str(LIMIT) in over.json["error"], over
        assert len(infer(address, target, inputs(INPUT=[15_000])).output("OUTPUT")) == 15_000
    for model in ("grow", "grows.pipeline"):
        with pytest.raises(GrpcFailed) as failed:
            grpc_infer(address, message(model, INPUT=[40_000]))
        assert failed.value.code == "RESOURCE_EXHAUSTED", failed.value
    # A request in direct JSON that is over the limit as a message.
    inside = infer(address, "models/echo", inputs("INT64", INPUT=[1] * 15_000))
    assert inside.status == 413, inside
    outputs = [f"seldon.{namespace}.{owner}.outputs" for owner in ("pipeline.grows", "model.grow")]
    with Kafka(broker) as kafka, kafka.tap(*outputs) as tap:
        for owner in ("pipeline.grows", "model.grow"):
            headers: Headers = [("x-request-id", f"{request_id}-{owner}".encode())]
            value = message(INPUT=[40_000]).SerializeToString()
            kafka.send(f"seldon.{namespace}.{owner}.inputs", value, headers=headers)
            assert tap.one(f"{request_id}-{owner}").error_code == "RESOURCE_EXHAUSTED"
    small_limit.stop()


def test_callers_that_leave_are_forgotten(product: Product) -> None:
    """Sixty callers who hang up: those who stay are answered, and nothing is left waiting."""
    body = json.dumps(inputs(INPUT=[200]))
    leaving = []
    for _ in range(60):
        connection = http.client.HTTPConnection(product.address, timeout=10)
        connection.request("POST", "/v2/pipelines/sleepy/infer", body, {"Content-Type": "application/json"})
        leaving.append(connection)
    for connection in leaving:
        with contextlib.suppress(OSError):
            connection.close()
    answer = infer(product.address, "pipelines/echoes", inputs(INPUT=[1]))
    assert answer.output("OUTPUT") == [1]
    assert answer.seconds < 5, f"others waited for those who left\n{answer}"


def in_unknown_codec(value: bytes) -> bytes:
    """A batch of one record that says it is compressed by the seventh codec, of which there are four."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1000)
    builder.append(0, None, b"k", value, [])
    batch = bytearray(builder.build())
    batch[22] |= 7  # the low byte of the attributes, which the checksum covers
    return summed(batch)


def with_nameless_header(value: bytes, request_id: bytes) -> bytes:
    """A batch of one record, of whose headers one has a name that is no text."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1000)
    builder.append(0, None, b"k", value, [("x-request-id", request_id), ("NAME", b"1")])
    return summed(builder.build().replace(b"NAME", b"x-\xff\xfe"))


def summed(batch: bytearray) -> bytes:
    """With the checksum of what it holds."""
    struct.pack_into(">I", batch, 17, calc_crc32c(bytes(batch[21:])))
    return bytes(batch)


async def produce(broker: str, topic: str, partition: int, batch: bytes) -> int:
    """Send a batch as it is; the broker's error, 0 for none."""
    client = AIOKafkaClient(bootstrap_servers=broker)
    await client.bootstrap()
    try:
        asked = ProduceRequest(None, -1, 5000, [(topic, [(partition, batch)])])
        answer = await client.send(client.get_random_node(), asked)
    finally:
        await client.close()
    [(_, [(_, code, *_)])] = answer.topics
    return int(code)


@pytest.mark.usefixtures("product")
async def test_a_batch_in_a_codec_that_nobody_knows_is_refused_to_who_sends_it_and_the_rest_goes_on(
    kafka: Kafka, broker: str, topic: TopicOf, request_id: str
) -> None:
    good = message(INPUT=[1]).SerializeToString()
    name = topic("pipeline", "echoes", "inputs")
    assert await produce(broker, name, 3, in_unknown_codec(good)) != 0
    with kafka.tap(topic("pipeline", "echoes", "outputs")) as tap:
        kafka.send(name, good, key=b"k", headers=[("x-request-id", request_id.encode())], partition=3)
        assert values(tap.one(request_id).response, "OUTPUT") == [1]


@pytest.mark.usefixtures("product")
async def test_a_header_whose_name_is_no_text_is_no_obstacle_to_its_request_nor_to_those_behind_it(
    kafka: Kafka, broker: str, topic: TopicOf, request_id: str
) -> None:
    good = message(INPUT=[1]).SerializeToString()
    name = topic("pipeline", "echoes", "inputs")
    with kafka.tap(topic("pipeline", "echoes", "outputs")) as tap:
        assert await produce(broker, name, 3, with_nameless_header(good, request_id.encode())) == 0
        kafka.send(name, good, key=b"k", headers=[("x-request-id", b"%b-2" % request_id.encode())], partition=3)
        answer = tap.one(request_id)
        assert values(answer.response, "OUTPUT") == [1]
        assert answer.header("x-\ufffd\ufffd") == "1"
        assert values(tap.one(f"{request_id}-2").response, "OUTPUT") == [1]
