"""What it costs to be observed: CPU for each request of tfsimples, traced at 1 % and scraped, against neither."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import aiohttp
import orjson

from bench import suite
from bench.calls import body
from bench.chain import PIPELINE
from bench.processes import READY, SELDON, Process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

PLAIN, TRACED, SCRAPED = "neither", "traces of 1 % of the requests", "/metrics read each second"
RATIO = 0.01
SCRAPE_SECONDS = 1.0
CALLERS = 32

# A turn is short beside what else changes on a machine, and there are many, so that all see the same of it. Their order
# changes: who always came after the same one paid for it (measured: 14 % that were none).
TURNS = 15


@dataclass(frozen=True, slots=True)
class Observed:
    """Microseconds of CPU of `seldon up` for each request, of each turn, and the calls that it had in all."""

    how: str
    calls: int
    cpu_us: tuple[float, ...]

    def price(self, plain: Observed) -> float:
        """How much more than without, by turns that came one after the other."""
        return median(mine / its for mine, its in zip(self.cpu_us, plain.cpu_us, strict=True)) - 1


def measure(calls: int) -> list[Observed]:
    """Three `seldon up` by turns: each has a broker of its own, which takes longer the more it holds."""
    with _collector() as address, _up() as plain, _up(SELDON_TRACING_CONFIG_PATH=address) as traced, _up() as scraped:
        found = asyncio.run(_turns({PLAIN: plain, TRACED: traced, SCRAPED: scraped}, calls // TURNS))
    return [Observed(how, calls // TURNS * TURNS, tuple(cpu)) for how, cpu in found.items()]


@contextlib.contextmanager
def _collector() -> Iterator[str]:
    """The file that names a collector, which takes what is sent and throws it away."""
    with suite.load("collector").Collector() as collector, tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"otelExporterEndpoint": collector.address, "ratio": RATIO}, file)
        file.flush()
        yield file.name


@contextlib.contextmanager
def _up(**environment: str) -> Iterator[tuple[Process, str]]:
    resources = str(Path("pipelines") / "tfsimples.yaml")
    command = [SELDON, "up", resources, "--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0"]
    with Process(command, **environment) as process:
        gateway, _ = process.wait_for(READY)
        yield process, f"http://{gateway[1]}:{gateway[2]}"


async def _turns(products: Mapping[str, tuple[Process, str]], calls: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {how: [] for how in products}
    connector, chance = aiohttp.TCPConnector(limit=2 * CALLERS), random.Random(TURNS)
    async with aiohttp.ClientSession(connector=connector, headers={"Content-Type": "application/json"}) as session:
        for process, url in products.values():
            await _turn(session, process, url, 3 * calls)
        for _ in range(TURNS):
            for how in chance.sample(list(found), len(found)):
                process, url = products[how]
                async with _scraping(session, url) if how == SCRAPED else contextlib.nullcontext():
                    found[how].append(await _turn(session, process, url, calls))
    return found


async def _turn(session: aiohttp.ClientSession, process: Process, url: str, calls: int) -> float:
    """CPU for each of these calls, by callers that call again when they are answered."""
    value, left = orjson.dumps(body(1)), calls

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            async with session.post(f"{url}/v2/pipelines/{PIPELINE}/infer", data=value) as answer:
                text = await answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{url} answered {answer.status}: {text.decode()}")

    before = process.cpu_seconds()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    process.check()
    return (process.cpu_seconds() - before) / calls * 1e6


@contextlib.asynccontextmanager
async def _scraping(session: aiohttp.ClientSession, url: str) -> AsyncIterator[None]:
    async def scrape() -> None:
        while True:
            since = time.monotonic()
            async with session.get(f"{url}/metrics") as answer:
                await answer.read()
            await asyncio.sleep(since + SCRAPE_SECONDS - time.monotonic())

    task = asyncio.create_task(scrape())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
