"""Cycles: what one request waits for in each round, apart from every other round.

A source inside the cycle gives to the round it ran in, by a back edge to the round after. Any other is held: it is the
same in all rounds, and decided once. From round 1 on a group that has sources of the cycle needs one of them to give,
for otherwise what is held would set it off again. What reads a cycle from outside waits for a round that has all it
wants, and runs once. What cannot do so, since it reads several cycles or is in one itself, holds the first that comes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from engine.dataflow.waiting import Group, Waiting, enough, verdict
from engine.resources import Join

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.dataflow.plan import Edge, Node, Plan
    from engine.dataflow.waiting import Part


class Event(NamedTuple):
    """What a node comes to in a round; what runs once, outside the cycle, does so in round 0.

    parts   the data to run with, a place for each edge; None: it does not run
    begins  nothing is decided, but from now on the window passes
    """

    node: int
    round: int
    parts: list[Part | None] | None = None
    begins: bool = False


@dataclass(frozen=True, slots=True)
class _Half:
    """The data, or the triggers, of a node.

    start  the position of the first among the node's sources
    leads  the places that are decided anew in each round; where there are none, the group is the same in all
    back   how many of them give to the round after theirs
    """

    join: Join
    start: int
    size: int
    leads: frozenset[int]
    back: int


@dataclass(frozen=True, slots=True)
class _Reader:
    """A node that waits and has to do with a cycle.

    step     whether it is part of the cycle: it is decided in every round, whatever else only once
    cycle    whose rounds it goes by; 0: it reads several and holds what each gives first
    latched  the positions whose source is decided in the rounds of another cycle
    """

    node: int
    step: bool
    cycle: int
    window: float | None
    halves: tuple[_Half, ...]
    edges: tuple[Edge, ...]
    latched: frozenset[int]

    def half(self, position: int) -> _Half:
        """The data or the triggers, by the position of a source."""
        return self.halves[position >= self.halves[0].size]


class Cycles:
    """The cycles of a plan: how many steps each has, and which nodes wait for what they give.

    first  for each node what it is ordered by: the first step of its cycle, or itself
    """

    def __init__(self, plan: Plan) -> None:
        self.sizes = Counter(node.cycle for node in plan.nodes if node.cycle)
        heads: dict[int, int] = {}
        self.first = [
            heads.setdefault(node.cycle, index) if node.cycle else index for index, node in enumerate(plan.nodes)
        ]
        self.readers: dict[int, _Reader] = {}
        self.steps: dict[int, list[_Reader]] = {cycle: [] for cycle in self.sizes}
        self.outside: dict[int, list[_Reader]] = {cycle: [] for cycle in self.sizes}
        self.latches: dict[int, list[tuple[_Reader, int]]] = {cycle: [] for cycle in self.sizes}
        for index, node in enumerate(plan.nodes):
            cycles = [plan.nodes[edge.source].cycle for edge in node.sources]
            if (node.cycle and node.waits) or set(cycles) - {0, node.cycle}:
                self._add(_reader(index, node, cycles), cycles)

    def _add(self, reader: _Reader, cycles: list[int]) -> None:
        self.readers[reader.node] = reader
        if reader.cycle:
            (self.steps if reader.step else self.outside)[reader.cycle].append(reader)
        for position in reader.latched:
            self.latches[cycles[position]].append((reader, position))


def _reader(index: int, node: Node, cycles: list[int]) -> _Reader:
    foreign = set(cycles) - {0, node.cycle}
    own = node.cycle or (foreign.pop() if len(foreign) == 1 else 0)

    def half(join: Join, start: int, edges: tuple[Edge, ...]) -> _Half:
        leads = frozenset(place for place in range(len(edges)) if own and cycles[start + place] == own)
        return _Half(join, start, len(edges), leads, sum(edge.back for edge in edges))

    halves = [half(node.join, 0, node.edges)]
    if node.triggers:
        halves.append(half(node.triggers_join, len(node.edges), node.triggers))
    latched = frozenset(position for position, cycle in enumerate(cycles) if cycle not in (0, own))
    return _Reader(index, bool(node.cycle), own, node.window, tuple(halves), node.sources, latched)


@dataclass(slots=True)
class _Turning:
    """How far one cycle is.

    opened  the last round in which a step may run: one ran in the round before
    first   the first round of which not all steps are decided
    decided for each round from there on, how many of the steps are
    silent  back edges that give nothing to the round after `opened`, should there be one
    """

    opened: int = 0
    first: int = 0
    decided: Counter[int] = field(default_factory=Counter)
    silent: list[tuple[_Reader, int]] = field(default_factory=list)
    ended: bool = False


class Rounds:
    """The rounds of one request.

    visits  how often each step of a cycle ran
    """

    __slots__ = ("_constant", "_cycles", "_events", "_finished", "_held", "_turning", "_waiting", "visits")

    def __init__(self, cycles: Cycles) -> None:
        self._cycles = cycles
        self.visits: Counter[int] = Counter()
        self._turning = {cycle: _Turning() for cycle in cycles.sizes}
        # By position, in the order in which they came.
        self._held: dict[int, dict[int, Part | None]] = {node: {} for node in cycles.readers}
        self._waiting = {node: {0: _begin(reader)} for node, reader in cycles.readers.items()}
        self._finished: set[int] = set()
        self._events: list[Event] = []

    def offer(self, node: int, position: int, round_: int, part: Part | None) -> list[Event]:
        """A source of a node is decided in a round of the source's, with tensors or (None) without."""
        reader = self._cycles.readers[node]
        half = reader.half(position)
        if node not in self._finished:
            if position - half.start in half.leads:
                self._turn(reader, position, round_, part)
            elif part is not None or position not in reader.latched:
                self._hold(reader, position, part)
        return self._take()

    def ran(self, cycle: int, round_: int) -> list[Event]:
        """A step of a cycle runs in a round, so that there will be a next one."""
        turning = self._turning[cycle]
        if turning.opened == round_:
            turning.opened += 1
            for reader in self._cycles.steps[cycle]:
                self._waiting_in(reader, turning.opened)
                self._judge(reader, (turning.opened,))
            silent, turning.silent = turning.silent, []
            for reader, position in silent:
                self._turn(reader, position, round_, None)
        return self._take()

    def decided(self, cycle: int, round_: int) -> list[Event]:
        """The outputs of a step of a cycle are decided in a round."""
        turning = self._turning[cycle]
        turning.decided[round_] += 1
        while not turning.ended and turning.decided[turning.first] == self._cycles.sizes[cycle]:
            if turning.opened == turning.first:
                turning.ended = True
                self._end(cycle)
            else:
                self._forget(cycle, turning.first)
                turning.first += 1
        return self._take()

    def expire(self, node: int, round_: int) -> list[Event]:
        """The window of a node has passed in a round; what is the same in every round has its window in round 0."""
        reader = self._cycles.readers[node]
        waiting = self._waiting[node].get(round_)
        if waiting is not None:
            for half, group in zip(reader.halves, waiting.groups, strict=True):
                mine = half.leads or not round_
                if mine and group.verdict is None and half.join is Join.OUTER and enough(group):
                    group.verdict = True
            self._judge(reader, sorted(self._waiting[node]))
        return self._take()

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _turn(self, reader: _Reader, position: int, round_: int, part: Part | None) -> None:
        """A source of the reader's own cycle is decided in a round."""
        if reader.edges[position].back:
            turning = self._turning[reader.cycle]
            if part is None and turning.opened == round_:
                turning.silent.append((reader, position))
                return
            round_ += 1
        self._put(reader, position, part, round_)
        self._judge(reader, (round_,))

    def _hold(self, reader: _Reader, position: int, part: Part | None) -> None:
        """A source that is the same in every round is decided."""
        if position in self._held[reader.node]:
            return
        self._held[reader.node][position] = part
        rounds = sorted(self._waiting[reader.node])
        for round_ in rounds if reader.half(position).leads else (0,):
            self._put(reader, position, part, round_)
        self._judge(reader, rounds)

    def _put(self, reader: _Reader, position: int, part: Part | None, round_: int) -> None:
        half = reader.half(position)
        group = self._waiting_in(reader, round_).groups[half.start > 0]
        place = position - half.start
        leading = place in half.leads
        if group.verdict is not None or (round_ and half.leads and half.join is Join.ANY and not leading):
            return
        counts = part is not None and (leading or group.leads is None)
        begins = counts and half.join is Join.OUTER and reader.window is not None and not enough(group)
        group.out -= 1
        group.parts[place] = part
        group.lost += leading and part is None
        group.verdict = verdict(half.join, group)
        if begins and group.verdict is None:
            self._events.append(Event(reader.node, round_, begins=True))

    def _waiting_in(self, reader: _Reader, round_: int) -> Waiting:
        """What a node waits for in a round, made when it is first asked for, with what is held by then."""
        rounds = self._waiting[reader.node]
        if round_ not in rounds:
            groups = [
                _group(half, round_) if half.leads else constant
                for half, constant in zip(reader.halves, rounds[0].groups, strict=True)
            ]
            rounds[round_] = Waiting(*groups)
            for position, part in self._held[reader.node].items():
                if reader.half(position).leads:
                    self._put(reader, position, part, round_)
        return rounds[round_]

    def _judge(self, reader: _Reader, rounds: Iterable[int]) -> None:
        """Tell what these rounds came to, unless it was told."""
        waitings = self._waiting[reader.node]
        for round_ in rounds:
            waiting = waitings[round_]
            if waiting.fired or waiting.verdict is None:
                continue
            waiting.fired = True
            if reader.step:
                self._events.append(Event(reader.node, round_, waiting.data.parts if waiting.verdict else None))
            elif waiting.verdict:
                self._finish(reader, waiting.data.parts)
                return
        if not reader.step:
            ended = not reader.cycle or self._turning[reader.cycle].ended
            if ended and all(waiting.fired for waiting in waitings.values()):
                self._finish(reader, None)

    def _finish(self, reader: _Reader, parts: list[Part | None] | None) -> None:
        """A node outside the cycle runs in this round, or never will."""
        self._events.append(Event(reader.node, 0, parts))
        self._finished.add(reader.node)
        self._waiting[reader.node].clear()

    def _end(self, cycle: int) -> None:
        """Nothing of the cycle runs any more: who still waits for it gets nothing."""
        for reader, position in self._cycles.latches[cycle]:
            if reader.node not in self._finished:
                self._hold(reader, position, None)
        for reader in self._cycles.outside[cycle]:
            if reader.node not in self._finished:
                self._judge(reader, ())

    def _forget(self, cycle: int, round_: int) -> None:
        """All steps are decided in a round, so nothing of it comes any more."""
        del self._turning[cycle].decided[round_]
        for reader in (*self._cycles.steps[cycle], *self._cycles.outside[cycle]):
            waiting = self._waiting[reader.node].get(round_)
            # Round 0 has the groups that are the same in every round.
            if round_ and waiting is not None and waiting.fired:
                del self._waiting[reader.node][round_]


def _begin(reader: _Reader) -> Waiting:
    return Waiting(*(_group(half, 0) for half in reader.halves))


def _group(half: _Half, round_: int) -> Group:
    """What a group is before anything came: in round 0 nothing comes by a back edge, later `any` minds only leads."""
    parts: list[Part | None] = [None] * half.size
    if not round_:
        return Group(parts, half.size - half.back)
    if half.join is Join.ANY:
        return Group(parts, len(half.leads))
    return Group(parts, half.size, leads=half.leads if half.join is Join.OUTER else None)
