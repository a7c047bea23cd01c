from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from engine.errors import InvalidSettings
from engine.kafka.view import View
from engine.protocol.messages import ModelMetadataResponse
from engine.protocol.record import Topics
from engine.settings import Settings
from engine.telemetry.figures import Figures
from engine.ui.server import STATIC, Page

if TYPE_CHECKING:
    from conftest import FakeInference, Shown


async def test_the_page_and_its_files_are_served_from_the_package(shown: Shown) -> None:
    for path in ("", "?a", "../"):
        async with shown.session.get(shown.page.url + path) as response:
            assert (response.status, response.content_type) == (200, "text/html")
            assert await response.read() == (STATIC / "index.html").read_bytes()
    async with shown.session.get(shown.page.url.rstrip("/")) as response:
        assert response.url.path == "/ui/"
    async with shown.session.get(f"{shown.page.url}static/app.js") as response:
        assert (response.status, response.content_type.rpartition("/")[2]) == (200, "javascript")


async def test_only_what_comes_from_here_may_run_on_it(shown: Shown) -> None:
    for path in ("", "static/app.js", "api/graphs", "api/nothing"):
        async with shown.session.get(shown.page.url + path) as response:
            policy = response.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'self';")
            assert "unsafe" not in policy
            assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_no_file_beside_the_pages_own_is_served(shown: Shown) -> None:
    for path in ("static/../server.py", "static/%2e%2e/server.py", "static//etc/passwd"):
        async with shown.session.get(f"http://{urlsplit(shown.page.url).netloc}/ui/{path}") as response:
            assert response.status in (403, 404)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {"Host": "[::"},
        {"Host": "10.1.2.3:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Host": "localhost:1", "Origin": "http://localhost:2"},
    ],
)
async def test_a_call_that_may_be_another_pages_is_refused(shown: Shown, headers: dict[str, str]) -> None:
    for method, path in (("GET", "graphs"), ("POST", "send?kind=model&name=echo")):
        status, body = await shown.call(method, path, headers=headers)
        assert status == 403
        assert body["error"]
    assert shown.inference.count == 0


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1"])
async def test_it_goes_by_its_own_address_and_localhost_at_any_port(shown: Shown, host: str) -> None:
    status, _ = await shown.call("GET", "graphs", headers={"Host": host, "Origin": f"http://{host}"})
    assert status == 200


async def test_it_goes_by_the_name_that_it_was_told_to_listen_at(shown: Shown) -> None:
    page = Page(Settings(), Topics("a", "b"), View(), Figures(), shown.inference)
    await page.start("Localhost", 0)
    try:
        async with shown.session.get(f"http://127.0.0.1:{page.address[1]}/ui/") as response:
            assert response.status == 200
    finally:
        await page.stop()


async def test_a_port_that_is_taken_is_refused_with_the_flag(shown: Shown) -> None:
    page = Page(Settings(), Topics("a", "b"), View(), Figures(), shown.inference)
    with pytest.raises(InvalidSettings, match=r"--ui-listen 127\.0\.0\.1"):
        await page.start(*shown.page.address)
    await page.stop()


async def test_where_it_was_is_known_when_it_has_stopped(shown: Shown) -> None:
    address = shown.page.address
    await shown.page.stop()
    assert shown.page.address == address
    assert address[1] != 0


async def test_what_is_loaded_is_told_with_its_namespace(shown: Shown) -> None:
    status, body = await shown.get("graphs")
    assert (status, body["namespace"], body["pipelines"]) == (200, "ns", [])


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("nothing", 404, "Not Found"),
        ("requests", 400, "pipeline"),
        ("requests?pipeline=p&limit=-1", 400, "limit"),
        ("requests?pipeline=none", 404, "none"),
        ("requests/r?pipeline=none", 404, "none"),
        ("requests/r?model=m", 404, "sent from this page"),
        ("follow/r", 404, "sent from this page"),
        ("form?kind=explainer&name=x", 400, "kind"),
        ("form?kind=model", 400, "name"),
        ("form?kind=model&name=none", 404, "loaded"),
    ],
)
async def test_what_is_asked_wrongly_is_told_in_words(shown: Shown, path: str, status: int, word: str) -> None:
    found, body = await shown.get(path)
    assert (found, word in body["error"]) == (status, True), body


async def test_a_broker_that_is_away_is_not_waited_for(shown: Shown) -> None:
    shown.figures.kafka = lambda: "no Kafka broker answers"
    for path in ("requests?pipeline=p", "requests/r?pipeline=p"):
        assert await shown.get(path) == (503, {"error": "no Kafka broker answers"})
    async with aclosing(shown.events("live")) as events:
        name, data = await anext(events)
    assert (name, data["broker"]) == ("figures", {"ok": False, "fault": "no Kafka broker answers"})


async def test_streams_end_when_the_page_stops(shown: Shown) -> None:
    async with aclosing(shown.events("live")) as events:
        await anext(events)
        await shown.page.stop()
        assert [name async for name, _ in events if name not in ("figures", "graphs")] == []


def metadata(*inputs: tuple[str, str, list[int]]) -> Any:
    message = ModelMetadataResponse(name="m")
    for name, datatype, shape in inputs:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
    return message


async def test_the_form_begins_with_a_request_that_fits_the_metadata(shown: Shown) -> None:
    shown.inference.metadatas["m"] = metadata(("a", "INT32", [-1, 2]), ("b", "BYTES", [1]))
    _, body = await shown.get("form?kind=model&name=m")
    first, second = body["request"]["inputs"]
    assert (first["name"], first["datatype"], first["shape"], first["data"]) == ("a", "INT32", [1, 2], [1, 1])
    assert second["datatype"] == "BYTES"
    assert body["note"] == ""


async def test_the_form_says_what_nobody_tells(shown: Shown) -> None:
    inference: FakeInference = shown.inference
    inference.metadatas["guessed"] = metadata(("a", "", []))
    assert "a" in (await shown.get("form?kind=pipeline&name=guessed"))[1]["note"]
    _, body = await shown.get("form?kind=model&name=silent")
    assert body["request"]["inputs"]
    assert "does not tell" in body["note"]
    inference.metadatas["large"] = metadata(("a", "FP32", [1 << 40]), ("b", "FP32", [2]))
    _, body = await shown.get("form?kind=model&name=large")
    assert (body["request"]["inputs"][0]["data"], "Too large" in body["note"]) == ([], True)
