"""What a request still waits for, and what an answer sets off.

State and answers in, instructions out; no clock, no I/O. Requests move in batches: an answer is columns for many
requests at once, and so is each instruction. Joins are by request, so nothing waits for a window, a request's
answers never meet another's, and it is known at once when a node can no longer run. Steps of a cycle run in rounds,
which are kept apart in `rounds`; outside cycles there is round 0 and nothing of that is looked at.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from engine.dataflow import steps
from engine.dataflow.plan import ENTRY
from engine.dataflow.rounds import Cycles, Rounds
from engine.dataflow.waiting import Group, Waiting, verdict
from engine.errors import ModelFailed, NoAnswer, RequestError, TooManyVisits
from engine.protocol.record import Side
from engine.resources import Join

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.dataflow.plan import Edge, Node, Plan
    from engine.dataflow.rounds import Event
    from engine.dataflow.waiting import Part
    from engine.protocol.columns import Columns

# What a caller is told of a request without an answer: the first of these steps are the causes, the rest follows.
_MOST_REASONS = 5


class Progress:
    """How far one request has come: calls that are out, whether its output has run, and what went wrong."""

    __slots__ = ("answered", "failures", "open", "rounds", "unmet", "waiting")

    def __init__(self) -> None:
        self.open = 0
        self.answered = False
        self.waiting: dict[int, Waiting] | None = None
        self.rounds: Rounds | None = None
        self.failures: list[tuple[int, RequestError]] | None = None
        self.unmet: list[tuple[int, str]] | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """Run a step for these requests; row i of the columns is request i's, and the answer must name the round."""

    node: int
    requests: Sequence[Progress]
    columns: Columns
    round: int = 0


@dataclass(frozen=True, slots=True)
class Refused:
    """These requests failed at a step without a call of it."""

    node: int
    requests: Sequence[Progress]
    error: RequestError


@dataclass(frozen=True, slots=True)
class Answer:
    """The pipeline's answer for these requests."""

    requests: Sequence[Progress]
    columns: Columns


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to run for these requests."""

    requests: Sequence[Progress]


@dataclass(frozen=True, slots=True)
class Wait:
    """Call `expire` for this node, these requests and this round after so many seconds."""

    node: int
    requests: Sequence[Progress]
    seconds: float
    round: int = 0


Instruction: TypeAlias = "Call | Refused | Answer | Done | Wait"

# What it is ordered by, a number that makes it unique, node, side, round, requests, and the tensors if there are any.
_Decided: TypeAlias = "tuple[int | tuple[int, int, int], int, int, Side, int, Sequence[Progress], Columns | None]"


@dataclass
class Gather:
    """The deciding part of one plan's execution."""

    plan: Plan
    _instructions: list[Instruction] = field(default_factory=list)
    # Sides that are decided and whose readers are not told yet: a heap, since pipelines may be deeper than the stack,
    # and so that of sources that come at once an `any` join takes the one that stands first in the plan. The steps
    # of a cycle are told round by round, before whatever stands behind the cycle.
    _decided: list[_Decided] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)
    _cycles: Cycles | None = None

    def __post_init__(self) -> None:
        """A plan without cycles is run without a look at rounds."""
        if any(node.cycle for node in self.plan.nodes):
            self._cycles = Cycles(self.plan)

    def start(self, requests: Sequence[Progress], columns: Columns) -> list[Instruction]:
        """Requests come in with their tensors."""
        if self._cycles is not None:
            for request in requests:
                request.rounds = Rounds(self._cycles)
        self._decide(ENTRY, Side.INPUTS, requests, columns)
        return self._take(requests)

    def answer(
        self,
        node: int,
        requests: Sequence[Progress],
        columns: Columns,
        round: int = 0,  # noqa: A002  the call's own field
    ) -> list[Instruction]:
        """A step that was called has answered."""
        for request in requests:
            request.open -= 1
        self._decide(node, Side.OUTPUTS, requests, columns, round)
        return self._take(requests)

    def fail(
        self,
        node: int,
        requests: Sequence[Progress],
        error: RequestError,
        round: int = 0,  # noqa: A002  the call's own field
    ) -> list[Instruction]:
        """A step that was called has failed."""
        placed = error.at(self.plan.nodes[node].name)
        for request in requests:
            request.open -= 1
            request.failures = [*(request.failures or ()), (node, placed)]
        self._decide(node, Side.OUTPUTS, requests, None, round)
        return self._take(requests)

    def expire(
        self,
        node: int,
        requests: Sequence[Progress],
        round: int = 0,  # noqa: A002  the wait's own field
    ) -> list[Instruction]:
        """The window of an outer join has passed for these requests: what has come by now is what it runs with."""
        if self._cycles is not None and node in self._cycles.readers:
            found = [(request, _rounds(request).expire(node, round)) for request in requests]
            self._settle(found)
            return self._take([request for request, events in found if events])
        target = self.plan.nodes[node]
        decided: list[tuple[Progress, Waiting]] = []
        for request in requests:
            waiting = request.waiting.get(node) if request.waiting else None
            if waiting is None or waiting.fired:
                continue
            for group, join in ((waiting.data, target.join), (waiting.triggers, target.triggers_join)):
                if group is not None and group.verdict is None and join is Join.OUTER and any(group.parts):
                    group.verdict = True
            decided.append((request, waiting))
        self._fire(node, decided)
        return self._take([request for request, _ in decided])

    def outcome(self, request: Progress) -> RequestError | None:
        """Why a request that is done has no answer; None when it has one, or none was to come."""
        if request.answered:
            return None
        upstream = self.plan.before_output
        for node, error in request.failures or ():
            if node in upstream or not self.plan.output:
                return error
        if not self.plan.output:
            return None
        # A step of a cycle that did not run in the first round may have run in a later one.
        ran = request.rounds.visits if request.rounds else ()
        reasons = [text for node, text in request.unmet or () if node in upstream and node not in ran]
        told = [*reasons[:_MOST_REASONS], *(["…"] if len(reasons) > _MOST_REASONS else [])]
        return NoAnswer(f'pipeline "{self.plan.name}" ended without an answer: {"; ".join(told)}')

    def _take(self, requests: Sequence[Progress]) -> list[Instruction]:
        while self._decided:
            _, _, node, side, round_, decided, columns = heapq.heappop(self._decided)
            if self._cycles is not None and self.plan.nodes[node].cycle:
                self._go_round(node, side, round_, decided, columns)
            elif columns is None:
                self._forgo(node, side, decided, round_)
            else:
                self._resolve(node, side, decided, columns, round_)
        done = [request for request in requests if not request.open]
        if done:
            self._instructions.append(Done(done))
        instructions, self._instructions = self._instructions, []
        return instructions

    def _decide(
        self, node: int, side: Side, requests: Sequence[Progress], columns: Columns | None, round_: int = 0
    ) -> None:
        """One side of a node has its tensors, or (None) never will."""
        place = node if self._cycles is None else (self._cycles.first[node], round_, node)
        heapq.heappush(self._decided, (place, next(self._numbers), node, side, round_, requests, columns))

    def _resolve(self, node: int, side: Side, requests: Sequence[Progress], columns: Columns, round_: int) -> None:
        """One side of a node has its tensors: run whatever reads it and waits for nothing else."""
        for reader, position in self.plan.readers.get((node, side), ()):
            target = self.plan.nodes[reader]
            if self._cycles is not None and reader in self._cycles.readers:
                self._turn(reader, target, position, requests, columns, round_)
                continue
            if target.waits:
                self._offer(reader, target, position, requests, columns)
                continue
            selected = steps.select(columns, target.edges[position])
            if selected is None:
                self._unmet(reader, requests, self._lacking(columns, target.edges[position]), round_)
            else:
                self._run(reader, requests, selected, round_)

    def _forgo(self, node: int, side: Side, requests: Sequence[Progress], round_: int) -> None:
        """One side of a node will never have tensors for these requests."""
        for reader, position in self.plan.readers.get((node, side), ()):
            target = self.plan.nodes[reader]
            if self._cycles is not None and reader in self._cycles.readers:
                self._turn(reader, target, position, requests, None, round_)
            elif target.waits:
                self._offer(reader, target, position, requests, None)
            else:
                self._unmet(reader, requests, f"{self.plan.reference(target.edges[position])} gave nothing", round_)

    def _run(self, node: int, requests: Sequence[Progress], columns: Columns, round_: int = 0) -> None:
        if self._cycles is not None and self.plan.nodes[node].cycle:
            self._decide(node, Side.INPUTS, requests, columns, round_)
            return
        if node == self.plan.output_index:
            self._give(node, requests, columns)
            return
        for request in requests:
            request.open += 1
        self._instructions.append(Call(node, requests, columns))
        self._decide(node, Side.INPUTS, requests, columns)

    def _give(self, node: int, requests: Sequence[Progress], columns: Columns) -> None:
        """The output has its tensors: they are the answer, unless a tensorMap gave one of them another's name.

        Outputs of several steps may share a name that none was given, and are told apart by their order.
        """
        renames = self.plan.output_renames
        taken = [name for name in columns.repeated if name in renames] if renames else []
        if taken:
            text = f'two of its outputs are named "{taken[0]}"; give them different names by tensorMap'
            self._fail_before(node, requests, ModelFailed(text, step=self.plan.name))
            return
        for request in requests:
            request.answered = True
        self._instructions.append(Answer(requests, columns))

    def _fail_before(self, node: int, requests: Sequence[Progress], error: RequestError) -> None:
        for request in requests:
            request.failures = [*(request.failures or ()), (node, error)]
        self._instructions.append(Refused(node, requests, error))

    def _unmet(self, node: int, requests: Sequence[Progress], reason: str, round_: int = 0) -> None:
        name = self.plan.nodes[node].name
        what = "the output" if node == self.plan.output_index else f'step "{name}"'
        entry = (node, f"{what} did not run, {reason}")
        # Every cycle ends with a round in which nothing runs: that explains nothing.
        for request in requests if not round_ else ():
            if request.unmet is None:
                request.unmet = []
            request.unmet.append(entry)
        self._decide(node, Side.INPUTS, requests, None, round_)
        self._decide(node, Side.OUTPUTS, requests, None, round_)

    def _lacking(self, columns: Columns, edge: Edge) -> str:
        missing = ", ".join(f'"{name}"' for name in steps.absent(columns, edge))
        return f"{self.plan.reference(edge)} gave {', '.join(columns.names)} and not {missing}"

    def _offer(
        self, reader: int, node: Node, position: int, requests: Sequence[Progress], columns: Columns | None
    ) -> None:
        """One source of a node that waits is decided, with tensors or (None) without."""
        selected = None if columns is None else steps.select(columns, node.sources[position])
        gates = position >= len(node.edges)
        join, place = (node.triggers_join, position - len(node.edges)) if gates else (node.join, position)
        windowed = node.window is not None and join is Join.OUTER
        decided: list[tuple[Progress, Waiting]] = []
        begun: list[Progress] = []
        for row, request in enumerate(requests):
            waiting = _waiting(request, reader, node)
            group = waiting.triggers if gates else waiting.data
            if group is None or group.verdict is not None:
                continue
            group.out -= 1
            if selected is not None:
                if windowed and not any(group.parts):
                    begun.append(request)
                group.parts[place] = (selected, row)
            group.verdict = verdict(join, group)
            if group.verdict is not None:
                decided.append((request, waiting))
        if begun and node.window is not None:
            self._instructions.append(Wait(reader, begun, node.window))
        self._fire(reader, decided)

    def _fire(self, node: int, decided: Sequence[tuple[Progress, Waiting]]) -> None:
        """Of requests whose data or triggers are decided, run those that wait for nothing else, or give them up."""
        ready: list[tuple[Progress, list[Part | None]]] = []
        hopeless: list[Progress] = []
        for request, waiting in decided:
            if waiting.fired:
                continue
            runs = waiting.verdict
            waiting.fired = runs is not None
            if runs:
                ready.append((request, waiting.data.parts))
            elif runs is False:
                hopeless.append(request)
        if ready:
            self._run_joined(node, ready)
        if hopeless:
            self._unmet(node, hopeless, self._unjoined(self.plan.nodes[node]))

    def _unjoined(self, node: Node) -> str:
        if not node.cycle and any(self.plan.nodes[edge.source].cycle for edge in node.sources):
            names = ", ".join(dict.fromkeys(self.plan.reference(edge) for edge in node.sources))
            return f"no round gave what it wants of {names}"
        reasons = []
        for what, edges, join in (("", node.edges, node.join), ("as triggers ", node.triggers, node.triggers_join)):
            names = ", ".join(self.plan.reference(edge) for edge in edges)
            if names:
                reasons.append(
                    f"{what}not all of {names} gave what it wants"
                    if join is Join.INNER
                    else f"{what}none of {names} gave anything"
                )
        return " or ".join(reasons)

    def _run_joined(self, reader: int, ready: Sequence[tuple[Progress, list[Part | None]]], round_: int = 0) -> None:
        """Run a joining node; requests whose parts come from the same columns stay together."""
        groups: dict[tuple[int, ...], list[tuple[Progress, list[Part | None]]]] = {}
        for request, found in ready:
            key = tuple(id(part[0]) if part else 0 for part in found)
            groups.setdefault(key, []).append((request, found))
        for group in groups.values():
            parts = []
            for position, part in enumerate(group[0][1]):
                if part is not None:
                    rows = [found[position][1] for _, found in group]  # type: ignore[index]
                    parts.append(part[0].take(rows))
            self._run(reader, [request for request, _ in group], steps.merge(parts), round_)

    def _go_round(
        self, node: int, side: Side, round_: int, requests: Sequence[Progress], columns: Columns | None
    ) -> None:
        """One side of a step of a cycle is decided in a round."""
        cycle = self.plan.nodes[node].cycle
        if columns is None:
            self._forgo(node, side, requests, round_)
        else:
            if side is Side.INPUTS:
                requests, columns = self._visit(node, requests, columns, round_)
                self._settle((request, _rounds(request).ran(cycle, round_)) for request in requests)
            if requests:
                self._resolve(node, side, requests, columns, round_)
        if side is Side.OUTPUTS:
            self._settle((request, _rounds(request).decided(cycle, round_)) for request in requests)

    def _visit(
        self, node: int, requests: Sequence[Progress], columns: Columns, round_: int
    ) -> tuple[Sequence[Progress], Columns]:
        """Call a step of a cycle for the requests that may visit it once more; the others fail there."""
        rows, refused = [], []
        for row, request in enumerate(requests):
            visits = _rounds(request).visits
            if visits[node] < self.plan.max_visits:
                visits[node] += 1
                request.open += 1
                rows.append(row)
            else:
                refused.append(request)
        if refused:
            self._refuse(node, refused, round_)
        requests, columns = [requests[row] for row in rows], columns.take(rows)
        if requests:
            self._instructions.append(Call(node, requests, columns, round_))
        return requests, columns

    def _refuse(self, node: int, requests: Sequence[Progress], round_: int) -> None:
        name, most = self.plan.nodes[node].name, self.plan.max_visits
        times = "once" if most == 1 else f"{most} times"
        error = TooManyVisits(f'step "{name}" was visited {times}, the most that maxStepRevisits allows', step=name)
        self._fail_before(node, requests, error)
        self._decide(node, Side.INPUTS, requests, None, round_)
        self._decide(node, Side.OUTPUTS, requests, None, round_)

    def _turn(
        self,
        reader: int,
        node: Node,
        position: int,
        requests: Sequence[Progress],
        columns: Columns | None,
        round_: int,
    ) -> None:
        """One source of a node that has to do with a cycle is decided in a round, with tensors or (None) without."""
        selected = None if columns is None else steps.select(columns, node.sources[position])
        self._settle(
            (request, _rounds(request).offer(reader, position, round_, None if selected is None else (selected, row)))
            for row, request in enumerate(requests)
        )

    def _settle(self, found: Iterable[tuple[Progress, Sequence[Event]]]) -> None:
        """Do for several requests what their rounds came to; those that run the same stay together."""
        ready: dict[tuple[int, int], list[tuple[Progress, list[Part | None]]]] = {}
        hopeless: dict[tuple[int, int], list[Progress]] = {}
        begun: dict[tuple[int, int], list[Progress]] = {}
        for request, events in found:
            for event in events:
                place = event.node, event.round
                if event.begins:
                    begun.setdefault(place, []).append(request)
                elif event.parts is None:
                    hopeless.setdefault(place, []).append(request)
                else:
                    ready.setdefault(place, []).append((request, event.parts))
        for (node, round_), requests in begun.items():
            self._instructions.append(Wait(node, requests, self.plan.nodes[node].window or 0, round_))
        for (node, round_), pairs in ready.items():
            self._run_joined(node, pairs, round_)
        for (node, round_), requests in hopeless.items():
            self._unmet(node, requests, self._unjoined(self.plan.nodes[node]), round_)


def _waiting(request: Progress, index: int, node: Node) -> Waiting:
    """What a request's node waits for, made when it is first asked for."""
    if request.waiting is None:
        request.waiting = {}
    found = request.waiting.get(index)
    if found is None:
        data, gates = len(node.edges), len(node.triggers)
        found = Waiting(Group([None] * data, data), Group([None] * gates, gates) if gates else None)
        request.waiting[index] = found
    return found


def _rounds(request: Progress) -> Rounds:
    """The rounds of a request that was started in a plan with cycles."""
    assert request.rounds is not None
    return request.rounds
