"""Which failed requests are put back, and that each is put back once."""

from __future__ import annotations

from typing import Any

import aiokafka
import pytest

from engine import redrive as redriving
from engine.errors import UnknownResource
from engine.kafka import client, reading
from engine.kafka.view import Loaded, View
from engine.protocol.record import xid
from engine.redrive import Choice, Failure, Fate, copy_of, failure_of, sort_out
from engine.settings import Settings

# When the first error of a test was written, in milliseconds.
T = 1_700_000_000_000


def failure(offset: int = 0, **changes: Any) -> Failure:
    return Failure(
        **{
            "partition": 0,
            "offset": offset,
            "request_id": f"r{offset}",
            "step": "a",
            "code": "INTERNAL",
            "timestamp": T + offset,
            "text": "it broke",
            **changes,
        }
    )


def marks(**changes: bytes | None) -> list[tuple[str, bytes | None]]:
    found: dict[str, bytes | None] = {
        "x-request-id": b"r7",
        "pipeline": b"chain",
        "seldon-pipeline-errors": b"a",
        "seldon-error-code": b"INTERNAL",
        "seldon-offset": b"7",
    }
    found.update({name.replace("_", "-"): value for name, value in changes.items()})
    return list(found.items())


def test_an_error_tells_which_request_failed_where_and_why() -> None:
    assert failure_of(0, T + 7, b"it broke", marks(), "chain") == failure(7)


@pytest.mark.parametrize(
    "changes",
    [
        {"pipeline": b"other"},
        {"seldon_pipeline_errors": None},
        {"seldon_offset": None},
        {"seldon_offset": b"-1"},
        {"seldon_offset": "٣".encode()},
        {"seldon_offset": b"9" * 5000},
    ],
)
def test_what_is_no_error_of_the_pipeline_with_a_place_is_passed_over(changes: dict[str, bytes | None]) -> None:
    assert failure_of(0, T, b"it broke", marks(**changes), "chain") is None


@pytest.mark.parametrize(
    ("choice", "taken"),
    [
        (Choice(), True),
        (Choice(request_ids=frozenset({"r1"})), True),
        (Choice(request_ids=frozenset({"r2"})), False),
        (Choice(steps=frozenset({"a", "b"})), True),
        (Choice(steps=frozenset({"b"})), False),
        (Choice(since=T + 1), True),
        (Choice(since=T + 2), False),
        (Choice(until=T + 2), True),
        (Choice(until=T + 1), False),
        (Choice(request_ids=frozenset({"r1"}), steps=frozenset({"b"})), False),
    ],
)
def test_a_choice_takes_what_meets_all_that_it_says(choice: Choice, *, taken: bool) -> None:
    assert choice.takes(failure(1)) is taken


PRESENT = {(0, 1): None, (0, 2): None, (0, 9): None}


@pytest.mark.parametrize(
    ("failures", "copies", "again", "fates"),
    [
        ([2, 1], {}, False, {1: Fate.REDRIVEN, 2: Fate.REDRIVEN}),
        ([1, 1], {}, False, {1: Fate.REDRIVEN}),
        ([3], {}, False, {3: Fate.GONE}),
        ([1], {(0, 1): [9]}, False, {1: Fate.BEFORE}),
        ([1], {(0, 1): [9]}, True, {1: Fate.REDRIVEN}),
        ([1, 9], {(0, 1): [9]}, False, {1: Fate.BEFORE, 9: Fate.REDRIVEN}),
        ([1, 9], {(0, 1): [9]}, True, {1: Fate.BEFORE, 9: Fate.REDRIVEN}),
        ([1], {(1, 1): [9]}, False, {1: Fate.REDRIVEN}),
    ],
)
def test_a_failure_is_put_back_once_until_it_fails_again(
    failures: list[int], copies: dict[tuple[int, int], list[int]], *, again: bool, fates: dict[int, Fate]
) -> None:
    found = sort_out([failure(offset) for offset in failures], PRESENT, copies, again=again)
    assert {each.offset: fate for each, fate in found} == fates
    assert [each.offset for each, _ in found] == sorted(fates)


def test_a_copy_keeps_headers_and_id_and_forgets_the_caller_who_is_gone() -> None:
    headers = [("x-a", b"1"), ("x-a", None), ("seldon-reply", b"0.gw.1"), ("seldon-infer-type", b"json/x")]
    assert copy_of(headers, failure(7)) == [
        ("x-a", b"1"),
        ("x-a", None),
        ("seldon-infer-type", b"json/x"),
        ("x-request-id", b"r7"),
        ("seldon-redriven", b"7"),
    ]


def test_a_copy_of_a_copy_names_the_one_that_failed() -> None:
    headers = [("x-request-id", b"mine"), ("seldon-redriven", b"3")]
    assert copy_of(headers, failure(7)) == [("x-request-id", b"mine"), ("seldon-redriven", b"7")]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry holds the pipeline `chain`."""
    view = View()
    view.resources["pipeline", "chain"] = Loaded(("pipeline", "chain"), None, 1, "")  # type: ignore[arg-type]

    async def view_of(*_: object) -> View:
        return view

    monkeypatch.setattr(reading, "view_of", view_of)


async def produce(settings: Settings, topic: str, *records: tuple[int, bytes, list[tuple[str, bytes | None]]]) -> None:
    producer = client.new_producer(settings)
    await producer.start()
    for partition, value, headers in records:
        await producer.send_and_wait(topic, value, key=b"k", partition=partition, headers=headers)
    await producer.stop()


async def all_of(settings: Settings, topic: str, partition: int) -> list[Any]:
    reader, found = client.new_reader(settings), list[Any]()
    await reader.start()
    await reading.read(reader, await reading.whole(reader, [aiokafka.TopicPartition(topic, partition)]), found.append)
    await reader.stop()
    return found


@pytest.mark.usefixtures("loaded")
async def test_requests_go_back_to_their_partition_and_stand_there_once(broker: str, namespace: str) -> None:
    settings = Settings(kafka_broker=broker, namespace=namespace, partitions=2)
    inputs, outputs = (f"seldon.{namespace}.pipeline.chain.{side}" for side in ("inputs", "outputs"))
    topology = client.Topology(settings)
    await topology.start()
    await topology.ensure([inputs, outputs])
    await topology.stop()
    asked = [(1, b"good", [("x-request-id", b"r0")]), (1, b"bad", [("x-request-id", b"r1"), ("x-a", b"1")])]
    await produce(settings, inputs, *asked)
    answers = [(1, b"an answer", [("pipeline", b"chain")]), (1, b"it broke", marks(seldon_offset=b"1"))]
    await produce(settings, outputs, *answers)
    seen = await redriving.redrive(settings, "chain", Choice(), dry_run=True)
    assert [(each.offset, fate) for each, fate in seen.fates] == [(1, Fate.REDRIVEN)]
    assert await redriving.redrive(settings, "chain", Choice()) == seen
    for _ in range(2):
        repeated = await redriving.redrive(settings, "chain", Choice())
        assert [fate for _, fate in repeated.fates] == [Fate.BEFORE]
    [_, _, copy] = await all_of(settings, inputs, 1)
    assert (copy.value, copy.key) == (b"bad", b"k")
    assert list(copy.headers) == [("x-request-id", b"r1"), ("x-a", b"1"), ("seldon-redriven", b"1")]


async def test_a_pipeline_that_is_not_loaded_is_told_of(broker: str, namespace: str) -> None:
    with pytest.raises(UnknownResource, match='no pipeline "chain" is loaded'):
        await redriving.redrive(Settings(kafka_broker=broker, namespace=namespace), "chain", Choice())


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize("how", ["by id", "by time"])
async def test_only_what_came_since_the_request_is_read(
    broker: str, namespace: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(kafka_broker=broker, namespace=namespace, partitions=1)
    inputs, outputs = (f"seldon.{namespace}.pipeline.chain.{side}" for side in ("inputs", "outputs"))
    topology = client.Topology(settings)
    await topology.start()
    await topology.ensure([inputs, outputs])
    await topology.stop()
    ids = [xid(T // 1000 + number, b"tests", number) for number in range(1000)]
    producer = client.new_producer(settings)
    await producer.start()
    for topic in (inputs, outputs):
        batch = producer.create_batch()
        for number, request_id in enumerate(ids):
            headers = marks(x_request_id=request_id.encode(), seldon_offset=b"%d" % number)
            kept = headers if topic == outputs else headers[:1]
            assert batch.append(key=b"k", value=b"v", timestamp=T + number * 1000, headers=kept)
        await (await producer.send_batch(batch, topic, partition=0))
    await producer.stop()
    read: list[str] = []

    def counted(*arguments: Any) -> Failure | None:
        read.append("an output")
        return failure_of(*arguments)

    monkeypatch.setattr(redriving, "failure_of", counted)
    choice = Choice(frozenset({ids[900]})) if how == "by id" else Choice(since=T + 900_000)
    found = await redriving.redrive(settings, "chain", choice, dry_run=True)
    assert [failure.request_id for failure, _ in found.fates] == ([ids[900]] if how == "by id" else ids[900:])
    assert len(read) < 200
