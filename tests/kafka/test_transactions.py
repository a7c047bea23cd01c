"""What a producer ends, and how, after a transaction failed: with a fake connection in the broker's place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaError
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from engine.kafka.leases import Membership, TopicPartition
from engine.kafka.transactions import Committed, Producer, Stale, Unclear
from engine.kafka.wire import TxnOffsetCommit
from engine.settings import Settings

ME = Membership(1, "me")
OFFSETS = {TopicPartition("in", 0): Committed(1, "")}
NOT_COORDINATOR, ILLEGAL_GENERATION = 16, 22


class FakeConnection:
    """Marked as such: a broker that takes everything but what `refusals` names, and keeps what transactions did."""

    def __init__(self) -> None:
        self.refusals: dict[type, int] = {}
        self.current: object = object()
        self.open: set[str] = set()
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
            self.open = set()
        if isinstance(request, InitProducerIdRequest):
            self.open = set()
        if isinstance(request, TxnOffsetCommit):
            return SimpleNamespace(errors=[("in", [(0, code, {})], {})])
        return SimpleNamespace(error_code=code, producer_id=7, producer_epoch=0, errors=[("t", [(0, code)])])

    async def leader(self, place: tuple[str, int]) -> int:
        del place
        return 1

    async def produce(self, leader: int, request: Any) -> Any:
        del leader
        code = self.refusals.pop(type(request), 0)
        return SimpleNamespace(topics=[(topic, [(0, code)]) for topic, _ in request._topics])

    def link(self, kind: int, key: str) -> object | None:
        del kind, key
        return self.current

    def forget(self, kind: int, key: str) -> None:
        """Nothing was kept."""

    def moved(self) -> None:
        """Nothing was kept."""


@pytest.fixture
def broker() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
async def producer(broker: FakeConnection) -> Producer:
    """One that has committed records on topic `first`, of which nobody knows whether they can be read everywhere."""
    made = Producer(Settings(kafka_broker="none:1"), "id", {})
    made._connection = broker  # type: ignore[assignment]
    await made.reset()
    await write(made, "first")
    assert broker.ended == [({"offsets", "first"}, True)]
    broker.ended.clear()
    return made


async def write(producer: Producer, topic: str) -> None:
    await producer.transact("group", ME, OFFSETS, {(topic, 0): [(b"k", b"v", [])]})


async def recover(producer: Producer) -> None:
    await producer.reset()
    await producer.sweep(commit=False)


async def test_one_transaction_after_the_other_is_written_as_it_is(producer: Producer, broker: FakeConnection) -> None:
    await write(producer, "second")
    assert broker.ended == [({"offsets", "second"}, True)]


async def test_what_failed_before_it_began_is_not_ended_but_what_was_committed_before_it_is(
    producer: Producer, broker: FakeConnection
) -> None:
    broker.refusals[AddOffsetsToTxnRequest] = NOT_COORDINATOR
    with pytest.raises(KafkaError):
        await write(producer, "second")
    await recover(producer)
    assert broker.ended == [({"offsets", "first"}, True)], "an abort here would take away what was committed"


@pytest.mark.parametrize(
    ("request_", "code", "error"),
    [
        (TxnOffsetCommit, ILLEGAL_GENERATION, Stale),
        (AddPartitionsToTxnRequest, NOT_COORDINATOR, KafkaError),
        (ProduceRequest, NOT_COORDINATOR, KafkaError),
    ],
)
async def test_what_failed_after_it_began_is_aborted(
    producer: Producer, broker: FakeConnection, request_: type, code: int, error: type[Exception]
) -> None:
    broker.refusals[request_] = code
    with pytest.raises(error):
        await write(producer, "second")
    await recover(producer)
    assert broker.ended == [({"offsets", "second"}, False)]


async def test_what_was_committed_before_the_broker_may_have_restarted_is_ended_once_more_first(
    producer: Producer, broker: FakeConnection
) -> None:
    broker.current = object()
    await write(producer, "second")
    assert broker.ended == [({"offsets", "first"}, True), ({"offsets", "second"}, True)]


async def test_a_connection_that_is_gone_counts_as_another(producer: Producer, broker: FakeConnection) -> None:
    broker.current = None
    await write(producer, "second")
    assert broker.ended[0] == ({"offsets", "first"}, True)


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
    assert broker.ended == [({"offsets", "first"}, True)]


async def test_what_is_swept_is_not_swept_again(producer: Producer, broker: FakeConnection) -> None:
    broker.refusals[TxnOffsetCommit] = ILLEGAL_GENERATION
    with pytest.raises(Stale):
        await write(producer, "second")
    await recover(producer)
    await recover(producer)
    assert len(broker.ended) == 1
