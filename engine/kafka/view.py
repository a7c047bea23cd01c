"""What the registry's topics say: resources, what instances say of them, and what follows for all together. Pure.

Each record says in which format it is written. Of an instance that speaks another one, only its heartbeat is read, and
it is told that the two do not understand each other; a resource in another format is left as it was.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import orjson

from engine import __version__
from engine.errors import InvalidInput
from engine.protocol.metadata import decode_metadata, encode_metadata
from engine.resources import Experiment, Resource, documents, parse, quoted, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

# How often an instance says that it lives, and after which silence it counts as gone.
HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 16.0

READY, FAILED, TERMINATED, CREATING = "ready", "failed", "terminated", "creating"

EXPERIMENT = "experiment"

# What an instance may be; one process may be both.
WORKER, GATEWAY = "worker", "gateway"

# How records of both topics are written. A release that writes them otherwise has another number; what a heartbeat
# says of `at`, `format` and `release` stays what it is in every one.
FORMAT = 1

# A heartbeat names so many resources that it cannot read: enough to see that releases differ.
MOST_UNREAD = 100

Key = tuple[str, str]  # kind ("model", "pipeline", "experiment"), name


@dataclass(frozen=True, slots=True)
class Loaded:
    """A resource as it stands in the registry.

    folder   where the file stood that it came from: relative paths and Python modules are found there
    version  1 at the first load, one more at each that changes something
    offset   of its record on the resources topic: what is unloaded and loaded again has its old version, and another
             offset
    """

    key: Key
    resource: Resource
    version: int
    folder: str
    offset: int = 0

    def encode(self) -> bytes:
        """The value of its record."""
        resource = orjson.Fragment(to_json(self.resource))
        said = {"format": FORMAT, "resource": resource, "version": self.version, "folder": self.folder}
        return orjson.dumps(said)


@dataclass(frozen=True, slots=True)
class State:
    """What one instance says of one resource.

    offset     of the resource's record that it speaks of
    metadata   a ready model's own `ModelMetadataResponse`, where it says anything of its tensors
    """

    key: Key
    instance: str
    version: int
    state: str
    reason: str
    at: float
    metadata: Any = None
    offset: int = 0

    def encode(self) -> bytes:
        """The value of its record."""
        said: dict[str, Any] = {
            "format": FORMAT,
            "version": self.version,
            "offset": self.offset,
            "state": self.state,
            "reason": self.reason,
            "at": self.at,
        }
        if self.metadata is not None:
            said["metadata"] = orjson.Fragment(encode_metadata(self.metadata))
        return orjson.dumps(said)


@dataclass(frozen=True, slots=True)
class Instance:
    """What a process says of itself, again and again.

    parts    what it runs: `WORKER`, `GATEWAY`
    seen     the offset of the last record of the resources topic that it has read
    unread   resources, as `<kind>.<name>`, whose records it cannot read: another release wrote them
    format   in which it writes its records; when that is not ours, nothing but `at` and `release` is known of it
    """

    name: str
    at: float
    parts: tuple[str, ...]
    seen: int
    unread: tuple[str, ...] = ()
    format: int = FORMAT
    release: str = __version__

    def encode(self) -> bytes:
        """The value of its record."""
        return orjson.dumps(
            {
                "at": self.at,
                "format": self.format,
                "release": self.release,
                "parts": self.parts,
                "seen": self.seen,
                "unread": self.unread,
            }
        )

    @staticmethod
    def decode(name: str, value: bytes) -> Instance:
        """An instance from the value of its record. Raises ValueError, KeyError or TypeError for what is none."""
        said = orjson.loads(value)
        at, written, release = float(said["at"]), int(said["format"]), str(said["release"])
        if written != FORMAT:
            return Instance(name, at, (), -1, (), written, release)
        parts, unread = (tuple(map(str, said[each])) for each in ("parts", "unread"))
        return Instance(name, at, parts, int(said["seen"]), unread, written, release)


@dataclass
class View:
    """What the registry's topics say, up to where they were read.

    seen     the offset of the last record that was read of the resources topic
    unread   resources whose last record is one that cannot be read, as another release may write: they stand as before
    broken   resources whose last record is nobody's or a part of one: they stand as they were, until they are loaded
             anew, though the broker will keep that record alone
    """

    resources: dict[Key, Loaded] = field(default_factory=dict)
    states: dict[Key, dict[str, State]] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)
    seen: int = -1
    unread: set[Key] = field(default_factory=set)
    broken: set[Key] = field(default_factory=set)
    _splits: dict[Key, Experiment] | None = None

    def resource_record(self, key: bytes | None, value: bytes | None, offset: int = 0) -> None:
        """One record of the resources topic; one that is none of ours is told of and passed over."""
        self.seen = offset
        kind, _, name = (key or b"").decode("utf-8", "replace").partition(".")
        if kind == EXPERIMENT:
            self._splits = None
        if value is None:
            self.resources.pop((kind, name), None)
            self._readable((kind, name))
            return
        try:
            envelope = orjson.loads(value)
            written = int(envelope.get("format", FORMAT))
            if written != FORMAT:
                self._cannot_read((kind, name), f"it is written in format {written}, and this release reads {FORMAT}")
                return
            found, problems = documents(orjson.dumps(envelope["resource"]), f"{kind}.{name}")
            resource, more = parse(found[0])
            version, folder = int(envelope["version"]), str(envelope["folder"])
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            log.warning("passed over a foreign record %r on the resources topic: %s", key, error)
            self.broken.add((kind, name))
            return
        if problems or more or resource is None:
            self._cannot_read((kind, name), str((problems + more)[:1]))
            return
        if key_of(resource) != (kind, name):
            log.warning("passed over a resource under the foreign key %r on the resources topic", key)
            self.broken.add((kind, name))
            return
        self._readable((kind, name))
        self.resources[kind, name] = Loaded((kind, name), resource, version, folder, offset)

    def _readable(self, key: Key) -> None:
        self.unread.discard(key)
        self.broken.discard(key)

    def _cannot_read(self, key: Key, reason: str) -> None:
        log.warning("passed over a faulty %s %r on the resources topic: %s", *key, reason)
        self.unread.add(key)

    def status_record(self, key: bytes | None, value: bytes | None) -> None:
        """One record of the status topic."""
        parts = (key or b"").decode("utf-8", "replace").split(".")
        if parts[0] == "instance" and len(parts) == 2:  # noqa: PLR2004  instance.<id>
            self._heartbeat(parts[1], value)
            return
        if len(parts) != 3:  # noqa: PLR2004  kind, name, instance
            return
        kind, name, instance = parts
        if value is None:
            self._forget((kind, name), instance)
            return
        try:
            said = orjson.loads(value)
            if said["format"] != FORMAT:
                return  # its heartbeat tells of that
            state = State(
                (kind, name),
                instance,
                int(said["version"]),
                str(said["state"]),
                str(said["reason"]),
                float(said["at"]),
                decode_metadata(orjson.dumps(said["metadata"])) if said.get("metadata") else None,
                int(said["offset"]),
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError, InvalidInput) as error:
            log.warning("passed over a foreign record %r on the status topic: %s", key, error)
            return
        self.states.setdefault((kind, name), {})[instance] = state

    def _heartbeat(self, name: str, value: bytes | None) -> None:
        if value is None:
            self.instances.pop(name, None)
            for key in list(self.states):
                self._forget(key, name)
            return
        try:
            instance = Instance.decode(name, value)
        except (ValueError, KeyError, TypeError):
            log.warning("passed over a foreign heartbeat of %r", name)
            return
        before = self.instances.get(name)
        if instance.format != FORMAT and (before is None or before.format != instance.format):
            log.warning("%s", _stranger(instance))
        self.instances[name] = instance

    def _forget(self, key: Key, instance: str) -> None:
        states = self.states.get(key, {})
        states.pop(instance, None)
        if not states:
            self.states.pop(key, None)

    def living(self, now: float) -> list[Instance]:
        """The instances that live."""
        return [each for each in self.instances.values() if now - each.at < STALE_SECONDS]

    def living_states(self, key: Key, now: float) -> list[State]:
        """What the instances that live say of a resource."""
        said = self.states.get(key, {})
        return [said[each.name] for each in self.living(now) if each.name in said]

    def state(self, key: Key, now: float) -> State | None:
        """One state for all instances; None when nobody speaks of the resource as it stands.

        Failed when it has failed anywhere, for what is shared out goes there as well. Ready when it is ready on one
        worker, no living worker runs an earlier version any more, and every living gateway can route to it: a worker
        that has just come keeps its share waiting, and answers it.
        """
        loaded = self.resources.get(key)
        if loaded is not None and isinstance(loaded.resource, Experiment):
            return self._state_of_experiment(loaded, loaded.resource, now)
        said = self.living_states(key, now)
        if loaded is None:
            return _first(said, (READY, CREATING, FAILED, TERMINATED))
        if reason := self._unread_by(key, now):
            return State(key, "", loaded.version, FAILED, reason, now, None, loaded.offset)
        current = [state for state in said if state.offset == loaded.offset]
        found = _first(current, (FAILED, READY, CREATING, TERMINATED))
        if found is not None and found.state == FAILED and any(state.state == READY for state in current):
            return replace(found, reason=f"{found.reason} (on instance {found.instance} alone)")
        late = self._late(loaded, said, now)
        if late and (found is None or found.state == READY):
            before = found or _first(said, (READY, CREATING, FAILED, TERMINATED))
            return replace(before, version=loaded.version, state=CREATING, reason=late) if before else None
        return found

    def _late(self, loaded: Loaded, said: Iterable[State], now: float) -> str:
        """Who has not come as far as this load, and with what; nothing when nobody is late."""
        for state in said:
            if state.offset != loaded.offset:
                return f"instance {state.instance} goes on with version {state.version} until the new one is ready"
        for instance in self.living(now):
            if instance.format == FORMAT and GATEWAY in instance.parts and instance.seen < loaded.offset:
                return f"gateway {instance.name} cannot route to it yet"
        return ""

    def _unread_by(self, key: Key, now: float) -> str:
        """Whose release cannot read a resource, in words; nothing when all can."""
        name = f"{key[0]}.{key[1]}"
        for instance in self.living(now):
            if name in instance.unread:
                return (
                    f"instance {instance.name} of release {instance.release} cannot read it; "
                    "run one release everywhere, or load it with the older one"
                )
        return ""

    def silence(self, now: float) -> str:
        """Why nobody speaks of a resource, in words."""
        strangers = [instance for instance in self.living(now) if instance.format != FORMAT]
        return _stranger(strangers[0]) if strangers else "no worker has taken it up"

    def serves(self, key: Key, now: float) -> bool:
        """Whether calls are answered: by the version that stands, or by the one before until that is ready."""
        state = self.state(key, now)
        if state is None or state.state != CREATING:
            return state is not None and state.state == READY
        return any(said.state == READY for said in self.living_states(key, now))

    def pending(self, key: Key, now: float) -> list[str]:
        """The living instances that have not come to an end with a resource as it stands: well, or with a failure.

        Of one that is not loaded: those that have not let it go.
        """
        loaded, said = self.resources.get(key), {state.instance: state for state in self.living_states(key, now)}
        until = loaded.offset if loaded is not None else self.seen
        runs = loaded is not None and not isinstance(loaded.resource, Experiment)

        def is_through(instance: Instance) -> bool:
            state = said.get(instance.name)
            if not runs or WORKER not in instance.parts:
                return state is None
            return state is not None and state.offset == until and state.state != CREATING

        known = [each for each in self.living(now) if each.format == FORMAT and f"{key[0]}.{key[1]}" not in each.unread]
        return [each.name for each in known if each.seen < until or not is_through(each)]

    def _state_of_experiment(self, loaded: Loaded, experiment: Experiment, now: float) -> State:
        """Nobody runs an experiment, so nobody tells of it: it is as ready as those whom it names."""
        kind = str(experiment.resource_type)
        named = [("candidate", candidate.name) for candidate in experiment.candidates]
        named += [("mirror", experiment.mirror.name)] if experiment.mirror is not None else []
        found = [self._named(role, (kind, name), now) for role, name in named]
        at = max(at for _, _, at in found)
        late = self._unread_by(loaded.key, now) or self._late(loaded, (), now)
        if late:
            found.append((CREATING, late, at))
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
            return CREATING, f"{role} {key[0]} {quoted(key[1])}: {self.silence(now)}", 0.0
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


def _first(said: Iterable[State], order: Iterable[str]) -> State | None:
    """The first state in an order of states."""
    told = list(said)
    return next((state for wanted in order for state in told if state.state == wanted), None)


def _stranger(instance: Instance) -> str:
    return (
        f"instance {instance.name} of release {instance.release} tells its states in format {instance.format}, and "
        f"release {__version__} reads format {FORMAT}; run one release everywhere"
    )


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
        "reason": state.reason if state else view.silence(now),
    }
