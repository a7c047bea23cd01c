"""Callers who wait: REST and gRPC to models and pipelines, their headers, their errors, their deadlines."""

from __future__ import annotations

import json
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from product import (
    RESOURCES,
    GrpcFailed,
    Product,
    get,
    grpc_infer,
    http_call,
    infer,
    inputs,
    message,
    values,
    wait_until,
)

from engine.protocol import messages
from engine.protocol.messages import SERVICE

if TYPE_CHECKING:
    from collections.abc import Callable

    from topics import Kafka

ROW = list(range(1, 17))

# An error that could be known at once must not take a caller's whole patience, which is 30 s here.
SOON = 5.0


def chain(first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
    """What tfsimples gives: sum and difference of sum and difference."""
    total = [a + b for a, b in zip(first, second, strict=True)]
    difference = [a - b for a, b in zip(first, second, strict=True)]
    return (
        [a + b for a, b in zip(total, difference, strict=True)],
        [a - b for a, b in zip(total, difference, strict=True)],
    )


def unary(address: str, method: str, request: Any, answer: Any, metadata: tuple[tuple[str, str], ...] = ()) -> Any:
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{method}", type(request).SerializeToString, answer.FromString)
        return call(request, timeout=SOON, metadata=metadata)


def test_a_pipeline_answers_rest(product: Product) -> None:
    answer = infer(product.address, "pipelines/tfsimples", inputs(INPUT0=ROW, INPUT1=ROW))
    assert (answer.output("OUTPUT0"), answer.output("OUTPUT1")) == chain(ROW, ROW)
    assert answer.json["model_name"] == "tfsimples"


def test_a_pipeline_answers_grpc(product: Product) -> None:
    answer, _ = grpc_infer(product.address, message("tfsimples.pipeline", INPUT0=ROW, INPUT1=ROW))
    assert (values(answer, "OUTPUT0"), values(answer, "OUTPUT1")) == chain(ROW, ROW)
    assert answer.model_name == "tfsimples"


def test_a_model_answers_rest_and_grpc(product: Product) -> None:
    rest = infer(product.address, "models/tfsimple1", inputs(INPUT0=ROW, INPUT1=ROW))
    assert rest.output("OUTPUT0") == [2 * a for a in ROW], rest
    rpc, _ = grpc_infer(product.address, message("tfsimple1", INPUT0=ROW, INPUT1=ROW))
    assert values(rpc, "OUTPUT0") == [2 * a for a in ROW], rpc


@pytest.mark.parametrize("target", ["models/tfsimple1", "pipelines/tfsimples"])
def test_a_caller_gets_the_outputs_that_it_asks_for_and_is_told_of_those_that_are_not_there(
    product: Product, target: str
) -> None:
    document = inputs(INPUT0=ROW, INPUT1=ROW)
    every = infer(product.address, target, document).json["outputs"]
    one = infer(product.address, target, {**document, "outputs": [{"name": "OUTPUT1"}]})
    assert one.json["outputs"] == [output for output in every if output["name"] == "OUTPUT1"]
    wrong = infer(product.address, target, {**document, "outputs": [{"name": "OUTPUT2"}]})
    assert wrong.status == 400
    assert wrong.json["error"] == 'the request asks for output "OUTPUT2"; the outputs are "OUTPUT0", "OUTPUT1"'


def test_a_grpc_caller_gets_the_outputs_that_it_asks_for_in_their_order(product: Product) -> None:
    request = message("tfsimples.pipeline", INPUT0=ROW, INPUT1=ROW)
    for name in ("OUTPUT1", "OUTPUT0"):
        request.outputs.add(name=name)
    answer, _ = grpc_infer(product.address, request)
    assert [output.name for output in answer.outputs] == ["OUTPUT1", "OUTPUT0"]
    assert (values(answer, "OUTPUT0"), values(answer, "OUTPUT1")) == chain(ROW, ROW)


def test_tensors_in_binary_pass_through_a_pipeline(product: Product) -> None:
    raw = struct.pack("<16i", *ROW)
    tensors = [
        {"name": name, "shape": [1, 16], "datatype": "INT32", "parameters": {"binary_data_size": 64}}
        for name in ("INPUT0", "INPUT1")
    ]
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    size = "inference-header-content-length"
    answer = infer(product.address, "pipelines/tfsimples", head + raw + raw, [(size, str(len(head)))])
    assert answer.status == 200, answer
    length = int(answer.header(size) or 0)
    names = [output["name"] for output in json.loads(answer.body[:length])["outputs"]]
    assert names == ["OUTPUT0", "OUTPUT1"]
    assert struct.unpack("<32i", answer.body[length:]) == (*chain(ROW, ROW)[0], *chain(ROW, ROW)[1])


# data, content type; what comes back of text and of bytes
BYTES = {
    "text": (["a", "é", ""], None, ["A", "Ã©", ""], ["YQ==", "w6k=", ""]),
    "text that says so": (["a", "b", "c"], "str", ["A", "B", "C"], ["YQ==", "Yg==", "Yw=="]),
    "base64": (["/w==", "AQ==", "YWJj"], "base64", ["\u0178", "\1", "ABC"], ["/w==", "AQ==", "YWJj"]),
}


@pytest.mark.parametrize("case", BYTES)
def test_bytes_are_the_same_directly_and_through_a_pipeline(product: Product, case: str) -> None:
    data, content_type, text, encoded = BYTES[case]
    tensor = {"name": "INPUT", "datatype": "BYTES", "shape": [1, 3], "data": data}
    if content_type:
        tensor["parameters"] = {"content_type": content_type}
    document = {"id": "same", "inputs": [tensor]}
    direct, piped = (infer(product.address, target, document) for target in ("models/shout", "pipelines/shouts"))
    assert direct.output("TEXT") == text
    assert direct.output("BYTES") == encoded
    assert piped.body.replace(b'"shouts"', b'"shout"') == direct.body


def test_a_pipeline_with_a_preprocessing_step_classifies_flowers(product: Product) -> None:
    answer = infer(product.address, "pipelines/flowers", inputs("FP32", flower=[51, 35, 14, 2]))
    assert answer.output("predict") == [0], "a setosa, measured in millimetres"


def test_seldon_model_routes_and_wins_over_the_path(product: Product) -> None:
    document = inputs(INPUT0=ROW, INPUT1=[1] * 16)
    answer = infer(product.address, "models/iris", document, [("seldon-model", "tfsimples.pipeline")])
    assert answer.output("OUTPUT0") == chain(ROW, [1] * 16)[0], answer
    request = message("iris", INPUT0=ROW, INPUT1=[1] * 16)
    rpc, _ = grpc_infer(product.address, request, [("seldon-model", "tfsimples.pipeline")])
    assert values(rpc, "OUTPUT0") == chain(ROW, [1] * 16)[0], rpc


def test_x_headers_come_back_over_rest_with_repeats_in_their_order(product: Product) -> None:
    sent = [("X-foo", "bar"), ("X-Other", "1"), ("x-foo", "baz"), ("not-ours", "2"), ("X-foo", "bar")]
    answer = infer(product.address, "pipelines/tfsimples", inputs(INPUT0=ROW, INPUT1=ROW), sent)
    assert answer.all("x-foo") == ["bar", "baz", "bar"], answer
    assert answer.all("x-other") == ["1"], answer
    assert answer.all("not-ours") == [], answer
    assert answer.all("x-pipeline-version"), f"the version that answered is told\n{answer}"


def test_x_metadata_comes_back_over_grpc_with_repeats_in_their_order(product: Product) -> None:
    sent = [("x-foo", "bar"), ("x-other", "1"), ("x-foo", "baz"), ("not-ours", "2")]
    request = message("tfsimples.pipeline", INPUT0=ROW, INPUT1=ROW)
    _, metadata = grpc_infer(product.address, request, sent)
    assert [value for name, value in metadata if name == "x-foo"] == ["bar", "baz"], metadata
    assert ("x-other", "1") in metadata, metadata
    assert "not-ours" not in dict(metadata), metadata


def test_a_callers_reserved_headers_are_dropped(product: Product) -> None:
    sent = [("seldon-reply", "0.nobody.1"), ("x-pipeline-version", "99"), ("seldon-step", "tfsimple1")]
    answer = infer(product.address, "pipelines/tfsimples", inputs(INPUT0=ROW, INPUT1=ROW), sent)
    assert answer.output("OUTPUT0"), answer
    assert "99" not in answer.all("x-pipeline-version"), answer


@pytest.mark.parametrize("target", ["pipelines/echoes", "models/echo"])
def test_the_callers_request_id_comes_back_once(product: Product, request_id: str, target: str) -> None:
    answer = infer(product.address, target, inputs(INPUT=[1]), [("x-request-id", request_id)])
    assert answer.all("x-request-id") == [request_id], answer


def test_a_request_without_an_id_gets_one_of_its_own(product: Product) -> None:
    ids = [infer(product.address, "pipelines/echoes", inputs(INPUT=[1])).all("x-request-id") for _ in range(2)]
    assert all(len(found) == 1 and re.fullmatch("[0-9a-v]{20}", found[0]) for found in ids), ids
    assert ids[0] != ids[1], ids
    _, metadata = grpc_infer(product.address, message("echoes.pipeline", INPUT=[1]))
    assert re.fullmatch("[0-9a-v]{20}", dict(metadata)["x-request-id"]), metadata


def test_the_documents_id_comes_back(product: Product) -> None:
    answer = infer(product.address, "pipelines/echoes", {**inputs(INPUT=[1]), "id": "mine"})
    assert answer.json["id"] == "mine", answer


@pytest.mark.parametrize("target", ["pipelines/sleepy", "models/slow"])
def test_a_caller_waits_no_longer_than_it_says(product: Product, target: str) -> None:
    answer = infer(product.address, target, inputs(INPUT=[1500]), [("x-request-timeout-ms", "300")])
    assert answer.status == 504, answer
    assert 0.25 < answer.seconds < 1.4, answer
    assert answer.header("x-request-id"), answer


@pytest.mark.parametrize("target", ["sleepy.pipeline", "slow"])
def test_a_grpc_deadline_ends_the_call(product: Product, target: str) -> None:
    with pytest.raises(GrpcFailed) as failed:
        grpc_infer(product.address, message(target, INPUT=[1500]), seconds=0.3)
    assert failed.value.code == "DEADLINE_EXCEEDED", failed.value
    assert failed.value.seconds < 1.4, failed.value


def test_a_slow_request_does_not_hold_up_its_neighbours(product: Product) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(infer, product.address, "pipelines/sleepy", inputs(INPUT=[1500]))
        quick = [infer(product.address, "pipelines/sleepy", inputs(INPUT=[0])) for _ in range(3)]
        assert not slow.done(), f"the quick ones waited for the slow one: {[answer.seconds for answer in quick]}"
        assert [answer.output("OUTPUT") for answer in (*quick, slow.result())] == [[0], [0], [0], [1500]]


def test_a_branch_not_taken_is_told_at_once(product: Product) -> None:
    taken = infer(product.address, "pipelines/oneway", inputs(INPUT=[5]))
    assert taken.output("OUTPUT") == [5]
    missed = infer(product.address, "pipelines/oneway", inputs(INPUT=[500]))
    assert (missed.status, missed.seconds < SOON) == (422, True), missed
    assert "small" in missed.json["error"], f"the error names what is missing\n{missed}"
    with pytest.raises(GrpcFailed) as failed:
        grpc_infer(product.address, message("oneway.pipeline", INPUT=[500]))
    assert (failed.value.code, failed.value.seconds < SOON) == ("FAILED_PRECONDITION", True), failed.value


def test_each_branch_of_a_conditional_pipeline_answers(product: Product) -> None:
    small = infer(product.address, "pipelines/conditional", inputs(INPUT0=[1, 2]))
    large = infer(product.address, "pipelines/conditional", inputs(INPUT0=[100, 200]))
    assert (small.output("OUTPUT"), large.output("OUTPUT")) == ([11, 12], [1000, 2000])


Failure = tuple[str, dict[str, Any], int, str, str]

# target, request, HTTP status, gRPC status, what the text must name
FAILURES: dict[str, Failure] = {
    "a pipeline without output": ("silent.pipeline", {"INPUT": [1]}, 400, "FAILED_PRECONDITION", "silent"),
    "an unknown model": ("nobody", {"INPUT": [1]}, 404, "NOT_FOUND", "nobody"),
    "an unknown pipeline": ("nobody.pipeline", {"INPUT": [1]}, 404, "NOT_FOUND", "nobody"),
    "an unknown explainer": ("nobody.explainer", {"INPUT": [1]}, 404, "NOT_FOUND", "nobody"),
    "a model that refuses": ("refuse", {"INPUT": [13]}, 400, "INVALID_ARGUMENT", "refuse : thirteen is refused"),
    "a step that refuses": ("strict.pipeline", {"INPUT": [13]}, 400, "INVALID_ARGUMENT", "refuse : thirteen"),
    "a model that raises": ("explode", {"INPUT": [13]}, 500, "INTERNAL", "explode : ValueError: thirteen blew up"),
    "a step that raises": ("fragile.pipeline", {"INPUT": [13]}, 500, "INTERNAL", "explode : ValueError: thirteen"),
    "a model whose server is down": ("gone", {"INPUT": [1]}, 503, "UNAVAILABLE", "127.0.0.1:1"),
    "a step whose server is down": ("cut.pipeline", {"INPUT": [1]}, 503, "UNAVAILABLE", "127.0.0.1:1"),
    "a missing tensor": ("tfsimples.pipeline", {"INPUT0": ROW}, 400, "INVALID_ARGUMENT", "INPUT1"),
    "a wrong name": ("echo", {"WRONG": [1]}, 400, "INVALID_ARGUMENT", "takes the tensors INPUT and was given WRONG"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_each_failure_has_its_status_at_once(product: Product, request_id: str, case: str) -> None:
    target, tensors, status, code, text = FAILURES[case]
    rest = infer(
        product.address, "models/any", inputs(**tensors), [("seldon-model", target), ("x-request-id", request_id)]
    )
    assert rest.status == status, rest
    assert rest.seconds < SOON, f"it was known earlier\n{rest}"
    assert text in rest.json["error"], rest
    assert rest.all("x-request-id") == [request_id], rest
    with pytest.raises(GrpcFailed) as failed:
        grpc_infer(product.address, message(target, **tensors), [("x-request-id", request_id)])
    assert (failed.value.code, failed.value.seconds < SOON) == (code, True), failed.value
    assert text in failed.value.details, failed.value
    assert request_id in failed.value.request_ids, failed.value


def test_64_callers_with_one_request_id_get_each_its_own_answer(product: Product, request_id: str) -> None:
    def call(number: int) -> list[int]:
        document = inputs(INPUT0=[number] * 16, INPUT1=[1] * 16)
        answer = infer(product.address, "pipelines/tfsimples", document, [("x-request-id", request_id)])
        output: list[int] = answer.output("OUTPUT0")
        return output

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(call, range(64)))
    assert answers == [[2 * number] * 16 for number in range(64)]


def test_callers_of_both_doors_and_many_pipelines_at_once(product: Product) -> None:
    def rest(number: int) -> list[int]:
        return infer(product.address, "pipelines/echoes", inputs(INPUT=[number])).output("OUTPUT")

    def rpc(number: int) -> list[int]:
        return values(grpc_infer(product.address, message("strict.pipeline", INPUT=[1000 + number]))[0], "OUTPUT")

    with ThreadPoolExecutor(32) as pool:
        first, second = pool.map(rest, range(100)), pool.map(rpc, range(100))
        assert list(first) == [[number] for number in range(100)]
        assert list(second) == [[1000 + number] for number in range(100)]


def test_large_tensors_pass_through_a_pipeline(product: Product) -> None:
    data = list(range(300_000))  # more than 1 MB, the limit of many a Kafka client
    assert infer(product.address, "pipelines/echoes", inputs(INPUT=data)).output("OUTPUT") == data


def test_tensors_larger_than_a_fetch_pass_through_a_pipeline(product: Product) -> None:
    raw = bytes(range(256)) * 50_000  # 12.8 MB; 4 MB of a partition are fetched at once
    tensor = {"name": "INPUT", "datatype": "INT32", "shape": [1, len(raw) // 4]}
    tensor["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    size = "inference-header-content-length"
    answer = infer(product.address, "pipelines/echoes", head + raw, [(size, str(len(head)))])
    assert answer.status == 200, answer.body[:500]
    assert answer.body[int(answer.header(size) or 0) :] == raw


def test_metadata_and_readiness_of_models_and_pipelines(product: Product) -> None:
    assert get(product.address, "/v2").json["name"] == "millrace"
    assert get(product.address, "/v2/health/live").status == 200
    assert get(product.address, "/v2/health/ready").status == 200
    model = get(product.address, "/v2/models/tfsimple1")
    assert (model.json["name"], {tensor["name"] for tensor in model.json["inputs"]}) == (
        "tfsimple1",
        {"INPUT0", "INPUT1"},
    ), model
    pipeline = get(product.address, "/v2/pipelines/tfsimples").json
    assert (pipeline["name"], pipeline["platform"]) == ("tfsimples", "pipeline")
    assert [tensor["name"] for tensor in pipeline["inputs"]] == ["INPUT0", "INPUT1"], "those of its first step"
    assert get(product.address, "/v2/models/tfsimple1/ready").status == 200
    assert get(product.address, "/v2/pipelines/tfsimples/ready").status == 200
    for path in ("/v2/models/nobody", "/v2/models/nobody/ready", "/v2/pipelines/nobody/ready"):
        assert get(product.address, path).status == 404, path


def test_a_gateway_without_models_tells_what_workers_say_of_theirs(seldon_up: Callable[..., Product]) -> None:
    worker = seldon_up("worker", RESOURCES / "resources.yaml").start()
    gateway = seldon_up("gateway").start()

    def inputs_of(path: str) -> Any:
        return [tensor["name"] for tensor in get(gateway.address, path).json.get("inputs", ())]

    # A state is told when the model is ready, and read a moment later.
    wait_until(lambda: inputs_of("/v2/models/echo"), "the model's metadata at the gateway", SOON)
    assert inputs_of("/v2/models/echo") == inputs_of("/v2/pipelines/echoes") == ["INPUT"]
    gateway.stop()
    worker.stop()


def test_what_needs_a_server_that_is_down_is_not_ready(product: Product) -> None:
    assert get(product.address, "/v2/models/gone/ready").status == 503
    assert get(product.address, "/v2/pipelines/cut/ready").status == 503


def test_metadata_and_readiness_over_grpc(product: Product) -> None:
    ready = unary(
        product.address,
        "ModelReady",
        messages.ModelReadyRequest(name="tfsimples"),
        messages.ModelReadyResponse,
        (("seldon-model", "tfsimples.pipeline"),),
    )
    assert ready.ready
    found = unary(
        product.address,
        "ModelMetadata",
        messages.ModelMetadataRequest(name="iris"),
        messages.ModelMetadataResponse,
    )
    assert found.name == "iris"
    pipeline = unary(
        product.address,
        "ModelMetadata",
        messages.ModelMetadataRequest(name="echoes.pipeline"),
        messages.ModelMetadataResponse,
    )
    assert (pipeline.name, [tensor.name for tensor in pipeline.inputs]) == ("echoes", ["INPUT"])
    assert unary(product.address, "ServerReady", messages.ServerReadyRequest(), messages.ServerReadyResponse).ready


def test_a_caller_that_leaves_harms_nobody(product: Product) -> None:
    with pytest.raises(TimeoutError):
        _leave(product.address, 0.2)
    answer = infer(product.address, "pipelines/sleepy", inputs(INPUT=[1]))
    assert answer.output("OUTPUT") == [1]


def _leave(address: str, seconds: float) -> None:
    import contextlib
    import http.client
    import json

    body = json.dumps(inputs(INPUT=[1000]))
    with contextlib.closing(http.client.HTTPConnection(address, timeout=seconds)) as connection:
        connection.request("POST", "/v2/pipelines/sleepy/infer", body, {"Content-Type": "application/json"})
        connection.getresponse()


def test_a_body_that_is_no_document_is_refused(product: Product) -> None:
    for body in (b"", b"{", b"[]", b"{}", b'{"inputs": []}', b"\xff\xfe"):
        answer = http_call(product.address, "POST", "/v2/pipelines/echoes/infer", body)
        assert answer.status == 400, f"{body!r}: {answer}"
        assert answer.json["error"], answer


def test_an_answer_does_not_wait_for_a_slow_branch_and_what_the_branch_gives_is_written_all_the_same(
    product: Product, kafka: Kafka, topic: Callable[..., str]
) -> None:
    with (
        kafka.tap(topic("model", "after", "outputs")) as after,
        kafka.tap(topic("pipeline", "race", "outputs")) as ends,
    ):
        answer = infer(product.address, "pipelines/race", inputs(INPUT=[2000]))
        assert answer.output("OUTPUT") == [2000]
        assert answer.seconds < 1.5, "the answer waited for the slow branch"
        [request_id] = answer.all("x-request-id")
        assert len(after.of(request_id)) == 1
        assert len(ends.of(request_id)) == 1
