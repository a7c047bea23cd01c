"""The page's server beside a running product: what it tells is compared with what the test did."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from product import get, http_call, infer, inputs, wait_until

from engine.protocol.messages import ModelInferRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from product import Product
    from topics import Kafka

    SeldonUp = Callable[..., Product]

HEAD = "apiVersion: mlops.seldon.io/v1alpha1\n"
MODELS = """
def double(INPUT):
    return {"OUTPUT": INPUT * 2}


def positive(INPUT):
    if (INPUT < 0).any():
        raise ValueError("it is below zero \\u202e\\x1b[31m<b>")
    return {"OUTPUT": INPUT}


def length(INPUT):
    return {"OUTPUT": INPUT[:, :1]}
"""
ANYWHERE = "127.0.0.1:0"
SOON = 20.0
STRANGE = "<script>\u202e\x07"


def yaml(kind: str, name: str, spec: str) -> str:
    return f"{HEAD}kind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n"


@pytest.fixture
def resources(tmp_path: Path) -> Path:
    """Three models, a chain of two, a pipeline for large tensors, and an experiment."""
    folder = tmp_path / "resources"
    folder.mkdir()
    (folder / "paged.py").write_text(MODELS)
    models = [
        yaml("Model", name, f"{{storageUri: 'python:paged:{name}'}}") for name in ("double", "positive", "length")
    ]
    steps = "[{name: double}, {name: positive, inputs: [double], tensorMap: {double.outputs.OUTPUT: INPUT}}]"
    chain = yaml("Pipeline", "chain", f"{{steps: {steps}, output: {{steps: [positive]}}}}")
    large = yaml("Pipeline", "large", "{steps: [{name: length}], output: {steps: [length]}}")
    candidates = "[{name: double, weight: 1}, {name: positive, weight: 0}]"
    split = yaml("Experiment", "split", f"{{candidates: {candidates}}}")
    path = folder / "resources.yaml"
    path.write_text("".join([*models, chain, large, split]))
    return path


@pytest.fixture
def shown(seldon_up: SeldonUp, resources: Path) -> Product:
    """A product with a page."""
    return seldon_up("up", resources, ui_listen=ANYWHERE).start()


def page(product: Product) -> str:
    """HOST:PORT of its page, from its banner."""
    (address,) = re.findall(r"^\s*page\s+http://([^/\s]+)/ui/$", product.out, re.MULTILINE)
    return str(address)


@contextlib.contextmanager
def events(address: str, path: str) -> Iterator[Iterator[tuple[str, Any]]]:
    """The events of a stream, as they come."""
    with contextlib.closing(http.client.HTTPConnection(address, timeout=SOON)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()

        def come() -> Iterator[tuple[str, Any]]:
            name = ""
            for line in iter(answer.readline, b""):
                word, _, rest = line.decode().rstrip("\n").partition(": ")
                if word == "event":
                    name = rest
                elif word == "data":
                    yield name, json.loads(rest)

        yield come()


def sent(address: str, kind: str, name: str, document: object) -> list[tuple[str, Any]]:
    """Send a request by the page, and all that it tells of it."""
    answer = http_call(address, "POST", f"/ui/api/send?kind={kind}&name={name}", document)
    assert answer.status == 202, answer
    with events(address, f"/ui/api/follow/{answer.json['id']}") as coming:
        return list(coming)


def counted(told: list[Any], of: Callable[[Any], Any], figure: str) -> float:
    """How many of a figure there were in all: of the last event, of that at which its rates begin, and so on."""
    by_time = {data["at"]: data for data in told}
    found, data = 0.0, told[-1]
    while data["since"] is not None:
        found += of(data).get(figure, 0.0) * (data["at"] - data["since"])
        data = by_time[data["since"]]
    return round(found, 6)


def test_the_figures_are_those_of_the_calls_that_were_made(shown: Product) -> None:
    calls, failures = 40, 10
    with events(page(shown), "/ui/api/live") as coming, ThreadPoolExecutor() as pool:
        told = [next(coming)[1]]
        assert told[0]["broker"] == {"ok": True, "fault": ""}
        made = [
            pool.submit(infer, shown.address, "pipelines/chain", inputs(INPUT=[-1 if number < failures else 1]))
            for number in range(calls)
        ]
        made += [pool.submit(infer, shown.address, "experiments/split", inputs(INPUT=[1])) for _ in range(calls)]
        for name, data in coming:
            if name == "figures":
                told.append(data)
                done = all(each.done() for each in made) and "chain" in data["pipelines"]
                if done and not data["pipelines"]["chain"]["rate"] and not data["pipelines"]["chain"]["lag"]:
                    break
    assert Counter(each.result().status for each in made) == {200: 2 * calls - failures, 500: failures}
    assert counted(told, lambda data: data["pipelines"].get("chain", {}), "rate") == calls
    assert counted(told, lambda data: data["pipelines"].get("chain", {}), "errors") == failures
    step = lambda name: lambda data: data["pipelines"].get("chain", {"steps": {}})["steps"].get(name, {})  # noqa: E731
    assert counted(told, step("double"), "rate") == calls
    assert counted(told, step("positive"), "errors") == failures
    assert told[-1]["pipelines"]["chain"]["in_flight"] == 0
    shares = [data["experiments"]["split"] for data in told if data["experiments"]]
    assert shares
    assert all(share == {"double": 1.0} for share in shares)
    busy = next(data["pipelines"]["chain"] for data in told if data["pipelines"] and data["pipelines"]["chain"]["p50"])
    assert 0 < busy["p50"] <= busy["p99"]
    assert 0 < busy["steps"]["double"]["p50"] <= busy["steps"]["double"]["p99"]


def test_what_is_shown_is_what_is_loaded_and_browsers_hear_when_that_changes(shown: Product, resources: Path) -> None:
    graphs = get(page(shown), "/ui/api/graphs").json
    (chain,) = [each for each in graphs["pipelines"] if each["name"] == "chain"]
    assert (chain["state"], chain["version"], chain["cyclic"]) == ("ready", 1, False)
    assert [node["id"] for node in chain["nodes"]] == ["chain.inputs", "double", "positive", "chain.outputs"]
    assert [(edge["from"], edge["to"]) for edge in chain["edges"]] == [
        ("chain.inputs", "double"),
        ("double", "positive"),
        ("positive", "chain.outputs"),
    ]
    assert [each["name"] for each in graphs["models"]] == ["double", "length", "positive"]
    with events(page(shown), "/ui/api/live") as coming:
        next(coming)
        resources.write_text(resources.read_text() + yaml("Pipeline", "new", "{steps: [{name: double}]}"))
        assert next(data for name, data in coming if name == "graphs")["version"] >= 1
    assert "new" in [each["name"] for each in get(page(shown), "/ui/api/graphs").json["pipelines"]]


def test_a_request_that_is_sent_is_seen_at_every_step_and_found_again(shown: Product) -> None:
    *records, (last, answer) = sent(page(shown), "pipeline", "chain", inputs(INPUT=[1, 2]))
    assert (last, answer["status"]) == ("answer", 200)
    assert answer["body"]["outputs"][0]["data"] == [2, 4]
    seen = [(data["node"], data["side"]) for name, data in records if name == "record"]
    way = [
        ("chain.inputs", "inputs"),
        ("double", "inputs"),
        ("double", "outputs"),
        ("positive", "inputs"),
        ("positive", "outputs"),
        ("chain.outputs", "outputs"),
    ]
    assert sorted(seen) == sorted(way)
    request_id = dict(records[0][1]["headers"])["x-request-id"]
    found = get(page(shown), f"/ui/api/requests/{request_id}?pipeline=chain").json
    assert [(record["node"], record["side"]) for record in found["records"]] == way
    assert [record["tensors"][0]["first"] for record in found["records"]] == [[1, 2]] * 2 + [[2, 4]] * 4


def test_requests_by_kafka_are_listed_too_and_those_that_failed_with_their_error(
    shown: Product, kafka: Kafka, namespace: str, request_id: str
) -> None:
    message = json.dumps(inputs(INPUT=[-1])).encode()
    headers = [("x-request-id", request_id.encode()), ("x-strange", STRANGE.encode())]
    kafka.send(f"seldon.{namespace}.pipeline.chain.inputs", message, headers=headers)
    infer(shown.address, "pipelines/chain", inputs(INPUT=[1]), [("x-request-id", "by-rest")])

    def listed() -> Any:
        found = get(page(shown), "/ui/api/requests?pipeline=chain&limit=10").json["requests"]
        return {each["id"]: each for each in found if each["state"] != "running"}

    found = wait_until(lambda: each if len(each := listed()) == 2 else None, "both are listed", SOON)
    assert (found["by-rest"]["state"], found["by-rest"]["error"]) == ("done", None)
    assert found[request_id]["state"] == "failed"
    assert found[request_id]["error"].endswith("it is below zero \u202e\x1b[31m<b>")
    (failure,) = [
        record
        for record in get(page(shown), f"/ui/api/requests/{request_id}?pipeline=chain").json["records"]
        if record["error"] and record["node"] == "positive"
    ]
    assert failure["error"]["step"] == "positive"
    assert ["x-strange", STRANGE] in failure["headers"]


@pytest.mark.parametrize("megabytes", [1, 32])
def test_of_a_large_tensor_the_begin_is_shown_and_a_sample_counted(
    shown: Product, kafka: Kafka, namespace: str, request_id: str, megabytes: int
) -> None:
    count = megabytes << 18
    message = ModelInferRequest(model_name="large")
    message.inputs.add(name="INPUT", datatype="FP32", shape=[1, count])
    message.raw_input_contents.append(np.arange(count, dtype="<f4").tobytes())
    kafka.send(
        f"seldon.{namespace}.pipeline.large.inputs",
        message.SerializeToString(),
        headers=[("x-request-id", request_id.encode())],
    )
    path = f"/ui/api/requests/{request_id}?pipeline=large"
    found = wait_until(
        lambda: each if (each := get(page(shown), path)).status == 200 and len(each.json["records"]) == 4 else None,
        "all its records are there",
        SOON,
    )
    assert len(found.body) < 10_000
    tensor = found.json["records"][0]["tensors"][0]
    assert (tensor["count"], tensor["first"], tensor["cut"]) == (count, list(range(16)), True)
    assert tensor["histogram"]["sampled"]
    assert tensor["histogram"]["of"] <= 4096
    assert sum(tensor["histogram"]["counts"]) == tensor["histogram"]["of"]


def called(address: str, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Status and body of a call with these headers, that of the host included."""
    with contextlib.closing(http.client.HTTPConnection(address, timeout=SOON)) as connection:
        connection.request(method, path, json.dumps(inputs(INPUT=[1])) if method == "POST" else None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_pages_of_others_are_refused(shown: Product) -> None:
    address = page(shown)
    assert get(address, "/ui/").status == 200
    assert str(get(address, "/ui/").header("content-security-policy")).startswith("default-src 'self';")
    strangers = [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
    for headers in strangers:
        status, body = called(address, "POST", "/ui/api/send?kind=pipeline&name=chain", **headers)
        assert status == 403, headers
        assert "error" in json.loads(body)
    assert get(address, "/ui/api/requests?pipeline=chain").json == {"requests": []}
    own = {"Host": "localhost:8080", "Origin": "http://localhost:8080"}
    assert called(address, "POST", "/ui/api/send?kind=pipeline&name=chain", **own)[0] == 202
