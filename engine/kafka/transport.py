"""Faust's aiokafka transport, with whole fetches as events and our own positions.

One event holds the records of all partitions of one poll, so Faust's cost is paid per batch. Positions are ours:
Faust's own seek and drop records in silence (see `leases`). All consumers of a process share one event loop on one
thread, apart from the main loop, so that a busy main loop does not cost the group membership.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import aiokafka
import faust
from aiokafka.errors import KafkaError
from faust.exceptions import ConsumerNotStarted
from faust.tables import TableManager
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, ConsumerMessage

from engine.errors import NewerFormat
from engine.kafka import client, unpacking
from engine.kafka.assignor import CoPartitionedSticky
from engine.kafka.leases import Leases, Membership, Place, Poll, Stand, TopicPartition
from engine.kafka.offsets import Committed, Unstable
from engine.kafka.pacing import PollSize
from engine.kafka.transactions import UNSTABLE_SECONDS
from engine.kafka.watermark import Standing
from engine.protocol.record import STEP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
    from concurrent.futures import Future

    from engine.kafka.leases import Lease, Reader
    from engine.kafka.offsets import GroupOffsets
    from engine.kafka.transactions import Transactions
    from engine.settings import Settings

log = logging.getLogger(__name__)

# One transaction or commit that hangs must not hold a rebalance up for ever; the broker decides then.
SUSPEND_TIMEOUT = 1.5

# A broker that is away is asked again after this long.
RETRY_SECONDS = 0.5


class ConsumerLoop:
    """The event loop that all consumers of a process share, on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="kafka-consumers", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        """Run a coroutine there and await its result here."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def stop(self) -> None:
        """End the loop; every consumer must have been stopped."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()


class _SharedLoopWorker:
    """Stands in for mode's thread: the service's body runs on the shared loop."""

    def __init__(self, service: Any, **_: Any) -> None:
        self.service = service
        self.future: Future[None] | None = None

    def start(self) -> None:
        self.future = asyncio.run_coroutine_threadsafe(self._body(), self.service.thread_loop)

    async def _body(self) -> None:
        try:
            await self.service._serve()  # noqa: SLF001  what mode's own thread runs
        finally:
            self.service.set_shutdown()

    def stop(self) -> None:
        """Mode waits for the body's end by its shutdown event before it calls this."""

    def is_alive(self) -> bool:
        return self.future is not None and not self.future.done()


class _Listener(driver.ConsumerRebalanceListener):
    """Runs on the consumer's loop, the only place where membership and assignment change together."""

    _thread: Any

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> Any:
        self._thread.readers = {}  # what is fetched from here on belongs to nobody
        return super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        coordinator = self._thread._consumer._coordinator  # noqa: SLF001  the one place that knows the generation
        self._thread.membership = Membership(coordinator.generation, coordinator.member_id)
        await super().on_partitions_assigned(assigned)


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    Worker: Any = _SharedLoopWorker
    app: Any
    _consumer: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.readers: dict[TopicPartition, Reader] = {}
        self.membership = Membership(-1, "")
        self._fetch_wait = client.FetchWait(self.thread_loop.time(), holds_fetches=self.app.holds_fetches)
        self._poll_size = PollSize()

    async def _gather_remaining_tasks(self) -> None:
        """The loop is shared: its other tasks are not ours to cancel."""

    def close(self) -> None:
        """Faust calls this on the main loop when a rebalance reaches an app that is being stopped.

        It would close the client there and mark the consumer as closed, so that `stop` does nothing: the member would
        stay in its group without ever joining again, and everybody else would wait for its session to end.
        """

    async def _keepalive2(self) -> None:
        """Mode wakes the parent loop once a second for loops that may sleep; a shared one does not."""

    def _create_worker_consumer(self, transport: Any) -> aiokafka.AIOKafkaConsumer:  # noqa: ARG002  Faust's signature
        settings: Settings = self.app.settings
        # The assignor keeps its state on the class, so each consumer gets a class of its own.
        self._assignor = type("Sticky", (CoPartitionedSticky,), {})
        session_ms = int(settings.session_timeout * 1000)
        return aiokafka.AIOKafkaConsumer(
            **client.connection(settings),
            group_id=self.app.conf.id,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=client.GROUP_FETCH_WAIT_MS,
            fetch_max_bytes=settings.max_message_bytes + client.OVERHEAD_BYTES,
            max_partition_fetch_bytes=4 * 1024 * 1024,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=min(1000, session_ms // 3),
            rebalance_timeout_ms=session_ms,
            # Polls go on while models run off the loop; a slow pipeline stops polling by its budget, not by death.
            max_poll_interval_ms=1 << 30,
            retry_backoff_ms=client.GROUP_BACKOFF_MS,
        )

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: Any,
        timeout: float | None = None,
        max_records: int | None = None,  # noqa: ARG002  Faust's signature
    ) -> Any:
        """The records of each partition as a Poll, which says whose reading they are."""
        unpacking.spare(consumer)
        records: Any = await super()._fetch_records(consumer, active_partitions, timeout, self._poll_size.most)
        self._poll_size.adapt(sum(map(len, records.values())))
        self._fetch_wait.adapt(consumer, self.thread_loop.time(), busy=any(map(_asks, records.values())))
        polled: dict[TopicPartition, Poll] = {}
        for tp, batch in records.items():
            reader = self.readers.get(tp)
            if batch and reader is not None:
                reader.polls += 1
                polled[tp] = Poll(reader, reader.polls, batch)
        return polled

    # The rest is called by the intake, on this loop.

    async def beginnings(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset of each."""
        consumer = self._ensure_consumer()
        first = await consumer.beginning_offsets([aiokafka.TopicPartition(*tp) for tp in partitions])
        return {TopicPartition(*tp): offset for tp, offset in first.items()}

    async def positions(self) -> dict[TopicPartition, int]:
        """Where reading stands in each partition of ours."""
        consumer = self._ensure_consumer()
        mine = [tp for tp in consumer.assignment() if tp in self.readers]
        return {TopicPartition(*tp): await consumer.position(tp) for tp in mine}

    async def seek_all(self, readers: Mapping[TopicPartition, Reader]) -> None:
        """Read on under these readers, unless a newer rebalance has overtaken us."""
        consumer = self._ensure_consumer()
        for partition, reader in readers.items():
            tp = aiokafka.TopicPartition(*partition)
            if reader.lease.reader is reader and tp in consumer.assignment():
                consumer.seek(tp, reader.lease.next)
                self.readers[partition] = reader


def _asks(records: Sequence[Any]) -> bool:
    """Whether the latest of these records wants something of us: what pipelines write of their steps does not.

    The mark of a step is the last header that is put on a record.
    """
    headers = records[-1].headers if records else ()
    return bool(records) and not (headers and headers[-1][0] == STEP)


class _NoOffsets(dict[Any, Any]):
    """Faust drops a message below the last one it read of that partition: after a seek back it would drop ours."""

    def __missing__(self, tp: Any) -> None:
        return None

    def __setitem__(self, tp: Any, offset: Any) -> None:
        pass

    def update(self, *_: Any, **__: Any) -> None:
        pass


class _Consumer(driver.Consumer):
    """Gives the app's intake one event for each poll and leaves positions to it."""

    RebalanceListener = _Listener
    app: Any
    _thread: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NoOffsets()
        self.app.intake.consumer = self

    def _new_consumer_thread(self) -> Any:
        return _ConsumerThread(self, loop=self.loop, thread_loop=self.app.consumer_loop.loop, beacon=self.beacon)

    @property
    def thread(self) -> _ConsumerThread:
        """The part that runs on the shared loop."""
        thread: _ConsumerThread = self._thread
        return thread

    def on_buffer_full(self, tp: Any) -> None:
        """A full queue blocks the poll loop; pausing only the partition that names the event would split polls."""

    on_buffer_drop = on_buffer_full

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, Any]]:
        polled: Any
        polled, _ = await self._wait_next_records(timeout)
        if polled and self.flow_active and not self.should_stop:
            tp, poll = next(iter(polled.items()))
            last = poll.records[-1]
            yield (
                TP(*tp),
                ConsumerMessage(
                    tp.topic,
                    tp.partition,
                    last.offset,
                    last.timestamp / 1000,
                    last.timestamp_type,
                    None,
                    None,
                    polled,
                    None,
                    0,
                    0,
                    TP(*tp),
                    # A stream drops messages of another generation in silence; the polls' numbers tell of it.
                    generation_id=self.app.consumer_generation_id,
                ),
            )

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self.app.intake.suspend()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Any, generation_id: int = 0) -> None:
        self.app.intake.assign(assigned, self.thread.membership)
        await super().on_partitions_assigned(assigned, generation_id)

    async def seek_to_committed(self) -> dict[Any, int]:
        """Faust calls this at the end of each rebalance, before it lets records flow."""
        await self.app.intake.place()
        return {}


class _Producer(driver.Producer):
    """Faust's own producer is never used: checkpoints write through ours, so it opens no connection."""

    async def on_start(self) -> None:
        pass

    async def on_stop(self) -> None:
        pass


class _Transport(driver.Transport):
    Consumer = _Consumer
    Producer = _Producer


class _NoTables(TableManager):
    """We keep no Faust tables; Faust's manager waits a second for some to be declared before it lets records flow."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class BatchApp(faust.App):
    """A Faust app whose agents get whole polls. Give it an intake and the shared consumer loop before it starts."""

    def __init__(
        self,
        group: str,
        settings: Settings,
        intake: Intake,
        consumer_loop: ConsumerLoop,
        *,
        holds_fetches: bool,
    ) -> None:
        self.settings, self.intake, self.consumer_loop = settings, intake, consumer_loop
        self.holds_fetches = holds_fetches
        super().__init__(
            group,
            broker=[f"kafka://{address}" for address in settings.kafka_broker.split(",")],
            key_serializer="raw",
            value_serializer="raw",
            topic_disable_leader=True,
            topic_allow_declare=False,
            topic_replication_factor=settings.replication_factor,
            store="memory://",
            TableManager=_NoTables,
            web_enabled=False,
            # Polls that wait for the agent: one keeps it busy, more only hold memory.
            stream_buffer_maxsize=1,
            broker_session_timeout=settings.session_timeout,
            # Faust must not commit: checkpoints do.
            broker_commit_every=1 << 60,
            broker_commit_interval=1e9,
        )

    def _new_transport(self) -> Any:
        return _Transport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Faust makes a data folder for each app where the process was started; we keep no tables, so there is none."""

    def inputs(self, names: Iterable[str]) -> Any:
        """The channel of these topics' polls, for an agent."""
        return self.topic(*names, acks=False, internal=False, key_serializer="raw", value_serializer="raw")


class Intake:
    """One app's polls and positions, on the main loop.

    transactions  with them every offset names who may have a transaction open over it
    flush         commits what is finished while the partitions are still ours
    committing    held by whoever commits
    refusal       why none of its partitions may be read here; whoever has started it is to stop it then
    """

    def __init__(
        self,
        group: str,
        consumer_loop: ConsumerLoop,
        offsets: GroupOffsets,
        transactions: Transactions | None = None,
    ) -> None:
        self.group, self.offsets = group, offsets
        self.leases = Leases()
        self.consumer: Any = None
        self._transactions = transactions
        self._consumer_loop = consumer_loop
        self._placing = asyncio.Lock()
        self.rebalances = 0
        self.committing = asyncio.Lock()
        self.assigned = asyncio.Event()
        self.refusal = ""
        self.flush: Callable[[], Coroutine[Any, Any, None]] = self.commit
        self._flushing: asyncio.Task[None] | None = None

    def take(self, polled: Mapping[TopicPartition, Poll]) -> tuple[list[tuple[Lease, Sequence[Any]]], bool]:
        """What of a poll is ours to work on, and whether a poll before it went missing (then `place` again)."""
        work, gaps = self.leases.take(polled)
        for partition in gaps:
            self.leases.lose(partition)
        return work, bool(gaps)

    async def suspend(self) -> None:
        """A rebalance begins: commit what is finished while the partitions are still ours."""
        self.assigned.clear()
        # Left to itself when it takes long: a transaction that is cut off is worse than one that the broker refuses.
        self._flushing = asyncio.create_task(self.flush())
        await asyncio.wait({self._flushing}, timeout=SUSPEND_TIMEOUT)
        if self._flushing.done() and isinstance(error := self._flushing.exception(), Exception):
            log.info(
                "group %s: not all was committed before a rebalance: %s", self.group, error or type(error).__name__
            )

    def assign(self, partitions: Iterable[Any], membership: Membership) -> None:
        """A rebalance ended with these partitions."""
        self.rebalances += 1
        self.leases.assign((TopicPartition(*tp) for tp in partitions), membership)

    async def place(self) -> None:
        """Give every partition a reader: kept ones go on after the last record taken, others where committed."""
        async with self._placing:
            membership, fresh = self.leases.membership, self.leases.fresh
            places = await self._committed(fresh, membership) if fresh else {}
            if membership is not self.leases.membership:
                return  # a newer rebalance places them
            self.leases.grant(places)
            await self._on_thread(self.consumer.thread.seek_all(self.leases.place()))
            self.assigned.set()

    async def _committed(
        self, partitions: Sequence[TopicPartition], membership: Membership
    ) -> dict[TopicPartition, Place]:
        """Where to begin: the committed places, or the first record where nothing is committed."""
        found: dict[TopicPartition, Committed] | None = None
        since = time.monotonic()
        while found is None and membership is self.leases.membership:
            try:
                found = await self.offsets.fetch(self.group, partitions, stable=True)
            except Unstable:
                if time.monotonic() - since > UNSTABLE_SECONDS:
                    await self._fence_last(partitions)
                    since = time.monotonic()
                await asyncio.sleep(0.02)
            except (KafkaError, TimeoutError, OSError) as error:
                log.warning(
                    "group %s: could not read offsets, trying again: %s", self.group, error or type(error).__name__
                )
                await asyncio.sleep(RETRY_SECONDS)
        if found is None:
            return {}
        try:
            places = {tp: Place(at.offset, Standing.parse(at.metadata).spans) for tp, at in found.items()}
        except NewerFormat as error:
            self.refusal = str(error)
            return {}
        missing = [tp for tp in partitions if tp not in places]
        if missing:
            first = await self._on_thread(self.consumer.thread.beginnings(missing))
            places.update({tp: Place(offset) for tp, offset in first.items()})
        if self._transactions is not None and not await self._claim(places, membership):
            return {}
        return places

    async def _fence_last(self, partitions: Sequence[TopicPartition]) -> None:
        """Whoever committed there last has a transaction open for so long that it must be dead, or good as dead."""
        if self._transactions is None:
            return
        try:
            last = await self.offsets.fetch(self.group, partitions, stable=False)
            names = {Standing.parse(at.metadata).committer for at in last.values()} - {"", self._transactions.committer}
            log.info("group %s: ending transactions of %s", self.group, ", ".join(names) or "nobody known")
            await self._transactions.fence(names, self.group)
        except NewerFormat as error:
            self.refusal = str(error)
        except (KafkaError, TimeoutError, OSError) as error:  # another successor may be fencing it as well
            log.warning("group %s: could not end a dead worker's transaction: %s", self.group, error)

    async def _claim(self, places: Mapping[TopicPartition, Place], membership: Membership) -> bool:
        """Write our name beside unchanged offsets before our first transaction: a successor must know whom to fence.

        False when the group has moved on: a newer rebalance places them.
        """
        while membership is self.leases.membership:
            try:
                return await self._commit(places, membership)
            except (KafkaError, TimeoutError, OSError) as error:
                log.warning("group %s: could not claim partitions, trying again: %s", self.group, error)
                await asyncio.sleep(RETRY_SECONDS)
        return False

    async def commit(self) -> None:
        """Commit how far each partition is finished, where it has moved."""
        async with self.committing:
            await self.commit_positions()

    async def commit_positions(self) -> None:
        """The same, for whoever holds `committing`."""
        places = self.leases.commits()
        if places and await self._commit(places, self.leases.membership):
            self.leases.committed(places)

    async def _commit(self, places: Mapping[TopicPartition, Place], membership: Membership) -> bool:
        made = self._transactions.standing if self._transactions is not None else Standing.of_nobody
        wanted = {tp: Committed(place.offset, made(place.spans).encode()) for tp, place in places.items()}
        async with asyncio.timeout(client.CONNECT_TIMEOUT):
            return await self.offsets.commit(self.group, membership, wanted)

    async def behind(self) -> dict[TopicPartition, int]:
        """Where reading stands in each partition that has more for us. Raises KafkaError and TimeoutError."""
        stands = await self.stands(client.CONNECT_TIMEOUT)
        return {tp: stand.position for tp, stand in stands.items() if stand.position < stand.end}

    async def stands(self, timeout: float) -> dict[TopicPartition, Stand]:
        """Where reading stands and where the partitions end. Raises KafkaError and TimeoutError."""
        try:
            async with asyncio.timeout(timeout):
                places: dict[TopicPartition, int] = await self._on_thread(self.consumer.thread.positions())
                ends = await self.offsets.ends(places)
        except ConsumerNotStarted:  # it is being stopped
            return {}
        return {partition: Stand(at, ends[partition]) for partition, at in places.items()}

    async def _on_thread(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return await self._consumer_loop.call(coroutine)
