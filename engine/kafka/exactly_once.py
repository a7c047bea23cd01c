"""Exactly-once checkpoints: what requests gave and the offsets that they free become visible together, or not at all.

One transaction for all partitions of what has finished, at once when idle, of many requests under load; requests go on
running meanwhile. It is fenced by the generation under which the partitions are ours. After any error the producer is
made anew, when the broker has ended what was open and has said how.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError

from engine.errors import BrokerUnavailable
from engine.kafka.checkpoint import MOST_UNITS, RETRY_SECONDS, Checkpoints, Early, Made, Taken, Unit, tell
from engine.kafka.offsets import Committed
from engine.kafka.transactions import Stale, Unclear
from engine.kafka.writing import BatchTooLarge, by_place

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from engine.execution import Request
    from engine.kafka.budget import Share
    from engine.kafka.leases import Membership, Place, TopicPartition
    from engine.kafka.transactions import Producer, Transactions
    from engine.kafka.transport import Intake
    from engine.kafka.wire import Place as TopicPlace
    from engine.kafka.writing import Writer

log = logging.getLogger(__name__)

# Records that were passed over need no transaction; how far they were is committed this often.
POSITION_SECONDS = 3.0

# The group has moved on and our consumer does not know it yet: it learns by its next heartbeat.
STALE_SECONDS = 0.2


class ExactlyOnce(Checkpoints):
    """Records and offsets in one transaction.

    replies   writes answers that callers need not wait for the rest of their request for, on `reply_topic`: they are
              no part of the transaction, and a crash may answer such a caller twice
    """

    def __init__(
        self,
        transactions: Transactions,
        replies: Writer,
        reply_topic: str,
        intake: Intake,
        budget: Share,
        oversized: Callable[[Request], None],
    ) -> None:
        super().__init__(intake, budget, oversized)
        self._transactions, self._replies, self._reply_topic = transactions, replies, reply_topic
        # There is no room yet to say of them that they are finished.
        self._refused: list[Unit] = []
        self._position_due: asyncio.TimerHandle | None = None
        self._answers = asyncio.Event()

    def _loops(self) -> Sequence[Coroutine[Any, Any, None]]:
        return [self._checkpoint_loop(), self._answer_loop()]

    async def stop(self) -> None:
        """As said."""
        if self._position_due is not None:
            self._position_due.cancel()
        await super().stop()

    def answered(self, requests: Sequence[Request]) -> None:
        """Their replies are written now, and everything else when they are done."""
        self._early.extend(Early(request, self._reply_topic) for request in requests)
        self._answers.set()

    def skipped(self) -> None:
        """As said."""
        if self._position_due is None:
            self._position_due = asyncio.get_running_loop().call_later(POSITION_SECONDS, self._wake.set)

    async def drain(self) -> None:
        """As said."""
        await self.written()
        async with self._intake.committing:
            await self._intake.commit_positions()

    async def flush(self) -> None:
        """As said; the transaction that runs ends first."""
        async with self._intake.committing:
            while not await self._checkpoint() and self._pending:
                pass

    async def _checkpoint_loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._intake.assigned.wait()
            async with self._intake.committing:
                # A rebalance may have begun while we waited: who would commit now would be refused.
                delay = await self._checkpoint() if self._intake.assigned.is_set() else 0.0
            if delay:
                await asyncio.sleep(delay)
            if self._writing or self._pending:
                self._wake.set()
            elif not self._refused:
                self._empty.set()

    async def _checkpoint(self) -> float:
        """One transaction, if there is something to write; how long to wait before what is left is tried again."""
        # What one that failed was writing is in this one too: the watermarks have moved over it.
        room = max(0, MOST_UNITS - len(self._writing))
        finished, self._pending = [*self._refused, *self._pending[:room]], self._pending[room:]
        self._refused = self._finish(finished)
        if self._refused:
            kept = set(map(id, self._refused))
            finished = [unit for unit in finished if id(unit) not in kept]
        lost = [unit for unit in (*self._writing, *finished) if not unit.origin.held]
        self._budget.give(sum(unit.size for unit in lost))
        self._writing = [unit for unit in (*self._writing, *finished) if unit.origin.held]
        if not self._writing:
            return await self._commit_positions()
        # Together: under a later membership these partitions may be somebody else's, and the broker would not know.
        places, membership = self._intake.leases.commits(), self._intake.leases.membership
        for unit in self._writing:
            # An offset that does not move is written all the same: it is what fences the records.
            places.setdefault(unit.origin.partition, unit.origin.committed)
        since = time.perf_counter()
        async with self._transactions.lend() as producer:
            delay = await self._transact(producer, places, membership)
        if delay is not None:
            self.failures += 1
            return delay
        self._count(self._writing, since)
        self._intake.leases.committed(places)
        written, self._writing = self._writing, []
        self._progress.set()
        self._budget.give(sum(unit.size for unit in written))
        tell(written)
        return 0.0

    async def _commit_positions(self) -> float:
        if self._position_due is not None:
            self._position_due.cancel()
            self._position_due = None
        try:
            await self._intake.commit_positions()
        except (KafkaError, TimeoutError, OSError) as error:
            log.warning("could not commit positions: %s", error or type(error).__name__)
            self.skipped()
        return 0.0

    async def _transact(
        self, producer: Producer, places: dict[TopicPartition, Place], membership: Membership
    ) -> float | None:
        """None when it is committed; otherwise how long to wait before it is tried again."""
        offsets = {
            partition: Committed(place.offset, self._transactions.standing(place.spans).encode())
            for partition, place in places.items()
        }
        units = self._units()
        records = by_place(units)
        try:
            if not producer.usable:
                await self._recover(producer)
            await producer.transact(self._intake.group, membership, offsets, records)
        except Stale as error:
            log.info(
                "group %s: %s: what is finished is committed when its rebalance is over", self._intake.group, error
            )
            await self._recover(producer)
            return STALE_SECONDS
        except BatchTooLarge as error:
            await self._recover(producer)
            if not self._transactions.too_large(error):
                self._put_error_in_place(_owner(units, error.place, error.first))
            return RETRY_SECONDS / 100
        except Unclear as error:
            log.warning("group %s: no answer to a commit (%s); asking whether it happened", self._intake.group, error)
            return None if await self._recover(producer) else RETRY_SECONDS
        except (KafkaError, TimeoutError, OSError) as error:
            log.warning(
                "group %s: could not write %d requests, trying again: %s",
                self._intake.group,
                len(units),
                error or type(error).__name__,
            )
            await self._recover(producer)
            return RETRY_SECONDS
        return None

    def _units(self) -> list[Unit]:
        """What is to be written, with the changes of state that it caused."""
        changes = [change for unit in self._writing if isinstance(unit, Taken) for change in unit.changes]
        return [*self._writing, *changes]

    async def _recover(self, producer: Producer) -> bool:
        """End what is open: readers of the topics would wait for it. A broker that is away is waited for.

        Whether its last transaction is committed.
        """
        while True:
            try:
                return await producer.recover()
            except (KafkaError, TimeoutError, OSError) as error:
                log.warning("the broker made no producer, trying again: %s", error or type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    def _put_error_in_place(self, unit: Any) -> None:
        """A topic does not take a record of this unit."""
        if isinstance(unit, (Made, Taken)) or unit.replaced:
            self._give_up(unit)
            unit.records = []
            return
        self._oversized(unit)
        unit.replaced = True

    async def _answer_loop(self) -> None:
        while True:
            await self._answers.wait()
            self._answers.clear()
            early, self._early = self._early, []
            held = [part for part in early if part.origin.held]
            try:
                await self._write_answers(held)
            except (BrokerUnavailable, KafkaError, TimeoutError, OSError) as error:
                log.warning("could not write %d answers, trying again: %s", len(early), error or type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
                self._early = [*early, *self._early]
                self._answers.set()
            else:
                tell(held)

    async def _write_answers(self, parts: Sequence[Early]) -> None:
        """Write them; one that its topic does not take is given up, and the request itself goes on."""
        try:
            await self._replies.write(parts)
        except BatchTooLarge:
            if len(parts) == 1:
                self._give_up(parts[0])
                return
            for part in parts:
                await self._write_answers([part])


def _owner(units: Sequence[Any], place: TopicPlace, number: int) -> Any:
    """Whose the record is that stands as the so many-th of a partition, counted from 0."""
    owners = (unit for unit in units for record in unit.records if (record[0], record[1]) == place)
    return next(itertools.islice(owners, number, None))
