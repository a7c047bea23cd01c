"""What slow branches cost the requests that are not slow, and how soon it is known that a branch is not taken."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp

from bench.latency import Latency, open_loop, summary
from bench.processes import READY, SELDON, Process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# Two are on their way at any time, each of which takes a model 200 ms.
SLOW_RATE = 10.0
FAST, SLOW = 1, -1
TURNS = 4


def measure(address: str, partitions: int, calls: int) -> list[Latency]:
    """`seldon up` with a join of three branches and with a branch that may not be taken, called by REST."""
    command = [
        *(SELDON, "up", "bench/pipelines/", "--listen", "127.0.0.1:0", "--kafka-broker", address),
        *("--namespace", "branches", "--partitions", str(partitions)),
    ]
    with Process(command) as process:
        gateway, _ = process.wait_for(READY)
        measured = asyncio.run(_measure(f"http://{gateway[1]}:{gateway[2]}", calls))
        process.check()
    return measured


async def _measure(url: str, calls: int) -> list[Latency]:
    """Both sides of each comparison by turns, so that neither has the younger process or the busier machine."""
    alone, beside, taken, missed = ([], [], [], [])  # type: tuple[list[float], ...]
    async with aiohttp.ClientSession(url) as session:
        for _ in range(TURNS):
            alone += await open_loop(calls // TURNS, lambda _, at: _call(session, "three", FAST, at))
            async with _slow_ones(session):
                beside += await open_loop(calls // TURNS, lambda _, at: _call(session, "three", FAST, at))
        for _ in range(TURNS):
            taken += await open_loop(calls // TURNS, lambda _, at: _call(session, "branch", FAST, at))
            missed += await open_loop(calls // TURNS, lambda _, at: _call(session, "branch", SLOW, at, status=422))
    return [
        summary("three branches, alone", alone),
        summary("beside slow requests", beside),
        summary("the branch is taken", taken),
        summary("it is not taken", missed),
    ]


@asynccontextmanager
async def _slow_ones(session: aiohttp.ClientSession) -> AsyncIterator[None]:
    """Slow requests all the time, each checked to be slow."""

    async def send() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(_slow(session))
                await asyncio.sleep(1 / SLOW_RATE)

    sending = asyncio.create_task(send())
    try:
        yield
        if sending.done():
            await sending
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _slow(session: aiohttp.ClientSession) -> None:
    loop = asyncio.get_running_loop()
    taken = await _call(session, "three", SLOW, loop.time())
    if taken < 0.2:
        raise RuntimeError(f"a slow request took {taken * 1e3:.0f} ms")


async def _call(
    session: aiohttp.ClientSession, pipeline: str, number: int, intended: float, status: int = 200
) -> float:
    """One call, and the seconds from its intended time to its answer, which is checked."""
    tensor = {"name": "INPUT", "shape": [1], "datatype": "INT32", "data": [number]}
    async with session.post(f"/v2/pipelines/{pipeline}/infer", json={"inputs": [tensor]}) as answer:
        body: dict[str, Any] = await answer.json()
    taken = asyncio.get_running_loop().time() - intended
    values = [output["data"] for output in body.get("outputs", ())]
    wanted = [] if status != 200 else [[number + 1]] * (3 if pipeline == "three" else 1)
    if answer.status != status or values != wanted:
        raise RuntimeError(f"{pipeline} answered {number} with {answer.status}: {body}")
    return taken
