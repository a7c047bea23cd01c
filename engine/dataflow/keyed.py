"""Joins by key of what other pipelines give: records in, requests out, and the changes that make the state durable.

Records of one key and partition number meet in an entry, which has one place for each source: the i-th records of a
key pair with each other, nothing is used twice, and an entry fires once. Pure: the clock is an argument, and the state
is what `restore` makes of the changes that were written.

What holds when only some of the changes were written, and the records are read again from the start: a request is
made again only when the change that tells of it was lost. While windows end by the time of records, and these come in
the same order, exactly the requests of the lost changes are made again. Where the clock ends windows, or the records
of several sources mix otherwise, other records may meet; but none that was in a request whose change was written.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.dataflow.changelog import Changelog, Entry
from engine.protocol.record import REQUEST_ID
from engine.resources import Join

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.dataflow.external import Upstream
    from engine.protocol.record import HeaderPairs, Headers

# Places of entries that are gone are let be until there are this many, and more of them than of others.
_SLACK = 4096


@dataclass(frozen=True, slots=True)
class Arrival:
    """One record of a source, with what the edges take of it; never nothing.

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


@dataclass(frozen=True, slots=True)
class Change:
    """One record of the changelog; `position` tells how far each source is accounted for with it."""

    key: bytes
    value: bytes | None
    position: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What some records, or some time, gave. `evicted` were given up since too many wait."""

    fired: list[Fired] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    evicted: list[Fired] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Group:
    """The data or the triggers: their join, and the positions of their parts."""

    join: Join
    positions: range


class KeyedJoin:
    """What waits for its partners, of one partition number.

    most   entries that may wait, those included that only keep a late side from making a request again; then the one
           whose window ends first goes on with what it has, or is given up
    """

    def __init__(self, upstream: Upstream, most: int) -> None:
        self._most, self._window = most, upstream.window
        self._changelog = Changelog(upstream)
        edges, total = len(upstream.edges), len(upstream.edges) + len(upstream.triggers)
        data = _Group(upstream.join, range(edges))
        gates = _Group(upstream.triggers_join, range(edges, total))
        self._groups = (data, gates) if gates.positions else (data,)
        self._data = data.positions
        self._source_of = [edge.source for edge in (*upstream.edges, *upstream.triggers)]
        self._entries: dict[int, Entry] = {}
        # For each source and key the entries that have a place for it, oldest first.
        self._free: list[dict[bytes, list[Entry]]] = [{} for _ in upstream.sources]
        self._windows = _Windows(len(upstream.sources), upstream.window, self._entries)
        self._offsets = [-1] * len(upstream.sources)
        self._next, self._now, self._restored = 0, -math.inf, False

    def __len__(self) -> int:
        return len(self._entries)

    def offer(self, arrivals: Sequence[Arrival], now: float) -> Outcome:
        """Records of the sources, each source's in the order of its offsets; those that came before are passed over.

        Windows end by the time of records after each of them, and by the clock after the last: what was read late
        meets what waits for it.
        """
        outcome = self._begin(now)
        self._end_passed(outcome)
        for arrival in arrivals:
            self._windows.heard[arrival.source] = self._now
            if arrival.offset > self._offsets[arrival.source]:
                self._offsets[arrival.source] = arrival.offset
                self._take(arrival, outcome)
                self._end_passed(outcome)
        self._end_quiet(outcome)
        return outcome

    def expire(self, now: float) -> Outcome:
        """What the passing of time ends."""
        outcome = self._begin(now)
        self._end_passed(outcome)
        self._end_quiet(outcome)
        return outcome

    def next_expiry(self) -> float | None:
        """When `expire` may find something if no record comes; None when nothing waits."""
        self._begin(self._now)
        return self._windows.next_quiet()

    def restore(self, key: bytes | None, value: bytes | None, position: bytes | None, now: float) -> bool:
        """One record of the changelog, all of them in their order before anything is offered.

        False when some of it is nothing that this join can use, and was left out: another version of the pipeline
        may have written it, or anybody. Raises NewerFormat for what a newer release wrote: nothing of that may be left
        out.
        """
        self._now, self._restored = max(self._now, now), True
        known = position is None or self._restore_position(position)
        return self._restore_entry(key or b"", value) and known

    def _restore_position(self, position: bytes) -> bool:
        try:
            reached = self._changelog.read_position(position)
        except ValueError:
            return False
        for source, offset, latest in reached:
            self._offsets[source] = max(self._offsets[source], offset)
            self._windows.hear(source, latest)
        return True

    def _restore_entry(self, key: bytes, value: bytes | None) -> bool:
        try:
            number, own = self._changelog.read_key(key)
            self._next = max(self._next, number + 1)
            self._entries.pop(number, None)
            if value is not None:
                self._entries[number] = self._changelog.read_value(number, own, value)
        except ValueError:
            return False
        return True

    def _begin(self, now: float) -> Outcome:
        if self._restored:
            self._restored = False
            for _, entry in sorted(self._entries.items()):
                self._add(entry)
        # A clock that is set back must not put what comes now before what came.
        self._now = max(self._now, now)
        return Outcome()

    def _take(self, arrival: Arrival, outcome: Outcome) -> None:
        """A record goes to the oldest entry of its key that it fits in, or to a new one."""
        source, at = arrival.source, arrival.timestamp
        self._windows.hear(source, at)
        entry = self._partner(arrival)
        if entry is None:
            entry = self._open(arrival)
        entry.low, entry.high = min(entry.low, at), max(entry.high, at)
        entry.headers[source] = ()
        if not entry.closed:
            self._keep(entry, arrival)
            verdict = self._verdict(entry)
            if verdict:
                outcome.fired.append(self._request(entry))
            if verdict is not None:
                entry.close()
        if entry.complete:
            self._remove(entry, outcome)
        else:
            self._change(entry, self._changelog.value(entry), outcome)

    def _partner(self, arrival: Arrival) -> Entry | None:
        free, at = self._free[arrival.source], arrival.timestamp
        entries = free.get(arrival.key, ())
        for index, entry in enumerate(entries):
            if max(entry.high, at) - min(entry.low, at) <= self._window:
                if len(entries) == 1:
                    del free[arrival.key]
                else:
                    del free[arrival.key][index]
                return entry
        return None

    def _open(self, arrival: Arrival) -> Entry:
        at, number = arrival.timestamp, self._next
        self._next += 1
        entry = Entry(number, arrival.key, at, at, at, [None] * len(self._free), [None] * len(self._source_of))
        entry.headers[arrival.source] = ()
        self._entries[number] = entry
        self._add(entry)
        return entry

    def _add(self, entry: Entry) -> None:
        entry.arrived = self._now
        self._windows.add(entry)
        for free, headers in zip(self._free, entry.headers, strict=True):
            if headers is None:
                free.setdefault(entry.key, []).append(entry)

    def _remove(self, entry: Entry, outcome: Outcome) -> None:
        del self._entries[entry.number]
        for free, headers in zip(self._free, entry.headers, strict=True):
            if headers is None:
                entries = free[entry.key]
                entries.remove(entry)
                if not entries:
                    del free[entry.key]
        self._change(entry, None, outcome)

    def _keep(self, entry: Entry, arrival: Arrival) -> None:
        """What a record adds: where any of several is enough, nothing after the first.

        The headers of a record of which nothing is kept are not the request's.
        """
        for group in self._groups:
            for position in group.positions:
                part = arrival.parts.get(position)
                if part is None or (group.join is Join.ANY and _given(entry, group)):
                    continue
                entry.parts[position] = part
                entry.headers[arrival.source] = arrival.headers

    def _verdict(self, entry: Entry, *, over: bool = False) -> bool | None:
        """True: it is a request; False: it never will be; None: it waits on. `over`: nothing more comes to it."""
        verdicts = [self._group_verdict(entry, group, over=over) for group in self._groups]
        return False if False in verdicts else None if None in verdicts else True

    def _group_verdict(self, entry: Entry, group: _Group, *, over: bool) -> bool | None:
        given = _given(entry, group)
        if group.join is Join.ANY and given:
            return True
        out = 0
        for position in group.positions:
            out += entry.headers[self._source_of[position]] is None
        if group.join is Join.INNER:
            if given == len(group.positions):
                return True
            return False if over or given + out < len(group.positions) else None
        if out and not over:
            return None
        return given > 0

    def _request(self, entry: Entry) -> Fired:
        taken = (entry.parts[position] for position in self._data)
        return Fired(entry.key, _merged(entry.headers), tuple(part for part in taken if part is not None))

    def _change(self, entry: Entry, value: bytes | None, outcome: Outcome) -> None:
        position = self._changelog.position(self._offsets, self._windows.latest)
        outcome.changes.append(Change(self._changelog.key(entry), value, position))

    def _end_passed(self, outcome: Outcome) -> None:
        """End the entries that no record can come to by the time of records, and those over the bound."""
        while (number := self._windows.passed()) is not None:
            self._end(self._entries[number], outcome)
        while len(self._entries) > self._most:
            self._end(self._entries[self._windows.first()], outcome, early=True)

    def _end_quiet(self, outcome: Outcome) -> None:
        """End the entries whose other sources have gone quiet, by the clock."""
        while (number := self._windows.quiet(self._now)) is not None:
            self._end(self._entries[number], outcome)

    def _end(self, entry: Entry, outcome: Outcome, *, early: bool = False) -> None:
        """Nothing more comes to an entry: it is a request with what it has, or never."""
        if not entry.closed:
            if self._verdict(entry, over=True):
                outcome.fired.append(self._request(entry))
            elif early:
                outcome.evicted.append(self._request(entry))
        self._remove(entry, outcome)


class _Windows:
    """When the windows of entries end, found without a look at the others.

    A window is over for a source when a record of it has reached the window's end, or when nothing came of it for a
    window's length by the clock, nor was the entry opened since. One whose backlog is being read is not quiet, so its
    records are waited for however old they are.
    """

    def __init__(self, sources: int, window: float, entries: Mapping[int, Entry]) -> None:
        self.latest, self.heard = [-math.inf] * sources, [-math.inf] * sources
        self._window, self._entries = window, entries
        # What the latest records of all sources have reached.
        self._reached = -math.inf
        # Numbers of entries, those that are gone included until they come to the front or become too many: all by the
        # ends of their windows; of these the ones opened within the last window by the clock, oldest first; and the
        # others, which alone can end by the clock.
        self._all: list[tuple[float, int]] = []
        self._young: deque[int] = deque()
        self._aged: list[tuple[float, int]] = []

    def hear(self, source: int, timestamp: float) -> None:
        """A source has a record of that time."""
        if timestamp > self.latest[source]:
            self.latest[source] = timestamp
            self._reached = min(self.latest)

    def add(self, entry: Entry) -> None:
        """An entry that came now, after all that were added."""
        heapq.heappush(self._all, (entry.opened + self._window, entry.number))
        self._young.append(entry.number)
        if len(self._all) + len(self._young) + len(self._aged) > 4 * len(self._entries) + _SLACK:
            self._all = [place for place in self._all if place[1] in self._entries]
            self._aged = [place for place in self._aged if place[1] in self._entries]
            self._young = deque(number for number in self._young if number in self._entries)
            heapq.heapify(self._all)
            heapq.heapify(self._aged)

    def first(self) -> int:
        """The entry whose window ends first; there must be one."""
        self._clear(self._all)
        return self._all[0][1]

    def passed(self) -> int | None:
        """An entry whose window every source's records have passed."""
        self._clear(self._all)
        return self._all[0][1] if self._all and self._all[0][0] <= self._reached else None

    def quiet(self, now: float) -> int | None:
        """An entry whose window is over, for some sources by the clock."""
        while self._young and self._is_aged(self._young[0], now):
            number = self._young.popleft()
            if number in self._entries:
                heapq.heappush(self._aged, (self._entries[number].opened + self._window, number))
        self._clear(self._aged)
        if not self._aged:
            return None
        heard = zip(self.latest, self.heard, strict=True)
        reached = min((latest for latest, at in heard if at + self._window > now), default=math.inf)
        return self._aged[0][1] if self._aged[0][0] <= reached else None

    def next_quiet(self) -> float | None:
        """When `quiet` may find an entry, or has to look at one for the first time."""
        while self._young and self._young[0] not in self._entries:
            self._young.popleft()
        self._clear(self._aged)
        times = [self._entries[self._young[0]].arrived + self._window] if self._young else []
        if self._aged:
            heard = zip(self.latest, self.heard, strict=True)
            out = (at + self._window for latest, at in heard if latest < self._aged[0][0])
            times.append(max(out, default=-math.inf))
        return min(times, default=None)

    def _is_aged(self, number: int, now: float) -> bool:
        entry = self._entries.get(number)
        return entry is None or entry.arrived + self._window <= now

    def _clear(self, places: list[tuple[float, int]]) -> None:
        """Take away what is gone from the front."""
        while places and places[0][1] not in self._entries:
            heapq.heappop(places)


def _given(entry: Entry, group: _Group) -> int:
    return sum([entry.parts[position] is not None for position in group.positions])


def _merged(sources: Iterable[Headers | None]) -> Headers:
    """The headers of several sources in their order: equal pairs once, and the first request id."""
    merged: dict[tuple[str, bytes | None], None] = {}
    named = False
    for pair in (pair for headers in sources for pair in headers or ()):
        if pair[0] != REQUEST_ID:
            merged[pair] = None
        elif not named:
            merged[pair], named = None, True
    return tuple(merged)
