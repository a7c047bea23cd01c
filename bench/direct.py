"""One model called directly, one call after the other, beside servers that send each request back as it came."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import orjson

from bench.calls import body
from bench.chain import MODELS, check, request
from bench.processes import READY, SELDON, Process
from engine.protocol.messages import SERVICE
from engine.protocol.messages import ModelInferRequest as Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

PORTS = (r"ports (\d+) (\d+)",)
TURNS = 5


@dataclass(frozen=True, slots=True)
class Direct:
    """Milliseconds of the median call of the model, and of the echo."""

    path: str
    calls: int
    model_ms: float
    echo_ms: float


def measure(calls: int) -> list[Direct]:
    """`tfsimple1` of the samples by REST and by gRPC, and the same requests to bare servers, by turns."""
    up = [SELDON, "up", "pipelines/tfsimples.yaml", "--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0"]
    with Process(up) as ours, Process([sys.executable, "-m", "bench.peers.echo"]) as echo:
        gateway, _ = ours.wait_for(READY)
        [ports] = echo.wait_for(PORTS)
        address = f"{gateway[1]}:{gateway[2]}"
        measured = [
            asyncio.run(_beside("REST, aiohttp", _rest, address, f"127.0.0.1:{ports[1]}", calls)),
            asyncio.run(_beside("gRPC, grpc.aio", _rpc, address, f"127.0.0.1:{ports[2]}", calls)),
        ]
        ours.check()
        echo.check()
    return measured


async def _beside(path: str, door: Callable[..., Any], ours: str, echo: str, calls: int) -> Direct:
    waits: tuple[list[float], list[float]] = [], []
    async with door(ours, computes=True) as call, door(echo, computes=False) as bare:
        for _ in range(TURNS):
            for each, taken in zip((call, bare), waits, strict=True):
                taken.extend(await _one_by_one(each, calls // TURNS))
    return Direct(path, len(waits[0]), *(median(taken) * 1e3 for taken in waits))


async def _one_by_one(call: Callable[[], Awaitable[bytes]], calls: int) -> list[float]:
    """The first fifth of the calls does not count."""
    taken = []
    for _ in range(calls // 5 + calls):
        since = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - since)
    return taken[calls // 5 :]


@contextlib.asynccontextmanager
async def _rest(address: str, *, computes: bool) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    value, headers = orjson.dumps(body(1)), {"Content-Type": "application/json"}
    url = f"http://{address}/v2/models/{MODELS[0]}/infer"
    async with aiohttp.ClientSession(headers=headers) as session:

        async def call() -> bytes:
            async with session.post(url, data=value) as answer:
                text = await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{address} answered {answer.status}: {text.decode()}")
            return text

        tensors = orjson.loads(await call())["outputs" if computes else "inputs"]
        if computes and tensors[1]["data"] != [1] * 16:
            raise RuntimeError(f"the answer is wrong: {tensors}")
        yield call


@contextlib.asynccontextmanager
async def _rpc(address: str, *, computes: bool) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    asked = Request.FromString(request(1, "raw"))
    asked.model_name = MODELS[0]
    value = asked.SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")

        async def call() -> bytes:
            return await infer(value, timeout=30)

        answer = await call()
        if computes:
            check(answer, steps=1)
        yield call
