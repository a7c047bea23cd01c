"""Workers: one Faust app, so one consumer group, per pipeline and one for all models; batch in, checkpoint out."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError

from engine.errors import TooLarge
from engine.kafka import client
from engine.kafka.checkpoint import AtLeastOnce
from engine.kafka.decoding import decode
from engine.kafka.exactly_once import ExactlyOnce
from engine.kafka.pacing import Pace
from engine.kafka.transport import BatchApp, Intake
from engine.protocol.record import ERROR_STEP, INFER_TYPE, PIPELINE, STEP, Owner, ReplyAddress, sort_out
from engine.telemetry.figures import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.dataflow.external import Upstream
    from engine.execution import Execution, Request
    from engine.kafka.budget import Budget, Share
    from engine.kafka.checkpoint import Checkpoints
    from engine.kafka.joins import Joiner
    from engine.kafka.leases import Lease, Poll, TopicPartition
    from engine.kafka.offsets import GroupOffsets
    from engine.kafka.transactions import Transactions
    from engine.kafka.transport import ConsumerLoop
    from engine.kafka.writing import Writer
    from engine.protocol.record import Sorted
    from engine.settings import Settings
    from engine.telemetry.figures import Figures, Resource

log = logging.getLogger(__name__)

# Requests that are being worked on when a stop is asked for get this long to end; the rest is read again by others.
DRAIN_SECONDS = 10.0

# How long an app may take to stop before it is left behind.
STOP_SECONDS = 10.0


# Records that wait for so long before an agent that waits for records: whoever was to bring them has fallen over.
STALL_SECONDS = 30.0

# Whoever scrapes waits no longer than this for the broker to say how many records there are.
MEASURE_SECONDS = 1.0

# What a request in flight costs in memory beside its payload: objects, headers, records that wait to be written.
REQUEST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Writers:
    """What the workers of a process share to write and commit. With `transactions` exactly once."""

    writer: Writer
    offsets: GroupOffsets
    transactions: Transactions | None
    reply_topic: str

    def intake(self, group: str, consumer_loop: ConsumerLoop) -> Intake:
        """The polls and positions of a group's member."""
        return Intake(group, consumer_loop, self.offsets, self.transactions)

    def checkpoints(self, intake: Intake, budget: Share, oversized: Callable[[Request], None]) -> Checkpoints:
        """Its checkpoints."""
        if self.transactions is None:
            return AtLeastOnce(self.writer, intake, budget, oversized)
        return ExactlyOnce(self.transactions, self.writer, self.reply_topic, intake, budget, oversized)


class Worker:
    """One member of one consumer group, running the plans of its inputs topics.

    `routes` maps each inputs topic to its execution; `joiner` makes requests for them from the topics of other
    pipelines. The topics stay what they were at the start; their executions may be replaced between two polls
    (`reroute`), and the old ones finish what they have read. Nothing is taken before `opened` is set, though the group
    is joined.
    """

    def __init__(
        self,
        group: str,
        settings: Settings,
        writers: Writers,
        budget: Budget,
        consumer_loop: ConsumerLoop,
        *,
        holds_fetches: bool,
        figures: Figures,
        joiner: Joiner | None = None,
    ) -> None:
        self.group, self.joiner = group, joiner
        self._figures = figures
        self.routes: dict[str, Execution] = {}
        self._retiring: list[Execution] = []
        self._settings, self._budget = settings, budget.share(self._relieve)
        self.intake = writers.intake(group, consumer_loop)
        self.checkpoints = writers.checkpoints(self.intake, self._budget, self._oversized)
        self.checkpoints.spans = figures.spans
        self._pace = Pace(lambda: self.checkpoints.unwritten, self.checkpoints.progressed)
        self._app = BatchApp(group, settings, self.intake, consumer_loop, holds_fetches=holds_fetches)
        self._draining = False
        self.opened = asyncio.Event()
        self._polls = 0
        self._waits = self._stalled = False
        # When and where it was seen last that the agent waits though there are records: see `watch`.
        self._suspicion: tuple[float, int, Mapping[TopicPartition, int]] | None = None

    async def start(self, routes: Mapping[str, Execution]) -> None:
        """Begin, and join the group; `intake.assigned` tells when partitions are there. Raises BrokerUnavailable."""
        self.routes = dict(routes)
        self.checkpoints.start()
        names = list(routes)
        if self.joiner is not None:
            self.joiner.start(self.intake.leases, self.checkpoints, self._budget)
            names += self.joiner.topics
        self._app.agent(self._app.inputs(names), name=self.group)(self._consume)
        try:
            await asyncio.wait_for(self._app.start(), client.CONNECT_TIMEOUT)
        except (KafkaError, TimeoutError, OSError) as error:
            await self.stop()
            raise client.unavailable(self._settings, error) from error
        self._figures.groups[self.group] = self

    def reroute(self, routes: Mapping[str, Execution]) -> None:
        """From the next poll on, these executions take the requests."""
        self._retiring = [execution for execution in (*self._retiring, *self.routes.values()) if not execution.idle]
        self.routes = dict(routes)
        for execution in self._retiring:
            execution.flush()  # nobody comes whom its batches could wait for

    def _relieve(self) -> None:
        """There is no room for more requests, so those that wait for more to come wait in vain."""
        for execution in self._executions:
            execution.flush()

    @property
    def _executions(self) -> list[Execution]:
        return [*self._retiring, *self.routes.values()]

    @property
    def crashed(self) -> bool:
        """Whether the app, or what makes or commits its requests, has fallen over; it must be replaced then."""
        joiner_crashed = self.joiner is not None and self.joiner.crashed
        return self._stalled or self._app.crashed or self.checkpoints.crashed or joiner_crashed

    def takes(self, upstream: Upstream | None) -> bool:
        """Whether it can take a new version of its pipeline: it lives, and what it reads of others has not changed."""
        return not self.crashed and (self.joiner.upstream if self.joiner is not None else None) == upstream

    @property
    def refusal(self) -> str:
        """Why a newer release must do its work, so that it is to be stopped; empty when there is no reason."""
        return self.intake.refusal or (self.joiner.refusal if self.joiner is not None else "")

    async def watch(self) -> None:
        """Find out whether records wait that nobody brings; it must be replaced then. Ask again and again."""
        if self._draining or not self._waits or not self.intake.assigned.is_set():
            self._suspicion = None
            return
        polls = self._polls
        try:
            behind = await self.intake.behind()
        except (KafkaError, TimeoutError, OSError):
            behind = {}  # a broker that is away brings nothing to anybody
        now = time.monotonic()
        before = self._suspicion
        if before is None or before[1] != polls or not before[2].items() & behind.items():
            self._suspicion = (now, polls, behind) if behind and self._waits else None
        elif now - before[0] > STALL_SECONDS:
            place, offset = next(iter(before[2].items() & behind.items()))
            log.error(
                "group %s: nothing was read of %s [%d] from offset %d on for %.0f s; it joins anew",
                self.group,
                *place,
                offset,
                now - before[0],
            )
            self._stalled = True

    async def measure(self) -> Group:
        """How it is doing; without what is behind where the broker does not say so in time."""
        try:
            behind = self.intake.leases.behind(await self.intake.stands(MEASURE_SECONDS))
        except (KafkaError, TimeoutError, OSError):
            behind = {}
        found: dict[Resource, int] = {}
        for partition, count in behind.items():
            # What a joiner reads for its pipeline is on the topics of others.
            execution = self.routes.get(partition.topic) or next(iter(self.routes.values()))
            key = (execution.owner, execution.plan.name)
            found[key] = found.get(key, 0) + count
        checkpoints = self.checkpoints
        waiting = self.joiner.waiting if self.joiner is not None else None
        failures, rebalances = checkpoints.failures, self.intake.rebalances
        return Group(checkpoints.seconds, checkpoints.sizes, failures, rebalances, found, waiting)

    async def stop(self, *, drain: bool = True) -> None:
        """Take nothing new, finish what is being worked on within a bound, commit, leave the group.

        Without `drain` nothing is waited for: the broker is gone for good.
        """
        self._draining = True
        if self._figures.groups.get(self.group) is self:
            del self._figures.groups[self.group]
        if self.joiner is not None:
            await self.joiner.stop()
        try:
            if drain:
                await asyncio.wait_for(self._drain(), DRAIN_SECONDS)
        except TimeoutError:
            log.warning("group %s: requests were still running when it stopped; they will be read again", self.group)
        except KafkaError as error:
            log.warning("group %s: its last offsets were not committed: %s", self.group, error or type(error).__name__)
        for execution in self._executions:
            execution.cancel()
        try:
            await asyncio.wait_for(self._app.stop(), STOP_SECONDS)
        except TimeoutError:
            log.warning("group %s did not leave in time", self.group)
        await self.checkpoints.stop()
        self._budget.close()

    async def _drain(self) -> None:
        await asyncio.gather(*(execution.drain() for execution in self._executions))
        await self.checkpoints.drain()

    async def _consume(self, stream: Any) -> None:
        self._waits = True
        async for event in stream.events():
            self._waits = False
            self._polls += 1
            await self.opened.wait()
            await self._budget.room()
            while self.intake.leases.crowded:
                self._relieve()
                await self.checkpoints.progressed()
            await self._pace.room(sum(len(poll.records) for poll in event.value.values()))
            await self.take(event.value)
            # Faust and this loop hold it until the next one comes.
            event.value.clear()
            self._waits = True

    async def take(self, polled: Mapping[TopicPartition, Poll]) -> None:
        """One poll, all partitions."""
        if self._draining:
            return
        work, gap = self.intake.take(polled)
        fed = []
        for lease, polled_records in work:
            records = self._unfinished(lease, polled_records) if lease.watermark.behind else polled_records
            if not records:
                continue
            if lease.partition.topic in self.routes or self.joiner is None:
                self._begin(lease, records)
            else:
                fed.append((lease, records))
        for lease, records in fed:
            if self.joiner is not None and not await self.joiner.take(lease, records):
                gap = True
        if gap:
            # A transaction that is under way may still commit what was taken before, and nothing fences it: this group
            # has not moved on. Where to begin again is known when it has ended.
            async with self.intake.committing:
                await self.intake.place()

    def _unfinished(self, lease: Lease, records: Sequence[Any]) -> Sequence[Any]:
        """What an earlier owner of the partition has not finished."""
        found = [record for record in records if not lease.watermark.done(record.offset)]
        if not found:
            lease.watermark.take([], records[-1].offset + 1)
            self.checkpoints.skipped()
        return found

    def _begin(self, lease: Lease, records: Sequence[Any]) -> None:
        """Start what of these records is for us, as columns of requests that agree."""
        execution = self.routes.get(lease.partition.topic)
        mine = [] if execution is None else _requests(execution, records)
        lease.watermark.take([record.offset for record, _ in mine], records[-1].offset + 1)
        if execution is None or not mine:
            self.checkpoints.skipped()
            return
        requests = [self._request(execution, lease, *each) for each in mine]
        self._budget.take(sum(request.size for request in requests))
        values = [(record.value or b"", headers.text(INFER_TYPE)) for record, headers in mine]
        groups, refused = decode(values, most_bytes=self._settings.max_message_bytes)
        for group in groups:
            members = [requests[row] for row in group.rows]
            for request in members:
                request.json = group.json
            execution.begin(members, group.columns)
        for row, error in refused:
            execution.refuse(requests[row], error)

    def _request(self, execution: Execution, lease: Lease, record: Any, headers: Sorted) -> Request:
        size = len(record.value or b"") + REQUEST_BYTES
        request = execution.new_request(lease, lease.partition.partition, record.offset, record.key, headers, size)
        if request.reply is not None and not self._is_reply_address(request.reply):
            request.reply = None
        return request

    def _is_reply_address(self, text: str) -> bool:
        """Anybody may write a header: a reply to a partition that is not there would fail its checkpoint for ever."""
        address = ReplyAddress.parse(text)
        return address is not None and address.partition < self._settings.partitions

    def _oversized(self, request: Request) -> None:
        execution: Execution = request.execution
        execution.replace(request, TooLarge("a record of this request is larger than its topic on the broker takes"))


def _requests(execution: Execution, records: Sequence[Any]) -> list[tuple[Any, Sorted]]:
    """The records of an inputs topic that are requests for its owner, with their headers.

    Passed over: what pipelines write of their steps, what names another pipeline, and errors of others.
    """
    found = []
    for record in records:
        headers = record.headers
        # The mark of a step is the last header that is put on a record: most of what a model's agent reads.
        if headers and headers[-1][0] == STEP:
            continue
        looked_at = sort_out(headers)
        if _is_for(execution, looked_at.marks):
            found.append((record, looked_at))
    return found


def _is_for(execution: Execution, marks: Mapping[str, bytes | None]) -> bool:
    if STEP in marks or ERROR_STEP in marks:
        return False
    if PIPELINE not in marks or execution.owner is not Owner.PIPELINE:
        return True
    return marks[PIPELINE] == execution.name_bytes
