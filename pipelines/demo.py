"""`make demo`: starts everything on free ports, makes the calls of the documentation, shows and checks the answers.

Run it from the repository's root, in an environment with `.[dev,explain,onnx,runtimes]` installed.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import grpc
from confluent_kafka import Consumer, Producer, TopicPartition

from engine.protocol import columns
from engine.protocol.messages import SERVICE, ModelInferRequest, ModelInferResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
SELDON = Path(sys.executable).with_name("seldon")
START_DEADLINE = 60.0
CALL_DEADLINE = 20.0
STOP_DEADLINE = 20.0

ONE_TO_SIXTEEN = list(range(1, 17))
TFSIMPLES = json.dumps(
    {
        "inputs": [
            {"name": name, "data": ONE_TO_SIXTEEN, "datatype": "INT32", "shape": [1, 16]}
            for name in ("INPUT0", "INPUT1")
        ]
    },
    separators=(",", ":"),
)
# Sum and difference of equal tensors are 2x and 0; of these again, both are 2x.
TFSIMPLES_ANSWER = [2 * value for value in ONE_TO_SIXTEEN]
IRIS = '{"inputs": [{"name": "predict", "shape": [1, 4], "datatype": "FP32", "data": [[1, 2, 3, 4]]}]}'
IRIS_GRPC = (
    '{"model_name":"iris","inputs":[{"name":"input","contents":{"fp32_contents":[1,2,3,4]},'
    '"datatype":"FP32","shape":[1,4]}]}'
)
TEXT = '{"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a great but boring film"]}]}'
# What the classifier says of a flower that measures 1, 2, 3 and 4 cm.
IRIS_ANSWER = [2]

ONE_BRANCH = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Pipeline
metadata:
  name: small-only
spec:
  steps:
    - name: choose
    - name: add10
      inputs:
        - choose.outputs.small
      tensorMap:
        choose.outputs.small: INPUT
  output:
    steps:
      - add10
"""


class Wrong(Exception):
    """Something came back that should not have, or did not come."""


def expect(holds: object, wanted: str, found: object) -> None:
    """Go on only when it holds."""
    if not holds:
        raise Wrong(f"expected {wanted}, and found {found}")


def title(text: str) -> None:
    """The heading of one call."""
    print(f"\n== {text}\n")


class Product:
    """`seldon up pipelines/` on free ports, with the embedded broker; `with` starts it and waits until it is ready."""

    def __init__(self) -> None:
        self.gateway = self.broker = ""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        command = ["seldon", "up", "pipelines/", "--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0"]
        print(f"$ {shlex.join(command)}", flush=True)
        own = {name: value for name, value in os.environ.items() if not name.startswith("SELDON_")}
        self._process = subprocess.Popen(  # noqa: S603  the command above
            [SELDON, *command[1:]], cwd=ROOT, env=own, stdout=subprocess.PIPE, text=True
        )
        try:
            self._read_banner(self._process)
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if not failed:
            title("The end: SIGTERM")
            print(f"seldon up ended with {code}")
            expect(code == 0, "exit code 0 after SIGTERM", code)

    def _read_banner(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        late = threading.Timer(START_DEADLINE, process.kill)
        late.start()
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := re.match(r" +(gateway|broker) +([^ ,]+),", line):
                setattr(self, found[1], found[2])
            if "ready in" in line:
                break
        late.cancel()
        expect(self.gateway and self.broker, "the banner of `seldon up`", f"exit code {process.poll()}")

    def run(self, *command: str, code: int = 0) -> str:
        """Show a command line, run it, show what it prints and give it back."""
        print(f"$ {_as_typed(command)}", flush=True)
        done = subprocess.run(  # noqa: S603  the command lines of this demo
            [SELDON if command[0] == "seldon" else command[0], *command[1:]],
            cwd=ROOT,
            env={**os.environ, "SELDON_INFER_HOST": self.gateway, "SELDON_KAFKA_BROKER": self.broker},
            capture_output=True,
            text=True,
            timeout=CALL_DEADLINE,
            check=False,
        )
        said = done.stdout + (done.stderr if command[0] == "seldon" else "")
        print(_NUMBERS.sub(lambda found: re.sub(r"\s+", "", found[0]), said.rstrip()), flush=True)
        expect(done.returncode == code, f"exit code {code}", f"{done.returncode}: {done.stderr}")
        return said


# The command line indents an answer with one number to a line: too long to be read here.
_NUMBERS = re.compile(r"\[\s*-?[\d.]+(,\s*-?[\d.]+)*\s*\]")


def _as_typed(command: Sequence[str]) -> str:
    """A command line, long ones broken before the request as the documentation does."""
    quoted = [word if re.fullmatch(r"[\w./:=@-]+", word) else f"'{word}'" for word in command]
    line = " ".join(quoted)
    if len(line) <= 120:  # noqa: PLR2004  a terminal's width
        return line
    at = next(number for number, word in enumerate(command) if word == "-d" or word.startswith("{"))
    return " ".join(quoted[:at]) + " \\\n    " + " ".join(quoted[at:])


def answer_of(text: str) -> dict[str, Any]:
    """The JSON in what a command printed, behind headers if there are any."""
    found: dict[str, Any] = json.loads(text[text.index("{") :])
    return found


def data_of(answer: dict[str, Any], name: str | None = None) -> list[Any]:
    """The data of an answer's tensor, or of its only one; typed contents as protobuf's JSON writes them too."""
    for tensor in answer.get("outputs", ()):
        if name in (None, tensor["name"]):
            found: list[Any] = tensor.get("data") or next(iter(tensor["contents"].values()))
            return found
    raise Wrong(f"expected tensor {name}, and found {answer}")


def rest(product: Product) -> None:
    """The documentation's curl request."""
    title("REST: a model, by curl")
    url, headers = (
        f"http://{product.gateway}/v2/models/iris/infer",
        ("Content-Type: application/json", "seldon-model: iris"),
    )
    if shutil.which("curl"):
        flags = [part for header in headers for part in ("-H", header)]
        answer = answer_of(product.run("curl", "-s", url, *flags, "-d", IRIS))
    else:
        print(f"curl is not installed; the same by http.client: POST {url}\n    {IRIS}")
        connection = http.client.HTTPConnection(product.gateway, timeout=CALL_DEADLINE)
        connection.request("POST", "/v2/models/iris/infer", IRIS, dict(header.split(": ") for header in headers))
        text = connection.getresponse().read().decode()
        print(text)
        answer = json.loads(text)
    expect(_flat(data_of(answer)) == IRIS_ANSWER, f"the class {IRIS_ANSWER}", answer)


def _flat(values: list[Any]) -> list[Any]:
    return [each for value in values for each in (_flat(value) if isinstance(value, list) else [value])]


def by_grpc(product: Product) -> None:
    """The documentation's grpcurl request."""
    if shutil.which("grpcurl"):
        title("gRPC: a model, by grpcurl")
        answer = answer_of(
            product.run(
                *("grpcurl", "-d", IRIS_GRPC, "-plaintext", "-import-path", "apis"),
                *("-proto", "apis/mlops/v2_dataplane/v2_dataplane.proto", "-rpc-header", "seldon-model:iris"),
                *(product.gateway, f"{SERVICE}/ModelInfer"),
            )
        )
        expect("outputs" in answer, "outputs", answer)
    title("gRPC: a model, by grpcio")
    request = ModelInferRequest(model_name="iris")
    request.inputs.add(name="input", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1, 2, 3, 4])
    print(f"ModelInfer to {product.gateway}, metadata seldon-model: iris\n    {IRIS_GRPC}")
    with grpc.insecure_channel(product.gateway) as channel:
        infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer", ModelInferRequest.SerializeToString, ModelInferResponse.FromString
        )
        answer = infer(request, metadata=(("seldon-model", "iris"),), timeout=CALL_DEADLINE)
    print(f"    {_one_line(answer)}")
    found = list(answer.outputs[0].contents.int64_contents)
    expect(found == IRIS_ANSWER, f"the class {IRIS_ANSWER}", found)


def command_line(product: Product) -> str:
    """`seldon pipeline infer` as the documentation has it; gives the request id that came back."""
    title("Command line: a pipeline, with headers")
    said = product.run("seldon", "pipeline", "infer", "--show-headers", "--header", "X-foo=bar", "tfsimples", TFSIMPLES)
    expect(_flat(data_of(answer_of(said), "OUTPUT0")) == TFSIMPLES_ANSWER, f"OUTPUT0 {TFSIMPLES_ANSWER}", said)
    expect("X-Foo:[bar]" in said, "the header X-Foo: bar", said)
    request_id = re.search(r"^< X-Request-Id:\[(\w+)\]", said, re.MULTILINE | re.IGNORECASE)
    if request_id is None:
        raise Wrong(f"expected the header x-request-id in the answer, and found {said}")
    return request_id[1]


def inspect(product: Product, request_id: str) -> None:
    """What passed each step of that request."""
    title("Command line: what passed each step of that request")
    said = product.run("seldon", "pipeline", "inspect", "tfsimples", "--request-id", request_id, "--offset", "10")
    for topic in (
        *("pipeline.tfsimples.inputs", "model.tfsimple1.inputs", "model.tfsimple1.outputs"),
        *("model.tfsimple2.inputs", "model.tfsimple2.outputs", "pipeline.tfsimples.outputs"),
    ):
        expect(f"seldon.default.{topic}" in said, f"a record of {topic}", said)


def kafka(product: Product) -> None:
    """A V2 message written to the inputs topic of a pipeline and of a model, with headers of our own."""
    simple = ModelInferRequest(id="by-kafka")
    for name in ("INPUT0", "INPUT1"):
        tensor = simple.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        tensor.contents.int_contents.extend(ONE_TO_SIXTEEN)
    title("Kafka: a pipeline, by confluent-kafka")
    answer = _through_kafka(product, "pipeline.tfsimples", simple)
    expect(answer.outputs[0].contents.int_contents == TFSIMPLES_ANSWER, f"OUTPUT0 {TFSIMPLES_ANSWER}", answer)
    flower = ModelInferRequest(id="by-kafka")
    flower.inputs.add(name="predict", datatype="FP32", shape=[1, 4]).contents.fp32_contents.extend([1, 2, 3, 4])
    title("Kafka: a model, by confluent-kafka")
    answer = _through_kafka(product, "model.iris", flower)
    expect(answer.outputs[0].contents.int64_contents == IRIS_ANSWER, f"the class {IRIS_ANSWER}", answer)


def _through_kafka(product: Product, owner: str, request: Any) -> Any:
    inputs, outputs = f"seldon.default.{owner}.inputs", f"seldon.default.{owner}.outputs"
    key, headers = f"demo-{owner}", [("trace", b"abc"), ("X-foo", b"bar")]
    print(f"produce to {inputs}: key {key}, headers {headers}, a ModelInferRequest of {request.ByteSize()} bytes")
    producer = Producer({"bootstrap.servers": product.broker})
    producer.produce(inputs, key=key, value=request.SerializeToString(), headers=headers)
    producer.flush(CALL_DEADLINE)
    record = _read_back(product, outputs, key.encode())
    found = record.headers() or []
    print(f"consume from {outputs}: key {key}, headers {found}")
    answer = ModelInferResponse.FromString(record.value())
    columns.to_typed(answer, columns.RESPONSE)
    print(f"    {_one_line(answer)}")
    expect(found[: len(headers)] == headers, f"the headers {headers} before all others", found)
    expect(answer.id == request.id, f"id {request.id}", answer.id)
    return answer


def _one_line(answer: Any) -> str:
    return " ".join(str(answer).split())


def _read_back(product: Product, topic: str, key: bytes) -> Any:
    """The record with that key, wherever it is in the topic."""
    consumer = Consumer({"bootstrap.servers": product.broker, "group.id": "demo", "fetch.wait.max.ms": 50})
    try:
        partitions = consumer.list_topics(timeout=CALL_DEADLINE).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        deadline = time.monotonic() + CALL_DEADLINE
        while time.monotonic() < deadline:
            record = consumer.poll(0.5)
            if record is not None and not record.error() and record.key() == key:
                return record
    finally:
        consumer.close()
    raise Wrong(f"expected a record with key {key!r} in {topic}, and found none in {CALL_DEADLINE:g} s")


def conditional(product: Product) -> None:
    """Small totals take one branch, large ones the other; when no branch is taken the caller is told."""
    title("A conditional pipeline: small totals get 10 added, large ones are multiplied by 10")
    for data, wanted in (([1, 2, 3, 4], [11, 12, 13, 14]), ([100, 200, 300, 400], [1000, 2000, 3000, 4000])):
        answer = answer_of(product.run("seldon", "pipeline", "infer", "conditional", _input0(data)))
        expect(_flat(data_of(answer, "OUTPUT")) == wanted, f"OUTPUT {wanted}", answer)
    title("No branch taken: a pipeline with the small branch only, loaded while all runs, and a large total")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(ONE_BRANCH)
        file.flush()
        product.run("seldon", "pipeline", "load", "-f", file.name)
    product.run("seldon", "pipeline", "status", "small-only", "-w", "PipelineReady")
    said = product.run("seldon", "pipeline", "infer", "small-only", _input0([100, 200, 300, 400]), code=1)
    expect("no" in said and "Error" in said, "an error that says that there is no answer", said)


def _input0(data: list[int]) -> str:
    tensor = {"name": "INPUT0", "data": data, "datatype": "INT64", "shape": [1, len(data)]}
    return json.dumps({"inputs": [tensor]}, separators=(",", ":"))


def explaining(product: Product) -> None:
    """Which of a flower's measurements, and which words of a text, make the answers."""
    title("An explainer: how much each measurement adds to the probability of each species")
    explained = _explanation(product.run("seldon", "model", "infer", "species-explainer", IRIS))
    virginica = explained["shap_values"][2][0]
    longest = explained["feature_names"][virginica.index(max(virginica))]
    expect(longest.startswith("petal"), "that its petals make it a virginica", explained)
    title("An explainer of text: how much each word adds to the mood")
    explained = _explanation(product.run("seldon", "model", "infer", "mood-explainer", TEXT))
    words = dict(zip(explained["feature_names"], explained["shap_values"][0][0], strict=True))
    expect(max(words, key=words.__getitem__) == "great ", "that the word great makes the mood", words)


def _explanation(said: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data_of(answer_of(said), "explanation")[0])["data"]
    return found


def wrong_shape(product: Product) -> None:
    """A request that cannot be right is refused at once, by a message that says why."""
    title("A wrong request: three numbers that are said to be four")
    wrong = _input0([1, 2, 3]).replace("[1,3]", "[1,4]")
    said = product.run("seldon", "pipeline", "infer", "conditional", wrong, code=1)
    expect("INPUT0" in said and "Error" in said, "an error that names INPUT0", said)


def listing(product: Product) -> None:
    """All pipelines and their states."""
    title("Command line: the pipelines")
    said = product.run("seldon", "pipeline", "list")
    for name in ("tfsimples", "flowers", "conditional"):
        expect(re.search(rf"{name}\s.*PipelineReady", said), f"{name} to be PipelineReady", said)


def main() -> int:
    """0 when everything came back as it should."""
    since = time.monotonic()
    try:
        with Product() as product:
            print(f"\n$ export SELDON_INFER_HOST={product.gateway} SELDON_KAFKA_BROKER={product.broker}")
            rest(product)
            by_grpc(product)
            inspect(product, command_line(product))
            kafka(product)
            conditional(product)
            explaining(product)
            wrong_shape(product)
            listing(product)
    except (Wrong, ValueError, OSError, subprocess.SubprocessError, grpc.RpcError) as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    print(f"\nAll came back as it should, in {time.monotonic() - since:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
