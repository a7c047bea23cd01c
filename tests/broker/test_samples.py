"""The sample pipelines: each request gives the answer that lies beside it, over REST and through Kafka."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from product import SAMPLES, infer

from engine.resources import Pipeline, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from product import Product
    from topics import Headers, Kafka

    TopicOf = Callable[..., str]

JSON: Headers = [("seldon-infer-type", b"json/inferModelRequest")]
SPARE = ("name", "shape", "datatype", "data")


@dataclass(frozen=True)
class Sample:
    """A request of `pipelines/requests`, and what `pipelines/answers` has under its name.

    Beside the `outputs`, an answer may say the `pipeline` (by default the sample's own name), the `status` and `error`
    of a caller who waits, and the `step` on whose topic the outputs are when the pipeline answers nobody.
    """

    name: str
    request: bytes
    answer: dict[str, Any]

    @property
    def pipeline(self) -> str:
        return str(self.answer.get("pipeline", self.name))

    @property
    def outputs(self) -> list[dict[str, Any]]:
        return tensors(self.answer)


def tensors(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: tensor[key] for key in SPARE} for tensor in answer.get("outputs", ())]


def read(path: Path) -> Sample:
    answer = json.loads((SAMPLES / "answers" / path.name).read_text())
    return Sample(path.stem, path.read_bytes(), answer)


EVERY = {path.stem: read(path) for path in sorted((SAMPLES / "requests").glob("*.json"))}
PIPELINES = {pipeline.name: pipeline for pipeline in load([SAMPLES])[0].pipelines}


def feeding(pipeline: Pipeline) -> list[str]:
    """The pipelines that feed one."""
    if pipeline.input is None:
        return []
    references = (*pipeline.input.external_inputs, *pipeline.input.external_triggers)
    return list(dict.fromkeys(reference.split(".")[0] for reference in references))


FED = {name: found for name, pipeline in PIPELINES.items() if (found := feeding(pipeline))}


def test_every_sample_has_a_request_and_every_request_a_sample() -> None:
    assert {sample.pipeline for sample in EVERY.values()} == set(PIPELINES)
    assert {path.stem for path in (SAMPLES / "answers").glob("*.json")} == set(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_a_sample_answers_its_caller(product: Product, name: str) -> None:
    sample = EVERY[name]
    answered = infer(product.address, f"pipelines/{sample.pipeline}", json.loads(sample.request))
    if "error" in sample.answer:
        assert (answered.status, sample.answer["error"] in answered.json["error"]) == (sample.answer["status"], True)
    else:
        assert tensors(answered.json) == sample.outputs, answered


@pytest.mark.parametrize("name", [name for name in EVERY if EVERY[name].outputs])
def test_a_sample_answers_a_record(kafka: Kafka, topic: TopicOf, product: Product, request_id: str, name: str) -> None:
    assert product.running
    sample = EVERY[name]
    step = sample.answer.get("step")
    outputs = topic("model", step, "outputs") if step else topic("pipeline", sample.pipeline, "outputs")
    with kafka.tap(outputs) as tap:
        headers = [*JSON, ("x-request-id", request_id.encode())]
        kafka.send(topic("pipeline", sample.pipeline, "inputs"), sample.request, headers=headers)
        record = tap.one(request_id)
    if step:
        assert [output.name for output in record.response.outputs] == [output["name"] for output in sample.outputs]
    else:
        assert tensors(json.loads(record.value or b"")) == sample.outputs


@pytest.mark.parametrize("name", FED)
def test_a_sample_that_others_feed_answers_what_they_gave(
    kafka: Kafka, topic: TopicOf, product: Product, request_id: str, name: str
) -> None:
    assert product.running
    with kafka.tap(topic("pipeline", name, "outputs")) as tap:
        for source in FED[name]:
            headers = [*JSON, ("x-request-id", request_id.encode())]
            key = request_id.encode()
            kafka.send(topic("pipeline", source, "inputs"), EVERY[source].request, key=key, headers=headers)
        found = tap.one(request_id).response
    assert [output.name for output in found.outputs] == [output["name"] for output in EVERY[name].outputs]
    assert [list(raw) for raw in map(_int32, found.raw_output_contents)] == [
        output["data"] for output in EVERY[name].outputs
    ]


def _int32(raw: bytes) -> memoryview:
    return memoryview(raw).cast("i")
