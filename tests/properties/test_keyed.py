"""The join by key against a list of entries that is looked through for everything, and against its own crashes."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.dataflow.external import Source, Upstream
from engine.dataflow.keyed import Arrival, Change, Fired, KeyedJoin, Outcome
from engine.dataflow.plan import Edge
from engine.errors import NewerFormat
from engine.protocol.record import Owner, Side
from engine.resources import Join

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KEYS = (b"a", b"a", b"b", b"c d")
NEVER = -1.0e9
EXAMPLES = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEWER = settings(EXAMPLES, max_examples=250)


def edge(source: int, *tensors: str) -> Edge:
    return Edge(source, Side.OUTPUTS, tensors)


@st.composite
def upstreams(draw: st.DrawFn) -> Upstream:
    """Two or three sources, with several edges on some, for data and for triggers."""
    count = draw(st.integers(2, 3))
    indices, tensors = st.integers(0, count - 1), st.sampled_from([(), (), ("x",), ("y",)])
    data = draw(st.lists(st.tuples(indices, tensors), min_size=1, max_size=3))
    gates = draw(st.lists(st.tuples(indices, tensors), max_size=2))
    gates += [(index, ()) for index in range(count) if index not in {source for source, _ in data + gates}]
    return Upstream(
        tuple(Source(f"p{index}", Owner.PIPELINE, f"p{index}", Side.OUTPUTS) for index in range(count)),
        tuple(edge(source, *wanted) for source, wanted in data),
        draw(st.sampled_from(Join)),
        tuple(edge(source, *wanted) for source, wanted in gates),
        draw(st.sampled_from(Join)),
        draw(st.sampled_from([2.0, 5.0, 1000.0])),
    )


def records(upstream: Upstream, chance: Random, count: int) -> list[Arrival]:
    """Records of all sources in the order in which they are read; now and then one lacks what an edge wants."""
    time, found = [0.0] * len(upstream.sources), []
    edges = (*upstream.edges, *upstream.triggers)
    for offset in range(10, 10 + count):
        source = chance.randrange(len(upstream.sources))
        time[source] += chance.choice([0.0, 0.0, 1.0, 1.0, 3.0])
        positions = [position for position, taken in enumerate(edges) if taken.source == source]
        if chance.random() < 0.2:
            positions = chance.sample(positions, chance.randint(1, len(positions)))
        data = len(upstream.edges)
        parts = {at: b"%d.%d.%d" % (source, offset, at) if at < data else b"" for at in positions}
        pairs = [("x-request-id", b"%d" % chance.randrange(3)), ("x-b", None), ("x-s", b"%d" % source), ("x-b", None)]
        headers = tuple(chance.sample(pairs, chance.randint(0, 4)))
        timestamp = time[source] + chance.choice([0.0, 0.0, 0.0, -2.0, 4.0])
        found.append(Arrival(source, offset, chance.choice(KEYS), timestamp, headers, parts))
    return found


def batches(arrivals: Sequence[Arrival], chance: Random) -> Iterable[Sequence[Arrival]]:
    start = 0
    while start < len(arrivals):
        end = start + chance.randint(1, 6)
        yield arrivals[start:end]
        start = end


class Step(NamedTuple):
    """What one change stands for."""

    key: bytes
    gone: bool
    fired: Fired | None = None
    evicted: Fired | None = None


@dataclass(eq=False)
class Slot:
    number: int
    arrived: float
    records: list[Arrival]
    decided: bool = False


@dataclass
class Naive:
    """The rules, read out word by word over all entries after each record."""

    upstream: Upstream
    most: int
    slots: list[Slot] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)
    latest: dict[int, float] = field(default_factory=dict)
    heard: dict[int, float] = field(default_factory=dict)
    opened: int = 0

    def offer(self, arrivals: Sequence[Arrival], now: float) -> None:
        for arrival in arrivals:
            self.heard[arrival.source] = now
            if arrival.offset > self.seen.get(arrival.source, -1):
                self.seen[arrival.source] = arrival.offset
                self._take(arrival, now)
                self._end_all(NEVER)
                while len(self.slots) > self.most:
                    self._end(min(self.slots, key=self._by_window), early=True)
        self._end_all(now)

    def expire(self, now: float) -> None:
        self._end_all(now)

    def _take(self, arrival: Arrival, now: float) -> None:
        self.latest[arrival.source] = max(arrival.timestamp, self.latest.get(arrival.source, NEVER))
        slot = next((slot for slot in self.slots if self._fits(slot, arrival)), None)
        if slot is None:
            slot = Slot(self.opened, now, [])
            self.slots.append(slot)
            self.opened += 1
        slot.records.append(arrival)
        fired = None
        if not slot.decided:
            verdict = self._verdict(slot, over=False)
            slot.decided = verdict != "wait"
            fired = self._request(slot) if verdict == "fire" else None
        gone = len(slot.records) == len(self.upstream.sources)
        if gone:
            self.slots.remove(slot)
        self.steps.append(Step(arrival.key, gone, fired))

    def _fits(self, slot: Slot, arrival: Arrival) -> bool:
        times = [record.timestamp for record in (*slot.records, arrival)]
        return (
            slot.records[0].key == arrival.key
            and all(record.source != arrival.source for record in slot.records)
            and max(times) - min(times) <= self.upstream.window
        )

    def _by_window(self, slot: Slot) -> tuple[float, int]:
        return slot.records[0].timestamp, slot.number

    def _end_all(self, now: float) -> None:
        """End what is over: by the clock too, unless it is never."""
        for slot in sorted(self.slots, key=self._by_window):
            if all(self._over(slot, source, now) for source in range(len(self.upstream.sources))):
                self._end(slot)

    def _over(self, slot: Slot, source: int, now: float) -> bool:
        passed = self.latest.get(source, NEVER) >= slot.records[0].timestamp + self.upstream.window
        return passed or now - max(slot.arrived, self.heard.get(source, NEVER)) >= self.upstream.window

    def _end(self, slot: Slot, *, early: bool = False) -> None:
        self.slots.remove(slot)
        met = not slot.decided and self._verdict(slot, over=True) == "fire"
        given_up = early and not slot.decided and not met
        key, request = slot.records[0].key, self._request(slot)
        self.steps.append(Step(key, True, request if met else None, request if given_up else None))

    def _verdict(self, slot: Slot, *, over: bool) -> str:
        count = len(self.upstream.edges)
        verdicts = [self._of_group(slot, self.upstream.join, self.upstream.edges, 0, over=over)]
        if self.upstream.triggers:
            gates = self.upstream.triggers
            verdicts.append(self._of_group(slot, self.upstream.triggers_join, gates, count, over=over))
        return "never" if "never" in verdicts else "wait" if "wait" in verdicts else "fire"

    def _of_group(self, slot: Slot, join: Join, edges: tuple[Edge, ...], start: int, *, over: bool) -> str:
        come = {record.source for record in slot.records}
        have = {position for record in slot.records for position in record.parts}
        given_ = [start + at in have for at in range(len(edges))]
        out = [not over and edge_.source not in come for edge_ in edges]
        if join is Join.INNER:
            hopeful = all(is_given or is_out for is_given, is_out in zip(given_, out, strict=True))
            return "fire" if all(given_) else "wait" if hopeful else "never"
        if any(given_) and (join is Join.ANY or not any(out)):
            return "fire"
        return "wait" if any(out) else "never"

    def _request(self, slot: Slot) -> Fired:
        """What counts of the records: of data or triggers of which any will do, the first that came."""
        used: dict[int, bytes] = {}
        names: set[int] = set()
        edges, total = len(self.upstream.edges), len(self.upstream.edges) + len(self.upstream.triggers)
        groups = ((self.upstream.join, range(edges)), (self.upstream.triggers_join, range(edges, total)))
        for join, positions in groups:
            pairs = [(record, at) for record in slot.records for at in positions if at in record.parts]
            for record, at in pairs[:1] if join is Join.ANY else pairs:
                used[at] = record.parts[at]
                names.add(record.source)
        headers: list[tuple[str, bytes | None]] = []
        for record in sorted(slot.records, key=lambda record: record.source):
            for name, value in record.headers if record.source in names else ():
                again = name == "x-request-id" and any(name == other for other, _ in headers)
                if (name, value) not in headers and not again:
                    headers.append((name, value))
        return Fired(slot.records[0].key, tuple(headers), tuple(used[at] for at in range(edges) if at in used))


def told(outcome: Outcome) -> tuple[list[tuple[bytes, bool]], list[Fired], list[Fired]]:
    changes = [(change.key.partition(b" ")[2], change.value is None) for change in outcome.changes]
    return changes, outcome.fired, outcome.evicted


def expected(steps: Sequence[Step]) -> tuple[list[tuple[bytes, bool]], list[Fired], list[Fired]]:
    fired = [step.fired for step in steps if step.fired is not None]
    evicted = [step.evicted for step in steps if step.evicted is not None]
    return [(step.key, step.gone) for step in steps], fired, evicted


def together(outcomes: Iterable[Outcome]) -> Outcome:
    whole = Outcome()
    for outcome in outcomes:
        whole.fired.extend(outcome.fired)
        whole.changes.extend(outcome.changes)
        whole.evicted.extend(outcome.evicted)
    return whole


def restored(upstream: Upstream, most: int, changes: Sequence[Change], now: float = 0.0) -> KeyedJoin:
    """A join that reads back a compacted changelog: the last change of each key, in their order."""
    last = {change.key: number for number, change in enumerate(changes)}
    join = KeyedJoin(upstream, most)
    for number in sorted(last.values()):
        assert join.restore(changes[number].key, changes[number].value, changes[number].position, now)
    return join


def shuffled(arrivals: Sequence[Arrival], chance: Random) -> list[Arrival]:
    """Read in another order, each source's records in their own."""
    waiting: dict[int, list[Arrival]] = {}
    for arrival in reversed(arrivals):
        waiting.setdefault(arrival.source, []).append(arrival)
    sources = [arrival.source for arrival in arrivals]
    return [waiting[source].pop() for source in chance.sample(sources, len(sources))]


def clocked(join: KeyedJoin, arrivals: Sequence[Arrival], chance: Random, now: float = 0.0) -> tuple[Outcome, float]:
    """Offer everything while the clock goes on now and then."""
    outcomes = []
    for batch in batches(arrivals, chance):
        now += chance.choice([0.0, 0.0, 1.0, 4.0])
        outcomes.append(join.offer(batch, now))
    return together(outcomes), now


MOST = st.sampled_from([1, 3, 1000, 1000])
SEEDS = st.integers(0, 1 << 32)


@EXAMPLES
@given(upstreams(), MOST, SEEDS)
def test_a_join_gives_what_looking_through_all_its_entries_gives(upstream: Upstream, most: int, seed: int) -> None:
    chance = Random(seed)
    join, naive, now = KeyedJoin(upstream, most), Naive(upstream, most), 0.0
    arrivals, start = records(upstream, chance, 40), 0
    while start < len(arrivals):
        told_before, due = len(naive.steps), join.next_expiry()
        now += chance.choice([0.0, 0.0, 1.0, 4.0])
        if chance.random() < 0.3:
            naive.expire(now)
            assert told(join.expire(now)) == expected(naive.steps[told_before:])
            assert len(naive.steps) == told_before or (due is not None and due <= now)
            continue
        again, end = max(0, start - chance.choice([0, 0, 3])), start + chance.randint(1, 6)
        naive.offer(arrivals[again:end], now)
        assert told(join.offer(arrivals[again:end], now)) == expected(naive.steps[told_before:])
        assert len(join) == len(naive.slots)
        start = end


@EXAMPLES
@given(upstreams(), MOST, SEEDS)
def test_after_a_crash_exactly_what_was_not_written_comes_again(upstream: Upstream, most: int, seed: int) -> None:
    chance, naive = Random(seed), Naive(upstream, most)
    arrivals = records(upstream, chance, 30)
    naive.offer(arrivals, 0.0)
    live = KeyedJoin(upstream, most)
    changes = together(live.offer(batch, 0.0) for batch in batches(arrivals, chance)).changes
    cut = chance.randint(0, len(changes))
    join = restored(upstream, most, changes[:cut])
    again = together(join.offer(batch, 0.0) for batch in batches(arrivals, chance))
    assert told(again) == expected(naive.steps[cut:])
    assert again.changes == changes[cut:]
    assert join.expire(5000.0) == live.expire(5000.0)


@FEWER
@given(upstreams(), MOST, SEEDS)
def test_whatever_the_clock_no_record_is_in_two_requests_that_were_told(
    upstream: Upstream, most: int, seed: int
) -> None:
    chance, naive = Random(seed), Naive(upstream, most)
    arrivals = records(upstream, chance, 30)
    live, now, changes = KeyedJoin(upstream, most), 0.0, []
    for batch in batches(arrivals, chance):
        now += chance.choice([0.0, 0.0, 1.0, 4.0])
        naive.offer(batch, now)
        changes += live.offer(batch, now).changes
    cut = chance.randint(0, len(changes))
    made = [part for step in naive.steps[:cut] if step.fired for part in step.fired.parts]
    join = restored(upstream, most, changes[:cut])
    again, now = clocked(join, shuffled(arrivals, chance), chance)
    made += [part for fired in (*again.fired, *join.expire(now + 5000.0).fired) for part in fired.parts]
    assert len(made) == len(set(made))
    whole = restored(upstream, most, changes)
    assert len(whole) == len(live)
    assert whole.expire(9000.0) == live.expire(9000.0)


@FEWER
@given(st.integers(2, 3), st.sampled_from(Join), SEEDS)
def test_within_a_window_nothing_is_lost_in_whatever_order_it_is_read_again(count: int, join_: Join, seed: int) -> None:
    sources = tuple(Source(f"p{index}", Owner.PIPELINE, f"p{index}", Side.OUTPUTS) for index in range(count))
    upstream = Upstream(sources, tuple(edge(index) for index in range(count)), join_, window=1000.0)
    chance, naive = Random(seed), Naive(upstream, 1000)
    arrivals = records(upstream, chance, 30)
    naive.offer(arrivals, 0.0)
    changes = KeyedJoin(upstream, 1000).offer(arrivals, 0.0).changes
    cut = chance.randint(0, len(changes))
    join = restored(upstream, 1000, changes[:cut])
    again, now = clocked(join, shuffled(arrivals, chance), chance)
    made = [step.fired for step in naive.steps[:cut] if step.fired]
    made += [*again.fired, *join.expire(now + 5000.0).fired]
    parts = {
        key: [[a.parts[n] for a in arrivals if (a.key, a.source) == (key, n)] for n in range(count)] for key in KEYS
    }
    if join_ is Join.ANY:
        assert Counter(fired.key for fired in made) == Counter(
            {key: longest for key, columns in parts.items() if (longest := max(map(len, columns)))}
        )
    else:
        pair = zip if join_ is Join.INNER else zip_longest
        rows = [row for columns in parts.values() for row in pair(*columns)]
        assert Counter(fired.parts for fired in made) == Counter(
            tuple(part for part in row if part is not None) for row in rows
        )


@FEWER
@given(upstreams(), SEEDS, st.data())
def test_a_changelog_of_anything_is_passed_over_and_the_join_goes_on(
    upstream: Upstream, seed: int, data: st.DataObject
) -> None:
    chance, join = Random(seed), KeyedJoin(upstream, 1000)
    arrivals = records(upstream, chance, 8)
    for change in KeyedJoin(upstream, 1000).offer(arrivals, 0.0).changes:
        key, value, position = (
            piece if piece is None or chance.random() < 0.5 else _broken(piece, chance)
            for piece in (change.key, change.value, change.position)
        )
        with suppress(NewerFormat):  # where the format's digit was broken
            assert join.restore(key, value, position, 0.0) in (True, False)
    assert join.restore(*data.draw(st.tuples(*[st.none() | st.binary()] * 3)), 0.0) in (True, False)
    join.offer(arrivals, 1.0)
    join.expire(9000.0)
    assert len(join) == 0


def _broken(piece: bytes, chance: Random) -> bytes:
    """Some bytes of it changed, gone or doubled."""
    start = chance.randrange(len(piece) + 1)
    end = start + chance.randint(0, 3)
    return piece[:start] + chance.choice([b"", chance.randbytes(2), b"9", piece[start:end] * 2, b"null"]) + piece[end:]
