"""Synchronous calls of a pipeline on Kafka by REST and gRPC, at fixed rates and as fast as they are answered."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc

from bench import latency
from bench.chain import DATATYPE, INPUTS, PIPELINE, SHAPE, arrays, check, request
from bench.latency import Latency, closed_loop, open_loop, summary
from bench.processes import READY, SELDON, Process
from bench.works import Layout, tfsimples
from engine.protocol.messages import SERVICE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from bench.broker import Bench

REST, GRPC, KAFKA = "REST pipeline call", "gRPC pipeline call", "Kafka, produce to read"
ROUTE = ("seldon-model", f"{PIPELINE}.pipeline")
RATES = (10.0, 50.0, 200.0)


def measure(bench: Bench, calls: int, rates: Sequence[float], saturating: int) -> list[Latency]:
    """`seldon up` on a Kafka, called by REST, by gRPC and by Kafka; and what is the least that anything there takes."""
    layout, bare = Layout("latency", tfsimples()), Layout("round-trip", tfsimples())
    command = [
        *(SELDON, "up", "pipelines/", "--listen", "127.0.0.1:0", "--kafka-broker", bench.address),
        *("--namespace", layout.namespace, "--partitions", str(bench.partitions)),
    ]
    with Process(command) as process:
        gateway, _ = process.wait_for(READY)
        measured = asyncio.run(_doors(f"{gateway[1]}:{gateway[2]}", calls, rates, saturating))
        measured.append(latency.by_kafka(bench.address, layout, calls, KAFKA))
        process.check()
    bench.remove(layout)
    bench.preload(bare, 0, "raw")
    measured.append(latency.bare_transaction(bench.address, bare.outputs[0], calls))
    measured.append(latency.bare_round_trip(bench.address, bare.inputs[0], bare.outputs[0], calls))
    bench.remove(bare)
    return measured


async def _doors(address: str, calls: int, rates: Sequence[float], saturating: int) -> list[Latency]:
    measured = []
    for path, door in ((REST, rest), (GRPC, rpc)):
        async with door(address) as call:
            measured += [summary(path, await open_loop(calls, call, rate), rate) for rate in rates]
            measured.append(await closed_loop(path, saturating, call))
    return measured


@contextlib.asynccontextmanager
async def rest(address: str) -> AsyncIterator[Any]:
    """A call of the pipeline by REST: seconds from its intended time to its answer."""
    loop = asyncio.get_running_loop()
    url = f"http://{address}/v2/models/{PIPELINE}/infer"
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(headers=dict([ROUTE]), connector=connector) as session:

        async def call(number: int, intended: float) -> float:
            async with session.post(url, json=body(number)) as answer:
                text = await answer.text()
                if answer.status != 200:
                    raise RuntimeError(f"call {number} got {answer.status}: {text}")
            return loop.time() - intended

        yield call


@contextlib.asynccontextmanager
async def rpc(address: str) -> AsyncIterator[Any]:
    """The same by gRPC; the answer is checked."""
    loop = asyncio.get_running_loop()
    async with grpc.aio.insecure_channel(address) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")

        async def call(number: int, intended: float) -> float:
            answer = await infer(request(number, "raw"), metadata=(ROUTE,), timeout=latency.LAST_ANSWER)
            taken = loop.time() - intended
            check(answer)
            return taken

        yield call


def body(number: int) -> dict[str, Any]:
    """The n-th request as JSON."""
    tensors = zip(INPUTS, arrays(number), strict=True)
    return {
        "id": str(number),
        "inputs": [
            {"name": name, "datatype": DATATYPE, "shape": SHAPE, "data": array.ravel().tolist()}
            for name, array in tensors
        ],
    }
