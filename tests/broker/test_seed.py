"""The documentation's calls, to the letter (but for the address), against `seldon up` with the samples."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from product import CALL_DEADLINE, http_call, seldon, values

if TYPE_CHECKING:
    from collections.abc import Callable

    from product import Product
    from topics import Headers, Kafka

ROOT = Path(__file__).resolve().parents[2]

IRIS_REST = '{"inputs": [{"name": "predict", "shape": [1, 4], "datatype": "FP32", "data": [[1, 2, 3, 4]]}]}'
IRIS_GRPC = (
    '{"model_name":"iris","inputs":[{"name":"input","contents":{"fp32_contents":[1,2,3,4]},'
    '"datatype":"FP32","shape":[1,4]}]}'
)
TFSIMPLES = (
    '{"inputs":[{"name":"INPUT0","data":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16],"datatype":"INT32","shape":[1,16]},'
    '{"name":"INPUT1","data":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16],"datatype":"INT32","shape":[1,16]}]}'
)
TWICE = [2 * value for value in range(1, 17)]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=CALL_DEADLINE
    )


def test_curl_to_iris(product: Product) -> None:
    url = f"http://{product.address}/v2/models/iris/infer"
    curl = shutil.which("curl")
    if curl is None:
        headers = [("seldon-model", "iris")]
        body = http_call(product.address, "POST", "/v2/models/iris/infer", IRIS_REST.encode(), headers).body.decode()
    else:
        done = run(curl, "-v", url, "-H", "Content-Type: application/json", "-H", "seldon-model: iris", "-d", IRIS_REST)
        assert done.returncode == 0, done
        assert "HTTP/1.1 200" in done.stderr, done
        assert "< x-request-id: " in done.stderr, done
        body = done.stdout
    answer = json.loads(body)
    assert answer.get("model_name") == "iris", body
    assert answer["outputs"][0]["name"] == "predict", body
    assert answer["outputs"][0]["data"] == [2], body


def test_grpcurl_to_iris(product: Product, grpcurl: str) -> None:
    done = run(
        grpcurl, "-d", IRIS_GRPC, "-plaintext", "-import-path", "apis",
        "-proto", "apis/mlops/v2_dataplane/v2_dataplane.proto",
        "-rpc-header", "seldon-model:iris", product.address, "inference.GRPCInferenceService/ModelInfer",
    )  # fmt: skip
    assert done.returncode == 0, done
    answer = json.loads(done.stdout)
    assert answer["modelName"] == "iris", answer
    assert answer["outputs"][0]["contents"]["int64Contents"] == ["2"], answer


def test_grpcurl_by_reflection(product: Product, grpcurl: str) -> None:
    done = run(
        grpcurl, "-v", "-d", IRIS_GRPC, "-plaintext", "-rpc-header", "seldon-model:iris",
        "-rpc-header", "X-foo: bar", product.address, "inference.GRPCInferenceService/ModelInfer",
    )  # fmt: skip
    assert done.returncode == 0, done
    assert "x-request-id: " in done.stdout, done
    assert "x-foo: bar" in done.stdout, done
    listed = run(grpcurl, "-plaintext", product.address, "list")
    assert "inference.GRPCInferenceService" in listed.stdout, listed


def test_the_command_lines_infer_shows_headers_and_its_inspect_finds_the_request(
    product: Product, kafka: Kafka
) -> None:
    done = seldon(
        "pipeline", "infer", "--show-headers", "--header", "X-foo=bar", "tfsimples", TFSIMPLES,
        "--inference-host", product.address,
    )  # fmt: skip
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert "> X-Foo:[bar]" in lines, done
    assert "< X-Foo:[bar]" in lines, done
    (request_id,) = [line.partition(":")[2].strip("[]") for line in lines if line.startswith("< X-Request-Id:")]
    answer = json.loads(done.out[done.out.index("\n{") :])
    assert [tensor["data"] for tensor in answer["outputs"]] == [TWICE, TWICE], done
    inspected = seldon(
        "pipeline", "inspect", "tfsimples", "--request-id", request_id, "--offset", "10",
        "--kafka-broker", kafka.address,
    )  # fmt: skip
    assert inspected.code == 0, inspected
    rows = [line.split("\t") for line in inspected.out.splitlines()]
    assert sorted(row[0] for row in rows) == sorted(
        [
            *(f"seldon.default.pipeline.tfsimples.{side}" for side in ("inputs", "outputs")),
            *(f"seldon.default.model.tfsimple{n}.{side}" for n in (1, 2) for side in ("inputs", "outputs")),
        ]
    ), inspected
    assert all(request_id in row[1] for row in rows), inspected


def test_inspect_of_one_step_as_json(product: Product, kafka: Kafka) -> None:
    done = seldon("pipeline", "infer", "tfsimples", TFSIMPLES, "--inference-host", product.address)
    assert done.code == 0, done
    inspected = seldon(
        "pipeline", "inspect", "tfsimples.tfsimple1.outputs.OUTPUT0", "--format", "json",
        "--kafka-broker", kafka.address,
    )  # fmt: skip
    assert inspected.code == 0, inspected
    assert str(TWICE[-1]) in json.dumps(json.loads(inspected.out)), inspected


def test_inspect_of_a_request_that_is_not_there_says_where_it_looked(product: Product, kafka: Kafka) -> None:
    assert product.running
    done = seldon(
        "pipeline", "inspect", "tfsimples", "--request-id", "carjjolvqj3j2pfbut10", "--offset", "10",
        "--kafka-broker", kafka.address,
    )  # fmt: skip
    assert done.code == 1, done
    assert "carjjolvqj3j2pfbut10" in done.err, done
    assert "Traceback" not in done.err, done


def test_model_infer_and_metadata_by_the_command_line(product: Product) -> None:
    done = seldon("model", "infer", "iris", IRIS_REST, "--inference-host", product.address)
    assert done.code == 0, done
    assert json.loads(done.out)["outputs"][0]["data"] == [2], done
    metadata = seldon("model", "metadata", "iris", "--inference-host", product.address)
    assert (metadata.code, json.loads(metadata.out)["name"]) == (0, "iris"), metadata


@pytest.mark.parametrize(
    ("owner", "name", "output", "expected"),
    [("model", "tfsimple1", "OUTPUT0", TWICE), ("pipeline", "tfsimples", "OUTPUT0", TWICE)],
)
@pytest.mark.usefixtures("product")
def test_records_pushed_to_the_documented_topics(
    kafka: Kafka, topic: Callable[..., str], request_id: str, owner: str, name: str, output: str, expected: list[int]
) -> None:
    from product import message

    row = list(range(1, 17))
    headers: Headers = [("x-request-id", request_id.encode()), ("kafka-metadata", b"passes")]
    with kafka.tap(f"seldon.default.{owner}.{name}.outputs") as outputs:
        value = message(INPUT0=row, INPUT1=row).SerializeToString()
        kafka.send(topic(owner, name, "inputs"), value, headers=headers)
        record = outputs.one(request_id)
    assert values(record.response, output) == expected
    assert record.header("kafka-metadata") == "passes", record
