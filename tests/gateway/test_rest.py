from __future__ import annotations

import asyncio
import gzip
import io
import json
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

import engine
from engine.gateway.inference import Target
from engine.protocol.record import Owner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from engine.errors import RequestError

ECHO = "/v2/models/echo/infer"


async def raw_http(served: Any, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """What a connection gives back to bytes that no HTTP library would send."""
    reader, writer = await asyncio.open_connection(served.host, served.port)
    try:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))
    finally:
        writer.close()


async def test_an_inference_is_answered(served: Any, document: dict[str, Any]) -> None:
    async with served.session.post(served.url + ECHO, json=document) as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        answer = await response.json()
    assert (answer["model_name"], answer["id"]) == ("echo", "7")
    assert answer["outputs"] == [{"name": "x", "datatype": "INT32", "shape": [1, 2], "data": [1, 2]}]


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        (ECHO, {}, Target(Owner.MODEL, "echo")),
        ("/v2/models/echo/versions/3/infer", {}, Target(Owner.MODEL, "echo")),
        ("/v2/pipelines/echo/infer", {}, Target(Owner.PIPELINE, "echo")),
        ("/v2/explainers/echo/infer", {}, Target(Owner.EXPLAINER, "echo")),
        ("/v2/models/other/infer", {"Seldon-Model": "echo.pipeline"}, Target(Owner.PIPELINE, "echo")),
    ],
)
async def test_the_path_or_the_header_routes(
    served: Any, document: dict[str, Any], path: str, headers: dict[str, str], expected: Target
) -> None:
    async with served.session.post(served.url + path, json=document, headers=headers) as response:
        assert response.status == 200
    target, request, *_ = served.inference.calls[0]
    assert target == expected
    assert (request.model_name, request.model_version) == ("echo", "3" if "versions" in path else "")


async def test_headers_travel_and_come_back(served: Any, document: dict[str, Any]) -> None:
    served.inference.headers = (("x-added", b"1"), ("x-split", b"a\r\nx-evil: 1"), ("seldon-reply", b"0.a.1"))
    sent = [("X-A", "1"), ("x-b", "2"), ("X-A", "3"), ("X-Pipeline-Version", "9"), ("X-Request-Id", "mine")]
    async with served.session.post(served.url + ECHO, json=document, headers=sent) as response:
        assert response.headers.getall("x-a") == ["1", "3"]
        assert response.headers.getall("x-request-id") == ["mine"]
        assert response.headers["x-added"] == "1"
        assert not {"x-split", "x-evil", "seldon-reply", "x-pipeline-version"} & {k.lower() for k in response.headers}
    _, _, headers, request_id, _ = served.inference.calls[0]
    assert headers == (("x-a", b"1"), ("x-b", b"2"), ("x-a", b"3"))
    assert request_id == "mine"


async def test_the_callers_timeout_holds(served: Any, document: dict[str, Any]) -> None:
    for headers in ({}, {"x-request-timeout-ms": "250"}):
        async with served.session.post(served.url + ECHO, json=document, headers=headers) as response:
            assert response.status == 200
    assert [call[4] for call in served.inference.calls] == [30.0, 0.25]


async def test_each_error_has_its_status_and_a_request_id(
    served: Any, document: dict[str, Any], failure: tuple[RequestError, int, object]
) -> None:
    error, status, _ = failure
    served.inference.failures["echo"] = error
    async with served.session.post(served.url + ECHO, json=document, headers={"x-request-id": "mine"}) as response:
        assert response.status == status
        assert response.headers["x-request-id"] == "mine"
        text = f"{error.step} : {error.text}" if error.step else error.text
        assert await response.json() == {"error": text}


async def test_only_what_is_refused_for_lack_of_room_says_when_to_come_back(
    served: Any, document: dict[str, Any], failure: tuple[RequestError, int, object]
) -> None:
    served.inference.failures["echo"], status, _ = failure
    async with served.session.post(served.url + ECHO, json=document) as response:
        assert response.headers.get("Retry-After") == ("1" if status == 429 else None)


async def test_a_call_without_room_is_refused_before_its_body_is_read(served: Any) -> None:
    served.inference.is_full = True
    sent = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"{"
        await sent.wait()
        yield b"}"

    async with served.session.post(served.url + ECHO, data=body()) as response:
        assert response.status == 429
        assert response.headers["Retry-After"] == "1"
        sent.set()
    assert not served.inference.calls


async def test_a_fault_of_ours_is_told_and_logged(
    served: Any, document: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    served.inference.failures["echo"] = KeyError("secret")
    async with served.session.post(served.url + ECHO, json=document, headers={"x-request-id": "mine"}) as response:
        assert response.status == 500
        assert response.headers["x-request-id"] == "mine"
        assert "secret" not in (await response.json())["error"]
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v3", 404),
        ("POST", "/v2/models/echo/nothing", 404),
        ("GET", ECHO, 405),
        ("PUT", ECHO, 405),
        ("POST", "/v2/health/live", 405),
        ("POST", "/v2/models/none/infer", 404),
        ("GET", "/v2/models/none/ready", 404),
        ("GET", "/v2/models/none", 404),
        ("GET", "/v2/pipelines/none/ready", 404),
        ("GET", "/v2/models/UPPER/ready", 400),
        ("POST", "/v2/models/a%2Fb/infer", 400),
    ],
)
async def test_what_is_not_there_is_a_v2_error(
    served: Any, document: dict[str, Any], method: str, path: str, status: int
) -> None:
    async with served.session.request(method, served.url + path, json=document) as response:
        assert response.status == status
        assert response.headers["x-request-id"].startswith("made-")
        assert list(await response.json()) == ["error"]
        assert status != 405 or response.headers["Allow"] in ("POST", "GET, HEAD", "GET,HEAD")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"inputs": 1}', b"\xff", b'{"inputs": []}'])
async def test_a_malformed_body_is_refused(served: Any, body: bytes) -> None:
    async with served.session.post(served.url + ECHO, data=body) as response:
        assert response.status == 400
        assert "x-request-id" in response.headers
        assert (await response.json())["error"]


async def test_binary_tensors_are_taken_and_given_behind_the_json(served: Any, document: dict[str, Any]) -> None:
    raw = np.array([[1, 2]], "<i4").tobytes()
    tensor = {"name": "x", "datatype": "INT32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    head = json.dumps({**document, "inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    async with served.session.post(served.url + ECHO, data=head + raw, headers=headers) as response:
        assert (response.status, response.content_type) == (200, "application/octet-stream")
        length, body = int(response.headers["Inference-Header-Content-Length"]), await response.read()
    assert body[length:] == raw
    assert json.loads(body[:length])["outputs"] == [tensor]
    _, sent, *_ = served.inference.calls[0]
    assert not sent.parameters
    assert not sent.inputs[0].parameters


@pytest.mark.parametrize("length", ["", "x", "-1", "1e3", "9" * 400, "3", "\u0661"])
async def test_a_json_of_an_unfit_length_is_refused(served: Any, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    async with served.session.post(served.url + ECHO, data=b"{}", headers=headers) as response:
        assert response.status == 400
        assert "JSON" in (await response.json())["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"x-request-timeout-ms": "soon"},
        {"x-a": "a\tb"},
        {"x-a.b": "1"},
        {"seldon-model": "a.b.c"},
    ],
)
async def test_unfit_headers_are_refused_under_the_callers_id(
    served: Any, document: dict[str, Any], headers: dict[str, str]
) -> None:
    headers = {**headers, "x-request-id": "mine"}
    async with served.session.post(served.url + ECHO, json=document, headers=headers) as response:
        assert response.status == 400
        assert response.headers["x-request-id"] == "mine"
    assert served.inference.calls == []


async def test_an_unfit_request_id_is_refused_under_a_new_one(served: Any) -> None:
    headers = {"x-request-id": "x" * 129}
    async with served.session.get(served.url + "/v2/health/live", headers=headers) as response:
        assert response.status == 400
        assert response.headers["x-request-id"].startswith("made-")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"NONSENSE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: h\r\nx-a: a\0b\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: h\r\nx-a: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /v2 HTTP/9.9\r\nHost: h\r\n\r\n",
    ],
)
async def test_what_is_no_http_request_gets_a_v2_error_with_a_request_id(served: Any, request_bytes: bytes) -> None:
    status, headers, body = await raw_http(served, request_bytes)
    assert status == 400
    assert headers["x-request-id"].startswith("made-")
    assert json.loads(body)["error"]


async def test_a_header_that_is_not_utf8_is_refused(served: Any) -> None:
    body = b'{"inputs": []}'
    head = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: h\r\nx-a: \xff\xfe\r\nContent-Length: %d\r\n\r\n" % len(body)
    status, headers, text = await raw_http(served, head + body)
    assert status == 400
    assert headers["x-request-id"].startswith("made-")
    assert "UTF-8" in json.loads(text)["error"]


async def test_a_body_over_the_limit_is_refused_before_it_is_sent(small: Any) -> None:
    head = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n"
    status, headers, body = await raw_http(small, head)
    assert status == 413
    assert "x-request-id" in headers
    assert "1000 bytes" in json.loads(body)["error"]


async def test_a_chunked_body_is_refused_as_soon_as_it_is_over_the_limit(small: Any) -> None:
    head = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, headers, body = await raw_http(small, head + b"3e9\r\n" + b"a" * 1001 + b"\r\n")
    assert status == 413
    assert "x-request-id" in headers
    assert "1000 bytes" in json.loads(body)["error"]


@pytest.mark.parametrize("padding", [0, 1])
async def test_the_limit_itself_is_allowed(small: Any, document: dict[str, Any], padding: int) -> None:
    body = orjson.dumps(document)
    body += b" " * (1000 - len(body) + padding)
    async with small.session.post(small.url + ECHO, data=body) as response:
        assert response.status == (413 if padding else 200)


async def test_an_answer_over_the_limit_is_an_error_with_a_request_id(small: Any, document: dict[str, Any]) -> None:
    small.inference.version = "v" * 1000
    async with small.session.post(small.url + ECHO, json=document, headers={"x-request-id": "mine"}) as response:
        assert response.status == 413
        assert response.headers["x-request-id"] == "mine"
        assert "the limit is 1000" in (await response.json())["error"]


async def test_an_answer_that_is_over_the_limit_in_json_only_comes_in_binary(small: Any) -> None:
    tensor = {"name": "x", "datatype": "FP64", "shape": [90], "parameters": {"binary_data_size": 720}}
    for binary, status in ((False, 413), (True, 200)):
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": binary}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        body = head + np.full(90, 1 / 3).tobytes()
        async with small.session.post(small.url + ECHO, data=body, headers=headers) as response:
            assert response.status == status, await response.text()


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_packed_body_is_unpacked(served: Any, document: dict[str, Any], encoding: str, pack: Any) -> None:
    headers = {"Content-Encoding": encoding}
    async with served.session.post(served.url + ECHO, data=pack(orjson.dumps(document)), headers=headers) as response:
        assert response.status == 200


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_packed_body_is_limited_by_what_it_unpacks_to(small: Any, encoding: str, pack: Any) -> None:
    bomb = pack(b" " * 500_000)
    assert len(bomb) < 1000
    async with small.session.post(small.url + ECHO, data=bomb, headers={"Content-Encoding": encoding}) as response:
        assert response.status == 413
        assert "x-request-id" in response.headers


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_packed_body_that_is_not_packed_is_malformed(served: Any, encoding: str) -> None:
    body = b"\x1f\x8bnothing like it"
    lines = f"Host: h\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}"
    head = f"POST {ECHO} HTTP/1.1\r\n{lines}\r\n\r\n"
    status, headers, text = await raw_http(served, head.encode() + body)
    assert status == 400
    assert "x-request-id" in headers
    assert json.loads(text)["error"]


@pytest.mark.parametrize("encoding", ["secret", "gzip, gzip", "x-gzip"])
async def test_a_body_in_an_unknown_encoding_is_refused(served: Any, document: dict[str, Any], encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    async with served.session.post(served.url + ECHO, data=orjson.dumps(document), headers=headers) as response:
        assert response.status == 400
        assert f'"{encoding}"; known are gzip, deflate' in (await response.json())["error"]
    assert served.inference.calls == []


@pytest.mark.parametrize("path", [ECHO, "/v2/models/echo/nothing"])
async def test_a_body_that_cannot_be_unpacked_is_no_fault_of_ours(
    served: Any, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    body = b"nothing like it"
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection(served.host, served.port)
    writer.write(head.encode() + body)
    # The server closes: what follows such a body on the connection cannot be told from it.
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400" if path == ECHO else b"HTTP/1.1 404")
    assert caplog.records == []


async def test_a_body_that_does_not_come_is_refused_in_time(served: Any) -> None:
    head = f"POST {ECHO} HTTP/1.1\r\nHost: h\r\nx-request-timeout-ms: 50\r\nContent-Length: 10\r\n\r\nhalf"
    status, headers, body = await raw_http(served, head.encode())
    assert (status, headers["connection"]) == (408, "close")
    assert json.loads(body)["error"] == "the request's body did not come within 0.05 s"


async def test_health_metadata_and_readiness(served: Any) -> None:
    expected = {
        "/v2": {"name": "millrace", "version": engine.__version__, "extensions": ["binary_tensor_data"]},
        "/v2/health/live": {"live": True},
        "/v2/health/ready": {"ready": True},
        "/v2/models/echo/ready": {"name": "echo", "ready": True},
        "/v2/models/echo/versions/1/ready": {"name": "echo", "ready": True},
        "/v2/pipelines/echo/ready": {"name": "echo", "ready": True},
    }
    for path, document in expected.items():
        async with served.session.get(served.url + path) as response:
            assert (response.status, await response.json()) == (200, document)
            assert "x-request-id" in response.headers


@pytest.mark.parametrize("path", ["/v2/models/echo", "/v2/models/echo/versions/1", "/v2/pipelines/echo"])
async def test_metadata_names_the_tensors(served: Any, path: str) -> None:
    async with served.session.get(served.url + path) as response:
        document = await response.json()
    assert (document["name"], document["platform"]) == ("echo", "fake")
    assert document["inputs"] == [{"name": "x", "datatype": "INT32", "shape": [-1, 2]}]


@pytest.mark.parametrize("end", ["", "/ready"])
async def test_a_question_asks_for_the_version_that_its_path_names(served: Any, end: str) -> None:
    for path in ("/v2/models/echo", "/v2/models/echo/versions/7", "/v2/pipelines/echo/versions/8"):
        async with served.session.get(served.url + path + end) as response:
            assert response.status == 200
    assert served.inference.asked == ["", "7", "8"]


@pytest.mark.parametrize("path", ["/v2/health/ready", "/v2/models/echo/ready", "/v2/pipelines/echo/ready"])
async def test_not_ready_is_503(served: Any, path: str) -> None:
    served.inference.is_ready = False
    async with served.session.get(served.url + path) as response:
        assert response.status == 503
        assert "not ready" in (await response.json())["error"]


async def test_what_is_not_ready_says_why(served: Any) -> None:
    served.inference.is_ready = False
    async with served.session.get(served.url + "/v2/pipelines/echo/ready") as response:
        assert (await response.json())["error"] == 'pipeline "echo" is not ready: echo is at rest'


async def test_a_caller_who_leaves_frees_its_call(served: Any, document: dict[str, Any]) -> None:
    call = asyncio.create_task(served.session.post(served.url + "/v2/models/slow/infer", json=document))
    await served.inference.entered.get()
    call.cancel()
    async with asyncio.timeout(10):
        await served.inference.left.get()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_tensor_of_16_mib(served: Any) -> None:
    values = np.arange(4 << 20, dtype=np.int32) % 10
    tensor = {"name": "x", "datatype": "INT32", "shape": [4 << 20], "data": values}
    body = orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)
    async with served.session.post(served.url + ECHO, data=io.BytesIO(body)) as response:
        assert response.status == 200
        answer = orjson.loads(await response.read())
    assert np.array_equal(answer["outputs"][0]["data"], values)
