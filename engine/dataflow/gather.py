"""What a request still waits for, and what an answer sets off.

State and answers in, instructions out; no clock, no I/O. Requests move in batches: an answer is columns for many
requests at once, and so is each instruction. Joins are by request, so nothing waits for a window, a request's
answers never meet another's, and it is known at once when a node can no longer run.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

from engine.dataflow import steps
from engine.dataflow.plan import ENTRY
from engine.errors import NoAnswer, RequestError
from engine.protocol.record import Side
from engine.resources import Join

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.dataflow.plan import Edge, Node, Plan
    from engine.protocol.columns import Columns

# What a caller is told of a request without an answer: the first of these steps are the causes, the rest follows.
_MOST_REASONS = 5


class Progress:
    """How far one request has come: calls that are out, whether its output has run, and what went wrong."""

    __slots__ = ("answered", "failures", "open", "unmet", "waiting")

    def __init__(self) -> None:
        self.open = 0
        self.answered = False
        self.waiting: dict[int, _Waiting] | None = None
        self.failures: list[tuple[int, RequestError]] | None = None
        self.unmet: list[tuple[int, str]] | None = None


@dataclass(slots=True)
class _Group:
    """What of a node's data, or of its triggers, one request has: each source's columns and row, or None.

    What comes after the verdict is ignored, so that a node runs once and with what it was decided on.
    """

    parts: list[tuple[Columns, int] | None]
    out: int
    verdict: bool | None = None


@dataclass(slots=True)
class _Waiting:
    """What a node waits for of one request: True or False of each group decides it."""

    data: _Group
    triggers: _Group | None
    fired: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """Run a step for these requests; row i of the columns is request i's."""

    node: int
    requests: Sequence[Progress]
    columns: Columns


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
    """Call `expire` for this node and these requests after so many seconds."""

    node: int
    requests: Sequence[Progress]
    seconds: float


Instruction: TypeAlias = "Call | Answer | Done | Wait"

# Node, a number that makes it unique, side, requests, and the tensors if there are any.
_Decided: TypeAlias = "tuple[int, int, Side, Sequence[Progress], Columns | None]"


@dataclass
class Gather:
    """The deciding part of one plan's execution."""

    plan: Plan
    _instructions: list[Instruction] = field(default_factory=list)
    # Sides that are decided and whose readers are not told yet: a heap, since pipelines may be deeper than the stack,
    # and so that of sources that come at once an `any` join takes the one that stands first in the plan.
    _decided: list[_Decided] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)

    def start(self, requests: Sequence[Progress], columns: Columns) -> list[Instruction]:
        """Requests come in with their tensors."""
        self._decide(ENTRY, Side.INPUTS, requests, columns)
        return self._take(requests)

    def answer(self, node: int, requests: Sequence[Progress], columns: Columns) -> list[Instruction]:
        """A step that was called has answered."""
        for request in requests:
            request.open -= 1
        self._decide(node, Side.OUTPUTS, requests, columns)
        return self._take(requests)

    def fail(self, node: int, requests: Sequence[Progress], error: RequestError) -> list[Instruction]:
        """A step that was called has failed."""
        placed = error.at(self.plan.nodes[node].name)
        for request in requests:
            request.open -= 1
            request.failures = [*(request.failures or ()), (node, placed)]
        self._decide(node, Side.OUTPUTS, requests, None)
        return self._take(requests)

    def expire(self, node: int, requests: Sequence[Progress]) -> list[Instruction]:
        """The window of an outer join has passed for these requests: what has come by now is what it runs with."""
        target = self.plan.nodes[node]
        decided: list[tuple[Progress, _Waiting]] = []
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
        reasons = [text for node, text in request.unmet or () if node in upstream]
        told = [*reasons[:_MOST_REASONS], *(["…"] if len(reasons) > _MOST_REASONS else [])]
        return NoAnswer(f'pipeline "{self.plan.name}" ended without an answer: {"; ".join(told)}')

    def _take(self, requests: Sequence[Progress]) -> list[Instruction]:
        while self._decided:
            node, _, side, decided, columns = heapq.heappop(self._decided)
            if columns is None:
                self._forgo(node, side, decided)
            else:
                self._resolve(node, side, decided, columns)
        done = [request for request in requests if not request.open]
        if done:
            self._instructions.append(Done(done))
        instructions, self._instructions = self._instructions, []
        return instructions

    def _decide(self, node: int, side: Side, requests: Sequence[Progress], columns: Columns | None) -> None:
        """One side of a node has its tensors, or (None) never will."""
        heapq.heappush(self._decided, (node, next(self._numbers), side, requests, columns))

    def _resolve(self, node: int, side: Side, requests: Sequence[Progress], columns: Columns) -> None:
        """One side of a node has its tensors: run whatever reads it and waits for nothing else."""
        for reader, position in self.plan.readers.get((node, side), ()):
            target = self.plan.nodes[reader]
            if target.waits:
                self._offer(reader, target, position, requests, columns)
                continue
            selected = steps.select(columns, target.edges[position])
            if selected is None:
                self._unmet(reader, requests, self._lacking(columns, target.edges[position]))
            else:
                self._run(reader, requests, selected)

    def _forgo(self, node: int, side: Side, requests: Sequence[Progress]) -> None:
        """One side of a node will never have tensors for these requests."""
        for reader, position in self.plan.readers.get((node, side), ()):
            target = self.plan.nodes[reader]
            if target.waits:
                self._offer(reader, target, position, requests, None)
            else:
                self._unmet(reader, requests, f"{self.plan.reference(target.edges[position])} gave nothing")

    def _run(self, node: int, requests: Sequence[Progress], columns: Columns) -> None:
        if node == self.plan.output_index:
            for request in requests:
                request.answered = True
            self._instructions.append(Answer(requests, columns))
            return
        for request in requests:
            request.open += 1
        self._instructions.append(Call(node, requests, columns))
        self._decide(node, Side.INPUTS, requests, columns)

    def _unmet(self, node: int, requests: Sequence[Progress], reason: str) -> None:
        name = self.plan.nodes[node].name
        what = "the output" if node == self.plan.output_index else f'step "{name}"'
        entry = (node, f"{what} did not run, {reason}")
        for request in requests:
            if request.unmet is None:
                request.unmet = []
            request.unmet.append(entry)
        self._decide(node, Side.INPUTS, requests, None)
        self._decide(node, Side.OUTPUTS, requests, None)

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
        decided: list[tuple[Progress, _Waiting]] = []
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
            group.verdict = _verdict(join, group)
            if group.verdict is not None:
                decided.append((request, waiting))
        if begun and node.window is not None:
            self._instructions.append(Wait(reader, begun, node.window))
        self._fire(reader, decided)

    def _fire(self, node: int, decided: Sequence[tuple[Progress, _Waiting]]) -> None:
        """Of requests whose data or triggers are decided, run those that wait for nothing else, or give them up."""
        ready: list[tuple[Progress, _Waiting]] = []
        hopeless: list[Progress] = []
        for request, waiting in decided:
            if waiting.fired:
                continue
            verdicts = (waiting.data.verdict, True if waiting.triggers is None else waiting.triggers.verdict)
            if False in verdicts:
                waiting.fired = True
                hopeless.append(request)
            elif None not in verdicts:
                waiting.fired = True
                ready.append((request, waiting))
        if ready:
            self._run_joined(node, ready)
        if hopeless:
            self._unmet(node, hopeless, self._unjoined(self.plan.nodes[node]))

    def _unjoined(self, node: Node) -> str:
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

    def _run_joined(self, reader: int, ready: list[tuple[Progress, _Waiting]]) -> None:
        """Run a joining node; requests whose parts come from the same columns stay together."""
        groups: dict[tuple[int, ...], list[tuple[Progress, _Waiting]]] = {}
        for request, waiting in ready:
            key = tuple(id(part[0]) if part else 0 for part in waiting.data.parts)
            groups.setdefault(key, []).append((request, waiting))
        for group in groups.values():
            parts = []
            for position, part in enumerate(group[0][1].data.parts):
                if part is not None:
                    rows = [waiting.data.parts[position][1] for _, waiting in group]  # type: ignore[index]
                    parts.append(part[0].take(rows))
            self._run(reader, [request for request, _ in group], steps.merge(parts))


def _waiting(request: Progress, index: int, node: Node) -> _Waiting:
    """What a request's node waits for, made when it is first asked for."""
    if request.waiting is None:
        request.waiting = {}
    found = request.waiting.get(index)
    if found is None:
        data, gates = len(node.edges), len(node.triggers)
        found = _Waiting(_Group([None] * data, data), _Group([None] * gates, gates) if gates else None)
        request.waiting[index] = found
    return found


def _verdict(join: Join, group: _Group) -> bool | None:
    """True: it has what it needs; False: it never will; None: it waits on."""
    given = sum(part is not None for part in group.parts)
    if join is Join.INNER:
        if given + group.out < len(group.parts):
            return False
        return None if group.out else True
    if given and (join is Join.ANY or not group.out):
        return True
    return None if group.out else False
