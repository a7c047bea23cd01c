"""The remote runtime against a real V2 server of grpc.aio, whose models are functions of the tests."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import numpy as np
import pytest
from asking import ask, columns, free_port, outcomes

from engine.errors import InvalidInput, ModelFailed, RequestError, RuntimeUnavailable, TimedOut, TooLarge, Unreachable
from engine.protocol.messages import (
    SERVICE,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
)
from engine.runtimes import declared, remote
from engine.runtimes.choice import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from engine.runtimes.remote import RemoteRuntime

Handler = "Callable[[Any, Any], Awaitable[bytes]]"


def answer(request: Any, number: int = 1) -> bytes:
    """The request's numbers, each with one added."""
    found = np.frombuffer(request.raw_input_contents[0], "<i8") + number
    response = ModelInferResponse(model_name=request.model_name, id="the server's own")
    response.outputs.add(name="y", datatype="INT64", shape=[len(found)])
    response.raw_output_contents.append(found.tobytes())
    return bytes(response.SerializeToString())


class Server:
    """A V2 server with one model, `infer`, which is told the request and the call."""

    def __init__(self, infer: Callable[[Any, Any], Awaitable[bytes]]) -> None:
        self.infer, self.seen, self.port = infer, list[tuple[Any, list[tuple[str, Any]]]](), 0
        self.asked, self.questions = asyncio.Event(), 0
        self.name, self.metadata = "", ModelMetadataResponse(name="there", platform="test")

    async def start(self, port: int = 0) -> None:
        self._server = grpc.aio.server()
        handlers = {
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer, ModelInferRequest.FromString),
            "ModelReady": grpc.unary_unary_rpc_method_handler(
                self._ready, ModelReadyRequest.FromString, ModelReadyResponse.SerializeToString
            ),
            "ModelMetadata": grpc.unary_unary_rpc_method_handler(
                self._metadata, ModelMetadataRequest.FromString, ModelMetadataResponse.SerializeToString
            ),
        }
        handlers["ServerMetadata"] = grpc.unary_unary_rpc_method_handler(
            self._server_metadata, ServerMetadataRequest.FromString, ServerMetadataResponse.SerializeToString
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(None)

    async def _infer(self, request: Any, context: Any) -> bytes:
        self.seen.append((request, list(context.invocation_metadata())))
        return await self.infer(request, context)

    async def _ready(self, request: Any, _context: Any) -> Any:
        return ModelReadyResponse(ready=request.name == "there")

    async def _metadata(self, request: Any, context: Any) -> Any:
        self.asked.set()
        self.questions += 1
        if request.name == "asleep":
            await asyncio.sleep(30)
        if request.name != "there":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        return self.metadata

    async def _server_metadata(self, _request: Any, context: Any) -> Any:
        if not self.name:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
        return ServerMetadataResponse(name=self.name)


@asynccontextmanager
async def serving(
    infer: Callable[[Any, Any], Awaitable[bytes]], name: str = "there"
) -> AsyncIterator[tuple[Server, RemoteRuntime]]:
    server = Server(infer)
    await server.start()
    runtime = connect("m", f"grpc://127.0.0.1:{server.port}/{name}", max_message_bytes=1 << 20)
    await runtime.load()
    try:
        yield server, runtime
    finally:
        await runtime.unload()
        await server.stop()


async def plus_one(request: Any, _context: Any) -> bytes:
    return answer(request)


def aborting(code: grpc.StatusCode, text: str) -> Callable[[Any, Any], Awaitable[bytes]]:
    async def infer(_request: Any, context: Any) -> bytes:
        await context.abort(code, text)
        raise AssertionError

    return infer


async def test_each_row_is_a_call_and_keeps_its_id() -> None:
    async with serving(plus_one) as (server, runtime):
        assert outcomes(await ask(runtime, columns(1, 2, 3))) == [2, 3, 4]
    assert sorted((request.model_name, request.id) for request, _ in server.seen) == [
        ("there", "1"),
        ("there", "2"),
        ("there", "3"),
    ]


async def test_a_server_knows_the_model_by_our_name_when_the_uri_has_none() -> None:
    async with serving(plus_one, name="") as (server, runtime):
        await ask(runtime, columns(1))
    assert server.seen[0][0].model_name == "m"


async def test_answers_go_on_as_they_come() -> None:
    let_go = asyncio.Event()

    async def infer(request: Any, _context: Any) -> bytes:
        if request.id == "1":
            await let_go.wait()
        return answer(request)

    async with serving(infer) as (_, runtime):
        parts = runtime.infer(columns(1, 2), [()] * 2, 5.0)
        assert list((await asyncio.wait_for(anext(parts), 4)).rows) == [1]
        let_go.set()
        assert [list(part.rows) async for part in parts] == [[0]]


async def test_a_row_that_takes_too_long_times_out_alone() -> None:
    async def infer(request: Any, _context: Any) -> bytes:
        if request.id == "1":
            await asyncio.sleep(30)
        return answer(request)

    async with serving(infer) as (_, runtime):
        late, answered = outcomes(await ask(runtime, columns(1, 2), timeout=0.5))
    assert isinstance(late, TimedOut)
    assert "gave no answer in time" in str(late)
    assert answered == 3


async def test_waiting_for_a_turn_takes_from_a_rows_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "MAX_CALLS", 1)

    async def infer(_request: Any, _context: Any) -> bytes:
        await asyncio.sleep(30)
        raise AssertionError

    async with serving(infer) as (_, runtime):
        began = time.monotonic()
        found = outcomes(await ask(runtime, columns(1, 2, 3, 4), timeout=0.5))
    assert {type(outcome) for outcome in found} == {TimedOut}
    assert time.monotonic() - began < 1.5


async def test_a_server_that_is_away_for_a_moment_is_asked_again() -> None:
    calls = 0

    async def infer(request: Any, context: Any) -> bytes:
        nonlocal calls
        calls += 1
        if calls < 3:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "starting")
        return answer(request)

    async with serving(infer) as (_, runtime):
        assert outcomes(await ask(runtime, columns(1))) == [2]
    assert calls == 3


async def test_a_server_that_stays_away_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRY_WAITS", (0.01, 0.01))
    async with serving(aborting(grpc.StatusCode.UNAVAILABLE, "starting")) as (server, runtime):
        [outcome] = outcomes(await ask(runtime, columns(1)))
    assert isinstance(outcome, Unreachable)
    assert str(outcome) == f'the server of model "m" at 127.0.0.1:{server.port} is out of reach: starting'
    assert len(server.seen) == 3


async def test_a_wait_that_the_deadline_does_not_allow_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRY_WAITS", (60.0,))
    async with serving(aborting(grpc.StatusCode.UNAVAILABLE, "starting")) as (_, runtime):
        [outcome] = outcomes(await ask(runtime, columns(1)))
    assert isinstance(outcome, Unreachable)


async def test_a_server_that_was_never_there_is_unreachable_at_once() -> None:
    runtime = connect("m", f"grpc://127.0.0.1:{free_port()}", max_message_bytes=1 << 20)
    await runtime.load()
    began = time.monotonic()
    found = outcomes(await ask(runtime, columns(1, 2), timeout=30))
    assert not await runtime.ready()
    await runtime.unload()
    assert {type(outcome) for outcome in found} == {Unreachable}
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput),
        (grpc.StatusCode.INTERNAL, ModelFailed),
        (grpc.StatusCode.NOT_FOUND, ModelFailed),
    ],
)
async def test_a_servers_error_is_told_as_it_says(code: grpc.StatusCode, kind: type[RequestError]) -> None:
    async with serving(aborting(code, "the reason")) as (_, runtime):
        [outcome] = outcomes(await ask(runtime, columns(1)))
    assert (type(outcome), str(outcome)) == (kind, "the reason")


async def test_x_headers_reach_the_server_with_the_values_of_a_name_in_their_order() -> None:
    headers = [("x-b", b"1"), ("x-request-id", b"r"), ("pipeline", b"p"), ("X-A", b"2"), ("x-b", b"3")]
    headers.append(("traceparent", b"00-1-2-01"))
    async with serving(plus_one) as (server, runtime):
        await ask(runtime, columns(1), headers)
    sent: dict[str, list[str]] = {}
    for name, value in server.seen[0][1]:
        sent.setdefault(name, []).append(value)
    assert {name: sent.get(name) for name in ("x-a", "x-b", "x-request-id", "pipeline", "traceparent")} == {
        "x-a": ["2"],
        "x-b": ["1", "3"],
        "x-request-id": ["r"],
        "pipeline": None,
        "traceparent": ["00-1-2-01"],
    }


async def test_headers_that_grpc_cannot_carry_do_not_fail_the_call() -> None:
    headers = [("x-é", b"1"), ("x-a b", b"1"), ("x-", b"1"), ("x-c", "ü".encode()), ("x-d", None), ("x-e-bin", b"\xff")]
    async with serving(plus_one) as (server, runtime):
        assert outcomes(await ask(runtime, columns(1), headers)) == [2]
    assert [pair for pair in server.seen[0][1] if pair[0].startswith("x-")] == [("x-e-bin", b"\xff")]


async def test_x_headers_that_the_server_adds_come_back_and_its_echo_does_not() -> None:
    async def infer(request: Any, context: Any) -> bytes:
        await context.send_initial_metadata((("x-new", "1"), ("other", "2"), ("x-mine", "echo"), ("x-new", "3")))
        context.set_trailing_metadata((("x-late", "4"),))
        return answer(request)

    async with serving(infer) as (_, runtime):
        [(_, added)] = await ask(runtime, columns(1), [("x-mine", b"m")])
    assert list(added) == [("x-new", b"1"), ("x-new", b"3"), ("x-late", b"4")]


async def test_each_row_gets_the_headers_of_its_own_answer() -> None:
    async def infer(request: Any, context: Any) -> bytes:
        if request.id != "2":
            context.set_trailing_metadata((("x-for", request.id),))
        return answer(request)

    async with serving(infer) as (_, runtime):
        found = await ask(runtime, columns(1, 2, 3))
    assert [dict(headers) for _, headers in found] == [{"x-for": b"1"}, {}, {"x-for": b"3"}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"\xff\xff", "the value is no V2 ModelInferResponse message"),
        (b"", "the message has no outputs"),
    ],
)
async def test_an_answer_that_does_not_decode_fails_alone(value: bytes, text: str) -> None:
    async def infer(request: Any, _context: Any) -> bytes:
        return value if request.id == "1" else answer(request)

    async with serving(infer) as (_, runtime):
        bad, good = outcomes(await ask(runtime, columns(1, 2)))
    assert isinstance(bad, ModelFailed)
    assert str(bad) == f'model "m" answered badly: {text}'
    assert good == 3


async def test_an_answer_or_a_request_over_the_limit_is_told() -> None:
    async def infer(_request: Any, _context: Any) -> bytes:
        return bytes((1 << 20) + 1)

    async with serving(infer) as (server, runtime):
        [answered] = outcomes(await ask(runtime, columns(1)))
        small = connect("m", f"grpc://127.0.0.1:{server.port}/there", max_message_bytes=20)
        await small.load()
        [asked] = outcomes(await ask(small, columns(1)))
        await small.unload()
    assert {type(answered), type(asked)} == {TooLarge}
    assert len(server.seen) == 1


@pytest.mark.parametrize("kind", [TooLarge, ModelFailed])
async def test_a_server_that_takes_no_such_size_is_told_from_one_that_has_too_much_to_do(
    kind: type[RequestError],
) -> None:
    text = "Received message larger than max (5 vs. 4)" if kind is TooLarge else "a quota"
    async with serving(aborting(grpc.StatusCode.RESOURCE_EXHAUSTED, text)) as (_, runtime):
        [outcome] = outcomes(await ask(runtime, columns(1)))
    assert type(outcome) is kind
    assert text in str(outcome)


async def test_calls_that_are_out_when_a_model_is_unloaded_end_with_an_error() -> None:
    begun = asyncio.Event()

    async def infer(_request: Any, _context: Any) -> bytes:
        begun.set()
        await asyncio.sleep(30)
        raise AssertionError

    async with serving(infer) as (_, runtime):
        asking = asyncio.create_task(ask(runtime, columns(1)))
        await asyncio.wait_for(begun.wait(), 5)
        await runtime.unload()
        [outcome] = outcomes(await asyncio.wait_for(asking, 5))
    assert isinstance(outcome, Unreachable)


async def test_a_call_of_an_unloaded_model_ends_with_an_error() -> None:
    async with serving(plus_one) as (_, runtime):
        await runtime.unload()
        [outcome] = outcomes(await asyncio.wait_for(ask(runtime, columns(1)), 5))
    assert isinstance(outcome, Unreachable)


async def test_an_abandoned_call_leaves_nothing_running() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def infer(_request: Any, _context: Any) -> bytes:
        begun.set()
        try:
            await asyncio.sleep(30)
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(infer) as (_, runtime):
        asking = asyncio.create_task(ask(runtime, columns(1)))
        await asyncio.wait_for(begun.wait(), 5)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await asyncio.wait_for(cancelled.wait(), 5)


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
    async with serving(plus_one) as (_, runtime):
        said = await runtime.metadata()
    assert (said.name, said.platform) == ("m", "test")


async def test_metadata_that_is_asked_for_while_a_model_is_unloaded_is_an_error() -> None:
    async with serving(plus_one, "asleep") as (server, runtime):
        asking = asyncio.create_task(runtime.metadata())
        await asyncio.wait_for(server.asked.wait(), 5)
        await runtime.unload()
        with pytest.raises(Unreachable, match='model "m" was unloaded'):
            await asyncio.wait_for(asking, 5)


async def test_metadata_that_the_server_has_not_is_an_error() -> None:
    async with serving(plus_one, "elsewhere") as (_, runtime):
        with pytest.raises(ModelFailed, match="no such model"):
            await runtime.metadata()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take its time to answer a question."""
    monkeypatch.setattr(declared, "LOOK_SECONDS", 30.0)


async def lone(runtime: RemoteRuntime) -> Any:
    """What one request gets."""
    [outcome] = outcomes(await ask(runtime, columns(1), timeout=60.0))
    return outcome


def declare(server: Server, name: str = "x", datatype: str = "INT64", *shape: int) -> None:
    del server.metadata.inputs[:]
    server.metadata.inputs.add(name=name, datatype=datatype, shape=shape)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("taken", "told"),
    [
        (("x", "FP32", -1), 'takes "x" FP32 [-1] and was given INT64 [1]'),
        (("x", "INT64", -1, 1), 'takes "x" INT64 [-1, 1] and was given INT64 [1]'),
        (("y", "INT64", -1), 'has no input "x"; it takes "y" INT64 [-1]; rename with tensorMap'),
    ],
)
async def test_a_request_that_does_not_fit_the_metadata_is_refused_and_never_sent(
    taken: tuple[Any, ...], told: str
) -> None:
    async with serving(plus_one) as (server, runtime):
        declare(server, *taken)
        found = outcomes(await ask(runtime, columns(1, 2), timeout=60.0))
    assert [(type(outcome), str(outcome)) for outcome in found] == [(InvalidInput, f'model "m" {told}')] * 2
    assert server.seen == []


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    "taken", [("x", "INT64", -1), ("x", "INT64", 1), ("x", "INT64"), ("x", ""), ("x", "TYPE_X", 0)]
)
async def test_a_request_that_may_fit_is_sent_and_the_metadata_is_read_once(taken: tuple[Any, ...]) -> None:
    async with serving(plus_one) as (server, runtime):
        declare(server, *taken)
        for _ in range(3):
            assert await runtime.ready()
            assert await lone(runtime) == 2
    assert server.questions == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("name", ["mlserver", "kserve", "OpenVINO Model Server", "millrace"])
async def test_servers_that_take_more_than_they_declare_are_left_to_judge(name: str) -> None:
    async with serving(plus_one) as (server, runtime):
        server.name = name
        declare(server, "y", "BYTES", 9)
        assert await lone(runtime) == 2


async def test_a_server_that_has_no_metadata_is_left_to_judge() -> None:
    async with serving(plus_one, "elsewhere") as (_, runtime):
        assert await lone(runtime) == 2


async def test_a_server_that_is_slow_to_tell_is_left_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared, "LOOK_SECONDS", 0.01)
    async with serving(plus_one, "asleep") as (server, runtime):
        assert await lone(runtime) == 2
        assert await lone(runtime) == 2
    assert server.questions == 1, "the first question is still out"


@pytest.mark.usefixtures("patient")
async def test_a_server_that_has_another_version_meanwhile_is_asked_before_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(declared, "REREAD_SECONDS", 3600.0)
    async with serving(plus_one) as (server, runtime):
        declare(server, "y")
        assert isinstance(await lone(runtime), InvalidInput)
        declare(server, "x")
        assert isinstance(await lone(runtime), InvalidInput), "it was asked just now"
        assert server.questions == 1
        monkeypatch.setattr(declared, "REREAD_SECONDS", 0.0)
        assert await lone(runtime) == 2
    assert server.questions == 2


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAVAILABLE])
async def test_a_server_that_refuses_or_was_away_is_asked_again_when_it_is_ready(
    code: grpc.StatusCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RETRY_WAITS", ())
    async with serving(aborting(code, "another version")) as (server, runtime):
        declare(server)
        assert await runtime.ready()
        assert isinstance(await lone(runtime), InvalidInput | Unreachable)
        declare(server, "y")
        assert await runtime.ready()
        assert 'has no input "x"' in str(await lone(runtime))
    assert (server.questions, len(server.seen)) == (2, 1)


@pytest.mark.usefixtures("patient")
async def test_metadata_is_asked_for_again_when_the_server_is_back() -> None:
    async with serving(plus_one) as (server, runtime):
        declare(server)
        assert await runtime.ready()
        await server.stop()
        assert not await runtime.ready()
        await server.start(server.port)
        declare(server, "y")
        async with asyncio.timeout(10):
            while not await runtime.ready():  # noqa: ASYNC110  the channel connects when it likes
                await asyncio.sleep(0.05)
        assert 'has no input "x"' in str(await lone(runtime))


@pytest.mark.parametrize("uri", ["grpc://host", "grpc://host:x", "grpc://[::1", "grpc://:80", "grpc://h:99999"])
def test_an_address_that_is_none_is_refused(uri: str) -> None:
    with pytest.raises(RuntimeUnavailable, match="is not of the form grpc://HOST:PORT"):
        connect("m", uri, max_message_bytes=1)


def test_an_ipv6_address_keeps_its_brackets() -> None:
    assert connect("m", "grpc://[::1]:80", max_message_bytes=1)._server.address == "[::1]:80"
