"""Answers to waiting callers: a request is published, and its reply awaited on a partition of our own choosing.

The partition is read by assignment, from a position fixed before anything is published, so no rebalance ever takes a
caller's answer away, and nobody reads all answers of the namespace. A worker of the same process hands its answers over
without the broker: when it dies its callers are gone too.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiokafka
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.partitioner import murmur2

from engine.errors import BrokerUnavailable, Overloaded, RequestError, TimedOut, TooLarge, Unreachable
from engine.kafka import client
from engine.kafka.outlet import Outlet
from engine.protocol import routes
from engine.protocol.record import ERROR_CODE, ERROR_STEP, REPLY, ReplyAddress, Topics, error_of, header
from engine.telemetry import logs

if TYPE_CHECKING:
    from engine.protocol.record import HeaderPairs, Headers
    from engine.settings import Settings

log = logging.getLogger(__name__)

# Copies for mirrors that are on their way at once; who wants an answer comes first, so more are not sent.
MOST_COPIES = 256

# How often the reading loop looks up though nothing has come.
POLL_MS = 100


@dataclass(frozen=True, slots=True)
class Reply:
    """A serialised V2 response and the headers of its record."""

    value: bytes
    headers: Headers


class ReplyDesk:
    """Publishes requests and hands each its reply. One per gateway process."""

    def __init__(self, settings: Settings, topics: Topics, topology: client.Topology, instance: str) -> None:
        self._settings, self._topics, self._topology, self._instance = settings, topics, topology, instance
        # On Apache Kafka a request whose answer from the broker is lost is not published twice.
        self._outlet = Outlet(settings, idempotent=not topology.holds_fetches)
        self._reader = client.new_reader(settings)
        self._partition = random.randrange(settings.partitions)  # noqa: S311  spreads gateways, guards nothing
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        # How long those may take whose request the broker does not have yet.
        self._publishing: set[asyncio.Timeout] = set()
        # Why no answer will come any more; empty while they come.
        self._gone = ""
        self._task: asyncio.Task[None] | None = None
        self._copies: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Create the topic, fix the position to read from, begin to read."""
        await self._topology.ensure_replies(self._topics.replies)
        await self._outlet.start()
        await client.start(self._reader, self._settings)
        partition = aiokafka.TopicPartition(self._topics.replies, self._partition)
        self._reader.assign([partition])
        await self._reader.seek_to_end(partition)
        await self._reader.position(partition)
        self._task = asyncio.create_task(self._read())

    @property
    def waiting(self) -> int:
        """How many callers wait for their replies."""
        return len(self._waiting)

    def give_up(self, reason: str) -> None:
        """No answer will come any more: tell those who wait, and those who come."""
        self._gone = reason
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unreachable(reason))
        for deadline in self._publishing:
            deadline.reschedule(asyncio.get_running_loop().time())

    async def ended(self) -> None:
        """Raise when replies are not read any more: callers would wait in vain for those that come by the broker."""
        assert self._task is not None, "it is to be started before"
        await asyncio.wait({self._task})
        await self._task

    async def stop(self) -> None:
        """End; callers who still wait get an error."""
        self.give_up("the gateway is shutting down")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._copies:
            await asyncio.wait(self._copies, timeout=client.STOP_TIMEOUT)
        for copy in self._copies:
            copy.cancel()
        await client.stop(self._reader)
        await self._outlet.stop()

    async def call(self, topic: str, key: bytes, value: bytes, headers: Headers, timeout: float) -> Reply:
        """Publish a request and wait for its reply.

        Raises the error that the reply tells of, TimedOut, TooLarge, Unreachable, or Overloaded.
        """
        if len(self._waiting) >= self._settings.max_in_flight:
            raise Overloaded(f"{len(self._waiting)} requests are in flight, which is the limit; try again later")
        if self._gone:
            raise Unreachable(self._gone)
        number = next(self._numbers)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        address = ReplyAddress(self._partition, self._instance, number).encode()
        published = False
        try:
            async with asyncio.timeout(timeout) as deadline:
                self._publishing.add(deadline)
                try:
                    await self._ensure(topic)
                    await self._publish(topic, key, value, (*headers, (REPLY, address)))
                finally:
                    self._publishing.discard(deadline)
                published = True
                return await future
        except TimeoutError:
            if self._gone and not published:
                raise Unreachable(self._gone) from None
            if not published:
                raise Unreachable(f"the broker did not take the request within {timeout:g} s") from None
            raise TimedOut(f"no answer came within {timeout:g} s") from None
        finally:
            self._waiting.pop(number, None)
            if future.done() and not future.cancelled():
                future.exception()  # a reply that nobody waits for any more is no error of the loop's

    def copy(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        """Publish a request that nobody waits for; what cannot be published is told in the log alone."""
        if len(self._copies) >= MOST_COPIES:
            about = logs.about(headers)
            log.warning(
                "a request was not copied to %s: %d copies wait for the broker", topic, MOST_COPIES, extra=about
            )
            return
        task = asyncio.create_task(self._copy(topic, key, value, headers))
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    async def _copy(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        try:
            await self._ensure(topic)
            await self._publish(topic, key, value, headers)
        except RequestError as error:
            log.warning("a request was not copied to %s: %s", topic, error, extra=logs.about(headers))

    async def _ensure(self, topic: str) -> None:
        """No worker may have come yet to create the topic; the request waits there for one."""
        try:
            await self._topology.ensure([topic])
        except BrokerUnavailable as error:
            raise Unreachable(str(error)) from None

    async def _publish(self, topic: str, key: bytes, value: bytes, headers: Headers) -> None:
        # What Java's clients do with a key, so that all records of a key are where other producers put them.
        partition = (murmur2(key) & 0x7FFFFFFF) % self._settings.partitions
        try:
            await self._outlet.send(topic, partition, key, value, headers)
        except MessageSizeTooLargeError as error:
            raise TooLarge(f"the request is larger than topic {topic} takes: {error}") from None
        except BrokerUnavailable as error:
            raise Unreachable(str(error)) from None
        except (KafkaError, TimeoutError) as error:
            raise Unreachable(f"the broker did not take the request: {error or type(error).__name__}") from None

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        fetch_wait = client.FetchWait(loop.time(), holds_fetches=self._topology.holds_fetches)
        while True:
            fetch_wait.adapt(self._reader, loop.time(), busy=bool(self._waiting))
            try:
                polled = await self._reader.getmany(timeout_ms=POLL_MS)
            except KafkaError as error:
                log.warning("could not read replies, trying again: %s", error)
                await asyncio.sleep(1)
                continue
            for records in polled.values():
                for record in records:
                    self.hand_over(record.value or b"", record.headers)

    def wait_here(self, address: ReplyAddress) -> bool:
        """Whether a caller of this process waits, or waited, at that address."""
        return address.instance == self._instance

    def hand_over(self, value: bytes, headers: HeaderPairs) -> None:
        """Give an answer, or an error, to the caller that its header names; nothing when that is nobody of ours."""
        text = header(headers, REPLY)
        address = ReplyAddress.parse(text) if text else None
        if address is None or not self.wait_here(address):
            return
        future = self._waiting.get(address.number)
        if future is None or future.done():
            return
        error = _error(value, headers)
        if error is None:
            future.set_result(Reply(value, tuple(headers)))
        else:
            future.set_exception(error)


def _error(value: bytes, headers: HeaderPairs) -> RequestError | None:
    code = header(headers, ERROR_CODE)
    if code is None:
        return None
    error = error_of(code, value.decode("utf-8", "replace"), header(headers, ERROR_STEP))
    error.headers = routes.only(headers)
    return error
