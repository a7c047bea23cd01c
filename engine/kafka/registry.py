"""Resources and their states on two compacted topics: the control plane.

A record of the resources topic holds one resource as JSON under the key `<kind>.<name>`; a null value unloads it. A
record of the status topic holds what one instance says of one resource, under `<kind>.<name>.<instance>`. Whoever
reads both from the start knows all there is; nothing else is stored anywhere.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiokafka
import orjson
from aiokafka.errors import KafkaError

from engine.errors import BrokerUnavailable, InvalidInput
from engine.kafka import client
from engine.protocol.metadata import decode_metadata, encode_metadata
from engine.resources import Experiment, Resource, documents, parse, quoted, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from engine.protocol.record import Topics
    from engine.settings import Settings

log = logging.getLogger(__name__)

# An instance that has not said anything for this long counts as gone.
HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 16.0

# All resources and states are read at the start; they are some thousands of small records.
READ_SECONDS = 30.0

READY, FAILED, TERMINATED, CREATING = "ready", "failed", "terminated", "creating"

EXPERIMENT = "experiment"

Key = tuple[str, str]  # kind ("model", "pipeline", "experiment"), name


@dataclass(frozen=True, slots=True)
class Loaded:
    """A resource as it stands in the registry.

    folder   where the file stood that it came from: relative paths and Python modules are found there
    version  1 at the first load, one more at each that changes something
    """

    key: Key
    resource: Resource
    version: int
    folder: str


@dataclass(frozen=True, slots=True)
class State:
    """What one instance says of one resource.

    metadata   a ready model's own `ModelMetadataResponse`, where it says anything of its tensors
    """

    key: Key
    instance: str
    version: int
    state: str
    reason: str
    at: float
    metadata: Any = None


@dataclass
class View:
    """What the registry's topics say, up to where they were read."""

    resources: dict[Key, Loaded] = field(default_factory=dict)
    states: dict[Key, dict[str, State]] = field(default_factory=dict)
    heartbeats: dict[str, float] = field(default_factory=dict)
    _splits: dict[Key, Experiment] | None = None

    def resource_record(self, key: bytes | None, value: bytes | None) -> None:
        """One record of the resources topic; one that is none of ours is told of and passed over."""
        kind, _, name = (key or b"").decode("utf-8", "replace").partition(".")
        if kind == EXPERIMENT:
            self._splits = None
        if value is None:
            self.resources.pop((kind, name), None)
            return
        try:
            envelope = orjson.loads(value)
            found, problems = documents(orjson.dumps(envelope["resource"]), f"{kind}.{name}")
            resource, more = parse(found[0])
            loaded = Loaded((kind, name), resource, int(envelope["version"]), str(envelope["folder"]))  # type: ignore[arg-type]
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, IndexError) as error:
            log.warning("passed over a foreign record %r on the resources topic: %s", key, error)
            return
        if not problems and not more and resource is not None and key_of(resource) != (kind, name):
            log.warning("passed over a resource under the foreign key %r on the resources topic", key)
            return
        if problems or more or resource is None:
            log.warning("passed over a faulty resource %r on the resources topic: %s", key, (problems + more)[:1])
            return
        self.resources[kind, name] = loaded

    def status_record(self, key: bytes | None, value: bytes | None) -> None:
        """One record of the status topic."""
        parts = (key or b"").decode("utf-8", "replace").split(".")
        if parts[0] == "instance" and len(parts) == 2:  # noqa: PLR2004  instance.<id>
            self._heartbeat(parts[1], value)
            return
        if len(parts) != 3:  # noqa: PLR2004  kind, name, instance
            return
        kind, name, instance = parts
        states = self.states.setdefault((kind, name), {})
        if value is None:
            states.pop(instance, None)
            return
        try:
            said = orjson.loads(value)
            state = State(
                (kind, name),
                instance,
                int(said["version"]),
                str(said["state"]),
                str(said["reason"]),
                float(said["at"]),
                decode_metadata(orjson.dumps(said["metadata"])) if said.get("metadata") else None,
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, InvalidInput) as error:
            log.warning("passed over a foreign record %r on the status topic: %s", key, error)
            return
        states[instance] = state

    def _heartbeat(self, instance: str, value: bytes | None) -> None:
        if value is None:
            self.heartbeats.pop(instance, None)
            return
        try:
            self.heartbeats[instance] = float(value)
        except ValueError:
            log.warning("passed over a foreign heartbeat of %r", instance)

    def living_states(self, key: Key, now: float) -> list[State]:
        """What the instances that live say of a resource."""
        return [
            state
            for state in self.states.get(key, {}).values()
            if now - self.heartbeats.get(state.instance, 0.0) < STALE_SECONDS
        ]

    def state(self, key: Key, now: float) -> State | None:
        """One state for all instances: ready when one is, failed when all that speak have failed."""
        loaded = self.resources.get(key)
        if loaded is not None and isinstance(loaded.resource, Experiment):
            return self._state_of_experiment(loaded, loaded.resource, now)
        said = [s for s in self.living_states(key, now) if loaded is None or s.version == loaded.version]
        for wanted in (READY, CREATING, FAILED, TERMINATED):
            for state in said:
                if state.state == wanted:
                    return state
        return None

    def _state_of_experiment(self, loaded: Loaded, experiment: Experiment, now: float) -> State:
        """Nobody runs an experiment, so nobody tells of it: it is as ready as those whom it names."""
        kind = str(experiment.resource_type)
        named = [("candidate", candidate.name) for candidate in experiment.candidates]
        named += [("mirror", experiment.mirror.name)] if experiment.mirror is not None else []
        found = [self._named(role, (kind, name), now) for role, name in named]
        at = max(at for _, _, at in found)
        for state in (FAILED, CREATING):
            for told, reason, _ in found:
                if told == state:
                    return State(loaded.key, "", loaded.version, state, reason, at)
        return State(loaded.key, "", loaded.version, READY, "experiment active", at)

    def _named(self, role: str, key: Key, now: float) -> tuple[str, str, float]:
        """State, reason and time of one whom an experiment names."""
        if key not in self.resources:
            return FAILED, f"{role} {key[0]} {quoted(key[1])}: it is not loaded", 0.0
        said = self.state(key, now)
        if said is None:
            return CREATING, f"{role} {key[0]} {quoted(key[1])}: no worker has taken it up", 0.0
        state = said.state if said.state in (READY, CREATING) else FAILED
        return state, f"{role} {key[0]} {quoted(key[1])}: {said.reason}", said.at

    @property
    def splits(self) -> dict[Key, Experiment]:
        """The experiments by the models and pipelines whose calls they split: those that are their defaults."""
        if self._splits is None:
            found = [
                each.resource for _, each in sorted(self.resources.items(), reverse=True) if each.key[0] == EXPERIMENT
            ]
            self._splits = {
                (str(each.resource_type), each.default): each
                for each in found
                if isinstance(each, Experiment) and each.default
            }
        return self._splits


class Registry:
    """Reads and writes the registry. `changed` is called after each record that was read since `start` returned."""

    def __init__(self, settings: Settings, topics: Topics, changed: Callable[[], None] | None = None) -> None:
        self._settings, self._topics, self._changed = settings, topics, changed
        self.view = View()
        self._producer = client.new_producer(settings)
        self._reader = client.new_reader(settings)
        self._following: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()
        self._waiting = 0

    async def start(self, topology: client.Topology, *, follow: bool = True) -> None:
        """Create the topics, read them to their ends and, with `follow`, go on reading."""
        self._fetch_wait = client.FetchWait(asyncio.get_running_loop().time(), holds_fetches=topology.holds_fetches)
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

    async def stop(self) -> None:
        """Close the connections."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await client.stop(self._reader)
        await client.stop(self._producer)

    async def load(self, resources: Iterable[Resource], folders: Mapping[Key, str]) -> list[Loaded]:
        """Write resources; those that are there unchanged are left alone. Gives what stands now, in their order."""
        loaded = []
        for resource in resources:
            key = key_of(resource)
            present = self.view.resources.get(key)
            folder = folders[key]
            if present is not None and present.resource == resource and present.folder == folder:
                loaded.append(present)
                continue
            version = present.version + 1 if present is not None else 1
            envelope = {"resource": orjson.Fragment(to_json(resource)), "version": version, "folder": folder}
            await self._write(self._topics.resources, f"{key[0]}.{key[1]}", orjson.dumps(envelope))
            loaded.append(Loaded(key, resource, version, folder))
        await self.caught_up()
        return loaded

    async def unload(self, key: Key) -> None:
        """Take a resource away."""
        await self._write(self._topics.resources, f"{key[0]}.{key[1]}", None)
        await self.caught_up()

    async def tell(self, state: State) -> None:
        """Say the state of a resource in this instance."""
        value: dict[str, Any] = {
            "version": state.version,
            "state": state.state,
            "reason": state.reason,
            "at": state.at,
        }
        if state.metadata is not None:
            value["metadata"] = orjson.Fragment(encode_metadata(state.metadata))
        key = f"{state.key[0]}.{state.key[1]}.{state.instance}"
        await self._write(self._topics.status, key, orjson.dumps(value))

    async def forget(self, key: Key, instance: str) -> None:
        """This instance has nothing to say of a resource any more."""
        await self._write(self._topics.status, f"{key[0]}.{key[1]}.{instance}", None)

    async def heartbeat(self, instance: str, now: float | None) -> None:
        """This instance lives; None: it says good-bye."""
        await self._write(self._topics.status, f"instance.{instance}", None if now is None else str(now).encode())

    async def caught_up(self) -> None:
        """Wait until this reader has read everything that was written before the call."""
        partition = aiokafka.TopicPartition(self._topics.resources, 0)
        end = (await self._reader.end_offsets([partition]))[partition]
        while await self._reader.position(partition) < end:
            if self._following is None:
                await self._read()
            else:
                await self.wait(1.0)

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
            take = self.view.resource_record if tp.topic == self._topics.resources else self.view.status_record
            for record in records:
                take(record.key, record.value)
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


def key_of(resource: Resource) -> Key:
    """The key of a resource in the registry."""
    return type(resource).__name__.lower(), resource.name


def describe(view: View, key: Key, now: float) -> dict[str, Any]:
    """Name, version, state and reason of a resource that is loaded."""
    state = view.state(key, now)
    return {
        "name": key[1],
        "version": view.resources[key].version,
        "state": state.state if state else "unknown",
        "reason": state.reason if state else "no worker has taken it up",
    }
