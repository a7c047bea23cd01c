"""What a producer ends, and how, after a transaction failed: with a fake connection in the broker's place."""

from __future__ import annotations

import asyncio
import itertools
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
from engine.kafka.offsets import Committed
from engine.kafka.transactions import Producer, Stale, Transactions, Unclear
from engine.kafka.watermark import Standing
from engine.kafka.wire import DescribeTransactions, OffsetFetch, Produce, TxnOffsetCommit
from engine.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

ME = Membership(1, "me")
NUMBERS = itertools.count(1)
UNKNOWN_PARTITION, NOT_LEADER, NOT_COORDINATOR, ILLEGAL_GENERATION, NOT_ATTEMPTED = 3, 6, 16, 22, 55
FENCED, UNKNOWN_ID = 90, 105


class FakeConnection:
    """Marked as such: a broker that takes everything but what `refusals` names, and keeps what transactions did."""

    def __init__(self) -> None:
        self.refusals: dict[type, int] = {}
        # Requests that are carried out, and of which no answer comes.
        self.answerless: set[type] = set()
        # Whether records are taken in for ever, and whether some are.
        self.hangs, self.hung = False, asyncio.Event()
        # How the transactional id stands: nobody has had it yet.
        self.state, self.timeout, self.epoch = "", 0, -1
        # What stands beside the group's offset, and what is to stand there when the transaction has ended there.
        self.metadata, self.pending = "", ""
        self.refused = asyncio.Event()
        self.open: set[str] = set()
        # Whether it is about to stop: it calls transactions ended and tells the partitions nothing.
        self.skips = False
        # Or only some of them, `offsets` for the group's.
        self.skipped: set[str] = set()
        self.hanging: set[str] = set()
        # Whether it is slow: what hangs ends one topic at each look.
        self.slow = False
        self.deleted: set[str] = set()
        # The topics of each transaction that ended, and whether it was committed.
        self.ended: list[tuple[set[str], bool]] = []

    async def ask(self, kind: int, key: str, request: Any) -> Any:
        del kind, key
        code = self.refusals.pop(type(request), 0)
        answer = self._answer(request, code)
        if type(request) in self.answerless:
            self.answerless.discard(type(request))
            raise TimeoutError
        return answer

    def _answer(self, request: Any, code: int) -> Any:
        if isinstance(request, DescribeTransactions):
            states = (0 if self.state else UNKNOWN_ID, "id", self.state, self.timeout, 0, 7, self.epoch, [], {})
            return SimpleNamespace(transactions=[states])
        if isinstance(request, OffsetFetch):
            return SimpleNamespace(error_code=0, topics=[("in", [(0, 1, -1, self.metadata, 0, {})], {})])
        if isinstance(request, InitProducerIdRequest):
            return self._make_producer(request)
        if isinstance(request, (AddOffsetsToTxnRequest, AddPartitionsToTxnRequest)) and not code:
            self.state = "Ongoing"
            self.open |= {"offsets"} if isinstance(request, AddOffsetsToTxnRequest) else {t for t, _ in request._topics}
        if isinstance(request, EndTxnRequest) and not code:
            code = self._end(request)
        if isinstance(request, TxnOffsetCommit):
            if not code:
                self.pending = request._fields[7][0][1][0][3]
            return SimpleNamespace(errors=[("in", [(0, code, {})], {})])
        if isinstance(request, AddPartitionsToTxnRequest) and self.open & self.deleted:
            errors = [
                (topic, [(0, UNKNOWN_PARTITION if topic in self.deleted else NOT_ATTEMPTED)]) for topic in self.open
            ]
            self.open = set()
            return SimpleNamespace(errors=errors)
        return SimpleNamespace(error_code=code, errors=[("t", [(0, code)])])

    def _make_producer(self, request: Any) -> Any:
        assert self.state != "Ongoing", "what is open is ended in words: whoever asks may take its end for another's"
        self.state, self.timeout, self.epoch = "Empty", request._transaction_timeout_ms, self.epoch + 1
        return SimpleNamespace(error_code=0, producer_id=7, producer_epoch=self.epoch)

    def _end(self, request: Any) -> int:
        if request._producer_epoch != self.epoch:
            return FENCED
        committed = request._transaction_result
        self.ended.append((self.open, committed))
        self.state = "CompleteCommit" if committed else "CompleteAbort"
        skipped = self.open if self.skips else self.open & self.skipped
        self.hanging = (self.hanging - self.open) | skipped
        if "offsets" in self.open - skipped:
            self.metadata, self.pending = (self.pending or self.metadata) if committed else self.metadata, ""
        self.open = set()
        return 0

    async def leader(self, place: tuple[str, int]) -> int:
        del place
        return 1

    async def send(self, leader: int, request: Any) -> Any:
        del leader
        if self.hangs:
            self.hung.set()
            await asyncio.Event().wait()
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

    async def open_places(self, prefix: str, producer: int) -> set[tuple[str, int]]:
        assert (prefix, producer) == ("seldon.default.", 7)
        return {(topic, 0) for topic in self.hanging - {"offsets"}}

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
    take_broker(made, broker)
    await made.recover()
    await write(made, "first")
    assert broker.ended == [({"offsets", "first"}, True)]
    broker.ended.clear()
    return made


@pytest.fixture
async def pool(broker: FakeConnection) -> Transactions:
    made = Transactions(Settings(kafka_broker="none:1"), "me")
    for producer in made._producers:
        take_broker(producer, broker)
    return made


def take_broker(producer: Producer, broker: FakeConnection) -> None:
    producer._connection = producer._offsets._connection = broker  # type: ignore[assignment]


def another(broker: FakeConnection) -> Producer:
    """One of the same id."""
    made = Producer(Settings(kafka_broker="none:1"), "id")
    take_broker(made, broker)
    return made


async def write(producer: Producer, topic: str) -> None:
    await producer.transact("group", ME, offsets(), {(topic, 0): [(b"k", b"v", [])]})


def offsets() -> dict[TopicPartition, Committed]:
    """Those of the next transaction."""
    return {TopicPartition("in", 0): Committed(1, Standing("me", (), next(NUMBERS)).encode())}


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
    await producer.transact("group", ME, offsets(), {(topic, 0): [(b"k", b"v", [])] for topic in topics})
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
    assert broker.ended == [({"offsets", "second"}, True)] * 3, "an abort here would take away what was committed"
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
        await producer.recover()
    assert not await producer.recover()
    assert broker.ended == [({"offsets", "second"}, False)] * 3, "the open one, and what hangs as often as it takes"


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
    assert broker.ended == [(set(), True), ({"offsets"}, True)], "the one that failed half-way, and what is left of it"


@pytest.mark.parametrize(
    ("request_", "code", "error"),
    [
        (TxnOffsetCommit, ILLEGAL_GENERATION, Stale),
        (AddOffsetsToTxnRequest, NOT_COORDINATOR, KafkaError),
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
    assert not await producer.recover()
    assert broker.ended[-1] == ({"offsets", "second"}, False)
    assert not any(committed for _, committed in broker.ended)


async def test_what_never_began_leaves_nothing_to_abort_and_the_last_one_committed(
    producer: Producer, broker: FakeConnection
) -> None:
    broker.refusals |= dict.fromkeys((AddOffsetsToTxnRequest, AddPartitionsToTxnRequest), NOT_COORDINATOR)
    with pytest.raises(KafkaError):
        await write(producer, "second")
    assert await producer.recover(), "the last one that began is the one before"
    assert all(committed for _, committed in broker.ended), "an abort could take away what that one committed"


@pytest.mark.parametrize("happened", [True, False])
async def test_of_a_commit_without_an_answer_the_coordinator_says_whether_it_happened(
    producer: Producer, broker: FakeConnection, *, happened: bool
) -> None:
    if happened:
        broker.answerless.add(EndTxnRequest)
    else:
        broker.refusals[EndTxnRequest] = NOT_COORDINATOR
    with pytest.raises(Unclear):
        await write(producer, "second")
    assert await producer.recover() is happened
    assert broker.ended == [({"offsets", "second"}, happened)] * 2


async def test_what_hangs_at_the_offsets_alone_is_committed_before_anything_else_begins(
    producer: Producer, broker: FakeConnection
) -> None:
    await producer.settle()
    before = next(NUMBERS)
    broker.skipped = {"offsets"}
    await write(producer, "second")
    broker.skipped = set()
    await producer.settle()
    assert broker.ended == [({"offsets", "second"}, True)] * 2
    assert Standing.parse(broker.metadata).number == before + 1


async def test_offsets_that_a_later_transaction_has_moved_are_not_waited_for(
    producer: Producer, broker: FakeConnection
) -> None:
    await producer.settle()
    broker.skipped = {"offsets"}
    await write(producer, "second")
    broker.metadata = Standing("me", (), next(NUMBERS)).encode()
    await producer.settle()
    assert broker.ended == [({"offsets", "second"}, True)]


async def test_what_a_worker_committed_is_not_taken_away_by_its_successor(broker: FakeConnection) -> None:
    broker.skips = True
    owner = another(broker)
    await owner.recover()
    await write(owner, "first")
    broker.skips = False
    await another(broker).take_over("group")
    assert broker.ended[-1] == ({"offsets", "first"}, True)
    assert not broker.hanging
    assert await owner.recover(), "who was fenced meanwhile still learns that it is committed"


async def test_an_id_that_nobody_has_had_is_left_alone(broker: FakeConnection) -> None:
    await another(broker).take_over("group")
    assert broker.state == ""


async def test_what_a_worker_left_open_is_aborted_by_its_successor(producer: Producer, broker: FakeConnection) -> None:
    broker.refusals[EndTxnRequest] = NOT_COORDINATOR
    with pytest.raises(Unclear):
        await write(producer, "second")
    await another(broker).take_over("group")
    assert broker.ended == [({"offsets", "second"}, False), ({"offsets"}, False)]
    assert not await producer.recover()


async def test_an_ending_again_that_a_successor_finds_open_is_carried_on(
    producer: Producer, broker: FakeConnection
) -> None:
    broker.hanging = {"first"}
    broker.refusals[EndTxnRequest] = NOT_COORDINATOR
    with pytest.raises(KafkaError):
        await producer.settle()
    assert broker.state == "Ongoing"
    await another(broker).take_over("group")
    assert all(committed for _, committed in broker.ended)


async def test_after_an_ending_again_what_is_left_open_is_no_ending_again(
    producer: Producer, broker: FakeConnection
) -> None:
    broker.hanging = {"first"}
    broker.refusals[Produce] = NOT_LEADER
    with pytest.raises(KafkaError):
        await write(producer, "second")
    await another(broker).take_over("group")
    assert broker.ended[0] == ({"offsets", "first"}, True)
    assert ({"offsets", "second"}, False) in broker.ended


async def test_a_sweep_that_fails_is_done_again(producer: Producer, broker: FakeConnection) -> None:
    broker.refusals[Produce] = NOT_LEADER
    with pytest.raises(KafkaError):
        await write(producer, "second")
    broker.refusals[AddPartitionsToTxnRequest] = NOT_COORDINATOR
    with pytest.raises(KafkaError):
        await producer.recover()
    assert not await producer.recover()
    assert broker.ended[-1] == ({"offsets", "second"}, False)
    assert not any(committed for _, committed in broker.ended)


async def test_what_is_swept_is_not_swept_again(producer: Producer, broker: FakeConnection) -> None:
    broker.refusals[TxnOffsetCommit] = ILLEGAL_GENERATION
    with pytest.raises(Stale):
        await write(producer, "second")
    assert not await producer.recover()
    ended = len(broker.ended)
    assert not await producer.recover()
    assert len(broker.ended) == ended


async def test_a_producer_is_lent_again_when_what_it_committed_is_settled(
    pool: Transactions, broker: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "_RETRY_SECONDS", 0.0)
    broker.refusals[OffsetRequest] = NOT_LEADER
    async with pool.lend() as producer:
        await producer.recover()
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
        await producer.recover()
        await write(producer, "first")
    await broker.refused.wait()
    await pool.stop()
    assert broker.ended == [({"offsets", "first"}, True)] * 2


async def test_what_a_borrower_left_open_who_was_stopped_is_ended_before_anybody_asks(
    pool: Transactions, broker: FakeConnection
) -> None:
    async def borrow() -> None:
        async with pool.lend() as producer:
            await producer.recover()
            await write(producer, "first")

    broker.hangs = True
    borrower = asyncio.create_task(borrow())
    await asyncio.wait_for(broker.hung.wait(), 5)
    broker.hangs = False
    borrower.cancel()
    await asyncio.gather(borrower, return_exceptions=True)
    await asyncio.wait_for(asyncio.gather(*pool._settling), 5)
    assert not any(producer.unfinished for producer in pool._producers)
    assert broker.open == set()
