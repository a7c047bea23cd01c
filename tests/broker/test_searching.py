"""`seldon pipeline inspect` of one request among many, on both brokers, and how little it reads."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import TYPE_CHECKING, Any

from product import Product, infer, inputs, seldon, wait_until
from resource_files import write

from engine import inspect as inspection
from engine.inspect import looking
from engine.kafka import client
from engine.kafka.view import View
from engine.protocol.record import xid
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pytest

    from engine.inspect import Inspected, TopicRecords

TOPICS = (
    "pipeline.chain.inputs",
    "model.first.inputs",
    "model.first.outputs",
    "model.second.inputs",
    "model.second.outputs",
    "pipeline.chain.outputs",
)
PIPELINE = {
    "apiVersion": "mlops.seldon.io/v1alpha1",
    "kind": "Pipeline",
    "metadata": {"name": "chain"},
    "spec": {
        "steps": [{"name": "first"}, {"name": "second", "inputs": ["first"]}],
        "output": {"steps": ["second"]},
    },
}
PARTITIONS = 4
REQUESTS = 10_000
# Requests a second.
RATE = 40
OWN = 9_900

# From the start of the command to its first line, and from an answer to its line.
FOLLOWS_WITHIN = 30.0


def view() -> View:
    found = View()
    found.resource_record(
        b"pipeline.chain", json.dumps({"resource": PIPELINE, "version": 1, "folder": "/"}).encode(), 0
    )
    return found


class Many:
    """The records of many requests of a chain of two on its topics, the last written a minute ago."""

    def __init__(self, settings: Settings, requests: int = REQUESTS) -> None:
        self.settings, self.begin = settings, int(time.time()) - requests // RATE - 60
        self.ids = [xid(self.begin + number // RATE, b"tests", number) for number in range(requests)]
        if requests > OWN:
            self.ids[OWN] = "an-id-of-a-callers-own"
        self.topics = [f"seldon.{settings.namespace}.{name}" for name in TOPICS]

    async def write(self) -> Many:
        topology, producer = client.Topology(self.settings), client.new_producer(self.settings)
        await topology.start()
        await topology.ensure(self.topics)
        await producer.start()
        for at, topic in enumerate(self.topics):
            for partition in range(PARTITIONS):
                await self._write(producer, topic, partition, at)
        await producer.stop()
        await topology.stop()
        return self

    async def _write(self, producer: Any, topic: str, partition: int, at: int) -> None:
        batch = producer.create_batch()
        for number in range(partition, len(self.ids), PARTITIONS):
            record = {
                "key": b"k",
                "value": b"%d" % number,
                "timestamp": self.begin * 1000 + number * 1000 // RATE + at,
                "headers": [("pipeline", b"chain"), ("x-request-id", self.ids[number].encode())],
            }
            if batch.append(**record) is None:
                await (await producer.send_batch(batch, topic, partition=partition))
                batch = producer.create_batch()
                batch.append(**record)
        await (await producer.send_batch(batch, topic, partition=partition))

    async def look(self, number: int, expression: str = "chain", **how: Any) -> tuple[Inspected, int]:
        """What is found of a request, and how many records were read."""
        read = [0]

        def told(count: int, _: int) -> None:
            read[0] = count

        found = await inspection.inspect(
            self.settings, expression, request_id=self.ids[number], told=told, view=view(), timeout=60, **how
        )
        return found, read[0]


def values(found: Sequence[TopicRecords]) -> dict[str, list[bytes | None]]:
    return {item.source.topic.split(".", 2)[2]: [r.value for r in item.records] for item in found if item.records}


async def test_a_request_is_found_by_reading_a_part_of_what_is_on_the_topics(broker: str, namespace: str) -> None:
    many = await Many(Settings(kafka_broker=broker, namespace=namespace, partitions=PARTITIONS)).write()
    every = len(TOPICS) * REQUESTS
    for number in (0, 5_000, REQUESTS - 1):
        found, read = await many.look(number)
        assert found.complete
        assert values(found.topics) == {topic: [b"%d" % number] for topic in TOPICS}
        assert read < every // 40
        found, read = await many.look(number, "chain.first.outputs.x")
        assert values(found.topics) == {"model.first.outputs": [b"%d" % number]}
        assert read < every // 40
    # A caller's own id tells no time: the inputs are read back from their end, in blocks.
    found, read = await many.look(OWN)
    assert values(found.topics) == {topic: [b"%d" % OWN] for topic in TOPICS}
    assert read < every // 8
    found, read = await many.look(OWN, since=(many.begin + OWN // RATE - 1) * 1000)
    assert values(found.topics) == {topic: [b"%d" % OWN] for topic in TOPICS}
    assert read < every // 40
    found, read = await many.look(OWN, since=(many.begin + OWN // RATE + 1) * 1000)
    assert values(found.topics) == {}
    assert read < every // 40


MODEL = """\
def model(INPUT):
    if INPUT[0] < 0:
        raise ValueError("no negative numbers")
    return {"OUTPUT": INPUT}
"""


def test_inspect_shows_a_request_as_a_table_and_follows_what_comes(
    seldon_up: Callable[..., Product], namespace: str, broker: str, tmp_path: Path
) -> None:
    product = seldon_up("up", write(tmp_path / "files", MODEL)).start()

    def call(number: int) -> str:
        answer = infer(product.address, "pipelines/numbers", inputs(INPUT=[number]))
        (request_id,) = [value for name, value in answer.headers if name == "x-request-id"]
        return request_id

    where = ("--kafka-broker", broker, "--namespace", namespace)
    ids = [call(number) for number in (1, -2, 3)]
    done = seldon("pipeline", "inspect", "numbers", "--request-id", ids[0], "--format", "table", *where)
    assert (done.code, done.err) == (0, ""), done
    head, *blocks = done.out.rstrip("\n").split("\n\n")
    assert head == f"request {ids[0]}"
    names = [block.split("\t")[0].split(".", 2)[2] for block in blocks]
    assert names == [
        "pipeline.numbers.inputs",
        "model.number.inputs",
        "model.number.outputs",
        "pipeline.numbers.outputs",
    ]
    assert [block.splitlines()[-1].split() for block in blocks] == [
        *([["INPUT", "INT32", "[1,1]", "1"]] * 2),
        *([["OUTPUT", "INT32", "[1,1]", "1"]] * 2),
    ]
    done = seldon("pipeline", "inspect", "numbers.outputs", "--since", "1h", "--format", "json", *where)
    (topic,) = json.loads(done.out)["topics"]
    assert [message["headers"]["x-request-id"] for message in topic["msgs"]] == [[each] for each in ids]
    follower = Product(tmp_path / "follower", "pipeline", "inspect", "numbers.outputs", "-f", *where).launch()
    try:
        wait_until(lambda: len(follower.out.splitlines()) == 1, lambda: follower.said, FOLLOWS_WITHIN)
        came = [call(number) for number in (4, -5)]
        wait_until(lambda: len(follower.out.splitlines()) == 3, lambda: follower.said, FOLLOWS_WITHIN)
        follower.process.send_signal(signal.SIGINT)
        assert follower.wait() == 0
    finally:
        follower.kill()
    keys = [line.split("\t")[1] for line in follower.out.splitlines()]
    assert keys == [f"numbers.{each}" for each in (ids[2], *came)]


async def test_a_topic_that_comes_to_be_is_followed_too(
    broker: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "NEW_TOPICS_SECONDS", 0.1)
    many = Many(Settings(kafka_broker=broker, namespace=namespace, partitions=PARTITIONS), requests=20)
    found = await inspection.inspect(many.settings, "chain.outputs", view=view(), timeout=60)
    came: list[bytes | None] = []
    all_came = asyncio.Event()

    def show(topics: Sequence[TopicRecords]) -> None:
        came.extend(record.value for item in topics for record in item.records)
        if len(came) == 20:
            all_came.set()

    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(inspection.follow(many.settings, found, show))
        await many.write()
        await asyncio.wait_for(all_came.wait(), 30)
        following.cancel()
    assert sorted(came) == sorted(b"%d" % number for number in range(20))
