"""How long callers wait, over REST and over Kafka, when requests come at fixed times whether or not answers do."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import statistics
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.chain import DATATYPE, HEADERS, INPUTS, PIPELINE, SHAPE, ChainTopics, arrays, request
from bench.processes import SELDON, Process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

RATE = 50.0

# What a call is held against: the least that a transaction costs anybody.
BARE_TRANSACTION = "bare transaction, produce to read"
LAST_ANSWER = 10.0
READY = (r"gateway +(\S+):(\d+),", r"ready in")


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the intended time of sending to the answer."""

    path: str
    calls: int
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Startup:
    """On the embedded broker: seconds to the banner of each start, and the median of calls one after the other."""

    seconds: tuple[float, ...]
    calls: int
    median_ms: float


def measure(address: str, partitions: int, calls: int) -> list[Latency]:
    """`seldon up` on a Kafka, called by REST and then by Kafka, 50 times a second."""
    namespace = "latency"
    command = [
        *(SELDON, "up", "pipelines/", "--listen", "127.0.0.1:0", "--kafka-broker", address),
        *("--namespace", namespace, "--partitions", str(partitions)),
    ]
    with Process(command) as process:
        gateway, _ = process.wait_for(READY)
        rest = asyncio.run(_rest(gateway[1], int(gateway[2]), calls))
        kafka = asyncio.run(_kafka(address, ChainTopics(namespace), calls))
        process.check()
    bare = asyncio.run(_bare(address, ChainTopics(namespace), calls))
    return [
        summary("REST pipeline call", rest),
        summary("Kafka, produce to read", kafka),
        summary(BARE_TRANSACTION, bare),
    ]


def measure_startup(starts: int, calls: int) -> Startup:
    """`seldon up pipelines/` on the embedded broker, some times; then tfsimples by REST, one call after the other."""
    command = [SELDON, "up", "pipelines/", "--listen", "127.0.0.1:0", "--kafka-listen", "127.0.0.1:0"]
    seconds: list[float] = []
    taken: list[float] = []
    for number in range(starts):
        with Process(command) as process:
            gateway, _ = process.wait_for(READY)
            seconds.append(time.perf_counter() - process.started)
            if number == starts - 1:
                taken = _one_by_one(gateway[1], int(gateway[2]), calls)
            if said := process.errors().strip():
                raise RuntimeError(f"seldon up is not well:\n{said}")
    return Startup(tuple(seconds), calls, statistics.median(taken) * 1e3)


def summary(path: str, seconds: Sequence[float]) -> Latency:
    ordered = sorted(seconds)
    return Latency(path, len(ordered), _percentile(ordered, 0.5) * 1e3, _percentile(ordered, 0.99) * 1e3)


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that this share of all values does not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]


def _body(number: int) -> dict[str, Any]:
    tensors = zip(INPUTS, arrays(number), strict=True)
    return {
        "id": str(number),
        "inputs": [
            {"name": name, "datatype": DATATYPE, "shape": SHAPE, "data": array.ravel().tolist()}
            for name, array in tensors
        ],
    }


async def open_loop(calls: int, call: Callable[[int, float], Awaitable[float]], rate: float = RATE) -> list[float]:
    """Begin every call at its time, whatever became of those before; half as many before them do not count."""
    loop = asyncio.get_running_loop()
    begin, warm = loop.time() + 0.1, calls // 2
    tasks = []
    for number in range(warm + calls):
        intended = begin + number / rate
        await asyncio.sleep(max(0.0, intended - loop.time()))
        tasks.append(asyncio.ensure_future(call(number, intended)))
    taken = await asyncio.wait_for(asyncio.gather(*tasks), LAST_ANSWER)
    return taken[warm:]


async def _rest(host: str, port: int, calls: int) -> list[float]:
    loop = asyncio.get_running_loop()
    url = f"http://{host}:{port}/v2/models/{PIPELINE}/infer"
    async with aiohttp.ClientSession(headers={"seldon-model": f"{PIPELINE}.pipeline"}) as session:

        async def call(number: int, intended: float) -> float:
            async with session.post(url, json=_body(number)) as answer:
                text = await answer.text()
                if answer.status != 200:
                    raise RuntimeError(f"call {number} got {answer.status}: {text}")
            return loop.time() - intended

        return await open_loop(calls, call)


async def _kafka(address: str, topics: ChainTopics, calls: int) -> list[float]:
    loop = asyncio.get_running_loop()
    producer = AIOKafkaProducer(bootstrap_servers=address, linger_ms=0, acks="all")
    await producer.start()
    try:
        async with _reading(address, topics.outputs) as waiting:

            async def call(number: int, intended: float) -> float:
                key = b"kafka-%d" % number
                answered = waiting[key] = loop.create_future()
                await producer.send(topics.inputs, request(number, "raw"), key=key, headers=list(HEADERS))
                return await answered - intended

            return await open_loop(calls, call)
    finally:
        await producer.stop()


async def _bare(address: str, topics: ChainTopics, calls: int) -> list[float]:
    """One record of a transaction of its own, until a reader of what is committed has it; nobody works on it."""
    loop = asyncio.get_running_loop()
    # The default backoff of 100 ms after each commit would be all that is seen.
    producer = AIOKafkaProducer(
        bootstrap_servers=address, linger_ms=0, transactional_id=f"{topics.namespace}.bare", retry_backoff_ms=2
    )
    await producer.start()
    one_at_a_time = asyncio.Lock()
    try:
        async with _reading(address, topics.outputs) as waiting:

            async def call(number: int, intended: float) -> float:
                key = b"bare-%d" % number
                answered = waiting[key] = loop.create_future()
                async with one_at_a_time, producer.transaction():
                    await producer.send(topics.outputs, request(number, "raw"), key=key, headers=list(HEADERS))
                return await answered - intended

            return await open_loop(calls, call)
    finally:
        await producer.stop()


@asynccontextmanager
async def _reading(address: str, topic: str) -> AsyncIterator[dict[bytes, asyncio.Future[float]]]:
    """Whoever waits for a key of this topic is told when its record could be read."""
    loop = asyncio.get_running_loop()
    waiting: dict[bytes, asyncio.Future[float]] = {}
    reader = AIOKafkaConsumer(
        topic, bootstrap_servers=address, auto_offset_reset="latest", isolation_level="read_committed"
    )
    await reader.start()

    async def read() -> None:
        async for record in reader:
            answered = waiting.pop(record.key, None)
            if answered is not None:
                answered.set_result(loop.time())

    reading = asyncio.create_task(read())
    try:
        # The reader's position is the end as it is now: found out before the first record, not by it.
        for partition in reader.assignment():
            await reader.position(partition)
        yield waiting
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await reader.stop()


def _one_by_one(host: str, port: int, calls: int) -> list[float]:
    connection = http.client.HTTPConnection(host, port, timeout=LAST_ANSWER)
    headers = {"Content-Type": "application/json", "seldon-model": f"{PIPELINE}.pipeline"}
    taken = []
    warm = calls // 2
    for number in range(warm + calls):
        body = json.dumps(_body(number))
        since = time.perf_counter()
        connection.request("POST", f"/v2/models/{PIPELINE}/infer", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        taken.append(time.perf_counter() - since)
        if answer.status != 200:
            raise RuntimeError(f"call {number} got {answer.status}: {text.decode()}")
    connection.close()
    return taken[warm:]
