"""Records as batches, with a fake connection in the brokers' place."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import KafkaConnectionError, NotLeaderForPartitionError, TopicAuthorizationFailedError
from aiokafka.record.memory_records import MemoryRecords

from engine.kafka import client, writing
from engine.kafka.writing import BatchTooLarge, Limits, Session, Writer, by_place, rounds
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.kafka.writing import Batch

SETTINGS = Settings(kafka_broker="none:1")
NOT_LEADER, TOO_LARGE, NOT_AUTHORIZED = 6, 10, 29
OUT = ("out", 0)


class FakeConnection:
    """Marked as such: leaders that take all but what they are told to refuse, and keep what they took.

    refusals   codes or errors of the first requests of a partition
    most       how large a batch each takes
    leaders    who leads a partition; broker 1 unless said
    """

    def __init__(self) -> None:
        self.taken: dict[tuple[str, int], list[list[bytes]]] = {}
        self.requests: list[list[tuple[str, int]]] = []
        self.refusals: dict[tuple[str, int], list[int | Exception]] = {}
        self.leaders: dict[tuple[str, int], int] = {}
        self.most, self.moves = 1_000_000, 0

    async def leader(self, place: tuple[str, int]) -> int:
        return self.leaders.get(place, 1)

    async def send(self, leader: int, request: Any) -> Any:
        _, _, _, topics = request._fields
        sent = [((topic, number), data) for topic, partitions in topics for number, data in partitions]
        assert all(self.leaders.get(place, 1) == leader for place, _ in sent)
        self.requests.append([place for place, _ in sent])
        return SimpleNamespace(topics=[(place[0], [(place[1], *self._take(place, data))]) for place, data in sent])

    def _take(self, place: tuple[str, int], data: bytes) -> tuple[int, int]:
        refusals = self.refusals.get(place, [])
        refusal = refusals.pop(0) if refusals else 0
        if isinstance(refusal, Exception):
            raise refusal
        if len(data) > self.most:
            refusal = TOO_LARGE
        if refusal:
            return refusal, -1
        self.taken.setdefault(place, []).append(values(data))
        return 0, 0

    def moved(self) -> None:
        self.moves += 1


def values(data: bytes) -> list[bytes]:
    """What is in a batch, as a reader finds it."""
    return [record.value for record in iter(MemoryRecords(bytes(data)).next_batch())]


def unit(*records: tuple[str, int, bytes]) -> Any:
    return SimpleNamespace(key=b"k", records=[(topic, number, value, []) for topic, number, value in records])


def to_out(*found: bytes) -> list[Any]:
    return [unit((*OUT, value)) for value in found]


@pytest.fixture(autouse=True)
def _patient_for_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "RETRY_BACKOFF_MS", 0)


@pytest.fixture
def broker() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
def writer(broker: FakeConnection) -> Writer:
    made = Writer(SETTINGS)
    made._connection = broker  # type: ignore[assignment]
    return made


def batches(records: Sequence[bytes], **session: Any) -> list[Batch]:
    found = rounds({OUT: [(b"k", value, []) for value in records]}, Limits(SETTINGS), **session)
    return [batch for each in found for batch in each]


def test_records_of_each_partition_stand_in_their_order() -> None:
    found = by_place([unit(("a", 0, b"1"), ("b", 0, b"2")), unit(("a", 0, b"3"), ("a", 1, b"4"))])
    values = {place: [value for _, value, _ in records] for place, records in found.items()}
    assert values == {("a", 0): [b"1", b"3"], ("b", 0): [b"2"], ("a", 1): [b"4"]}


def test_a_partition_has_one_batch_in_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BATCH_BYTES", 100)
    many, few = [(b"k", b"%d" % number * 20, []) for number in range(5)], [(b"k", b"v", [])]
    found = list(rounds({("a", 0): many, ("b", 0): few}, Limits(SETTINGS)))
    assert [[batch.place[0] for batch in each] for each in found] == [["a", "b"], ["a"], ["a"], ["a"], ["a"]]
    assert [batch.first for each in found for batch in each if batch.place[0] == "a"] == [0, 1, 2, 3, 4]


def test_batches_of_a_transaction_are_numbered_and_say_whose_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BATCH_BYTES", 100)
    last = writing.LARGEST_SEQUENCE - 1
    first, second = batches([b"1" * 30, b"2" * 30], session=Session("id", 7, 3), sequences={OUT: last})
    assert [int.from_bytes(batch.data[43:51], "big") for batch in (first, second)] == [7, 7]
    assert [int.from_bytes(batch.data[51:53], "big") for batch in (first, second)] == [3, 3]
    # After the largest number comes 0.
    assert [int.from_bytes(batch.data[53:57], "big") for batch in (first, second)] == [last, 0]


def test_batches_outside_a_transaction_belong_to_no_producer() -> None:
    [batch] = batches([b"1"])
    assert int.from_bytes(batch.data[43:51], "big", signed=True) == -1
    assert not batch.data[22] & 0b10000


def test_records_have_the_time_at_which_they_are_written() -> None:
    before = int(time.time() * 1000)
    [batch] = batches([b"1", b"2"])
    times = {record.timestamp for record in iter(MemoryRecords(bytes(batch.data)).next_batch())}
    assert len(times) == 1
    assert before <= times.pop() <= time.time() * 1000


def test_a_record_that_no_broker_takes_is_told_before_it_is_sent() -> None:
    with pytest.raises(BatchTooLarge) as error:
        batches([b"small", b"x" * (SETTINGS.max_message_bytes + client.OVERHEAD_BYTES)])
    assert (error.value.place, error.value.first, error.value.count) == (OUT, 1, 1)


async def test_each_leader_gets_its_partitions_in_one_request(writer: Writer, broker: FakeConnection) -> None:
    broker.leaders = {("b", 0): 2}
    await writer.write([unit(("a", 0, b"1"), ("b", 0, b"2"), ("a", 1, b"3"))])
    assert sorted(broker.requests) == [[("a", 0), ("a", 1)], [("b", 0)]]
    assert broker.taken == {("a", 0): [[b"1"]], ("a", 1): [[b"3"]], ("b", 0): [[b"2"]]}


async def test_requests_stay_below_the_size_from_which_memory_is_fetched_anew(
    writer: Writer, broker: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "REQUEST_BYTES", 250)
    await writer.write([unit(*(("a", number, b"v" * 20) for number in range(5)))])
    assert broker.requests == [[("a", 0), ("a", 1)], [("a", 2), ("a", 3)], [("a", 4)]]


async def test_only_what_was_not_taken_is_sent_again(writer: Writer, broker: FakeConnection) -> None:
    broker.refusals = {("a", 0): [NOT_LEADER, NOT_LEADER]}
    await writer.write([unit(("a", 0, b"1"), ("b", 0, b"2"))])
    assert broker.taken == {("a", 0): [[b"1"]], ("b", 0): [[b"2"]]}
    assert broker.moves == 2


async def test_a_request_without_an_answer_is_sent_again(writer: Writer, broker: FakeConnection) -> None:
    broker.refusals = {OUT: [KafkaConnectionError("broken"), TimeoutError(), OSError("reset")]}
    await writer.write(to_out(b"1"))
    assert broker.taken == {OUT: [[b"1"]]}


async def test_a_broker_that_takes_nothing_for_long_is_told_of(
    writer: Writer, broker: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SILENCE_SECONDS", 0.0)
    broker.refusals = {OUT: [NOT_LEADER]}
    with pytest.raises(NotLeaderForPartitionError, match="out"):
        await writer.write(to_out(b"1"))


async def test_what_waiting_does_not_change_is_told_at_once(writer: Writer, broker: FakeConnection) -> None:
    broker.refusals = {OUT: [NOT_AUTHORIZED]}
    with pytest.raises(TopicAuthorizationFailedError):
        await writer.write(to_out(b"1"))
    assert len(broker.requests) == 1


async def test_a_batch_that_its_topic_does_not_take_is_halved_from_then_on(
    writer: Writer, broker: FakeConnection
) -> None:
    found = [b"%d" % number * 30 for number in range(8)]
    broker.most = 200
    await writer.write(to_out(*found))
    assert [value for batch in broker.taken[OUT] for value in batch] == found
    tries = len(broker.requests)
    await writer.write(to_out(*found))
    assert len(broker.requests) - tries == len(broker.taken[OUT]) // 2, "too large batches were tried again"


async def test_a_record_that_its_topic_does_not_take_is_told_with_its_place(
    writer: Writer, broker: FakeConnection
) -> None:
    broker.most = 200
    with pytest.raises(BatchTooLarge) as error:
        await writer.write(to_out(b"v" * 300))
    assert (error.value.place, error.value.count) == (OUT, 1)


async def test_many_who_write_to_one_partition_at_once_do_not_wait_for_each_other(
    writer: Writer, broker: FakeConnection
) -> None:
    await asyncio.gather(*(writer.write(to_out(b"%d" % number)) for number in range(200)))
    assert len(broker.requests) == 200
    assert sorted(int(value) for batch in broker.taken[OUT] for value in batch) == list(range(200))
