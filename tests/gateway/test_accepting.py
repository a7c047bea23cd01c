from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from engine.gateway import accepting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

CALLS, TIMEOUT = 64, 20.0


@asynccontextmanager
async def echo(
    answer: Callable[[bytes, Any], Awaitable[bytes]], at_once: int | None
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server of one method, `/a.B/Echo`, registered when calls of it are accepted several at a time."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("a.B", {"Echo": handler})])
    if at_once is not None:
        accepting.several(server, "a.B", "Echo", handler, at_once)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(0)


class CountingLoop(asyncio.SelectorEventLoop):
    """Knows which of its turns this is."""

    turn = 0

    def _run_once(self) -> None:
        self.turn += 1
        super()._run_once()  # type: ignore[misc]


def turns_that_began_calls(at_once: int | None) -> int:
    loop, turns = CountingLoop(), set()

    async def answer(data: bytes, _: Any) -> bytes:
        turns.add(loop.turn)
        return data

    async def call() -> None:
        async with echo(answer, at_once) as channel:
            method = channel.unary_unary("/a.B/Echo")
            sent = [b"%d" % number for number in range(CALLS)]
            assert await asyncio.gather(*(method(data, timeout=TIMEOUT) for data in sent)) == sent

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(call())
    return len(turns)


def test_calls_that_wait_are_begun_many_in_a_turn() -> None:
    assert turns_that_began_calls(16) < turns_that_began_calls(None) / 2


async def answered(data: bytes, _: Any) -> bytes:
    return data


async def test_the_method_is_called_as_before() -> None:
    async with echo(answered, 4) as channel:
        for number in range(20):
            assert await channel.unary_unary("/a.B/Echo")(b"%d" % number, timeout=TIMEOUT) == b"%d" % number


@pytest.mark.parametrize("method", ["/a.B/Echo\n1", "/a.B/Echo\n3"])
async def test_who_calls_by_a_name_that_is_ours_alone_is_told_at_once_each_time(method: str) -> None:
    async with echo(answered, 4) as channel:
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(method)(b"", timeout=TIMEOUT)
            assert caught.value.code() is grpc.StatusCode.CANCELLED


async def test_a_server_that_stops_leaves_no_error_behind(caplog: pytest.LogCaptureFixture) -> None:
    async with echo(answered, 4) as channel:
        await channel.unary_unary("/a.B/Echo")(b"", timeout=TIMEOUT)
    gc.collect()
    assert not caplog.records
