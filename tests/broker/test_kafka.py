"""Asynchronous requests: records produced and read back by a client that nobody here wrote."""

from __future__ import annotations

import json
import struct
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from product import infer, inputs, message, values

from engine.protocol import rest_json
from engine.protocol.messages import InferTensorContents, ModelInferRequest, ModelInferResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from product import Product
    from topics import Headers, Kafka, Seen

    TopicOf = Callable[..., str]

pytestmark = pytest.mark.usefixtures("product")

ROW = list(range(1, 17))
CHAIN = ([2 * value for value in ROW], [2 * value for value in ROW])

# Ours are added behind a caller's.
OURS = ("x-request-id", "pipeline", "x-pipeline-version", "seldon-step")


def theirs(record: Seen) -> Headers:
    return [pair for pair in record.headers if pair[0] not in OURS]


def iris() -> bytes:
    request = ModelInferRequest()
    request.inputs.add(
        name="predict",
        datatype="FP32",
        shape=[1, 4],
        contents=InferTensorContents(fp32_contents=[5.1, 3.5, 1.4, 0.2]),
    )
    return bytes(request.SerializeToString())


def test_a_model_answers_with_the_producers_headers_and_key(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    headers: Headers = [
        ("x-request-id", request_id.encode()),
        ("tenant", b"blue"),
        ("X-Trace", b"1"),
        ("tenant", b"green"),
        ("binary", bytes(range(256))),
        ("nothing", None),
        ("tenant", b"blue"),
    ]
    with kafka.tap(topic("model", "iris", "outputs")) as outputs:
        partition, _ = kafka.send(topic("model", "iris", "inputs"), iris(), key=b"my key", headers=headers, partition=3)
        record = outputs.one(request_id)
    assert list(record.response.outputs[0].shape)[:1] == [1], record
    assert (record.key, record.partition) == (b"my key", partition)
    assert [pair for pair in record.headers if pair[0] not in OURS[1:]] == headers


def test_a_pipeline_answers_with_the_producers_headers_and_key(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    headers: Headers = [("a", b"1"), ("x-request-id", request_id.encode()), ("X-foo", b"bar"), ("a", b"2")]
    with kafka.tap(topic("pipeline", "tfsimples", "outputs")) as outputs:
        value = message(id="mine", INPUT0=ROW, INPUT1=ROW).SerializeToString()
        partition, _ = kafka.send(topic("pipeline", "tfsimples", "inputs"), value, key=b"k", headers=headers)
        record = outputs.one(request_id)
    assert (values(record.response, "OUTPUT0"), values(record.response, "OUTPUT1")) == CHAIN
    assert record.response.id == "mine"
    assert (record.key, record.partition) == (b"k", partition)
    assert theirs(record) == [pair for pair in headers if pair[0] != "x-request-id"]
    assert record.header("pipeline") == "tfsimples", record
    assert record.header("x-pipeline-version"), record


def test_a_record_without_key_or_headers_gets_an_id_and_stays_on_its_partition(kafka: Kafka, topic: TopicOf) -> None:
    with kafka.tap(topic("pipeline", "echoes", "outputs")) as outputs:
        value = message(id="no headers", INPUT=[7]).SerializeToString()
        partition, _ = kafka.send(topic("pipeline", "echoes", "inputs"), value, partition=1)
        outputs.until(lambda tap: any(b"no headers" in (r.value or b"") for r in tap.seen), "the answer")
    record = next(record for record in outputs.seen if record.response.id == "no headers")
    assert (record.key, record.partition) == (None, partition)
    assert len(record.request_id or "") == 20, record


def test_every_topic_of_a_chain_is_written_with_its_headers(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    steps = [topic("model", step, side) for step in ("tfsimple1", "tfsimple2") for side in ("inputs", "outputs")]
    answers = topic("pipeline", "tfsimples", "outputs")
    with kafka.tap(*steps, answers) as chain:
        value = message(INPUT0=ROW, INPUT1=ROW).SerializeToString()
        headers: Headers = [("x-request-id", request_id.encode()), ("X-foo", b"bar")]
        partition, _ = kafka.send(
            topic("pipeline", "tfsimples", "inputs"), value, key=b"k", headers=headers, partition=2
        )
        records = {record.topic: record for record in chain.of(request_id, 5)}
    assert set(records) == {*steps, answers}
    for name, record in records.items():
        step = name.split(".")[3] if name != answers else None
        assert (record.key, record.partition) == (b"k", partition), record
        assert theirs(record) == [("X-foo", b"bar")], record
        assert record.all("x-request-id") == [request_id.encode()], record
        assert record.all("pipeline") == [b"tfsimples"], record
        assert len(record.all("x-pipeline-version")) == 1, record
        assert record.all("seldon-step") == ([step.encode()] if step else []), record
    between = ModelInferRequest.FromString(records[steps[2]].value)
    assert (between.model_name, [tensor.name for tensor in between.inputs]) == ("tfsimple2", ["INPUT0", "INPUT1"])


def test_a_waiting_callers_headers_are_on_every_topic_too(
    product: Product, kafka: Kafka, topic: TopicOf, request_id: str
) -> None:
    steps = [topic("model", step, side) for step in ("tfsimple1", "tfsimple2") for side in ("inputs", "outputs")]
    ends = [topic("pipeline", "tfsimples", side) for side in ("inputs", "outputs")]
    with kafka.tap(*steps, *ends) as chain:
        sent = [("x-request-id", request_id), ("X-Foo", "bar"), ("X-Foo", "baz")]
        answer = infer(product.address, "pipelines/tfsimples", inputs(INPUT0=ROW, INPUT1=ROW), sent)
        assert answer.status == 200, answer
        records = chain.of(request_id, 6)
    assert {record.topic for record in records} == {*steps, *ends}
    for record in records:
        assert record.all("x-foo") == [b"bar", b"baz"], record
        assert record.key == f"tfsimples.{request_id}".encode(), record


def test_a_record_that_names_another_pipeline_is_passed_over(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    value = message(INPUT=[1]).SerializeToString()
    with kafka.tap(topic("pipeline", "echoes", "outputs")) as outputs:
        for name, id_ in (("strict", "other"), ("echoes", "own"), (None, "unnamed")):
            headers: Headers = [("x-request-id", f"{request_id}-{id_}".encode())]
            headers += [("pipeline", name.encode())] if name else []
            kafka.send(topic("pipeline", "echoes", "inputs"), value, headers=headers, partition=1)
        outputs.one(f"{request_id}-unnamed")
        outputs.one(f"{request_id}-own")
    # Same partition, and read before the two that were answered.
    assert not outputs.records_of(f"{request_id}-other")


def test_what_pipelines_write_of_their_steps_is_not_run_again(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    model = topic("model", "tfsimple1", "inputs")
    value = message(INPUT0=ROW, INPUT1=ROW).SerializeToString()
    ids = [f"{request_id}-{number}" for number in range(20)]
    with kafka.tap(model, topic("model", "tfsimple1", "outputs")) as both:
        for id_ in ids:
            headers: Headers = [("x-request-id", id_.encode())]
            kafka.send(topic("pipeline", "tfsimples", "inputs"), value, headers=headers, partition=0)
        for id_ in ids:
            both.of(id_, 2)
        # A record for the model alone, behind the steps' records: once it is answered, they were met.
        kafka.send(model, value, headers=[("x-request-id", request_id.encode())], partition=0)
        both.of(request_id, 2)
    found = Counter(record.topic.rpartition(".")[2] for id_ in ids for record in both.records_of(id_))
    assert found == {"inputs": 20, "outputs": 20}
    assert [record.header("pipeline") for record in both.records_of(request_id)] == [None, None]


@pytest.mark.parametrize("owner", [("pipeline", "echoes"), ("model", "echo")], ids=["pipeline", "model"])
def test_json_is_answered_in_kind(kafka: Kafka, topic: TopicOf, request_id: str, owner: tuple[str, str]) -> None:
    headers: Headers = [
        ("x-request-id", request_id.encode()),
        ("seldon-infer-type", b"json/inferModelRequest"),
        ("X-foo", b"bar"),
    ]
    with kafka.tap(topic(*owner, "outputs")) as outputs:
        kafka.send(topic(*owner, "inputs"), json.dumps({**inputs(INPUT=[1, 2]), "id": "j"}).encode(), headers=headers)
        record = outputs.one(request_id)
    assert record.error_code is None, record
    document = json.loads(record.value or b"")
    assert (document["id"], document["outputs"][0]["data"]) == ("j", [1, 2])
    assert record.header("seldon-infer-type") == "json/inferModelResponse"
    assert record.header("X-foo") == "bar"


# An answer of a model as a record of its outputs topic, its seldon-infer-type or none.
ANSWERS: dict[str, tuple[str, bytes | None]] = {
    "protobuf": ("proto", b"proto/InferModelResponse"),
    "protobuf without a type": ("proto", None),
    "JSON": ("json", b"json/inferModelResponse"),
    "JSON without a type": ("json", None),
}


@pytest.mark.parametrize("owner", [("pipeline", "echoes"), ("model", "echo")], ids=["pipeline", "model"])
@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_of_one_model_may_be_given_to_another(
    kafka: Kafka, topic: TopicOf, request_id: str, case: str, owner: tuple[str, str]
) -> None:
    form, infer_type = ANSWERS[case]
    answer = ModelInferResponse(model_name="other", id="mine", raw_output_contents=[struct.pack("<2i", 1, 2)])
    answer.outputs.add(name="INPUT", datatype="INT32", shape=[1, 2])
    value = rest_json.encode_response(answer) if form == "json" else answer.SerializeToString()
    headers: Headers = [("x-request-id", request_id.encode()), ("x-foo", b"bar")]
    headers += [] if infer_type is None else [("seldon-infer-type", infer_type)]
    with kafka.tap(topic(*owner, "outputs")) as outputs:
        kafka.send(topic(*owner, "inputs"), value, headers=headers)
        record = outputs.one(request_id)
    assert (record.error_code, record.header("x-foo")) == (None, "bar"), record
    if form == "json":
        document = json.loads(record.value or b"")
        assert (document["id"], document["outputs"][0]["data"]) == ("mine", [1, 2])
    else:
        assert (record.response.id, values(record.response, "OUTPUT")) == ("mine", [1, 2])


def test_a_thousand_records_at_once_are_each_answered_once(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    count = 1000
    records = [
        (
            message(INPUT0=[number] * 16, INPUT1=[1] * 16).SerializeToString(),
            str(number).encode(),
            [("x-request-id", f"{request_id}-{number}".encode())],
        )
        for number in range(count)
    ]
    ids = {f"{request_id}-{number}" for number in range(count)}
    with kafka.tap(topic("pipeline", "tfsimples", "outputs")) as outputs:
        kafka.send_many(topic("pipeline", "tfsimples", "inputs"), records)
        outputs.until(lambda tap: ids <= {r.request_id for r in tap.seen}, "all thousand ids", 30)
        # A last request on each partition: what was doubled would stand before its answer.
        for partition in range(4):
            last = f"{request_id}-last-{partition}"
            value = message(INPUT0=ROW, INPUT1=ROW).SerializeToString()
            headers: Headers = [("x-request-id", last.encode())]
            kafka.send(topic("pipeline", "tfsimples", "inputs"), value, headers=headers, partition=partition)
            outputs.one(last)
    found = Counter(record.request_id for record in outputs.seen if record.request_id in ids)
    assert {id_: times for id_, times in found.items() if times > 1} == {}
    for record in outputs.seen:
        if record.request_id in ids:
            number = int((record.request_id or "").rpartition("-")[2])
            assert values(record.response, "OUTPUT0") == [2 * number] * 16, record
            assert record.key == str(number).encode(), record


def test_only_the_branch_that_is_taken_has_records(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    branches = {"small": "add10", "large": "mul10"}
    names = [topic("model", model, side) for model in branches.values() for side in ("inputs", "outputs")]
    with kafka.tap(*names, topic("pipeline", "conditional", "outputs")) as tap:
        for data, id_ in (([1], "small"), ([500], "large"), ([2], "small2")):
            headers: Headers = [("x-request-id", f"{request_id}-{id_}".encode())]
            value = message(INPUT0=data).SerializeToString()
            kafka.send(topic("pipeline", "conditional", "inputs"), value, headers=headers, partition=2)
            tap.of(f"{request_id}-{id_}", 3)
    for branch, model in branches.items():
        found = {record.topic for record in tap.records_of(f"{request_id}-{branch}")}
        assert found == {
            topic("model", model, "inputs"),
            topic("model", model, "outputs"),
            topic("pipeline", "conditional", "outputs"),
        }


def test_a_branch_not_taken_leaves_no_record_on_the_outputs(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    ends = [topic("pipeline", "oneway", "outputs"), topic("errors", "errors")]
    with kafka.tap(*ends, topic("model", "pick", "outputs")) as tap:
        for data, id_ in (([500], "missed"), ([5], "taken")):
            headers: Headers = [("x-request-id", f"{request_id}-{id_}".encode())]
            value = message(INPUT=data).SerializeToString()
            kafka.send(topic("pipeline", "oneway", "inputs"), value, headers=headers, partition=0)
            tap.of(f"{request_id}-{id_}", 1 if id_ == "missed" else 2)
    assert [record.topic for record in tap.records_of(f"{request_id}-missed")] == [topic("model", "pick", "outputs")]


def test_a_pipeline_without_output_runs_for_records(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    with kafka.tap(topic("model", "echo", "outputs"), topic("pipeline", "silent", "outputs")) as tap:
        headers: Headers = [("x-request-id", request_id.encode())]
        kafka.send(topic("pipeline", "silent", "inputs"), message(INPUT=[3]).SerializeToString(), headers=headers)
        record = tap.one(request_id)
    assert (record.topic, values(record.response, "OUTPUT")) == (topic("model", "echo", "outputs"), [3])


def test_an_error_record_fed_to_a_pipeline_is_passed_over(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    with kafka.tap(topic("pipeline", "echoes", "outputs"), topic("errors", "errors")) as tap:
        for id_, value, more in (
            ("error", b"it failed", [("seldon-pipeline-errors", b"other")]),
            ("good", message(INPUT=[1]).SerializeToString(), []),
        ):
            headers: Headers = [("x-request-id", f"{request_id}-{id_}".encode()), *more]
            kafka.send(topic("pipeline", "echoes", "inputs"), value, headers=headers, partition=3)
        tap.one(f"{request_id}-good")
    assert not tap.records_of(f"{request_id}-error")
