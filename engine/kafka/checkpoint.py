"""Checkpoints: the records of finished requests, and the offsets that they free.

At least once, here: outputs are acknowledged by the broker before the offset moves, so a crash in between runs requests
again and loses none. Exactly once is in `exactly_once`. One checkpoint is written at a time; what finishes meanwhile is
the next one, so that a lone request is written at once and a busy worker writes many with one round trip.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeAlias

from aiokafka.errors import KafkaError

from engine.kafka.writing import BatchTooLarge
from engine.telemetry import logs
from engine.telemetry.figures import SIZES, STEP_SECONDS, Distribution

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from engine.execution import Request
    from engine.kafka.budget import Share
    from engine.kafka.leases import Lease
    from engine.kafka.transport import Intake
    from engine.kafka.writing import Writer
    from engine.telemetry.spans import Spans

log = logging.getLogger(__name__)

# A broker that refuses or is away is asked again after this long; requests wait and nothing is lost.
RETRY_SECONDS = 0.5

# Units of one checkpoint. Without a bound, one that takes longer than the broker gives it is tried again with all that
# has finished meanwhile, and takes longer still.
MOST_UNITS = 20_000

# Offsets need no hurry once outputs are written: they only bound what a crash runs again.
COMMIT_INTERVAL = 0.1


class Early:
    """The records that a request had when its answer was known; its offset stays until the request is done.

    When a topic does not take one of them, there is no putting an error in the answer's place any more.
    """

    __slots__ = ("key", "origin", "place", "records", "tell")

    offset, size, replaced = None, 0, True

    def __init__(self, request: Request, topic: str | None = None) -> None:
        """Take its records, or those for one topic only."""
        self.key, self.origin, self.place = request.key, request.origin, request.place
        self.records = [record for record in request.records if topic in (None, record[0])]
        request.records = [record for record in request.records if topic not in (None, record[0])]
        self.tell, request.tell = request.tell, None


class Made:
    """One record that came of other than a request's own records: a pipeline's request, an error, a change of state.

    Nothing can be put in its place when its topic does not take it.
    """

    __slots__ = ("key", "origin", "place", "records")

    offset, size, replaced, tell = None, 0, True, None

    def __init__(
        self,
        origin: Lease,
        place: str,
        key: bytes | None,
        record: tuple[str, int, bytes | None, list[tuple[str, bytes | None]]],
    ) -> None:
        self.origin, self.place, self.key, self.records = origin, place, key, [record]


class Taken:
    """Records of one partition that are finished once what was made of them is written, and after it `changes`.

    offset   of the last of them, as the others are finished with it; None when no record but time caused the changes
    """

    __slots__ = ("changes", "offset", "origin", "place", "size")

    key, records, replaced, tell = None, (), True, None

    def __init__(self, origin: Lease, place: str, offset: int | None, size: int, changes: Sequence[Made]) -> None:
        self.origin, self.place, self.offset, self.size, self.changes = origin, place, offset, size, changes


# What a checkpoint writes.
Unit: TypeAlias = "Request | Made | Taken"


class Checkpoints(ABC):
    """The checkpoints of one worker.

    oversized   told of a request whose records the broker will not take; puts an error in their place

    `seconds` and `sizes` (in requests) are those of the checkpoints so far, `failures` those that were tried again.
    `spans` is to be set where they are traced.
    """

    def __init__(self, intake: Intake, budget: Share, oversized: Callable[[Request], None]) -> None:
        self._intake, self._budget, self._oversized = intake, budget, oversized
        # What is done and waits for its turn, and what is being written.
        self._pending: list[Unit] = []
        self._writing: list[Unit] = []
        self._early: list[Early] = []
        self._wake, self._empty, self._progress = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._empty.set()
        self._tasks: list[asyncio.Task[None]] = []
        self.seconds, self.sizes, self.failures = Distribution(STEP_SECONDS), Distribution(SIZES), 0
        self.spans: Spans | None = None

    def start(self) -> None:
        """Begin to write what is finished."""
        self._intake.flush = self.flush
        self._tasks = [asyncio.create_task(loop) for loop in self._loops()]

    async def stop(self) -> None:
        """End; what is not written is read again by whoever gets the partitions."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def crashed(self) -> bool:
        """Whether nothing is written any more; the worker must be replaced then."""
        return any(task.done() for task in self._tasks)

    def finished(self, requests: Sequence[Unit]) -> None:
        """These requests are done: write their records, and free their offsets."""
        self._pending.extend(requests)
        self._empty.clear()
        self._wake.set()

    @abstractmethod
    def answered(self, requests: Sequence[Request]) -> None:
        """These requests have their answer while steps of theirs still run: tell their callers now."""

    @abstractmethod
    def skipped(self) -> None:
        """Records were passed over: their offsets may be committed when there is time."""

    @property
    def unwritten(self) -> int:
        """How many that are done are being written, or wait for it."""
        return len(self._pending) + len(self._writing)

    async def written(self) -> None:
        """Wait until all that is finished is written."""
        await self._empty.wait()

    async def progressed(self) -> None:
        """Wait until something more is finished or written."""
        self._progress.clear()
        await self._progress.wait()

    async def drain(self) -> None:
        """Wait until all that is finished is written and committed."""
        await self.written()
        await self._intake.commit()

    @abstractmethod
    async def flush(self) -> None:
        """The partitions are about to go: commit what is finished while they are ours."""

    @abstractmethod
    def _loops(self) -> Sequence[Coroutine[Any, Any, None]]:
        """What runs until the end."""

    def _finish(self, units: Sequence[Unit]) -> list[Unit]:
        """Move the watermarks over these; those returned have no room in the offset's metadata yet, and must wait."""
        by_lease: dict[Lease, list[Unit]] = {}
        for unit in units:
            if unit.offset is not None and unit.origin.held:
                by_lease.setdefault(unit.origin, []).append(unit)
        waiting: list[Unit] = []
        for lease, its in by_lease.items():
            refused = set(lease.watermark.finish([unit.offset for unit in its if unit.offset is not None]))
            waiting += [unit for unit in its if unit.offset in refused] if refused else []
        self._progress.set()
        return waiting

    def _count(self, units: Sequence[Unit], since: float) -> None:
        """These are written, which began then."""
        seconds = time.perf_counter() - since
        self.seconds.observe(seconds)
        self.sizes.observe(len(units))
        if self.spans is not None:
            self.spans.checkpoint(self._intake.group, units, seconds)

    def _give_up(self, unit: Unit | Early) -> None:
        # All records of a request have its headers.
        concerned = logs.about(*(headers for *_, headers in unit.records[:1]))
        log.error("the topics do not take what the request at %s gave; it is given up", unit.place, extra=concerned)


def tell(units: Iterable[Unit | Early]) -> None:
    """What they gave is written: callers in this process may have their answers."""
    for unit in units:
        if unit.tell is not None:
            unit.tell()


class AtLeastOnce(Checkpoints):
    """Outputs first, then offsets."""

    def __init__(self, writer: Writer, intake: Intake, budget: Share, oversized: Callable[[Request], None]) -> None:
        super().__init__(intake, budget, oversized)
        self._writer = writer
        self._moved = asyncio.Event()
        self._unmarked: list[Unit] = []

    def _loops(self) -> Sequence[Coroutine[Any, Any, None]]:
        return [self._write_loop(), self._commit_loop()]

    def answered(self, requests: Sequence[Request]) -> None:
        """What there is of their records is written now; the offset stays."""
        self._early.extend(Early(request) for request in requests)
        self._empty.clear()
        self._wake.set()

    def skipped(self) -> None:
        """As said."""
        self._moved.set()

    async def flush(self) -> None:
        """As said."""
        await self._intake.commit()

    async def _write_loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._write_pending()
            if self._pending or self._early:
                self._wake.set()
            else:
                self._empty.set()

    async def _write_pending(self) -> None:
        # Not in the loop, which would hold these requests until the next ones come.
        requests, self._pending = self._pending[:MOST_UNITS], self._pending[MOST_UNITS:]
        early, self._early = self._early, []
        self._writing = requests
        # A lost partition's requests are its new owner's: writing them here would only double them.
        held = [request for request in requests if request.origin.held]
        parts = [*(part for part in early if part.origin.held), *held]
        since = time.perf_counter()
        await self._write(parts)
        tell(parts)
        # After the requests that they tell of: a crash in between makes one twice rather than never.
        await self._write([change for unit in held if isinstance(unit, Taken) for change in unit.changes])
        if parts:
            self._count(held, since)
        self._writing = []
        self._unmarked = self._finish([*self._unmarked, *held])
        self._budget.give(sum(request.size for request in requests))
        self._moved.set()

    async def _write(self, requests: Sequence[Unit | Early]) -> None:
        """Write until it is done: a broker that is away is waited for."""
        while requests:
            try:
                await self._writer.write(requests)
            except BatchTooLarge:
                await self._write_one_by_one(requests)
            except Exception as error:  # noqa: BLE001  whatever the broker's client raises, nothing may be lost
                self.failures += 1
                log.warning(
                    "could not write %d requests, trying again: %s",
                    len(requests),
                    error or type(error).__name__,
                )
                await asyncio.sleep(RETRY_SECONDS)
                requests = [request for request in requests if request.origin.held]
                continue
            return

    async def _write_one_by_one(self, requests: Sequence[Unit | Early]) -> None:
        """Find out whose record is too large for its topic, and give its caller an error instead."""
        if len(requests) > 1:
            for request in requests:
                await self._write([request])
            return
        request = requests[0]
        if isinstance(request, (Early, Made, Taken)) or request.replaced:
            self._give_up(request)
            return
        self._oversized(request)
        request.replaced = True
        await self._write(requests)

    async def _commit_loop(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            try:
                await self._intake.commit()
            except (KafkaError, TimeoutError, OSError) as error:
                log.warning("could not commit offsets, trying again: %s", error or type(error).__name__)
                self._moved.set()
            self._progress.set()  # committing is what finds out that a crowd has gone
            await asyncio.sleep(COMMIT_INTERVAL)
