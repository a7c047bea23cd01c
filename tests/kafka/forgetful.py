"""Marked as such: a model of Apache Kafka's transaction coordinator for one transactional id, with a broker that dies.

What a restart makes it do was seen with 4.3.1: a transaction whose end was written down is ended where the partition's
leader is known, skipped where it is not, and called ended either way. Requests that are on their way get no answer.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from aiokafka.errors import KafkaConnectionError, LeaderNotAvailableError, NotLeaderForPartitionError
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)
from aiokafka.record.default_records import DefaultRecordBatch

from engine.kafka.wire import DescribeTransactions, OffsetFetch, Produce, TxnOffsetCommit

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

OFFSETS = "offsets"
OPEN, COMMITTED, ABORTED = "open", "committed", "aborted"
OK, FENCED, INVALID_STATE, CONCURRENT, UNKNOWN_ID = 0, 90, 48, 51, 105


class VirtualLoop(asyncio.SelectorEventLoop):
    """Whoever sleeps is woken at once, and the loop's clock says that the time is over."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._real_select = self._selector.select
        self._selector.select = self._select  # type: ignore[method-assign]

    def time(self) -> float:
        return self._now

    def _select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everybody waits for somebody else"
        self._now += timeout
        return self._real_select(0)


class ForgetfulBroker:
    """One broker with one transactional id; `chance` says when it writes markers, dies, and what it skips then."""

    def __init__(self, chance: random.Random, deaths: int) -> None:
        self._chance, self._deaths = chance, deaths
        self.lives, self._stops = 0, False
        self._state, self._timeout, self._epoch = "", 0, -1
        self._added: set[str] = set()
        # The partitions that are still to be told how the transaction ends.
        self._untold: list[str] = []
        # Of each partition: what was written, and what became of it.
        self.logs: dict[str, list[tuple[str, str]]] = {}
        self.metadata = ""

    def calm_down(self) -> None:
        """Until it has died as often as it was to, and all partitions are told."""
        while self._deaths or self._untold:
            self.tick()

    def values(self, place: str, fate: str) -> list[str]:
        return [value for value, found in self.logs.get(place, []) if found == fate]

    def tick(self) -> None:
        """A moment passes."""
        if self._untold and self._chance.random() < 0.3:
            self._mark(self._untold.pop(self._chance.randrange(len(self._untold))))
            self._complete()
        if self._deaths and self._chance.random() < 0.03:
            # A clean stop begins with partitions that have no leader any more, and answers for a while.
            if not self._stops and self._chance.random() < 0.5:
                self._stops = True
            else:
                self._die()

    def _die(self) -> None:
        self._deaths -= 1
        self.lives, self._stops = self.lives + 1, False
        for place in self._untold:
            if self._chance.random() < 0.5:
                self._mark(place)
        self._untold = []
        self._complete()

    def _complete(self) -> None:
        if not self._untold and self._state.startswith("Prepare"):
            self._state = self._state.replace("Prepare", "Complete")

    def _mark(self, place: str) -> None:
        fate = COMMITTED if self._state == "PrepareCommit" else ABORTED
        log = self.logs.setdefault(place, [])
        log[:] = [(value, fate if found == OPEN else found) for value, found in log]
        log.append(("", "marker"))
        if place == OFFSETS:
            self.metadata = next((value for value, found in reversed(log) if found == COMMITTED), self.metadata)

    def _prepare(self, *, commit: bool) -> None:
        self._state = "PrepareCommit" if commit else "PrepareAbort"
        self._untold, self._added = ([] if self._stops else sorted(self._added)), set()
        self._complete()

    def _write(self, epoch: int, place: str, value: str) -> int:
        if self._state != "Ongoing" or epoch != self._epoch or place not in self._added:
            return FENCED
        self.logs.setdefault(place, []).append((value, OPEN))
        return OK

    def answer(self, request: Any) -> Any:
        """What it says to a request."""
        return self._answers[type(request)](self, request)

    def _describe(self, _: DescribeTransactions) -> Any:
        code = OK if self._state else UNKNOWN_ID
        return SimpleNamespace(transactions=[(code, "id", self._state, self._timeout, 0, 7, self._epoch, [], {})])

    def _init(self, request: InitProducerIdRequest) -> Any:
        code = self._make_producer(request._transaction_timeout_ms)
        return SimpleNamespace(error_code=code, producer_id=7, producer_epoch=self._epoch)

    def _add_offsets(self, request: AddOffsetsToTxnRequest) -> Any:
        return SimpleNamespace(error_code=self._add(request._producer_epoch, {OFFSETS}))

    def _add_partitions(self, request: AddPartitionsToTxnRequest) -> Any:
        code = self._add(request._producer_epoch, {topic for topic, _ in request._topics})
        return SimpleNamespace(errors=[(topic, [(0, code)]) for topic, _ in request._topics])

    def _commit_offset(self, request: TxnOffsetCommit) -> Any:
        [(topic, [(number, _, _, metadata, _)], _)] = request._fields[7]
        code = self._write(request._fields[3], OFFSETS, metadata)
        return SimpleNamespace(errors=[(topic, [(number, code, {})], {})])

    def _fetch_offset(self, _: OffsetFetch) -> Any:
        return SimpleNamespace(error_code=OK, topics=[("in", [(0, 1, -1, self.metadata, OK, {})], {})])

    def _end_transaction(self, request: EndTxnRequest) -> Any:
        return SimpleNamespace(error_code=self._end(request._producer_epoch, commit=request._transaction_result))

    _answers: ClassVar[dict[type, Any]] = {
        DescribeTransactions: _describe,
        InitProducerIdRequest: _init,
        AddOffsetsToTxnRequest: _add_offsets,
        AddPartitionsToTxnRequest: _add_partitions,
        TxnOffsetCommit: _commit_offset,
        OffsetFetch: _fetch_offset,
        EndTxnRequest: _end_transaction,
    }

    def _make_producer(self, timeout: int) -> int:
        if self._state.startswith("Prepare"):
            return CONCURRENT
        self._epoch += 1
        if self._state == "Ongoing":
            self._prepare(commit=False)
            return CONCURRENT
        self._state, self._timeout = "Empty", timeout
        return OK

    def _add(self, epoch: int, places: set[str]) -> int:
        if epoch != self._epoch:
            return FENCED
        if self._state.startswith("Prepare"):
            return CONCURRENT
        self._state, self._added = "Ongoing", self._added | places
        return OK

    def _end(self, epoch: int, *, commit: bool) -> int:
        if epoch != self._epoch:
            return FENCED
        if self._state == "Ongoing":
            self._prepare(commit=commit)
            return OK
        if self._state == ("PrepareCommit" if commit else "PrepareAbort"):
            return CONCURRENT
        return OK if self._state == ("CompleteCommit" if commit else "CompleteAbort") else INVALID_STATE

    def produce(self, epoch: int, topic: str, value: str) -> int:
        """A record; an error like the others."""
        return self._write(epoch, topic, value)

    def ends(self, places: Iterable[tuple[str, int]], *, stable: bool) -> dict[tuple[str, int], int]:
        """Where partitions end, or where the first open transaction begins."""
        if self._stops:
            raise NotLeaderForPartitionError
        found = {}
        for place in places:
            log = self.logs.get(place[0], [])
            first = next((at for at, (_, fate) in enumerate(log) if fate == OPEN), len(log))
            found[place] = first if stable else len(log)
        return found

    def open_places(self) -> set[tuple[str, int]]:
        """Where something is open that is no offset."""
        if self._stops:
            raise LeaderNotAvailableError
        return {(topic, 0) for topic in self.logs if topic != OFFSETS and self.values(topic, OPEN)}


class ForgetfulConnection:
    """One client's way to the broker: it notices a death by the request that is on its way, or by the next, or not."""

    def __init__(self, broker: ForgetfulBroker, chance: random.Random) -> None:
        self._broker, self._chance, self._life = broker, chance, broker.lives

    async def _passes(self) -> None:
        if self._life != self._broker.lives and self._chance.random() < 0.5:
            self._life = self._broker.lives  # nothing was on its way, and it has connected anew
        for _ in range(self._chance.randrange(4)):
            await asyncio.sleep(0)
            self._broker.tick()
        if self._life != self._broker.lives:
            self._life = self._broker.lives
            raise KafkaConnectionError

    async def ask(self, kind: int, key: str, request: Any) -> Any:
        del kind, key
        await self._passes()
        answer = self._broker.answer(request)
        await self._passes()
        return answer

    async def leader(self, place: tuple[str, int]) -> int:
        del place
        return 1

    async def send(self, leader: int, request: Any) -> Any:
        del leader
        assert isinstance(request, Produce)
        await self._passes()
        topics = []
        for topic, [(number, batch)] in request._fields[3]:
            read = DefaultRecordBatch(bytes(batch))
            code = OK
            for record in read:
                code = self._broker.produce(read.producer_epoch, topic, record.value.decode())
            topics.append((topic, [(number, code, len(self._broker.logs.get(topic, [])) - 1)]))
        await self._passes()
        return SimpleNamespace(topics=topics)

    async def ends(self, places: Iterable[tuple[str, int]], *, stable: bool) -> dict[tuple[str, int], int]:
        await self._passes()
        found = self._broker.ends(list(places), stable=stable)
        await self._passes()
        return found

    async def open_places(self, prefix: str, producer: int) -> set[tuple[str, int]]:
        del prefix, producer
        await self._passes()
        found = self._broker.open_places()
        await self._passes()
        return found

    def forget(self, kind: int, key: str) -> None:
        """Nothing was kept."""

    def moved(self) -> None:
        """Nothing was kept."""

    async def stop(self) -> None:
        """Nothing is open."""
