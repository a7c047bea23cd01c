"""Explainers: asked through both doors, by Kafka and as a step, of models and of pipelines that the broker leads to."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from product import RESOURCES, SAMPLES, get, grpc_infer, infer, inputs, message, seldon, wait_until

from engine.protocol import columns, rest_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from product import Product, Response
    from topics import Kafka

DEADLINE = 20.0
PATH = RESOURCES / "explainers.yaml"
ROW = inputs(x=[5, 7])
# Weights 2 and 3, compared with zeros.
WHY = [[[10.0, 21.0]]]


def read(document: str | bytes) -> Any:
    """The Shapley values of an explanation, rounded."""
    found = json.loads(document)["data"]["shap_values"]
    return [[[round(value, 6) for value in row] for row in output] for output in found]


def explained(answer: Response) -> Any:
    [document] = answer.output("explanation")
    return read(document)


@pytest.mark.parametrize("name", ["why-weigh", "why-weighed"])
def test_an_explainer_answers_both_doors(product: Product, name: str) -> None:
    sent = [("seldon-model", f"{name}.explainer"), ("x-mine", "1")]
    answer = infer(product.address, "models/any", ROW, sent)
    assert explained(answer) == WHY
    assert answer.json["outputs"][0]["parameters"] == {"content_type": "str"}
    assert (answer.header("x-seldon-alibi-type"), answer.header("x-seldon-alibi-method")) == (
        "explanation",
        "kernel_shap",
    )
    assert answer.all("x-mine") == ["1"]
    rpc, metadata = grpc_infer(product.address, message(f"{name}.explainer", x=[5, 7]))
    columns.to_typed(rpc, columns.RESPONSE)
    assert read(rpc.outputs[0].contents.bytes_contents[0]) == WHY
    assert ("x-seldon-alibi-method", "kernel_shap") in metadata


@pytest.mark.usefixtures("product")
@pytest.mark.parametrize("owner", ["explainer", "model"])
@pytest.mark.parametrize("name", ["why-weigh", "why-weighed"])
def test_an_explainer_answers_its_topics(
    kafka: Kafka, topic: Callable[..., str], request_id: str, owner: str, name: str
) -> None:
    with kafka.tap(topic(owner, name, "outputs")) as tap:
        headers = [("x-request-id", request_id.encode()), ("mine", b"1")]
        kafka.send(topic(owner, name, "inputs"), message(x=[5, 7]).SerializeToString(), headers=headers)
        record = tap.one(request_id)
    [tensor] = json.loads(rest_json.encode_response(record.response))["outputs"]
    assert read(tensor["data"][0]) == WHY
    assert (record.header("mine"), record.header("x-seldon-alibi-type")) == ("1", "explanation")


def test_a_step_explains_another_pipeline_which_runs_under_the_same_id(
    product: Product, kafka: Kafka, topic: Callable[..., str], request_id: str
) -> None:
    with kafka.tap(topic("pipeline", "weighed", "inputs"), topic("pipeline", "weighed", "outputs")) as tap:
        headers = [("x-request-id", request_id), ("x-mine", "1")]
        answer = infer(product.address, "pipelines/explaining", ROW, headers)
        # What the row and the zeros give, and what all combinations do: two calls, whatever they are of.
        records = tap.of(request_id, 4)
    assert explained(answer) == WHY
    assert answer.header("x-seldon-alibi-method") == "kernel_shap"
    assert {record.header("pipeline") for record in records} == {"weighed"}
    assert {record.header("x-mine") for record in records} == {"1"}


def test_what_the_model_refuses_is_told_of_the_model(product: Product) -> None:
    for target in ("explainers/why-weigh", "explainers/why-weighed", "pipelines/explaining"):
        answer = infer(product.address, target, inputs(wrong=[5, 7]))
        assert answer.status == 400, answer
        assert "takes the tensors x and was given wrong" in answer.json["error"], answer


def test_explainers_tell_that_they_are_ready_and_what_they_give(product: Product) -> None:
    for name in ("why-weigh", "why-weighed"):
        assert get(product.address, f"/v2/explainers/{name}/ready").status == 200
        metadata = get(product.address, f"/v2/explainers/{name}").json
        assert metadata["outputs"] == [{"name": "explanation", "datatype": "BYTES", "shape": [-1]}]
    for path in ("/v2/explainers/weigh", "/v2/explainers/nobody/ready"):
        assert get(product.address, path).status == 404


def test_the_samples_explain_a_flower_and_a_text(product: Product) -> None:
    flower = inputs("FP32", predict=[5.1, 3.5, 1.4, 0.2])
    setosa, *_ = explained(infer(product.address, "explainers/species-explainer", flower))
    assert max(range(4), key=lambda place: setosa[0][place]) == 2, "it is the petals' length that makes it a setosa"
    text = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["a great film"]}]}
    [[of_words]] = explained(infer(product.address, "explainers/mood-explainer", text))
    assert [round(value, 3) for value in of_words] == [0.0, 0.381, 0.0]


def test_worker_and_gateway_apart_explain_through_kafka(seldon_up: Callable[..., Product]) -> None:
    worker, gateway = seldon_up("worker", PATH).start(), seldon_up("gateway").start()
    for target in ("explainers/why-weigh", "explainers/why-weighed", "pipelines/explaining"):
        ready = f"/v2/{target}/ready"
        wait_until(lambda path=ready: get(gateway.address, path).status == 200, f"{ready}", DEADLINE)
        answer = infer(gateway.address, target, ROW)
        assert answer.status == 200, f"{answer}\n{worker.said}"
        assert explained(answer) == WHY


def test_requests_that_wait_for_a_pipeline_leave_it_room_to_run(seldon_up: Callable[..., Product]) -> None:
    # A single request fills this budget, and each of these waits for others that need room.
    product = seldon_up("up", PATH, settings={"SELDON_BUDGET_BYTES": "1"}).start()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(infer, product.address, "pipelines/explaining", ROW) for _ in range(8)]
        assert [explained(each.result()) for each in asked] == [WHY] * 8


def test_an_explainer_of_what_is_gone_says_so(seldon_up: Callable[..., Product], broker: str, namespace: str) -> None:
    product = seldon_up("up", PATH).start()
    where = ("--kafka-broker", broker, "--namespace", namespace)
    assert seldon("pipeline", "unload", "weighed", *where).code == 0
    ready = "/v2/explainers/why-weighed/ready"
    wait_until(lambda: get(product.address, ready).status == 503, "the explainer is not ready", DEADLINE)
    listed = seldon("model", "list", *where).out
    assert 'what it explains, pipeline "weighed": it is not loaded' in listed
    answer = infer(product.address, "explainers/why-weighed", ROW)
    assert (answer.status, answer.json["error"]) == (503, 'why-weighed : pipeline "weighed": it is not loaded')
    assert get(product.address, "/v2/explainers/why-weigh/ready").status == 200


def test_references_to_nothing_are_refused_before_anything_starts(broker: str, namespace: str, tmp_path: Any) -> None:
    path = tmp_path / "why.yaml"
    path.write_text(PATH.read_text().replace("pipelineRef: weighed", "pipelineRef: weighted"))
    said = seldon("load", "-f", path, "--kafka-broker", broker, "--namespace", namespace)
    assert said.code == 2, said
    assert 'explains pipeline "weighted"; no pipeline has that name' in said.err
    assert 'did you mean "weighed"?' in said.err


def test_without_shap_all_else_comes_up_and_the_explainers_say_what_is_missing(
    seldon_up: Callable[..., Product], broker: str, namespace: str, tmp_path: Any
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['shap'] = None\n")
    product = seldon_up("up", SAMPLES, settings={"PYTHONPATH": str(tmp_path)}).start()
    listed = seldon("model", "list", "--kafka-broker", broker, "--namespace", namespace).out
    [line] = [line for line in listed.splitlines() if line.startswith("mood-explainer")]
    assert "ModelFailed" in line
    assert 'pip install "millrace[explain]"' in line
    assert infer(product.address, "pipelines/flowers", inputs("FP32", flower=[51, 35, 14, 2])).output("predict") == [0]
