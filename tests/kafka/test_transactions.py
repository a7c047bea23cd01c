"""What a producer ends, and how, after a transaction failed: with a fake connection in the broker's place."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from engine.kafka import transactions
from engine.kafka.leases import Membership, TopicPartition
from engine.kafka.transactions import Committed, Producer, Stale, Transactions, Unclear
from engine.kafka.wire import Produce, TxnOffsetCommit
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

ME = Membership(1, "me")
OFFSETS = {TopicPartition("in", 0): Committed(1, "")}
UNKNOWN_PARTITION, NOT_LEADER, NOT_COORDINATOR, ILLEGAL_GENERATION, NOT_ATTEMPTED = 3, 6, 16, 22, 55


class FakeConnection:
    """Marked as such: a broker that takes everything but what `refusals` names, and keeps what transactions did."""

    def __init__(self) -> None:
        self.refusals: dict[type, int] = {}
        self.refused = asyncio.Event()
        self.open: set[str] = set()
        # Whether it is about to stop: it calls transactions ended and tells the partitions nothing.
        self.skips = False
        self.hanging: set[str] = set()
        # Whether it is slow: what hangs ends one topic at each look.
        self.slow = False
        self.deleted: set[str] = set()
        # The topics of each transaction that ended, and whether it was committed.
        self.ended: list[tuple[set[str], bool]] = []

    async def ask(self, kind: int, key: str, request: Any) -> Any:
        del kind, key
        code = self.refusals.pop(type(request), 0)
        if isinstance(request, AddOffsetsToTxnRequest) and not code:
            self.open.add("offsets")
        if isinstance(request, AddPartitionsToTxnRequest) and not code:
            self.open |= {topic for topic, _ in request._topics}
        if isinstance(request, EndTxnRequest) and not code:
            self.ended.append((self.open, request._transaction_result))
            self.hanging = self.hanging | self.open if self.skips else self.hanging - self.open
            self.open = set()
        if isinstance(request, InitProducerIdRequest):
            self.open = set()
        if isinstance(request, TxnOffsetCommit):
            return SimpleNamespace(errors=[("in", [(0, code, {})], {})])
        if isinstance(request, AddPartitionsToTxnRequest) and self.open & self.deleted:
            errors = [
                (topic, [(0, UNKNOWN_PARTITION if topic in self.deleted else NOT_ATTEMPTED)]) for topic in self.open
            ]
            self.open = set()
            return SimpleNamespace(errors=errors)
        return SimpleNamespace(error_code=code, producer_id=7, producer_epoch=0, errors=[("t", [(0, code)])])

    async def leader(self, place: tuple[str, int]) -> int:
        del place
        return 1

    async def send(self, leader: int, request: Any) -> Any:
        del leader
        code = self.refusals.pop(type(request), 0)
        *_, topics = request._fields
        return SimpleNamespace(topics=[(topic, [(0, code, 7)]) for topic, _ in topics])

    async def ends(self, places: Iterable[tuple[str, int]], *, stable: bool) -> dict[tuple[str, int], int]:
        code = self.refusals.pop(OffsetRequest, 0)
        if code:
            self.refused.set()
            raise for_code(code)
        if self.slow and self.hanging:
            self.hanging = self.hanging - {min(self.hanging)}
        return {place: 7 if stable and place[0] in self.hanging else 8 for place in places}

    def forget(self, kind: int, key: str) -> None:
        """Nothing was kept."""

    def moved(self) -> None:
        """Nothing was kept."""

    async def stop(self) -> None:
        """Nothing is open."""


@pytest.fixture
def broker() -> FakeConnection:
    return FakeConnection()


@pytest.fixture(autouse=True)
def _patient_for_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "SETTLE_SECONDS", 0.01)


@pytest.fixture
async def producer(broker: FakeConnection) -> Producer:
    """One that has committed records on topic `first`, of which nobody knows yet whether they can be read."""
    made = Producer(Settings(kafka_broker="none:1"), "id")
    made._connection = broker  # type: ignore[assignment]
    await made.reset()
    await write(made, "first")
    assert broker.ended == [({"offsets", "first"}, True)]
    broker.ended.clear()
    return made


@pytest.fixture
async def pool(broker: FakeConnection) -> Transactions:
    made = Transactions(Settings(kafka_broker="none:1"), "me")
    for producer in made._producers:
        producer._connection = broker  # type: ignore[assignment]
    return made


async def write(producer: Producer, topic: str) -> None:
    await producer.transact("group", ME, OFFSETS, {(topic, 0): [(b"k", b"v", [])]})


async def recover(producer: Producer) -> None:
    await producer.reset()
    await producer.sweep(commit=False)


async def test_one_transaction_after_the_other_is_written_as_it_is(producer: Producer, broker: FakeConnection) -> None:
    await write(producer, "second")
    assert broker.ended == [({"offsets", "second"}, True)]


async def test_what_was_committed_and_hangs_is_ended_before_anything_else_begins(
    producer: Producer, broker: FakeConnection
) -> None:
    broker.hanging = {"first"}
    await write(producer, "second")
    assert broker.ended == [({"offsets", "first"}, True), ({"offsets", "second"}, True)]


async def test_what_was_committed_is_settled_when_every_partition_is_past_it(
    producer: Producer, broker: FakeConnection
) -> None:
    assert not producer.settled
    await producer.settle()
    assert producer.settled
    assert broker.ended == []


async def test_a_slow_broker_is_waited_for_while_one_partition_after_the_other_ends(
    producer: Producer, broker: FakeConnection
) -> None:
    topics = [f"slow{number}" for number in range(8)]
    await producer.transact("group", ME, OFFSETS, {(topic, 0): [(b"k", b"v", [])] for topic in topics})
    broker.hanging, broker.slow = set(topics), True
    broker.ended.clear()
    await producer.settle()
    assert producer.settled
    assert broker.ended == []


async def test_what_a_broker_skipped_that_stops_is_committed_when_it_is_back_whatever_fails_until_then(
    producer: Producer, broker: FakeConnection
) -> None:
    await producer.settle()
    broker.skips = True
    await write(producer, "second")
    broker.refusals[OffsetRequest] = NOT_LEADER
    with pytest.raises(KafkaError):
        await producer.settle()
    broker.refusals[EndTxnRequest] = NOT_COORDINATOR
    with pytest.raises(KafkaError):
        await producer.settle()
    assert not producer.settled
    broker.skips = False
    await producer.settle()
    assert broker.ended == [({"offsets", "second"}, True)] * 2, "an abort here would take away what was committed"
    assert not broker.hanging


async def test_what_is_swept_while_the_broker_skips_is_not_taken_for_swept(
    producer: Producer, broker: FakeConnection
) -> None:
    await producer.settle()
    broker.refusals[Produce] = NOT_LEADER
    with pytest.raises(KafkaError):
        await write(producer, "second")
    broker.refusals[OffsetRequest] = NOT_LEADER
    with pytest.raises(KafkaError):
        await recover(producer)
    await recover(producer)
    assert broker.ended == [({"offsets", "second"}, False)]
    assert producer.usable


async def test_what_others_hold_open_keeps_nobody_from_going_on(producer: Producer, broker: FakeConnection) -> None:
    broker.hanging, broker.skips = {"first"}, True
    await producer.settle()
    assert producer.settled
    assert broker.ended == [({"offsets", "first"}, True)]


async def test_a_topic_that_was_deleted_meanwhile_is_given_up_after_a_while(
    producer: Producer, broker: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.hanging, broker.deleted = {"first"}, {"first"}
    with pytest.raises(UnknownTopicOrPartitionError):
        await producer.settle()
    monkeypatch.setattr(transactions, "GONE_SECONDS", 0.0)
    await producer.settle()
    assert broker.ended == [({"offsets"}, True)]


@pytest.mark.parametrize(
    ("request_", "code", "error"),
    [
        (AddOffsetsToTxnRequest, NOT_COORDINATOR, KafkaError),
        (TxnOffsetCommit, ILLEGAL_GENERATION, Stale),
        (AddPartitionsToTxnRequest, NOT_COORDINATOR, KafkaError),
        (Produce, NOT_COORDINATOR, KafkaError),
    ],
)
async def test_what_failed_is_aborted(
    producer: Producer, broker: FakeConnection, request_: type, code: int, error: type[Exception]
) -> None:
    broker.refusals[request_] = code
    with pytest.raises(error):
        await write(producer, "second")
    await recover(producer)
    assert broker.ended == [({"offsets", "second"}, False)]


async def test_what_ended_unclear_is_ended_as_it_is_said(producer: Producer, broker: FakeConnection) -> None:
    broker.refusals[EndTxnRequest] = NOT_COORDINATOR
    with pytest.raises(Unclear):
        await write(producer, "second")
    await producer.reset()
    await producer.sweep(commit=True)
    assert broker.ended == [({"offsets", "second"}, True)]


async def test_a_sweep_that_fails_is_done_again(producer: Producer, broker: FakeConnection) -> None:
    broker.refusals[AddOffsetsToTxnRequest] = NOT_COORDINATOR
    with pytest.raises(KafkaError):
        await write(producer, "second")
    broker.refusals[EndTxnRequest] = NOT_COORDINATOR
    with pytest.raises(KafkaError):
        await recover(producer)
    await recover(producer)
    assert broker.ended == [({"offsets", "second"}, False)]


async def test_what_is_swept_is_not_swept_again(producer: Producer, broker: FakeConnection) -> None:
    broker.refusals[TxnOffsetCommit] = ILLEGAL_GENERATION
    with pytest.raises(Stale):
        await write(producer, "second")
    await recover(producer)
    await recover(producer)
    assert len(broker.ended) == 1


async def test_a_producer_is_lent_again_when_what_it_committed_is_settled(
    pool: Transactions, broker: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "_RETRY_SECONDS", 0.0)
    broker.refusals[OffsetRequest] = NOT_LEADER
    async with pool.lend() as producer:
        await producer.reset()
        await write(producer, "first")
    others = [pool.lend() for _ in range(transactions.POOL)]
    lent = [await other.__aenter__() for other in others]
    assert producer in lent
    assert all(made.settled for made in lent)
    for other in others:
        await other.__aexit__(None, None, None)
    await pool.stop()
    assert broker.ended == [({"offsets", "first"}, True)] * 2


async def test_a_pool_that_stops_ends_what_may_hang(
    pool: Transactions, broker: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "_RETRY_SECONDS", 100.0)
    broker.refusals[OffsetRequest] = NOT_LEADER
    async with pool.lend() as producer:
        await producer.reset()
        await write(producer, "first")
    await broker.refused.wait()
    await pool.stop()
    assert broker.ended == [({"offsets", "first"}, True)] * 2
