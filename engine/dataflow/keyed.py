"""Joins by key of what other pipelines give: records in, requests out, and the changes that make the state durable.

Records of one key and partition number meet in an entry, which has one place for each source. The i-th records of a key
pair with each other, nothing is used twice, and an entry fires once. Pure: the clock is an argument, and the state
is what `restore` makes of the changes that were written, whichever of them were the last.

A change is one record of a changelog: the entry's id and what there is of it, `4 bytes of length, head as JSON, parts`,
or None when the entry is over. With it goes the position (source and offset) of the record that caused it: what is
read again at or below it is passed over.
"""

from __future__ import annotations

import heapq
import math
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from engine.dataflow.external import as_data
from engine.protocol.record import REQUEST_ID
from engine.resources import Join

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from engine.dataflow.external import Upstream
    from engine.dataflow.plan import Edge
    from engine.protocol.record import HeaderPairs, Headers

_FORMAT = 1
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Arrival:
    """One record of a source, with what the edges take of it.

    parts   by position among the edges and, after them, the triggers: an encoded request, empty for triggers
    """

    source: int
    offset: int
    key: bytes
    timestamp: float
    headers: Headers
    parts: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Fired:
    """A request for the pipeline: the parts of its data, in the order of the edges."""

    key: bytes
    headers: HeaderPairs
    parts: tuple[bytes, ...]


class Change(NamedTuple):
    """One record of the changelog; `position` of the record that caused it, None when time did."""

    key: bytes
    value: bytes | None
    position: bytes | None


@dataclass(slots=True)
class Outcome:
    """What some records, or some time, gave. `evicted` were given up since too many wait."""

    fired: list[Fired] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    evicted: list[Fired] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Entry:
    id: bytes
    key: bytes
    arrived: float
    earliest: float
    latest: float
    times: dict[int, float] = field(default_factory=dict)
    headers: dict[int, Headers] = field(default_factory=dict)
    # In the order in which they came.
    parts: dict[int, bytes] = field(default_factory=dict)
    fired: bool = False


class KeyedJoin:
    """What waits for its partners, of one partition number.

    most   entries that may wait; then the oldest is given up
    """

    def __init__(self, upstream: Upstream, most: int) -> None:
        self._upstream, self._most = upstream, most
        self._names = [str(source) for source in upstream.sources]
        self._fingerprint = zlib.crc32(orjson.dumps(as_data(upstream)))
        self._count = len(upstream.sources)
        self._entries: dict[bytes, _Entry] = {}
        self._by_key: dict[bytes, list[_Entry]] = {}
        self._deadlines: list[tuple[float, bytes]] = []
        # For each source: the last offset seen, the latest timestamp, and when its last record came.
        self._seen = [-1] * self._count
        self._latest = [-math.inf] * self._count
        self._came = [-math.inf] * self._count

    def __len__(self) -> int:
        return len(self._entries)

    def next_expiry(self) -> float | None:
        """When `expire` may find something that `offer` has not; None when nothing waits."""
        first = next(iter(self._entries.values()), None)
        return None if first is None else first.arrived + self._upstream.window

    def offer(self, arrivals: Sequence[Arrival], now: float) -> Outcome:
        """Records of the sources, each source's in the order of its offsets."""
        outcome = Outcome()
        for arrival in arrivals:
            if arrival.offset > self._seen[arrival.source]:
                self._seen[arrival.source] = arrival.offset
                self._latest[arrival.source] = max(self._latest[arrival.source], arrival.timestamp)
                self._came[arrival.source] = now
                self._take(arrival, now, outcome)
        self._expire(now, outcome)
        return outcome

    def expire(self, now: float) -> Outcome:
        """What the passing of time ends."""
        outcome = Outcome()
        self._expire(now, outcome)
        return outcome

    def restore(self, key: bytes | None, value: bytes | None, position: bytes | None, now: float) -> bool:
        """One record of the changelog, in their order; False when it is none that this join can use."""
        known = True
        if position is not None:
            known = self._restore_position(position)
        entry = self._entries.get(key or b"")
        if entry is not None:
            self._remove(entry)
        if value is None or key is None:
            return known
        try:
            entry = self._decode(key, value, now)
        except (ValueError, KeyError, TypeError, IndexError):
            return False
        self._add(entry)
        return known

    def _restore_position(self, position: bytes) -> bool:
        offset, _, name = position.decode("utf-8", "replace").partition(" ")
        if name not in self._names or not offset.isdigit():
            return False
        source = self._names.index(name)
        self._seen[source] = max(self._seen[source], int(offset))
        return True

    def _take(self, arrival: Arrival, now: float, outcome: Outcome) -> None:
        position = b"%d %s" % (arrival.offset, self._names[arrival.source].encode())
        entry = self._place(arrival)
        if entry is None:
            if len(self._entries) >= self._most:
                self._give_up(next(iter(self._entries.values())), outcome)
            entry = _Entry(position, arrival.key, now, arrival.timestamp, arrival.timestamp)
            self._add(entry)
        entry.times[arrival.source] = arrival.timestamp
        entry.earliest = min(entry.earliest, arrival.timestamp)
        entry.latest = max(entry.latest, arrival.timestamp)
        if not entry.fired:
            entry.headers[arrival.source] = arrival.headers
            entry.parts.update(arrival.parts)
            if self._met(entry, over=False):
                outcome.fired.append(self._fire(entry))
        if len(entry.times) == self._count:
            self._remove(entry)
            if not entry.fired and self._met(entry, over=True):
                outcome.fired.append(self._fire(entry))
            outcome.changes.append(Change(entry.id, None, position))
        else:
            outcome.changes.append(Change(entry.id, self._encode(entry), position))

    def _place(self, arrival: Arrival) -> _Entry | None:
        """The oldest entry of the key that has no record of this source and is near enough in time."""
        at, window = arrival.timestamp, self._upstream.window
        for entry in self._by_key.get(arrival.key, ()):
            near = max(entry.latest, at) - min(entry.earliest, at) <= window
            if arrival.source not in entry.times and near:
                return entry
        return None

    def _met(self, entry: _Entry, *, over: bool) -> bool:
        """Whether an entry has what it needs; `over`: nothing more will come to it."""
        upstream, edges = self._upstream, len(self._upstream.edges)
        data = sum(position < edges for position in entry.parts)
        return _group_met(upstream.join, upstream.edges, data, entry, over=over) and (
            not upstream.triggers
            or _group_met(upstream.triggers_join, upstream.triggers, len(entry.parts) - data, entry, over=over)
        )

    def _fire(self, entry: _Entry) -> Fired:
        edges = len(self._upstream.edges)
        given = [position for position in entry.parts if position < edges]
        taken = given[:1] if self._upstream.join is Join.ANY else sorted(given)
        fired = Fired(entry.key, self._headers(entry), tuple(entry.parts[position] for position in taken))
        # What is left marks that the others' records are late.
        entry.fired, entry.parts, entry.headers = True, {}, {}
        return fired

    def _headers(self, entry: _Entry) -> list[tuple[str, bytes | None]]:
        """Those of all sources in their order: equal pairs of different sources once, and one request id."""
        merged: list[tuple[str, bytes | None]] = []
        for _, headers in sorted(entry.headers.items()):
            there, names = set(merged), {name for name, _ in merged}
            merged += [
                pair for pair in headers if pair not in there and not (pair[0] == REQUEST_ID and REQUEST_ID in names)
            ]
        return merged

    def _give_up(self, entry: _Entry, outcome: Outcome) -> None:
        """Too many wait: the oldest goes on with what it has, or is told of."""
        headers = self._headers(entry)
        fired, self_met = len(outcome.fired), entry.fired
        self._end(entry, outcome)
        if not self_met and len(outcome.fired) == fired:
            outcome.evicted.append(Fired(entry.key, headers, ()))

    def _end(self, entry: _Entry, outcome: Outcome) -> None:
        """Nothing more comes to an entry: it fires with what it has, or never."""
        self._remove(entry)
        if not entry.fired and self._met(entry, over=True):
            outcome.fired.append(self._fire(entry))
        outcome.changes.append(Change(entry.id, None, None))

    def _expire(self, now: float, outcome: Outcome) -> None:
        """End the entries whose window has passed for every source.

        For a source it has passed by the time of its records, or, when it has been quiet for a window, by the clock.
        One whose backlog is being read is not quiet, so its records are waited for however old they are.
        """
        window = self._upstream.window
        quiet = [now - came >= window for came in self._came]
        flowing = min((at for at, is_quiet in zip(self._latest, quiet, strict=True) if not is_quiet), default=math.inf)
        passed = min(flowing, *self._latest)
        while self._deadlines and self._deadlines[0][0] <= passed:
            _, key = heapq.heappop(self._deadlines)
            entry = self._entries.get(key)
            if entry is not None:
                self._end(entry, outcome)
        for entry in list(self._waited(now - window)):
            if entry.earliest + window <= flowing:
                self._end(entry, outcome)

    def _waited(self, since: float) -> Iterator[_Entry]:
        """The entries that came before a time, oldest first."""
        for entry in self._entries.values():
            if entry.arrived > since:
                return
            yield entry

    def _add(self, entry: _Entry) -> None:
        self._entries[entry.id] = entry
        self._by_key.setdefault(entry.key, []).append(entry)
        heapq.heappush(self._deadlines, (entry.earliest + self._upstream.window, entry.id))

    def _remove(self, entry: _Entry) -> None:
        del self._entries[entry.id]
        others = self._by_key[entry.key]
        others.remove(entry)
        if not others:
            del self._by_key[entry.key]

    def _encode(self, entry: _Entry) -> bytes:
        head = {
            "format": _FORMAT,
            "join": self._fingerprint,
            "key": _text(entry.key),
            "fired": entry.fired,
            "times": list(entry.times.items()),
            "headers": [
                (source, [(name, _text(value)) for name, value in headers]) for source, headers in entry.headers.items()
            ],
            "parts": [(position, len(part)) for position, part in entry.parts.items()],
        }
        encoded = orjson.dumps(head)
        return b"".join((len(encoded).to_bytes(_LENGTH_BYTES, "big"), encoded, *entry.parts.values()))

    def _decode(self, key: bytes, value: bytes, now: float) -> _Entry:
        """An entry of this join; ValueError and its like for what is none."""
        start = _LENGTH_BYTES + int.from_bytes(value[:_LENGTH_BYTES], "big")
        head: dict[str, Any] = orjson.loads(value[_LENGTH_BYTES:start])
        if head["format"] != _FORMAT or head["join"] != self._fingerprint:
            raise ValueError("an entry of another format, or of another version of the join")
        times = {int(source): float(at) for source, at in head["times"]}
        entry = _Entry(key, _bytes(head["key"]) or b"", now, min(times.values()), max(times.values()), times)
        entry.fired = bool(head["fired"])
        for source, headers in head["headers"]:
            entry.headers[source] = tuple((name, _bytes(text)) for name, text in headers)
        for position, length in head["parts"]:
            entry.parts[position] = value[start : start + length]
            start += length
        return entry


def _group_met(join: Join, edges: Sequence[Edge], given: int, entry: _Entry, *, over: bool) -> bool:
    """Whether the data or the triggers have come, of which `given` edges have something."""
    if join is Join.INNER:
        return given == len(edges)
    if join is Join.ANY or over:
        return given > 0
    return given > 0 and all(edge.source in entry.times for edge in edges)


def _text(data: bytes | None) -> str | None:
    """Any bytes as text that JSON keeps."""
    return None if data is None else data.decode("latin-1")


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode("latin-1")
