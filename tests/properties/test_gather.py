"""The gather against an interpreter that takes one request at a time and knows nothing of columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.dataflow.gather import Answer, Call, Done, Gather, Progress, Wait
from engine.dataflow.plan import ENTRY, Edge, Node, Plan
from engine.errors import ModelFailed, NoAnswer
from engine.protocol.columns import Columns, TensorSpec
from engine.protocol.record import Side
from engine.resources import Join

TENSORS = ("x", "y", "z")

Tensors: TypeAlias = "tuple[tuple[str, int], ...]"
# What a model does for one request: the tensors it gives, or None when it fails.
Behaviour: TypeAlias = "tuple[str, ...] | None"


@st.composite
def edges(draw: st.DrawFn, node: int) -> Edge:
    source = draw(st.integers(0, node - 1))
    side = Side.INPUTS if source == ENTRY else draw(st.sampled_from([Side.OUTPUTS, Side.OUTPUTS, Side.INPUTS]))
    wanted = draw(st.lists(st.sampled_from(TENSORS), max_size=2, unique=True))
    renamed = draw(st.lists(st.sampled_from(wanted or TENSORS), max_size=1))
    return Edge(source, side, tuple(wanted), tuple((name, f"{name}{node}") for name in renamed))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    nodes = [Node("p")]
    output = draw(st.booleans() | st.just(True))
    count = draw(st.integers(1, 8))
    for index in range(1, count + 1 + output):
        found = draw(st.lists(edges(index), min_size=1, max_size=3))
        gates = draw(st.lists(edges(index), max_size=2)) if index <= count else []
        joins = draw(st.sampled_from(Join)), draw(st.sampled_from(Join))
        name, window = f"s{index}" if index <= count else "p", draw(st.sampled_from([None, 1.0]))
        nodes.append(Node(name, tuple(found), joins[0], tuple(gates), joins[1], window))
    return Plan("p", tuple(nodes), output=output)


def behaviour(chance: Random) -> Behaviour:
    """A failure now and then, often all tensors, else some of them."""
    return chance.choice([None, TENSORS, TENSORS, tuple(chance.sample(TENSORS, chance.randint(1, len(TENSORS))))])


def value(request: int, node: int, tensor: str) -> int:
    return 10_000 * request + 10 * node + TENSORS.index(tensor)


@dataclass
class Naive:
    """Section 6 of the design for one request, read out word by word after each event."""

    plan: Plan
    request: int
    given: dict[tuple[int, Side], Tensors | None] = field(default_factory=dict)
    order: list[tuple[int, Side]] = field(default_factory=list)
    calls: dict[int, Tensors] = field(default_factory=dict)
    answer: Tensors | None = None
    failures: list[int] = field(default_factory=list)
    expired: dict[tuple[int, bool], list[Tensors | str]] = field(default_factory=dict)

    def expire(self, index: int) -> None:
        """The window of a node has passed: an outer join that has something by now goes on with that."""
        node = self.plan.nodes[index]
        if (index, Side.INPUTS) in self.given:
            return
        for gates, edges_, join in ((False, node.edges, node.join), (True, node.triggers, node.triggers_join)):
            sources = [self._source(edge) for edge in edges_]
            waits = self._verdict(join, edges_, sources) == "wait" if edges_ else False
            if join is Join.OUTER and waits and any(not isinstance(source, str) for source in sources):
                self.expired.setdefault((index, gates), [s if not isinstance(s, str) else "never" for s in sources])
        while self._one_more():
            pass

    def decide(self, node: int, side: Side, tensors: Tensors | None) -> None:
        """A side has tensors now, or never will; then everything that can be said of the nodes is said."""
        self.given[node, side] = tensors
        self.order.append((node, side))
        while self._one_more():
            pass

    def _one_more(self) -> bool:
        for index, node in enumerate(self.plan.nodes):
            if index == ENTRY or (index, Side.INPUTS) in self.given:
                continue
            data, gates = (
                self._group(index, node.edges, node.join),
                self._group(index, node.triggers, node.triggers_join, gates=True),
            )
            if "never" in (data, gates):
                verdict: Tensors | str = "never"
            elif "wait" in (data, gates):
                continue
            else:
                verdict = data
            tensors = None if verdict == "never" else verdict
            self.given[index, Side.INPUTS] = tensors
            self.order.append((index, Side.INPUTS))
            if tensors is None:
                self.given[index, Side.OUTPUTS] = None
                self.order.append((index, Side.OUTPUTS))
            elif index == self.plan.output_index:
                self.answer = tensors
            else:
                self.calls[index] = tensors
            return True
        return False

    def _group(self, index: int, edges_: tuple[Edge, ...], join: Join, *, gates: bool = False) -> Tensors | str:
        """What a node's data or triggers come to: tensors, "wait" or "never"; where there are none, nothing."""
        if not edges_:
            return ()
        sources = self.expired.get((index, gates)) or [self._source(edge) for edge in edges_]
        return self._verdict(join, edges_, sources)

    def _source(self, edge: Edge) -> Tensors | str:
        """The tensors that an edge gives, "out" while it may still come, "never" when it cannot."""
        if (edge.source, edge.side) not in self.given:
            return "out"
        tensors = self.given[edge.source, edge.side]
        if tensors is None or not {name for name, _ in tensors} >= set(edge.tensors):
            return "never"
        # A source may hold a name twice after a join; the last of them is taken.
        chosen = [(name, dict(tensors)[name]) for name in edge.tensors] if edge.tensors else list(tensors)
        return tuple((dict(edge.renames).get(name, name), number) for name, number in chosen)

    def _verdict(self, join: Join, edges_: tuple[Edge, ...], sources: list[Tensors | str]) -> Tensors | str:
        there = [source for source in sources if not isinstance(source, str)]
        if join is Join.INNER or len(sources) == 1:
            if "never" in sources:
                return "never"
            return "wait" if "out" in sources else tuple(pair for source in there for pair in source)
        if join is Join.ANY and there:
            return self._first(edges_, sources)
        if "out" in sources:
            return "wait"
        return tuple(pair for source in there for pair in source) if there else "never"

    def _first(self, edges_: tuple[Edge, ...], sources: list[Tensors | str]) -> Tensors:
        """Of the sources that have answered, the one that was known first; the first written of one source."""
        found = [
            (self.order.index((edge.source, edge.side)), source)
            for edge, source in zip(edges_, sources, strict=True)
            if not isinstance(source, str)
        ]
        first = min(found, key=lambda pair: pair[0])[1]
        assert not isinstance(first, str)
        return first

    def outcome(self) -> str | int:
        """ "answer", "ended", "nothing to tell", or the node that failed."""
        if self.answer is not None:
            return "answer"
        for node in self.failures:
            if not self.plan.output or node in self._upstream():
                return node
        return "ended" if self.plan.output else "nothing to tell"

    def _upstream(self) -> set[int]:
        assert self.plan.output_index is not None
        found = {self.plan.output_index}
        for index in range(len(self.plan.nodes) - 1, -1, -1):
            if index in found:
                found |= {edge.source for edge in self.plan.nodes[index].sources}
        return found


class Batch:
    """Requests driven through the gather, each event told to the request's own interpreter too."""

    def __init__(self, plan: Plan, count: int) -> None:
        self.plan, self.gather = plan, Gather(plan)
        self.requests = [Progress() for _ in range(count)]
        self.number = {id(request): number for number, request in enumerate(self.requests)}
        self.naive = [Naive(plan, number) for number in range(count)]
        self.calls: list[dict[int, Tensors]] = [{} for _ in range(count)]
        self.answers: list[Tensors | None] = [None] * count
        self.done = [0] * count
        self.out: list[tuple[int, int]] = []
        self.waits: list[Wait] = []

    def start(self, groups: list[tuple[list[int], tuple[str, ...]]]) -> None:
        for numbers, names in groups:
            for number in numbers:
                tensors = tuple((name, value(number, ENTRY, name)) for name in names)
                self.naive[number].decide(ENTRY, Side.INPUTS, tensors)
            self._follow(self.gather.start([self.requests[n] for n in numbers], self._columns(ENTRY, numbers, names)))

    def reply(self, node: int, numbers: list[int], behaviour: Behaviour) -> None:
        for number in numbers:
            self.out.remove((node, number))
            naive = self.naive[number]
            if behaviour is None:
                naive.failures.append(node)
                naive.decide(node, Side.OUTPUTS, None)
            else:
                naive.decide(node, Side.OUTPUTS, tuple((name, value(number, node, name)) for name in behaviour))
        requests = [self.requests[number] for number in numbers]
        if behaviour is None:
            self._follow(self.gather.fail(node, requests, ModelFailed("broken")))
        else:
            self._follow(self.gather.answer(node, requests, self._columns(node, numbers, behaviour)))

    def expire(self, wait: Wait) -> None:
        self.waits.remove(wait)
        for request in wait.requests:
            self.naive[self.number[id(request)]].expire(wait.node)
        self._follow(self.gather.expire(wait.node, wait.requests))

    def _columns(self, node: int, numbers: list[int], names: tuple[str, ...]) -> Columns:
        specs = tuple(TensorSpec(name, "INT64", ()) for name in names)
        cells = tuple(np.array([value(number, node, name) for number in numbers], "<i8") for name in names)
        return Columns([b"%d" % number for number in numbers], specs, cells)

    def _follow(self, instructions: list[Call | Answer | Done | Wait]) -> None:
        for instruction in instructions:
            if isinstance(instruction, Wait):
                self.waits.append(instruction)
                continue
            for row, request in enumerate(instruction.requests):
                number = self.number[id(request)]
                if isinstance(instruction, Done):
                    self.done[number] += 1
                    continue
                columns = instruction.columns
                assert columns.ids[row] == b"%d" % number
                pairs = zip(columns.names, columns.cells, strict=True)
                tensors = tuple((name, int(cells[row])) for name, cells in pairs)
                if isinstance(instruction, Call):
                    assert instruction.node not in self.calls[number]
                    self.calls[number][instruction.node] = tensors
                    self.out.append((instruction.node, number))
                else:
                    assert self.answers[number] is None
                    self.answers[number] = tensors

    def outcome(self, number: int) -> str | int:
        error = self.gather.outcome(self.requests[number])
        if error is None:
            return "answer" if self.answers[number] is not None else "nothing to tell"
        if isinstance(error, NoAnswer):
            return "ended"
        return next(index for index in self.plan.steps if self.plan.nodes[index].name == error.step)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans(), st.integers(1, 5), st.integers(0, 1 << 32))
def test_batches_do_what_each_request_alone_would_do(plan: Plan, count: int, seed: int) -> None:
    # The order of events comes from a seed: drawn one by one they would take ten times as long.
    chance, batch = Random(seed), Batch(plan, count)
    numbers, cut = chance.sample(range(count), count), chance.randint(0, count)
    batch.start([(part, behaviour(chance) or TENSORS) for part in (numbers[:cut], numbers[cut:]) if part])
    while batch.out:
        if batch.waits and chance.random() < 0.2:
            batch.expire(chance.choice(batch.waits))
            continue
        node, _ = chance.choice(batch.out)
        waiting = [number for index, number in batch.out if index == node]
        batch.reply(node, chance.sample(waiting, chance.randint(1, len(waiting))), behaviour(chance))
    for wait in list(batch.waits):
        batch.expire(wait)  # late: everything is done
    assert batch.done == [1] * count
    for number, naive in enumerate(batch.naive):
        assert batch.calls[number] == naive.calls
        assert batch.answers[number] == naive.answer
        assert batch.outcome(number) == naive.outcome()
