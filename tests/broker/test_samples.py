"""The sample pipelines: each request gives the answer that lies beside it, over REST and through Kafka."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from product import SAMPLES, infer, seldon, wait_until

from engine.protocol import rest_json
from engine.resources import Pipeline, load

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from product import Product
    from topics import Headers, Kafka, Seen

    TopicOf = Callable[..., str]

DEADLINE = 20.0
ROOT = SAMPLES.parent


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
    def outputs(self) -> list[dict[str, Any]] | None:
        """The tensors it gives; None when it gives none."""
        return self.answer.get("outputs")


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


def documented(pattern: str) -> str:
    """What `docs/pipelines.md` has once."""
    (found,) = re.findall(pattern, (ROOT / "docs" / "pipelines.md").read_text(), re.DOTALL | re.MULTILINE)
    return str(found)


# A call of one pipeline and what then stands on the outputs of another; and a program whose records two of them join.
CALL, CALL_GIVES = documented(r"```console\n\$ (seldon pipeline infer .*?)```").split("\n$ ")
PROGRAM = documented(r"```python\n(.*?)```")
PROGRAM_GIVES = documented(r"```console\n\$ (seldon pipeline inspect .*?)```")


def by_record(request_id: str) -> Headers:
    return [("seldon-infer-type", b"json/inferModelRequest"), ("x-request-id", request_id.encode())]


def tensors(record: Seen) -> Any:
    """The outputs of a record, which is JSON where the request was, and protobuf on a step's topic."""
    value = record.value or b""
    return json.loads(value if value.startswith(b"{") else rest_json.encode_response(record.response))["outputs"]


def test_every_sample_has_a_request_and_every_request_a_sample() -> None:
    assert {sample.pipeline for sample in EVERY.values()} == set(PIPELINES)
    assert {path.stem for path in (SAMPLES / "answers").glob("*.json")} == set(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_a_sample_answers_its_caller(product: Product, name: str) -> None:
    sample = EVERY[name]
    answered = infer(product.address, f"pipelines/{sample.pipeline}", json.loads(sample.request))
    if "error" in sample.answer:
        assert (answered.status, answered.json["error"]) == (sample.answer["status"], sample.answer["error"])
    else:
        assert (answered.status, answered.json.get("outputs")) == (200, sample.outputs), answered


@pytest.mark.parametrize("name", [name for name in EVERY if EVERY[name].outputs])
@pytest.mark.usefixtures("product")
def test_a_sample_answers_a_record(kafka: Kafka, topic: TopicOf, request_id: str, name: str) -> None:
    sample = EVERY[name]
    step = sample.answer.get("step")
    outputs = topic("model", step, "outputs") if step else topic("pipeline", sample.pipeline, "outputs")
    with kafka.tap(outputs) as tap:
        kafka.send(topic("pipeline", sample.pipeline, "inputs"), sample.request, headers=by_record(request_id))
        record = tap.one(request_id)
    assert tensors(record) == sample.outputs


@pytest.mark.usefixtures("product")
def test_a_sample_that_fails_says_so_on_its_outputs_topic(kafka: Kafka, topic: TopicOf, request_id: str) -> None:
    sample = EVERY["counter-endless"]
    with kafka.tap(topic("pipeline", "counter", "outputs")) as tap:
        kafka.send(topic("pipeline", "counter", "inputs"), sample.request, headers=by_record(request_id))
        record = tap.one(request_id)
    step, text = record.header("seldon-pipeline-errors"), (record.value or b"").decode()
    assert f"{step} : {text}" == sample.answer["error"]


@pytest.mark.parametrize("name", FED)
@pytest.mark.usefixtures("product")
def test_a_sample_that_others_feed_answers_what_they_gave(
    kafka: Kafka, topic: TopicOf, request_id: str, name: str
) -> None:
    with kafka.tap(topic("pipeline", name, "outputs")) as tap:
        for source in FED[name]:
            kafka.send(
                topic("pipeline", source, "inputs"),
                EVERY[source].request,
                key=request_id.encode(),
                headers=by_record(request_id),
            )
        record = tap.one(request_id)
    assert tensors(record) == EVERY[name].outputs


def prints(command: str, broker: str) -> str:
    """What a documented command prints of what runs on a broker."""
    return seldon(*shlex.split(command)[1:], cwd=ROOT, settings={"SELDON_KAFKA_BROKER": broker}).out


def test_the_documented_call_feeds_another_pipeline(product: Product, kafka: Kafka) -> None:
    said = seldon(*shlex.split(CALL)[1:], cwd=ROOT, settings={"SELDON_INFER_HOST": product.address})
    assert said.code == 0, said
    command, _, printed = CALL_GIVES.partition("\n")
    wait_until(lambda: prints(command, kafka.address) == printed, lambda: prints(command, kafka.address), DEADLINE)


@pytest.mark.usefixtures("product")
def test_the_documented_program_makes_records_that_are_joined(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(PROGRAM.replace("127.0.0.1:9092", kafka.address), {})
    command, _, printed = PROGRAM_GIVES.partition("\n")
    wait_until(lambda: prints(command, kafka.address) == printed, lambda: prints(command, kafka.address), DEADLINE)
