"""How long callers wait when requests come at fixed times whether or not answers do; and the least on Kafka."""

from __future__ import annotations

import asyncio
import functools
import math
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from bench.chain import HEADERS, request
from bench.processes import Process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from bench.works import Layout

RATE = 50.0

# What calls are held against: the least that a transaction costs anybody, and the least that an answer by Kafka does.
BARE_TRANSACTION = "bare transaction, produce to read"
BARE_ROUND_TRIP = "bare round trip, exactly once"
LAST_ANSWER = 10.0
# A process that was just started joins its group first.
FIRST_ANSWER = 60.0

# Calls that do not count, before those that do: half as many, but no more than in this time.
WARM_SECONDS = 10.0

# Each calls again when it has its answer.
CALLERS = 64


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the intended time of sending to the answer.

    rate    calls a second; of callers that call again when they are answered, how many that came to
    """

    path: str
    calls: int
    p50: float
    p99: float
    rate: float = RATE
    closed: bool = False


def summary(path: str, seconds: Sequence[float], rate: float = RATE, *, closed: bool = False) -> Latency:
    ordered = sorted(seconds)
    p50, p99 = (_percentile(ordered, share) * 1e3 for share in (0.5, 0.99))
    return Latency(path, len(ordered), p50, p99, rate, closed)


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that this share of all values does not exceed."""
    return ordered[math.ceil(share * len(ordered)) - 1]


async def open_loop(calls: int, call: Callable[[int, float], Awaitable[float]], rate: float = RATE) -> list[float]:
    """Begin every call at its time, whatever became of those before; some before them do not count."""
    loop = asyncio.get_running_loop()
    begin, warm = loop.time() + 0.1, min(calls // 2, int(WARM_SECONDS * rate))
    tasks = []
    for number in range(warm + calls):
        intended = begin + number / rate
        await asyncio.sleep(max(0.0, intended - loop.time()))
        tasks.append(asyncio.ensure_future(call(number, intended)))
    taken = await asyncio.wait_for(asyncio.gather(*tasks), LAST_ANSWER)
    return taken[warm:]


async def closed_loop(path: str, calls: int, call: Callable[[int, float], Awaitable[float]]) -> Latency:
    """As many calls as are answered, by callers that call again when they have their answer; the first tenth warms."""
    loop = asyncio.get_running_loop()
    numbers = iter(range(calls // 10 + calls))
    taken: list[float] = []

    async def caller() -> None:
        for number in numbers:
            seconds = await call(number, loop.time())
            taken.append(seconds)
            ends.append(loop.time())

    ends: list[float] = []
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    warm = calls // 10
    rate = calls / (ends[-1] - ends[warm - 1])
    return summary(path, taken[warm:], rate, closed=True)


def by_kafka(address: str, layout: Layout, calls: int, path: str) -> Latency:
    """Records produced to a work's first inputs at a rate, each until an independent reader has its answer."""
    make = functools.partial(layout.work.request, contents="raw")
    return asyncio.run(_by_kafka(address, layout.inputs[0], layout.outputs[0], make, calls, path))


def bare_round_trip(address: str, reads: str, writes: str, calls: int) -> Latency:
    """Produced, consumed, and in one transaction produced and committed by another process, consumed: exactly once."""
    command = [sys.executable, "-m", "bench.peers.bare_loop"]
    environment = {"READS": reads, "WRITES": writes, "GROUP": f"{reads}.bare", "GUARANTEE": "exactly-once"}
    make = functools.partial(request, contents="raw")
    with Process(command, BOOTSTRAP=address, **environment) as process:
        measured = asyncio.run(_by_kafka(address, reads, writes, make, calls, BARE_ROUND_TRIP))
        process.check()
    return measured


async def _by_kafka(
    address: str, inputs: str, outputs: str, make: Callable[[int], bytes], calls: int, path: str
) -> Latency:
    loop = asyncio.get_running_loop()
    producer = AIOKafkaProducer(bootstrap_servers=address, linger_ms=0, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        async with _reading(address, outputs) as waiting:

            async def call(number: int, intended: float) -> float:
                key = b"kafka-%d" % number
                answered = waiting[key] = loop.create_future()
                await producer.send(inputs, make(number), key=key, headers=list(HEADERS))
                return await answered - intended

            # The first number of all is of none that are timed.
            await asyncio.wait_for(call(2 * calls, loop.time()), FIRST_ANSWER)
            return summary(path, await open_loop(calls, call))
    finally:
        await producer.stop()


def bare_transaction(address: str, topic: str, calls: int) -> Latency:
    """One record of a transaction of its own, until a reader of what is committed has it; nobody works on it."""
    return asyncio.run(_transaction(address, topic, calls))


async def _transaction(address: str, topic: str, calls: int) -> Latency:
    loop = asyncio.get_running_loop()
    # The default backoff of 100 ms after each commit would be all that is seen.
    producer = AIOKafkaProducer(
        bootstrap_servers=address, linger_ms=0, transactional_id=f"{topic}.bare", retry_backoff_ms=2
    )
    await producer.start()
    one_at_a_time = asyncio.Lock()
    try:
        async with _reading(address, topic) as waiting:

            async def call(number: int, intended: float) -> float:
                key = b"bare-%d" % number
                answered = waiting[key] = loop.create_future()
                async with one_at_a_time, producer.transaction():
                    await producer.send(topic, request(number, "raw"), key=key, headers=list(HEADERS))
                return await answered - intended

            return summary(BARE_TRANSACTION, await open_loop(calls, call))
    finally:
        await producer.stop()


@asynccontextmanager
async def _reading(address: str, topic: str) -> AsyncIterator[dict[bytes, asyncio.Future[float]]]:
    """Whoever waits for a key of this topic is told when its record could be read."""
    loop = asyncio.get_running_loop()
    waiting: dict[bytes, asyncio.Future[float]] = {}
    reader: Any = AIOKafkaConsumer(
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
