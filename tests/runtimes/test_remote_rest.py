"""The remote runtime against a real HTTP server, whose models are functions of the tests."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web
from asking import ask, columns, free_port, outcomes

from engine.errors import InvalidInput, ModelFailed, RequestError, TimedOut, TooLarge, Unreachable
from engine.protocol import tensors
from engine.protocol.columns import Columns, TensorSpec
from engine.runtimes import declared, remote
from engine.runtimes.choice import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from engine.runtimes.remote import RemoteRuntime

LIMIT = 1 << 20


async def plus_one(request: web.Request) -> web.Response:
    found = await request.json()
    [tensor] = found["inputs"]
    output = {**tensor, "name": "y", "data": [number + 1 for number in tensor["data"]]}
    return web.json_response({"model_name": "there", "id": "the server's own", "outputs": [output]})


def answering(status: int, text: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def infer(_request: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    return infer


class Server:
    """A V2 server with one model; `seen` holds the paths and headers of its calls."""

    def __init__(self, infer: Callable[[web.Request], Awaitable[web.Response]]) -> None:
        self._infer, self.seen = infer, list[tuple[str, list[tuple[str, str]]]]()
        self.name: str | None = None
        self.metadata: Any = {"name": "there", "platform": "test", "versions": ["1"], "inputs": [], "outputs": []}

    async def start(self) -> None:
        application = web.Application()
        application.router.add_post("/v2/models/{name}/infer", self._call)
        application.router.add_get("/v2/models/{name}/ready", self._ready)
        application.router.add_get("/v2/models/{name}", self._describe)
        application.router.add_get("/v2", self._describe_server)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _call(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.path, [(name.lower(), value) for name, value in request.headers.items()]))
        return await self._infer(request)

    async def _ready(self, request: web.Request) -> web.Response:
        return web.json_response({}, status=200 if request.match_info["name"] == "there" else 404)

    async def _describe_server(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": "1"} if self.name is None else {"name": self.name})

    async def _describe(self, request: web.Request) -> web.Response:
        if request.match_info["name"] != "there":
            return web.json_response({"error": "no such model"}, status=404)
        return web.json_response(self.metadata)


@asynccontextmanager
async def serving(
    infer: Callable[[web.Request], Awaitable[web.Response]], name: str = "there"
) -> AsyncIterator[tuple[Server, RemoteRuntime]]:
    server = Server(infer)
    await server.start()
    runtime = connect("m", f"http://127.0.0.1:{server.port}/{name}", max_message_bytes=LIMIT)
    await runtime.load()
    try:
        yield server, runtime
    finally:
        await runtime.unload()
        await server.stop()


async def test_each_row_is_a_call_of_the_servers_model_and_keeps_its_id() -> None:
    async with serving(plus_one) as (server, runtime):
        assert outcomes(await ask(runtime, columns(1, 2, 9))) == [2, 3, 10]
    assert {path for path, _ in server.seen} == {"/v2/models/there/infer"}


async def test_x_headers_go_there_and_those_that_the_server_adds_come_back() -> None:
    async def infer(request: web.Request) -> web.Response:
        answer = await plus_one(request)
        for name, value in (("X-New", "1"), ("x-new", "2"), ("other", "3"), ("x-mine", "echo")):
            answer.headers.add(name, value)
        return answer

    sent = [
        ("x-mine", b"a"),
        ("x-mine", b"b"),
        ("X-Upper", b"c"),
        ("pipeline", b"p"),
        ("x-c\xe9", b"1"),
        ("x-d", b"\n"),
    ]
    async with serving(infer) as (server, runtime):
        [(_, added)] = await ask(runtime, columns(1), sent)
    assert [pair for pair in server.seen[0][1] if pair[0].startswith("x-")] == [
        ("x-mine", "a"),
        ("x-mine", "b"),
        ("x-upper", "c"),
    ]
    assert list(added) == [("x-new", b"1"), ("x-new", b"2")]


async def test_bytes_are_text_on_the_way_as_v2_servers_write_them_and_base64_where_they_are_none() -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"model_name": "there", "outputs": (await request.json())["inputs"]})

    cells = [tensors.join_bytes(["é".encode(), b""]), tensors.join_bytes([b"\xff", b"a"])]
    asked = Columns([b"", b""], (TensorSpec("x", "BYTES", (2,)),), (cells,))
    async with serving(echo) as (_, runtime):
        found = {}
        async for part in runtime.infer(asked, [(), ()], 5.0):
            assert isinstance(part.outcome, Columns)
            found.update({row: part.outcome.cells[0][place] for place, row in enumerate(part.rows)})
    assert [found[0], found[1]] == cells


@pytest.mark.parametrize(
    ("status", "text", "kind", "told"),
    [
        (400, '{"error": "the reason"}', InvalidInput, "the reason"),
        (422, '{"detail": [{"loc": "inputs"}]}', InvalidInput, '[{"loc":"inputs"}]'),
        (404, '{"error": "no such model"}', ModelFailed, "no such model"),
        (500, "boom", ModelFailed, "boom"),
        (500, "", ModelFailed, "HTTP status 500"),
        (302, "", ModelFailed, "HTTP status 302"),
        (504, "", TimedOut, "gave no answer in time"),
        (200, "no JSON", ModelFailed, "answered badly: the body is not JSON"),
        (200, '{"outputs": [{"name": "y"}]}', ModelFailed, "answered badly"),
        (200, '{"outputs": []}', ModelFailed, "answered badly: the message has no outputs"),
        (413, '{"error": "too long"}', TooLarge, "too long"),
        (200, " " * (LIMIT + 1), TooLarge, f"answered more than {LIMIT} bytes"),
    ],
)
async def test_what_a_server_says_is_the_calls_error(
    status: int, text: str, kind: type[RequestError], told: str
) -> None:
    async with serving(answering(status, text)) as (_, runtime):
        [outcome] = outcomes(await ask(runtime, columns(1)))
    assert type(outcome) is kind
    assert told in str(outcome)


async def test_a_server_that_is_away_for_a_moment_is_asked_again() -> None:
    calls = 0

    async def infer(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        if calls == 1:
            return web.Response(status=503)
        if calls == 2:
            assert request.transport is not None
            request.transport.close()  # it dies in the middle of a call
        return await plus_one(request)

    async with serving(infer) as (_, runtime):
        assert outcomes(await ask(runtime, columns(1))) == [2]
    assert calls == 3


async def test_a_server_that_was_never_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRY_WAITS", (0.01,))
    runtime = connect("m", f"http://127.0.0.1:{free_port()}", max_message_bytes=LIMIT)
    await runtime.load()
    found = outcomes(await ask(runtime, columns(1, 2)))
    assert not await runtime.ready()
    await runtime.unload()
    assert {type(outcome) for outcome in found} == {Unreachable}


async def test_a_row_that_takes_too_long_times_out_alone() -> None:
    async def infer(request: web.Request) -> web.Response:
        if (await request.json())["id"] == "1":
            await asyncio.sleep(30)
        return await plus_one(request)

    async with serving(infer) as (_, runtime):
        late, answered = outcomes(await ask(runtime, columns(1, 2), timeout=0.5))
    assert isinstance(late, TimedOut)
    assert answered == 3


async def test_calls_that_are_out_when_a_model_is_unloaded_end_with_an_error() -> None:
    begun = asyncio.Event()

    async def infer(_request: web.Request) -> web.Response:
        begun.set()
        await asyncio.sleep(30)
        raise AssertionError

    async with serving(infer) as (_, runtime):
        asking = asyncio.create_task(ask(runtime, columns(1)))
        await asyncio.wait_for(begun.wait(), 5)
        await runtime.unload()
        [outcome] = outcomes(await asyncio.wait_for(asking, 5))
        [after] = outcomes(await ask(runtime, columns(1)))
    assert {type(outcome), type(after)} == {Unreachable}


@pytest.mark.parametrize(("name", "ready"), [("there", True), ("elsewhere", False)])
async def test_a_model_is_ready_when_its_server_says_so(name: str, *, ready: bool) -> None:
    async with serving(plus_one, name) as (_, runtime):
        assert await runtime.ready() is ready


async def test_a_model_that_was_unloaded_is_out_of_reach_and_not_ready() -> None:
    async with serving(plus_one) as (_, runtime):
        await runtime.unload()
        assert not await runtime.ready()
        with pytest.raises(Unreachable, match='model "m" was unloaded'):
            await runtime.metadata()


async def test_metadata_is_the_servers_under_our_name() -> None:
    async with serving(plus_one) as (server, runtime):
        server.metadata["inputs"] = [{"name": "x", "datatype": "INT64", "shape": [-1, 3]}]
        said = await runtime.metadata()
    assert (said.name, said.platform, said.versions[:]) == ("m", "test", ["1"])
    assert [(each.name, each.datatype, each.shape[:]) for each in said.inputs] == [("x", "INT64", [-1, 3])]


@pytest.mark.parametrize("name", [None, "triton", "mlserver"])
async def test_a_request_that_does_not_fit_the_metadata_is_refused_unless_the_server_only_describes(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(declared, "LOOK_SECONDS", 30.0)
    async with serving(plus_one) as (server, runtime):
        server.name = name
        server.metadata["inputs"] = [{"name": "x", "datatype": "FP32", "shape": [-1]}]
        [outcome] = outcomes(await ask(runtime, columns(1), timeout=60.0))
    if name == "mlserver":
        assert outcome == 2
    else:
        assert str(outcome) == 'model "m" takes "x" FP32 [-1] and was given INT64 [1]'
        assert server.seen == []


@pytest.mark.parametrize("metadata", [[], {}, {"name": "m", "inputs": [{"name": "x"}]}, {"name": 1}])
async def test_metadata_that_is_none_of_v2_is_an_error(metadata: Any) -> None:
    async with serving(plus_one) as (server, runtime):
        server.metadata = metadata
        with pytest.raises(ModelFailed, match="answered badly: the metadata is none of V2"):
            await runtime.metadata()


async def test_every_number_comes_back_as_it_went() -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=(await request.read()).replace(b'"inputs"', b'"outputs"'))

    array = np.array([[0.1, np.nan, -np.inf, 1e-300]])
    asked = Columns([b""], (TensorSpec("x", "FP64", (4,)),), (array,))
    async with serving(echo) as (_, runtime):
        [part] = [part async for part in runtime.infer(asked, [()], 5.0)]
    assert isinstance(part.outcome, Columns)
    # JSON has no infinities: they are written as null, and null is read as NaN.
    np.testing.assert_array_equal(part.outcome.array(0, 0), [0.1, np.nan, np.nan, 1e-300])
