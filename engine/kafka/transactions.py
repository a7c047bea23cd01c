"""Transactions over aiokafka's client: a producer whose every step we drive, and a group's offsets beside it.

aiokafka's own producer speaks the protocol from before KIP-447: its offsets are not fenced by the consumer's
generation, so a worker that was paused past its session commits what others have done again (measured: 8 to 11 % of the
records twice). And it cannot be told to give up: after a broker's clean stop it never recovers. Here each call has a
deadline, nothing is retried on one epoch, and after any error the producer is made anew under the same id, by which the
broker ends whatever was open.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka.client import CoordinationType
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest,
    AddPartitionsToTxnRequest,
    EndTxnRequest,
    InitProducerIdRequest,
)

from engine.kafka import client
from engine.kafka.offsets import COORDINATOR_AWAY, STALE, GroupOffsets
from engine.kafka.watermark import Standing
from engine.kafka.wire import Connection, DescribeTransactions, Place, TxnOffsetCommit, by_topic
from engine.kafka.writing import LARGEST_SEQUENCE, Limits, Session, rounds, send

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence

    from engine.kafka.leases import Membership, TopicPartition
    from engine.kafka.offsets import Committed
    from engine.kafka.writing import BatchTooLarge, Record
    from engine.settings import Settings

log = logging.getLogger(__name__)

# A whole transaction; what is over it is ended and tried again.
TRANSACTION_SECONDS = 20.0

# After a commit the broker still writes its markers, and refuses the next transaction for these few ms.
CONCURRENT_BACKOFF = 0.002

# A live owner's transaction takes milliseconds; offsets that are unstable for longer are a dead one's. One that is only
# slow loses nothing by being fenced: it begins anew.
UNSTABLE_SECONDS = 0.5

# A transaction that was committed is at its end everywhere within some ms; on new topics a slow disk may take 40 ms for
# each partition. Where no partition more is seen to be in this time, it is ended once more, which is never wrong.
SETTLE_SECONDS = 2.0
LONGEST_SETTLE_PAUSE = 0.05

# Partitions that nobody has known for so long are deleted; a broker that comes back knows them after a second or two.
GONE_SECONDS = 30.0

# Producers of a process: transactions of several groups run side by side, and one that has committed rests a few ms.
POOL = 4

# What a broker that is away kept from its end is tried again after this long.
_RETRY_SECONDS = 0.5

_OK = 0
_INVALID_TIMEOUT = 50
_CONCURRENT = 51
_UNKNOWN_PARTITION = 3
_NOT_ATTEMPTED = 55
_UNKNOWN_TRANSACTIONAL_ID = 105

# What the coordinator calls the states of a transactional id; those that it is about to leave by itself begin so.
_EMPTY, _ONGOING, _COMMITTED, _LEAVING = "Empty", "Ongoing", "CompleteCommit", "Prepare"


class Stale(Exception):
    """The group has moved on: these offsets are not ours to move any more, and nothing was written."""


class Unclear(Exception):
    """The broker was told to commit, and its answer never came: it may have, or not."""


class _Last(NamedTuple):
    """How the last transaction under a transactional id stands, as its coordinator knows it."""

    state: str
    timeout: int
    producer: int
    epoch: int

    @property
    def leaves(self) -> bool:
        """Whether it is about to end, or its producer is just made."""
        return self.state.startswith(_LEAVING)

    @property
    def sweeps(self) -> bool:
        """Whether it is, or is to be, one that ends an earlier one again which is committed."""
        return self.timeout % 2 == 1

    @property
    def committed(self) -> bool:
        return self.sweeps or self.state == _COMMITTED


_NONE = _Last(_EMPTY, 0, -1, -1)


def _timeout(settings: Settings, *, sweeps: bool) -> int:
    """The transaction's timeout in ms, even, or odd for one that ends again what is committed.

    A coordinator that makes a producer forgets how its last transaction ended, and keeps this.
    """
    plain = int(settings.transaction_timeout * 1000) // 2 * 2
    return plain - 1 if sweeps else plain


class _Stage(Enum):
    """How far a transaction is, as far as its producer knows."""

    BEGUN = "it may be open"
    ASKED = "it was told to commit, and nobody knows whether it did"
    COMMITTED = "it is committed, and may not have ended everywhere"


@dataclass
class _Transaction:
    """A producer's last one: its group, the offsets that it moves, and where its records end."""

    group: str
    offsets: Mapping[TopicPartition, Committed]
    ends: dict[Place, int]
    stage: _Stage = _Stage.BEGUN


class Producer:
    """Writes transactions under one id. It is one's own: who begins under it ends what another has open."""

    def __init__(self, settings: Settings, transactional_id: str, limits: Limits | None = None) -> None:
        self.transactional_id = transactional_id
        self._settings, self._limits = settings, limits or Limits(settings)
        self._connection = Connection(settings)
        self._offsets = GroupOffsets(settings, stable_reads=True, connection=self._connection)
        self._id, self._epoch = -1, -1
        self._sequences: dict[Place, int] = {}
        # None when it is seen to have ended everywhere.
        self._transaction: _Transaction | None = None
        # Partitions that the broker does not know, and since when.
        self._unknown: set[Place] = set()
        self._unknown_since: float | None = None

    @property
    def usable(self) -> bool:
        """Whether a transaction can begin; otherwise it is to `recover`."""
        return self._id >= 0

    async def stop(self) -> None:
        """Close the connections; a transaction that is open stays so until its timeout, or until somebody fences it."""
        await self._connection.stop()

    async def recover(self) -> bool:
        """End whatever is open under this id, everywhere. Raises KafkaError, TimeoutError or OSError.

        Returns whether the last transaction that began is committed.

        A broker that comes back after a crash may skip the end of a transaction in all partitions whose leader it does
        not know yet ("likely deleted already", Apache Kafka 4.3.1), and call it ended all the same. The group's offsets
        are then unstable for ever, and the next commit of the same producer would make visible what was to be aborted.
        An empty transaction over the same partitions ends what hangs there, and where nothing hangs it does nothing.
        """
        last = self._transaction
        committed = await self._begin_anew(sweeps=last is not None)
        if last is not None:
            try:
                await self._end_again(last.group, set(last.ends) - self._gone(), commit=committed)
                if committed and last.stage is not _Stage.BEGUN and not await self._has_moved(last):
                    raise TimeoutError(f"the offsets of group {last.group} have not moved")
            finally:
                # Under this epoch all that is open is taken for such an ending again.
                self._id = -1
        self._transaction = self._unknown_since = None
        return committed

    async def take_over(self, group: str) -> None:
        """End what another has open under this id, or left hanging, over a group's offsets and in whatever partition.

        How it has ended can still be asked after this, by an owner who was only slow. Raises as `recover`.
        """
        if (await self._last())[1] is _NONE:
            return
        committed = await self._begin_anew(sweeps=True)
        settings = self._settings
        places = await self._connection.open_places(f"{settings.topic_prefix}.{settings.namespace}.", self._id)
        await self._end_again(group, places, commit=committed)

    async def _begin_anew(self, *, sweeps: bool) -> bool:
        """Take the id, when whatever was open under it has ended. Whether the last transaction is committed.

        sweeps  whether it is ended again from here on
        """
        self._id = -1
        deadline = asyncio.get_running_loop().time() + TRANSACTION_SECONDS
        while True:
            async with asyncio.timeout_at(deadline):
                code, last = await self._last()
                if code == _OK and not last.leaves:
                    code = await (
                        # An abort of this epoch, which an owner who commits at this moment turns into an error.
                        self._end(last.producer, last.epoch, commit=last.sweeps)
                        if last.state == _ONGOING
                        else self._init(sweeps=sweeps and last.committed)
                    )
            if self._id >= 0:
                return last.committed
            if code == _INVALID_TIMEOUT or (code != _OK and asyncio.get_running_loop().time() > deadline):
                raise for_code(code)
            await asyncio.sleep(client.RETRY_BACKOFF_MS / 1000)

    async def _last(self) -> tuple[int, _Last]:
        """An error of the coordinator, and how the last transaction stands."""
        answer = await self._coordinator(DescribeTransactions([self.transactional_id], {}))
        [(code, _, state, timeout, _, producer, epoch, *_)] = answer.transactions
        if code == _UNKNOWN_TRANSACTIONAL_ID:
            return _OK, _NONE
        self._check_coordinator(code)
        return code, _Last(state, timeout, producer, epoch)

    async def _init(self, *, sweeps: bool) -> int:
        request = InitProducerIdRequest(self.transactional_id, _timeout(self._settings, sweeps=sweeps))
        answer = await self._coordinator(request)
        if answer.error_code == _OK:
            self._id, self._epoch, self._sequences = answer.producer_id, answer.producer_epoch, {}
        return int(answer.error_code)

    async def _end_again(self, group: str, places: set[Place], *, commit: bool) -> None:
        ends: dict[Place, int] = {}
        async with asyncio.timeout(TRANSACTION_SECONDS):
            await self.begin(group, places)
            if places:
                ends = await self._connection.ends(places, stable=False)
            if group or places:
                await self.end(commit=commit)
        # What others have open there may hold it back: that is no reason to do it again.
        await self._has_ended(ends)

    def _gone(self) -> set[Place]:
        """Partitions that are deleted: nothing hangs there, and nothing that has them can be ended."""
        if self._unknown_since is None or time.monotonic() - self._unknown_since < GONE_SECONDS:
            return set()
        return self._unknown

    @property
    def unfinished(self) -> bool:
        """Whether something of it may be open, or hang."""
        return self._transaction is not None

    @property
    def settled(self) -> bool:
        """Whether the last one is over: what was committed has ended everywhere, and what failed is not left open."""
        last = self._transaction
        return last is None or (last.stage is not _Stage.COMMITTED and self.usable)

    async def settle(self) -> None:
        """Have the last one over, and what was committed at its end in every partition.

        Raises as `recover`; call it again then.

        The broker says that a transaction is committed before its partitions know it. When it is about to stop it skips
        those that have no leader any more and calls the transaction ended (Apache Kafka 4.3.1): whatever aborts the
        next one of this producer then takes away what was committed. So nothing new is begun before every partition is
        seen to be past it, and where that is not seen it is ended once more.
        """
        last = self._transaction
        if last is None or self.settled:
            return
        if self.usable:
            try:
                ended = await self._has_ended(last.ends) and await self._has_moved(last)
            except BaseException:
                self._id = -1
                raise
            if ended:
                self._transaction = None
                return
        await self.recover()

    async def _has_ended(self, ends: Mapping[Place, int]) -> bool:
        """Whether readers of what is committed get past these offsets, for as long as one after the other moves."""
        loop = asyncio.get_running_loop()
        moved, pause = loop.time(), CONCURRENT_BACKOFF
        waiting = dict(ends)
        while waiting:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_SETTLE_PAUSE)
            async with asyncio.timeout(TRANSACTION_SECONDS):
                stable = await self._connection.ends(waiting, stable=True)
            before, waiting = waiting, {place: end for place, end in waiting.items() if stable[place] < end}
            if len(waiting) < len(before):
                moved = loop.time()
            elif loop.time() - moved > SETTLE_SECONDS:
                return False
        return True

    async def _has_moved(self, last: _Transaction) -> bool:
        """Whether the group's offsets know of a commit too: they are in a partition of the broker's own."""
        loop = asyncio.get_running_loop()
        since, pause = loop.time(), CONCURRENT_BACKOFF
        while last.offsets:
            async with asyncio.timeout(TRANSACTION_SECONDS):
                found = await self._offsets.fetch(last.group, last.offsets, stable=False)
            if all(_follows(found.get(partition), wanted) for partition, wanted in last.offsets.items()):
                return True
            if loop.time() - since > SETTLE_SECONDS:
                return False
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_SETTLE_PAUSE)
        return True

    async def transact(
        self,
        group: str,
        membership: Membership,
        offsets: Mapping[TopicPartition, Committed],
        records: Mapping[Place, Sequence[Record]],
    ) -> None:
        """Write records and move offsets, all or nothing.

        Raises Stale, BatchTooLarge, KafkaError, TimeoutError or OSError when nothing was written, and Unclear. After
        any of them `recover` it.
        """
        await self.settle()
        if not self.usable:
            await self.recover()
        self._transaction = last = _Transaction(group, offsets, dict.fromkeys(records, -1))
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS):
                await self.begin(group if offsets else "", records)
                # Offsets first: who dies after this leaves them unstable, so that a successor knows to fence it.
                # Measured otherwise: readers waited 68 s for the transaction's timeout, against 9 to 13 s.
                if offsets:
                    await self.send_offsets(group, membership, offsets)
                if records:
                    last.ends.update(await self.produce(records))
        except BaseException:
            self._id = -1
            raise
        last.stage = _Stage.ASKED
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS):
                await self.end()
            last.stage = _Stage.COMMITTED
        except (KafkaError, TimeoutError, OSError) as error:
            raise Unclear(f"{type(error).__name__}: {error}") from error
        finally:
            if last.stage is not _Stage.COMMITTED:
                self._id = -1

    async def begin(self, group: str, places: Collection[Place]) -> None:
        """Have the coordinator take a group's offsets into the transaction, unless it is empty, and partitions.

        Both are asked for at once; the broker looks at one after the other.
        """
        steps = [self._add_offsets(group)] if group else []
        if places:
            steps.append(self._add_partitions(places))
        # Each has its answer before anything is raised: none is under way when the producer is made anew.
        for outcome in await asyncio.gather(*steps, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def send_offsets(
        self, group: str, membership: Membership, offsets: Mapping[TopicPartition, Committed]
    ) -> None:
        """The first half of what was begun: offsets, under the generation that they were read in."""
        topics = by_topic(
            (at.topic, (at.partition, found.offset, -1, found.metadata, {})) for at, found in sorted(offsets.items())
        )
        request = TxnOffsetCommit(
            self.transactional_id,
            group,
            self._id,
            self._epoch,
            membership.generation,
            membership.member,
            None,
            [(topic, partitions, {}) for topic, partitions in topics],
            {},
        )
        answer = await self._connection.ask(CoordinationType.GROUP, group, request)
        codes = {code for _, partitions, _ in answer.errors for _, code, _ in partitions} - {_OK}
        if codes & STALE:
            raise Stale(for_code(min(codes & STALE)).__name__)
        for code in codes:
            if code in COORDINATOR_AWAY:
                self._connection.forget(CoordinationType.GROUP, group)
            raise for_code(code)

    async def produce(self, records: Mapping[Place, Sequence[Record]]) -> dict[Place, int]:
        """The second half: records, each acknowledged by all replicas. Where they end."""
        before = {place: self._sequences.get(place, 0) for place in records}
        session, ends = Session(self.transactional_id, self._id, self._epoch), {}
        for batches in rounds(records, self._limits, session, before):
            for batch, end, error in await send(self._connection, batches, session):
                if error is not None:
                    raise error
                ends[batch.place] = end
        for place, found in records.items():
            self._sequences[place] = (before[place] + len(found)) % LARGEST_SEQUENCE
        return ends

    async def end(self, *, commit: bool = True) -> None:
        """Commit, or abort."""
        code = await self._end(self._id, self._epoch, commit=commit)
        if code != _OK:
            raise for_code(code)

    async def _end(self, producer: int, epoch: int, *, commit: bool) -> int:
        answer = await self._coordinator(EndTxnRequest(self.transactional_id, producer, epoch, commit))
        return int(answer.error_code)

    async def _add_offsets(self, group: str) -> None:
        await self._add(lambda: AddOffsetsToTxnRequest(self.transactional_id, self._id, self._epoch, group), _lone_code)

    async def _add_partitions(self, places: Iterable[Place]) -> None:
        added = by_topic(places)
        try:
            await self._add(
                lambda: AddPartitionsToTxnRequest(self.transactional_id, self._id, self._epoch, added), self._worst_code
            )
        except UnknownTopicOrPartitionError:
            self._unknown_since = self._unknown_since or time.monotonic()
            raise

    def _worst_code(self, answer: Any) -> int:
        """The one that tells most; "not attempted" only says that another partition had a fault."""
        codes = {(topic, number): code for topic, partitions in answer.errors for number, code in partitions if code}
        self._unknown = {place for place, code in codes.items() if code == _UNKNOWN_PARTITION}
        told = set(codes.values())
        return max(told - {_NOT_ATTEMPTED} or told, default=_OK)

    async def _add(self, request: Any, code_of: Any) -> None:
        """Have something taken into the transaction; while the one before is being ended it is asked again."""
        while True:
            code = code_of(await self._coordinator(request()))
            if code == _OK:
                return
            if code != _CONCURRENT:
                raise for_code(code)
            await asyncio.sleep(CONCURRENT_BACKOFF)

    async def _coordinator(self, request: Any) -> Any:
        """The transaction coordinator's answer."""
        answer = await self._connection.ask(CoordinationType.TRANSACTION, self.transactional_id, request)
        self._check_coordinator(getattr(answer, "error_code", _OK))
        return answer

    def _check_coordinator(self, code: int) -> None:
        if code in COORDINATOR_AWAY:
            self._connection.forget(CoordinationType.TRANSACTION, self.transactional_id)


def _follows(found: Committed | None, wanted: Committed) -> bool:
    """Whether this offset, or a later one, stands there; a group that was deleted has none."""
    return found is None or Standing.parse(found.metadata).follows(Standing.parse(wanted.metadata))


def _lone_code(answer: Any) -> int:
    return int(answer.error_code)


class Transactions:
    """The transactional producers of a process, each lent to one checkpoint at a time.

    committer   what its transactional ids begin with; successors fence by it
    """

    def __init__(self, settings: Settings, instance: str) -> None:
        self._settings = settings
        self.committer = instance
        self._limits, self._numbers = Limits(settings), itertools.count(1)
        self._producers = [Producer(settings, name, self._limits) for name in self._ids(instance)]
        # The last one given back is lent first: its connections are warm.
        self._free: asyncio.LifoQueue[Producer] = asyncio.LifoQueue()
        self._settling: set[asyncio.Task[None]] = set()
        for producer in reversed(self._producers):
            self._free.put_nowait(producer)

    def _ids(self, instance: str) -> list[str]:
        return [f"{self._settings.topic_prefix}.{self._settings.namespace}.{instance}.{n}" for n in range(POOL)]

    def standing(self, spans: tuple[int, ...]) -> Standing:
        """What is to stand beside an offset that one of these moves."""
        return Standing(self.committer, spans, next(self._numbers))

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[Producer]:
        """A producer, for the time being one's own."""
        producer = await self._free.get()
        try:
            yield producer
        finally:
            task = asyncio.create_task(self._give_back(producer))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    async def _give_back(self, producer: Producer) -> None:
        """Lend it again when what it committed or left open has ended; a broker that is away is waited for.

        Who borrowed it may have been cancelled: nobody would fence what its own process left open.
        """
        told = False
        try:
            while not producer.settled:
                try:
                    await producer.settle()
                except (KafkaError, TimeoutError, OSError) as error:
                    if not told:
                        log.warning(
                            "what was committed last may not have ended everywhere, looking again: %s",
                            error or type(error).__name__,
                        )
                    told = True
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            self._free.put_nowait(producer)

    async def stop(self) -> None:
        """Close all; what a transaction left open would keep readers waiting is ended first, within a bound."""
        for task in self._settling:
            task.cancel()
        await asyncio.gather(*self._settling, return_exceptions=True)
        used = [producer for producer in self._producers if producer.unfinished]
        resets = [asyncio.create_task(producer.recover()) for producer in used]
        if resets:
            _, late = await asyncio.wait(resets, timeout=client.STOP_TIMEOUT)
            for reset in late:
                reset.cancel()
            await asyncio.gather(*resets, return_exceptions=True)
        await asyncio.gather(*(producer.stop() for producer in self._producers))

    def too_large(self, error: BatchTooLarge) -> bool:
        """Whether smaller batches may do; otherwise it is one record that its topic does not take."""
        return self._limits.lower(error)

    async def fence(self, instances: Iterable[str], group: str) -> None:
        """End what these instances have open, or left hanging, over a group's offsets. Raises as `recover`."""
        producers = [Producer(self._settings, name) for instance in instances for name in self._ids(instance)]
        try:
            await asyncio.gather(*(producer.take_over(group) for producer in producers))
        finally:
            await asyncio.gather(*(producer.stop() for producer in producers))
