"""The gather against an interpreter that takes one request at a time and knows nothing of columns."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from engine.dataflow.compiler import compile_pipeline
from engine.dataflow.gather import Answer, Call, Done, Gather, Instruction, Progress, Refused, Wait
from engine.dataflow.plan import ENTRY, Edge, Plan, as_text
from engine.errors import ModelFailed, NoAnswer, TooManyVisits
from engine.protocol.columns import Columns, TensorSpec
from engine.protocol.record import Side
from engine.resources import Join, Output, Pipeline, Step, documents

# A slow machine takes minutes, and a nightly run ten times that.
pytestmark = pytest.mark.timeout(3600)

# `make nightly` asks for more.
EXAMPLES = max(2_000, settings.default.max_examples)
# A seed stands for each step and for the order of events: drawn one by one they would take ten times as long.
SEEDS = st.integers(0, 1 << 32)

TENSORS = ("x", "y", "z")
JOINS = (Join.INNER, Join.OUTER, Join.ANY)
DOCUMENT = documents("kind: Pipeline", "p.yaml")[0][0]

Tensors: TypeAlias = "tuple[tuple[str, int], ...]"
# What a model does for one request: the tensors it gives, or None when it fails.
Behaviour: TypeAlias = "tuple[str, ...] | None"
# Node, round, side.
Key: TypeAlias = "tuple[int, int, Side]"
# What a source gives: since which fact, and what; or "out", or "never".
Source: TypeAlias = "tuple[int, Tensors] | str"


def reference(chance: Random, index: int, steps: int, *, back: bool) -> str:
    """A source of a step: the pipeline or a step before it, or (back) any step at all."""
    source = chance.randint(0, index - 1) if not back or chance.random() < 0.4 else chance.randint(1, steps)
    side = "inputs" if source == ENTRY else chance.choice(("outputs", "outputs", "inputs"))
    tensor = chance.choice(("", "", *(f".{name}" for name in TENSORS)))
    return f"{f's{source}' if source else 'p'}.{side}{tensor}"


def references(chance: Random, index: int, steps: int, join: Join, most: int, *, cycles: bool) -> tuple[str, ...]:
    # An inner join over a back edge never runs: there are some, for the compiler to refuse.
    back = cycles and (join is not Join.INNER or chance.random() < 0.03)
    found = (reference(chance, index, steps, back=back) for _ in range(chance.randint(1, most)))
    return tuple(dict.fromkeys(found))


def renames(chance: Random, index: int, inputs: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    if chance.random() < 0.7:
        return ()
    name, side, *tensor = chance.choice(inputs).split(".")
    renamed = tensor[0] if tensor else chance.choice(TENSORS)
    return ((f"{name}.{side}.{renamed}", f"{renamed}{index}"),)


def step(seed: int, index: int, steps: int, *, cycles: bool) -> Step:
    chance = Random(seed)
    joins = chance.choice(JOINS), chance.choice(JOINS)
    inputs = references(chance, index, steps, joins[0], 3, cycles=cycles)
    triggers = ()
    if chance.random() < 0.4:
        triggers = references(chance, index, steps, joins[1], 2, cycles=cycles)
    window = chance.choice((None, 1000))
    return Step(f"s{index}", inputs, joins[0], triggers, joins[1], window, renames(chance, index, inputs))


def output(seed: int, steps: int) -> Output:
    chance = Random(seed)
    join = chance.choice(JOINS)
    found = [reference(chance, steps + 1, steps, back=True) for _ in range(chance.randint(1, 3))]
    inputs = tuple(dict.fromkeys(text for text in found if not text.startswith("p."))) or (f"s{steps}.outputs",)
    return Output(inputs, join, chance.choice((None, 1000)), renames(chance, steps + 1, inputs))


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    seeds = draw(st.lists(SEEDS, min_size=1, max_size=8))
    cycles, visits, last = draw(st.tuples(st.booleans() | st.just(True), st.integers(0, 3), st.none() | SEEDS))
    return Pipeline(
        name="p",
        steps=tuple(step(seed, index, len(seeds), cycles=cycles) for index, seed in enumerate(seeds, start=1)),
        output=None if last is None else output(last, len(seeds)),
        allow_cycles=True,
        max_step_revisits=visits,
        document=DOCUMENT,
    )


def behaviour(chance: Random) -> Behaviour:
    """A failure now and then, often all tensors, else some of them."""
    if chance.random() < 0.15:
        return None
    return chance.choice([TENSORS, TENSORS, tuple(chance.sample(TENSORS, chance.randint(1, len(TENSORS))))])


def value(request: int, node: int, round_: int, tensor: str) -> int:
    return ((request * 100 + node) * 100 + round_) * 10 + TENSORS.index(tensor)


@dataclass
class Naive:
    """Section 6 of the design for one request, read out word by word after each event.

    given    what was decided, in that order: tensors, or (None) that there never will be any
    expired  for a node, a round and its data or triggers, the sources that there were when the window passed
    """

    plan: Plan
    given: dict[Key, Tensors | None] = field(default_factory=dict)
    calls: dict[tuple[int, int], Tensors] = field(default_factory=dict)
    answer: Tensors | None = None
    failures: list[tuple[int, type[Exception]]] = field(default_factory=list)
    expired: dict[tuple[int, int, bool], list[Source]] = field(default_factory=dict)
    begun: int = 0

    def __post_init__(self) -> None:
        # What is decided together, in the order in which it is told: the steps of a cycle, or a node alone.
        self.blocks: list[list[int]] = []
        for index, node in enumerate(self.plan.nodes):
            if node.cycle and self.plan.nodes[index - 1].cycle == node.cycle:
                self.blocks[-1].append(index)
            else:
                self.blocks.append([index])
        self.members = {self.plan.nodes[block[0]].cycle: block for block in self.blocks}

    def decide(self, node: int, round_: int, side: Side, tensors: Tensors | None) -> None:
        """A side has tensors now, or never will; then everything that can be said of the nodes is said."""
        self.begun = len(self.given)
        self.given[node, round_, side] = tensors
        while self._one_more():
            pass

    def expire(self, index: int, round_: int) -> None:
        """The window of a node has passed: an outer join that has something by now goes on with that."""
        self.begun = len(self.given)
        for gates in self.waiting(index, round_):
            sources = self._sources(index, round_, gates, len(self.given))
            self.expired[index, round_, gates] = ["never" if source == "out" else source for source in sources]
        while self._one_more():
            pass

    def waiting(self, index: int, round_: int) -> list[bool]:
        """Of data (False) and triggers (True) the outer joins that wait in a round, and have something."""
        if not self.plan.nodes[index].cycle and (index, 0, Side.INPUTS) in self.given:
            return []
        found = []
        for gates in (False, True):
            edges, join = self._half(index, gates)
            anew = self._anew(index, edges)
            if join is not Join.OUTER or len(self.plan.nodes[index].sources) < 2 or (round_ and not any(anew)):
                continue
            sources = self._sources(index, round_, gates, len(self.given))
            there = [new or not round_ for new, source in zip(anew, sources, strict=True) if isinstance(source, tuple)]
            if any(there) and self._group(index, round_, gates, len(self.given)) == "wait":
                found.append(gates)
        return found

    def _one_more(self) -> bool:
        for block in self.blocks[1:]:
            cycle = self.plan.nodes[block[0]].cycle
            for round_ in range(self._open(cycle)):
                for index in block:
                    if (index, round_, Side.INPUTS) in self.given:
                        continue
                    verdict = self._judge(index, round_, len(self.given)) if cycle else self._once(index)
                    if verdict != "wait":
                        self._settle(index, round_, verdict)
                        return True
        return False

    def _settle(self, index: int, round_: int, verdict: Tensors | str) -> None:
        visits = sum(node == index for node, _ in self.calls)
        if isinstance(verdict, tuple) and self.plan.nodes[index].cycle and visits == self.plan.max_visits:
            self.failures.append((index, TooManyVisits))
            verdict = "never"
        if isinstance(verdict, str):
            self.given[index, round_, Side.INPUTS] = None
            self.given[index, round_, Side.OUTPUTS] = None
            return
        self.given[index, round_, Side.INPUTS] = verdict
        if index == self.plan.output_index:
            names, edges = [name for name, _ in verdict], self.plan.nodes[index].edges
            if any(names.count(new) > 1 for edge in edges for _, new in edge.renames):
                self.failures.append((index, ModelFailed))
            else:
                self.answer = verdict
        else:
            self.calls[index, round_] = verdict

    def _once(self, index: int) -> Tensors | str:
        """A node outside cycles: by what it reads, or by the first round of the cycle it reads that has all of it."""
        own = self._own(index)
        if not own:
            return self._judge(index, 0, len(self.given))
        rounds = range(1 + max((round_ for node, round_, _ in self.given if node in self.members[own]), default=0))
        # One fact after the other, since each may be what makes a round complete.
        for moment in range(self.begun, len(self.given) + 1):
            verdicts = [self._judge(index, round_, moment) for round_ in rounds]
            for verdict in verdicts:
                if isinstance(verdict, tuple):
                    return verdict
            if self._ended(own, moment) and "wait" not in verdicts:
                return "never"
        return "wait"

    def _own(self, index: int) -> int:
        """The cycle whose rounds a node goes by: its own, or the only one that it reads."""
        node = self.plan.nodes[index]
        foreign = {self.plan.nodes[edge.source].cycle for edge in node.sources} - {0}
        return node.cycle or (foreign.pop() if len(foreign) == 1 else 0)

    def _open(self, cycle: int) -> int:
        """How many rounds there are: one more than those in which a step ran."""
        if not cycle:
            return 1
        return next(
            n for n in count(1) if not any(self.given.get((m, n - 1, Side.INPUTS)) for m in self.members[cycle])
        )

    def _ended(self, cycle: int, moment: int) -> bool:
        """Whether all steps are decided up to a round in which none ran."""
        facts = dict(list(self.given.items())[:moment])
        for round_ in count():
            if any((member, round_, Side.OUTPUTS) not in facts for member in self.members[cycle]):
                return False
            if not any(facts[member, round_, Side.INPUTS] for member in self.members[cycle]):
                return True
        raise AssertionError

    def _judge(self, index: int, round_: int, moment: int) -> Tensors | str:
        """What a node came to in a round by the facts up to a moment: its tensors, "wait" or "never"."""
        groups = [self._group(index, round_, gates, moment) for gates in (False, True)]
        if "never" in groups:
            return "never"
        return "wait" if "wait" in groups else groups[0]

    def _half(self, index: int, gates: bool) -> tuple[tuple[Edge, ...], Join]:  # noqa: FBT001  data or triggers
        node = self.plan.nodes[index]
        return (node.triggers, node.triggers_join) if gates else (node.edges, node.join)

    def _anew(self, index: int, edges: tuple[Edge, ...]) -> list[bool]:
        own = self._own(index)
        return [bool(own) and self.plan.nodes[edge.source].cycle == own for edge in edges]

    def _sources(self, index: int, round_: int, gates: bool, moment: int) -> list[Source]:  # noqa: FBT001
        return [self._source(index, edge, round_, moment) for edge in self._half(index, gates)[0]]

    def _source(self, index: int, edge: Edge, round_: int, moment: int) -> Source:
        """What an edge gives a node in a round, "out" while it may still come, "never" when it cannot."""
        cycle = self.plan.nodes[edge.source].cycle
        if cycle in (0, self._own(index)):
            at = round_ - edge.back if cycle else 0
            if at < 0:
                return "never"
            facts = [(when, fact) for when, fact in self._facts(edge, moment) if fact[1] == at]
            if not facts:
                return "out"
        else:
            facts = self._facts(edge, moment)
        for when, fact in facts:
            tensors = taken(edge, self.given[fact])
            if tensors is not None:
                return when, tensors
        return "never" if cycle in (0, self._own(index)) or self._ended(cycle, moment) else "out"

    def _facts(self, edge: Edge, moment: int) -> list[tuple[int, Key]]:
        return [
            (when, fact)
            for when, fact in enumerate(list(self.given)[:moment])
            if (fact[0], fact[2]) == (edge.source, edge.side)
        ]

    def _group(self, index: int, round_: int, gates: bool, moment: int) -> Tensors | str:  # noqa: FBT001
        """What a node's data or triggers come to: tensors, "wait" or "never"; where there are none, nothing."""
        edges, join = self._half(index, gates)
        if not edges:
            return ()
        anew = self._anew(index, edges)
        at = round_ if any(anew) else 0
        sources = self.expired.get((index, at, gates)) or self._sources(index, round_, gates, moment)
        fresh = [source for source, new in zip(sources, anew, strict=True) if new or not round_ or not any(anew)]
        if join is Join.ANY:
            sources = fresh
        if "never" in sources if join is Join.INNER else set(fresh) == {"never"}:
            return "never"
        there = [source for source in sources if isinstance(source, tuple)]
        if there and join is Join.ANY:
            return min(there, key=lambda source: source[0])[1]
        return "wait" if "out" in sources else tuple(pair for _, tensors in there for pair in tensors)

    def outcome(self) -> object:
        """ "answer", "ended", "nothing to tell", or the node that failed and how."""
        if self.answer is not None:
            return "answer"
        for node, kind in self.failures:
            if not self.plan.output or node in self._upstream():
                return node, kind
        return "ended" if self.plan.output else "nothing to tell"

    def _upstream(self) -> set[int]:
        assert self.plan.output_index is not None
        found: set[int] = set()
        more = {self.plan.output_index}
        while not more <= found:
            found |= more
            more = {edge.source for index in found for edge in self.plan.nodes[index].sources}
        return found


def taken(edge: Edge, tensors: Tensors | None) -> Tensors | None:
    """What an edge takes of tensors; None when one that it wants is not there."""
    if tensors is None or not {name for name, _ in tensors} >= set(edge.tensors):
        return None
    # A source may hold a name twice after a join; the last of them is taken.
    chosen = [(name, dict(tensors)[name]) for name in edge.tensors] if edge.tensors else list(tensors)
    return tuple((dict(edge.renames).get(name, name), number) for name, number in chosen)


class Batch:
    """Requests driven through the gather, each event told to the request's own interpreter too."""

    def __init__(self, plan: Plan, size: int) -> None:
        self.plan, self.gather = plan, Gather(plan)
        self.requests = [Progress() for _ in range(size)]
        self.number = {id(request): number for number, request in enumerate(self.requests)}
        self.naive = [Naive(plan) for _ in range(size)]
        self.calls: list[dict[tuple[int, int], Tensors]] = [{} for _ in range(size)]
        self.answers: list[Tensors | None] = [None] * size
        self.refused: list[Counter[int]] = [Counter() for _ in range(size)]
        self.begun: list[Counter[tuple[int, int]]] = [Counter() for _ in range(size)]
        self.done = [0] * size
        self.out: list[tuple[int, int, int]] = []
        self.waits: list[Wait] = []

    def start(self, groups: list[tuple[list[int], tuple[str, ...]]]) -> None:
        for numbers, names in groups:
            for number in numbers:
                self.naive[number].decide(ENTRY, 0, Side.INPUTS, self._tensors(number, ENTRY, 0, names))
            requests = [self.requests[number] for number in numbers]
            self._follow(self.gather.start(requests, self._columns(ENTRY, 0, numbers, names)))
            self._check_windows(numbers)

    def reply(self, node: int, round_: int, numbers: list[int], behaviour: Behaviour) -> None:
        for number in numbers:
            self.out.remove((node, round_, number))
            naive = self.naive[number]
            if behaviour is None:
                naive.failures.append((node, ModelFailed))
                naive.decide(node, round_, Side.OUTPUTS, None)
            else:
                naive.decide(node, round_, Side.OUTPUTS, self._tensors(number, node, round_, behaviour))
        requests = [self.requests[number] for number in numbers]
        if behaviour is None:
            self._follow(self.gather.fail(node, requests, ModelFailed("broken"), round_))
        else:
            columns = self._columns(node, round_, numbers, behaviour)
            self._follow(self.gather.answer(node, requests, columns, round_))
        self._check_windows(numbers)

    def expire(self, wait: Wait) -> None:
        self.waits.remove(wait)
        for request in wait.requests:
            self.naive[self.number[id(request)]].expire(wait.node, wait.round)
        self._follow(self.gather.expire(wait.node, wait.requests, wait.round))

    def _check_windows(self, numbers: list[int]) -> None:
        """Whatever waits with something in hand has its window, and no window begins twice."""
        for number in numbers:
            naive, begun = self.naive[number], self.begun[number]
            places = {(node, round_) for node, round_, _ in naive.given} | set(begun)
            for place in places | {(index, 0) for index in range(len(self.plan.nodes))}:
                if self.plan.nodes[place[0]].window is not None:
                    assert begun[place] >= len(naive.waiting(*place)), place
            for node, round_ in begun:
                found = self.plan.nodes[node]
                assert begun[node, round_] <= (found.join, found.triggers_join).count(Join.OUTER)

    def _tensors(self, number: int, node: int, round_: int, names: tuple[str, ...]) -> Tensors:
        return tuple((name, value(number, node, round_, name)) for name in names)

    def _columns(self, node: int, round_: int, numbers: list[int], names: tuple[str, ...]) -> Columns:
        specs = tuple(TensorSpec(name, "INT64", ()) for name in names)
        cells = tuple(np.array([value(number, node, round_, name) for number in numbers], "<i8") for name in names)
        return Columns([b"%d" % number for number in numbers], specs, cells)

    def _follow(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            numbers = [self.number[id(request)] for request in instruction.requests]
            if isinstance(instruction, Wait):
                self.waits.append(instruction)
                for number in numbers:
                    self.begun[number][instruction.node, instruction.round] += 1
            elif isinstance(instruction, Refused):
                for number in numbers:
                    self.refused[number][instruction.node] += 1
            elif isinstance(instruction, Done):
                for number in numbers:
                    self.done[number] += 1
            else:
                self._take(instruction, numbers)

    def _take(self, instruction: Call | Answer, numbers: list[int]) -> None:
        columns = instruction.columns
        assert columns.ids == [b"%d" % number for number in numbers]
        for row, number in enumerate(numbers):
            assert not self.done[number]
            pairs = zip(columns.names, columns.cells, strict=True)
            tensors = tuple((name, int(cells[row])) for name, cells in pairs)
            if isinstance(instruction, Call):
                place = instruction.node, instruction.round
                assert place not in self.calls[number]
                self.calls[number][place] = tensors
                self.out.append((*place, number))
            else:
                assert self.answers[number] is None
                self.answers[number] = tensors

    def outcome(self, number: int) -> object:
        error = self.gather.outcome(self.requests[number])
        if error is None:
            return "answer" if self.answers[number] is not None else "nothing to tell"
        if isinstance(error, NoAnswer):
            return "ended"
        nodes = self.plan.nodes
        return next(index for index in range(1, len(nodes)) if nodes[index].name == error.step), type(error)


def run(plan: Plan, size: int, chance: Random) -> Batch:
    """Start requests, let models answer and windows pass in a random order until nothing is out."""
    batch = Batch(plan, size)
    numbers, cut = chance.sample(range(size), size), chance.randint(0, size)
    batch.start([(part, behaviour(chance) or TENSORS) for part in (numbers[:cut], numbers[cut:]) if part])
    while batch.out:
        if batch.waits and chance.random() < 0.2:
            batch.expire(chance.choice(batch.waits))
            continue
        node, round_, _ = chance.choice(batch.out)
        waiting = [number for *place, number in batch.out if place == [node, round_]]
        batch.reply(node, round_, chance.sample(waiting, chance.randint(1, len(waiting))), behaviour(chance))
    for wait in list(batch.waits):
        batch.expire(wait)  # late: everything is done
    return batch


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pipelines().map(lambda pipeline: compile_pipeline(pipeline)[0]).filter(bool), st.integers(1, 4), SEEDS)
def test_batches_do_what_each_request_alone_would_do(plan: Plan, size: int, seed: int) -> None:
    note(as_text(plan))
    batch = run(plan, size, Random(seed))
    assert batch.done == [1] * size
    for number, naive in enumerate(batch.naive):
        assert {(index, 0, Side.INPUTS) for index in range(len(plan.nodes))} <= naive.given.keys()
        assert batch.calls[number] == naive.calls
        assert batch.answers[number] == naive.answer
        refused = [node for node, kind in naive.failures if kind is TooManyVisits or node == plan.output_index]
        assert batch.refused[number] == Counter(refused)
        assert batch.outcome(number) == naive.outcome()


def sources(inputs: tuple[str, ...], join: Join) -> list[str]:
    """The steps (or the pipeline) that a join's edges read; tensors of one source that must all be there are one."""
    found = [text.split(".") for text in inputs]
    if join is Join.INNER and len({(name, side) for name, side, *_ in found}) == 1:
        return [found[0][0]]
    return [name for name, *_ in found]


def groups(pipeline: Pipeline) -> dict[str, list[tuple[Join, list[str]]]]:
    """What each step and the output ("") wait for."""
    found = {
        step.name: [
            (join, sources(inputs, join))
            for inputs, join in ((step.inputs, step.inputs_join), (step.triggers, step.triggers_join))
            if inputs
        ]
        for step in pipeline.steps
    }
    if pipeline.output is not None:
        found[""] = [(pipeline.output.steps_join, sources(pipeline.output.steps, pipeline.output.steps_join))]
    return found


def can_all_run(waits: dict[str, list[tuple[Join, list[str]]]]) -> bool:
    """Whether everything comes at last, when whatever can run does."""
    come = {"p"}
    while True:
        more = {
            name
            for name, found in waits.items()
            if all((all if join is Join.INNER else any)(source in come for source in read) for join, read in found)
        }
        if more <= come:
            return waits.keys() <= come
        come |= more


def upstream(waits: dict[str, list[tuple[Join, list[str]]]]) -> dict[str, set[str]]:
    """For each step and the output, all that they depend on."""
    found = {name: {source for _, read in found for source in read} - {"p"} for name, found in waits.items()}
    for _ in found:
        found = {name: read.union(*(found[source] for source in read)) for name, read in found.items()}
    return found


def pairs_no_rounds(waits: dict[str, list[tuple[Join, list[str]]]]) -> bool:
    """Whether something has two edges of a cycle besides another cycle, its own or one that it reads."""
    above = upstream(waits)
    for name, found in waits.items():
        # A cycle is known by all that its steps depend on, which is the same for each.
        cycles = Counter(
            frozenset(above[source]) for _, read in found for source in read if source in above.get(source, ())
        )
        own = {frozenset(above[name])} if name in above[name] else set()
        several = len(cycles.keys() | own) > 1
        free = len(found) == 1 and found[0][0] is Join.ANY
        if several and not free and any(number > 1 for cycle, number in cycles.items() if cycle not in own):
            return True
    return False


@settings(max_examples=EXAMPLES, deadline=None)
@given(pipelines())
def test_only_what_can_never_run_or_pairs_no_rounds_is_refused(pipeline: Pipeline) -> None:
    plan, problems = compile_pipeline(pipeline)
    waits = groups(pipeline)
    assert (plan is not None) == (can_all_run(waits) and not pairs_no_rounds(waits)), problems


@settings(max_examples=EXAMPLES, deadline=None)
@given(pipelines().map(lambda pipeline: (compile_pipeline(pipeline)[0], pipeline)).filter(lambda pair: pair[0]))
def test_only_back_edges_lead_back_and_only_inside_a_cycle(pair: tuple[Plan, Pipeline]) -> None:
    plan, pipeline = pair
    above = upstream(groups(pipeline))
    for index in plan.steps:
        node = plan.nodes[index]
        assert bool(node.cycle) == (node.name in above[node.name])
        for edge in node.sources:
            source = plan.nodes[edge.source]
            together = edge.source != ENTRY and node.name in above[source.name]
            assert edge.back == (edge.source >= index)
            assert together == bool(node.cycle and source.cycle == node.cycle)
            assert together or not edge.back
