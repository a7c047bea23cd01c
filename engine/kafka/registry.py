"""Resources and their states on two compacted topics: the control plane.

A record of the resources topic holds one resource as JSON under the key `<kind>.<name>`; a null value unloads it. A
record of the status topic holds what one instance says of one resource, under `<kind>.<name>.<instance>`, or what it
says of itself, under `instance.<instance>`. Whoever reads both from the start knows all there is; nothing else is
stored anywhere.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import aiokafka
from aiokafka.errors import KafkaError

from engine.errors import BrokerUnavailable, NothingLoaded
from engine.kafka import client
from engine.kafka.loading import Fence
from engine.kafka.view import Loaded, View, key_of
from engine.resources import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.kafka.loading import Change, Changes
    from engine.kafka.view import Instance, Key, State
    from engine.protocol.record import Topics
    from engine.resources import Resource
    from engine.settings import Settings

log = logging.getLogger(__name__)

# All resources and states are read at the start; they are some thousands of small records.
READ_SECONDS = 30.0

# What a loader has written is looked for so often: behind it stands a transaction's marker, of which nobody is told.
LOOK_SECONDS = 0.02

# How many namespaces an error names.
MOST_NAMED = 5


def _nothing(view: View) -> None:
    """There is nothing to check."""
    del view


class Registry:
    """Reads and writes the registry. `changed` is called after each record that was read since `start` returned."""

    def __init__(self, settings: Settings, topics: Topics, changed: Callable[[], None] | None = None) -> None:
        self._settings, self._topics, self._changed = settings, topics, changed
        self.view = View()
        self._producer = client.new_producer(settings)
        self._reader = client.new_reader(settings)
        # The broker answers nothing else over a connection that waits for records, for up to half a second.
        self._asker, self._asking = client.new_reader(settings), asyncio.Lock()
        self._asks = False
        self._fence: Fence | None = None
        self._following: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()
        self._waiting = 0

    async def start(self, topology: client.Topology, *, follow: bool = True, create: bool = True) -> None:
        """Create the topics, read them to their ends and, with `follow`, go on reading.

        Raises NothingLoaded where there are none and `create` is not asked for: who only reads leaves nothing behind.
        """
        if not create:
            await self._check_there(topology)
        self._fetch_wait = client.FetchWait(asyncio.get_running_loop().time(), holds_fetches=topology.holds_fetches)
        if topology.has_transactions:
            self._fence = Fence(self._settings, self._topics, self.view, self.caught_up)
        await topology.ensure_compacted(self._topics.resources, self._topics.status)
        await client.start(self._producer, self._settings)
        await client.start(self._reader, self._settings)
        partitions = [aiokafka.TopicPartition(name, 0) for name in (self._topics.resources, self._topics.status)]
        self._reader.assign(partitions)
        ends = await self._reader.end_offsets(partitions)
        try:
            async with asyncio.timeout(READ_SECONDS):
                while any([await self._reader.position(tp) < end for tp, end in ends.items()]):
                    await self._read()
        except TimeoutError:
            raise BrokerUnavailable(
                f"{self._topics.resources} and {self._topics.status} could not be read to their ends within "
                f"{READ_SECONDS:g} s at {self._settings.kafka_broker}"
            ) from None
        if follow:
            self._following = asyncio.create_task(self._follow())

    async def _check_there(self, topology: client.Topology) -> None:
        begin, end = f"{self._topics.prefix}.", ".resources"
        listed = await topology.names()
        if self._topics.resources in listed:
            return
        found = sorted(name[len(begin) : -len(end)] for name in listed if name.startswith(begin) and name.endswith(end))
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        shown = ", ".join(map(quoted, found[:MOST_NAMED])) + more
        others = f"; there are resources in {shown}" if found else ", nor in any other"
        raise NothingLoaded(
            f"nothing has been loaded in namespace {quoted(self._topics.namespace)}{others}; choose by --namespace"
        )

    async def ended(self) -> None:
        """Raise when it is not followed any more: what is loaded from then on would come to nobody here."""
        assert self._following is not None, "it is to be started with `follow` before"
        await asyncio.wait({self._following})
        await self._following

    async def stop(self) -> None:
        """Close the connections."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self._fence is not None:
            await self._fence.stop()
        await client.stop(self._asker)
        await client.stop(self._reader)
        await client.stop(self._producer)

    async def load(
        self,
        resources: Iterable[Resource],
        folders: Mapping[Key, str],
        check: Callable[[View], None] = _nothing,
    ) -> None:
        """Write resources, all or none; those that are there unchanged are left alone.

        `check` raises when what is loaded at that time forbids it. On a broker with transactions nobody else can load
        between the check and the write; on the embedded one the last load wins.
        """
        wanted = tuple(resources)

        def changes(view: View) -> list[Change]:
            check(view)
            return [change for each in wanted if (change := _change(view, each, folders[key_of(each)])) is not None]

        await self._write_changes(changes)

    async def unload(self, *keys: Key, check: Callable[[View], None] = _nothing) -> None:
        """Take resources away, in this order; `check` as for `load`."""

        def changes(view: View) -> list[Change]:
            check(view)
            return [(f"{kind}.{name}", None) for kind, name in keys if (kind, name) in view.resources]

        await self._write_changes(changes)

    async def _write_changes(self, changes: Changes) -> None:
        await self.caught_up()
        if not changes(self.view):
            return
        if self._fence is not None and await self._fence.write(changes):
            return
        for key, value in changes(self.view):
            await self._write(self._topics.resources, key, value)
        await self.caught_up()

    async def tell(self, state: State) -> None:
        """Say the state of a resource in this instance."""
        await self._write(self._topics.status, f"{state.key[0]}.{state.key[1]}.{state.instance}", state.encode())

    async def forget(self, key: Key, instance: str) -> None:
        """This instance has nothing to say of a resource any more."""
        await self._write(self._topics.status, f"{key[0]}.{key[1]}.{instance}", None)

    async def heartbeat(self, instance: Instance) -> None:
        """This instance lives."""
        await self._write(self._topics.status, f"instance.{instance.name}", instance.encode())

    async def bury(self, instance: str) -> None:
        """An instance has gone, and all that it said goes with it."""
        said = [key for key, states in self.view.states.items() if instance in states]
        await self._write(self._topics.status, f"instance.{instance}", None)
        await asyncio.gather(*(self.forget(key, instance) for key in said))

    async def caught_up(self, beyond: int = -1) -> int:
        """Wait until this reader has read every resource that was written before the call; gives the topic's end.

        Of what has just been committed the broker tells a moment later: until the end is `beyond` what it was.
        """
        partition = aiokafka.TopicPartition(self._topics.resources, 0)
        try:
            while (end := await self._end_of(partition)) <= beyond:  # noqa: ASYNC110  a broker tells of it to nobody
                await asyncio.sleep(LOOK_SECONDS)
            while await self._reader.position(partition) < end:
                if self._following is None:
                    await self._read()
                else:
                    await self.wait(LOOK_SECONDS)
        except KafkaError as error:
            raise client.unavailable(self._settings, error) from error
        return end

    async def _end_of(self, partition: aiokafka.TopicPartition) -> int:
        async with self._asking:
            if not self._asks:
                await client.start(self._asker, self._settings)
                self._asks = True
        return int((await self._asker.end_offsets([partition]))[partition])

    async def wait(self, seconds: float) -> None:
        """Wait for news, at most so long."""
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait()
        except TimeoutError:
            return
        finally:
            self._waiting -= 1

    async def _write(self, topic: str, key: str, value: bytes | None) -> None:
        try:
            await self._producer.send_and_wait(topic, value, key=key.encode(), partition=0)
        except KafkaError as error:
            raise client.unavailable(self._settings, error) from error

    async def _read(self) -> bool:
        now = asyncio.get_running_loop().time()
        self._fetch_wait.adapt(self._reader, now, busy=bool(self._waiting) or self._following is None)
        polled = await self._reader.getmany(timeout_ms=200)
        for tp, records in polled.items():
            for record in records:
                if tp.topic == self._topics.resources:
                    self.view.resource_record(record.key, record.value, record.offset)
                else:
                    self.view.status_record(record.key, record.value)
        return bool(polled)

    async def _follow(self) -> None:
        while True:
            try:
                news = await self._read()
            except KafkaError as error:
                log.warning("could not read the registry, trying again: %s", error)
                await asyncio.sleep(1)
                continue
            if news:
                if self._changed is not None:
                    self._changed()
                async with self._news:
                    self._news.notify_all()


def _change(view: View, resource: Resource, folder: str) -> Change | None:
    """The record that loads a resource; None when it stands as it is."""
    key = key_of(resource)
    present = view.resources.get(key)
    legible = key not in view.unread and key not in view.broken
    if present is not None and (present.resource, present.folder) == (resource, folder) and legible:
        return None
    version = present.version + 1 if present is not None else 1
    return f"{key[0]}.{key[1]}", Loaded(key, resource, version, folder).encode()
