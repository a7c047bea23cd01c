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
class _Waiting:
    """What a joining node has of one request: for each edge the source's columns and row, None while it is out."""

    parts: list[tuple[Columns, int] | None]
    out: int
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


Instruction: TypeAlias = "Call | Answer | Done"

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
            if len(target.edges) > 1:
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
            if len(target.edges) > 1:
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
        """One edge of a joining node is decided, with tensors or (None) without."""
        selected = None if columns is None else steps.select(columns, node.edges[position])
        ready: list[tuple[Progress, _Waiting]] = []
        hopeless: list[Progress] = []
        for row, request in enumerate(requests):
            if request.waiting is None:
                request.waiting = {}
            waiting = request.waiting.get(reader)
            if waiting is None:
                waiting = request.waiting[reader] = _Waiting([None] * len(node.edges), len(node.edges))
            if waiting.fired:
                continue
            waiting.out -= 1
            if selected is not None:
                waiting.parts[position] = (selected, row)
            verdict = _verdict(node.join, waiting)
            if verdict is not None:
                waiting.fired = True
                if verdict:
                    ready.append((request, waiting))
                else:
                    hopeless.append(request)
        if ready:
            self._run_joined(reader, ready)
        if hopeless:
            self._unmet(reader, hopeless, self._unjoined(node))

    def _unjoined(self, node: Node) -> str:
        names = ", ".join(self.plan.reference(edge) for edge in node.edges)
        return f"not all of {names} gave what it wants" if node.join is Join.INNER else f"none of {names} gave anything"

    def _run_joined(self, reader: int, ready: list[tuple[Progress, _Waiting]]) -> None:
        """Run a joining node; requests whose parts come from the same columns stay together."""
        groups: dict[tuple[int, ...], list[tuple[Progress, _Waiting]]] = {}
        for request, waiting in ready:
            key = tuple(id(part[0]) if part else 0 for part in waiting.parts)
            groups.setdefault(key, []).append((request, waiting))
        for group in groups.values():
            parts = []
            for position, part in enumerate(group[0][1].parts):
                if part is not None:
                    rows = [waiting.parts[position][1] for _, waiting in group]  # type: ignore[index]
                    parts.append(part[0].take(rows))
            self._run(reader, [request for request, _ in group], steps.merge(parts))


def _verdict(join: Join, waiting: _Waiting) -> bool | None:
    """True to run, False to give up, None to wait on."""
    given = sum(part is not None for part in waiting.parts)
    if join is Join.INNER:
        if given + waiting.out < len(waiting.parts):
            return False
        return None if waiting.out else True
    if given and (join is Join.ANY or not waiting.out):
        return True
    return None if waiting.out else False
