from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import grpc
import pytest

from engine.errors import InvalidSettings
from engine.gateway.server import Gateway
from engine.protocol import messages


async def test_many_calls_through_both_doors_at_once(served: Any, document: dict[str, Any], raw: Any) -> None:
    async def rest(number: int) -> str:
        body = {**document, "id": str(number)}
        async with served.session.post(f"{served.url}/v2/models/echo/infer", json=body) as response:
            return str((await response.json())["id"])

    async def rpc(number: int) -> str:
        message = type(raw).FromString(raw.SerializeToString())
        message.id = str(number)
        return str((await served.infer(message)).id)

    numbers = range(300)
    answers = await asyncio.gather(*map(rest, numbers), *map(rpc, numbers))
    assert answers == [*map(str, numbers)] * 2


async def test_many_grpc_connections_at_once(served: Any, raw: Any) -> None:
    async def call() -> str:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(served.authority, options=options) as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            answer = await infer(raw.SerializeToString(), wait_for_ready=True)
            return str(messages.ModelInferResponse.FromString(answer).id)

    assert await asyncio.gather(*(call() for _ in range(100))) == ["7"] * 100


async def test_a_stop_lets_calls_in_flight_end(served: Any, document: dict[str, Any], raw: Any) -> None:
    raw.model_name = "slow"

    async def rest() -> int:
        async with served.session.post(f"{served.url}/v2/models/slow/infer", json=document) as response:
            await response.read()
            return int(response.status)

    calls = [asyncio.create_task(rest()), asyncio.ensure_future(served.infer(raw))]
    for _ in calls:
        await served.inference.entered.get()
    stopping = asyncio.create_task(served.gateway.stop(30))
    await asyncio.sleep(0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(served.host, served.port)
    served.inference.release.set()
    async with asyncio.timeout(10):
        status, answer = await asyncio.gather(*calls)
        await stopping
    assert status == 200
    assert answer.id == "7"


async def test_a_stop_cuts_off_what_outlasts_its_grace_and_leaves_no_task(
    served: Any, document: dict[str, Any], raw: Any
) -> None:
    raw.model_name = "slow"
    rest = asyncio.create_task(served.session.post(f"{served.url}/v2/models/slow/infer", json=document))
    rpc = asyncio.ensure_future(served.infer(raw))
    for _ in range(2):
        await served.inference.entered.get()
    async with asyncio.timeout(10):
        await served.gateway.stop(0.2)
        for _ in range(2):
            await served.inference.left.get()
    with pytest.raises(aiohttp.ClientError):
        await rest
    with pytest.raises(grpc.aio.AioRpcError):
        await rpc


async def test_a_stop_does_not_wait_for_idle_connections(served: Any, raw: Any) -> None:
    async with served.session.get(f"{served.url}/v2/health/live") as response:
        assert response.status == 200
    await served.infer(raw)
    async with asyncio.timeout(10):
        await served.gateway.stop(60)


async def test_a_port_in_use_is_an_error_that_names_the_flag(served: Any) -> None:
    second = Gateway(served.inference, max_message_bytes=1000, request_timeout=1)
    with pytest.raises(InvalidSettings, match="--listen"):
        await second.start(served.host, served.port)


async def test_a_gateway_can_be_stopped_twice_or_before_its_start(served: Any) -> None:
    await Gateway(served.inference, max_message_bytes=1000, request_timeout=1).stop(0)
    await served.gateway.stop(0)
    await served.gateway.stop(0)
