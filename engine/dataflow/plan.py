"""A pipeline, compiled: nodes and edges as plain frozen data that execution, the command line and the page all read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from engine.protocol.record import Side
from engine.resources import Batch, Join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.protocol.columns import Columns

# The node that stands for what comes in; its inputs are the request's tensors.
ENTRY = 0


@dataclass(frozen=True, slots=True)
class Edge:
    """One source of a node: a side of another node, and what of it is taken.

    tensors   the tensors wanted, in the order of the references; none means all of them
    renames   (tensor, new name) pairs of the tensorMap
    back      it closes a cycle: what the source gives in one round is read in the next
    """

    source: int
    side: Side
    tensors: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    back: bool = False


@dataclass(frozen=True, slots=True)
class Node:
    """A step, the entry (index 0) or the output (the last) of a plan.

    edges          the data, in the order of the references; a node without edges is never run
    join           how many of the edges it waits for
    triggers       what it waits for besides, without taking anything of it
    triggers_join  how many of the triggers it waits for
    window         seconds that an outer join waits after its first source for the others; None: until all are decided
    batch          rows of several requests that are collected for one call; None: each request is called for itself
    cycle          the number of the cycle that the step is part of; 0: none
    """

    name: str
    edges: tuple[Edge, ...] = ()
    join: Join = Join.INNER
    triggers: tuple[Edge, ...] = ()
    triggers_join: Join = Join.INNER
    window: float | None = None
    batch: Batch | None = None
    cycle: int = 0

    @property
    def sources(self) -> tuple[Edge, ...]:
        """The data and, after them, the triggers."""
        return self.edges + self.triggers

    @property
    def may_repeat(self) -> bool:
        """Whether tensors of different names, or of different sources, can come to it under one name."""
        return len(self.edges) > 1 or any(edge.renames or len(edge.tensors) > 1 for edge in self.edges)

    @property
    def waits(self) -> bool:
        """Whether it has more than one source, so that there is something to wait for."""
        return len(self.edges) > 1 or bool(self.triggers)


@dataclass(frozen=True)
class Plan:
    """A pipeline ready to run and to draw.

    nodes       the entry, then the steps so that each stands after its sources but for those of back edges, and the
                steps of a cycle side by side; then the output when there is one
    output      whether the last node is the output
    max_visits  how often a step of a cycle runs for one request at most
    """

    name: str
    nodes: tuple[Node, ...]
    output: bool
    max_visits: int = 1

    @property
    def steps(self) -> range:
        """The indices of the steps."""
        return range(1, len(self.nodes) - self.output)

    @property
    def output_index(self) -> int | None:
        """The index of the output."""
        return len(self.nodes) - 1 if self.output else None

    @cached_property
    def readers(self) -> dict[tuple[int, Side], tuple[tuple[int, int], ...]]:
        """For each side of a node, the (node, position among its sources) pairs that read it."""
        found: dict[tuple[int, Side], list[tuple[int, int]]] = {}
        for index, node in enumerate(self.nodes):
            for position, edge in enumerate(node.sources):
                found.setdefault((edge.source, edge.side), []).append((index, position))
        return {source: tuple(pairs) for source, pairs in found.items()}

    @cached_property
    def before_output(self) -> frozenset[int]:
        """The nodes whose answers the output depends on, itself included."""
        seen: set[int] = set()
        waiting = [self.output_index] if self.output_index is not None else []
        while waiting:
            index = waiting.pop()
            if index not in seen:
                seen.add(index)
                waiting.extend(edge.source for edge in self.nodes[index].sources)
        return frozenset(seen)

    @cached_property
    def output_renames(self) -> frozenset[str]:
        """The names that the output's tensorMap gives."""
        edges = self.nodes[-1].edges if self.output else ()
        return frozenset(new for edge in edges for _, new in edge.renames)

    def reference(self, edge: Edge) -> str:
        """An edge's source as a user writes it: `step.outputs`."""
        return f"{self.nodes[edge.source].name}.{edge.side}"

    def told(self, node: int, columns: Columns) -> str:
        """What a joining node reads and was given, for an error: its sources, and the tensors' types and shapes."""
        sources = ", ".join(f"{self.reference(edge)}{_taken(edge)}" for edge in self.nodes[node].edges)
        tensors = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in columns.specs)
        return f"it joins {sources} and was given {tensors}"


def single_model(name: str) -> Plan:
    """The plan of a model called without a pipeline: everything in, everything out."""
    return Plan(
        name,
        (Node(name), Node(name, (Edge(ENTRY, Side.INPUTS),)), Node(name, (Edge(1, Side.OUTPUTS),))),
        output=True,
    )


def as_text(plan: Plan) -> str:
    """The plan as indented lines, one for a node and one for each of its sources."""
    lines = [f"pipeline {plan.name}"]
    for title, index in _titles(plan):
        node = plan.nodes[index]
        lines.append(f"  {title}{_manner(node)}")
        lines.extend(f"    <- {plan.reference(edge)}{_taken(edge)}{_next_round(edge)}" for edge in node.edges)
        if node.triggers:
            join = f" ({node.triggers_join})" if len(node.triggers) > 1 else ""
            lines.append(f"    triggered by{join}")
            lines.extend(f"    <~ {plan.reference(edge)}{_taken(edge)}{_next_round(edge)}" for edge in node.triggers)
    return "\n".join(lines) + "\n"


def as_mermaid(plan: Plan) -> str:
    """The plan as a mermaid flowchart, left to right."""
    lines = ["flowchart LR", f'  n0(["{plan.name}.inputs"])']
    for title, index in _titles(plan):
        batch = plan.nodes[index].batch
        label = f"{title}<br/>{_rows(batch)}" if batch else title
        shape = f'n{index}(["{plan.name}.outputs"])' if index == plan.output_index else f'n{index}["{label}"]'
        lines.append(f"  {shape}")
    for index, node in enumerate(plan.nodes):
        lines.extend(f"  n{edge.source} {_arrow('-->', edge)} n{index}" for edge in node.edges)
        lines.extend(f"  n{edge.source} {_arrow('-.->', edge)} n{index}" for edge in node.triggers)
    return "\n".join(lines) + "\n"


def as_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain data for JSON."""
    return {
        "pipeline": plan.name,
        "nodes": [
            {
                "name": node.name,
                "kind": "entry" if index == ENTRY else "output" if index == plan.output_index else "step",
                "join": str(node.join),
                "sources": [_edge_data(plan, edge) for edge in node.edges],
                **_triggers_data(plan, node),
                **_batch_data(node),
            }
            for index, node in enumerate(plan.nodes)
        ],
    }


def _arrow(line: str, edge: Edge) -> str:
    label = (_taken(edge) + _next_round(edge)).strip()
    if edge.side is Side.INPUTS and edge.source != ENTRY:
        label = f"inputs {label}".strip()
    label = label.replace('"', "#quot;")
    return f'{line}|"{label}"|' if label else line


def _triggers_data(plan: Plan, node: Node) -> dict[str, Any]:
    if not node.triggers:
        return {}
    return {
        "triggersJoin": str(node.triggers_join),
        "triggers": [_edge_data(plan, edge) for edge in node.triggers],
    }


def _batch_data(node: Node) -> dict[str, Any]:
    return {"batch": {"size": node.batch.size, "windowMs": node.batch.window_ms}} if node.batch else {}


def _edge_data(plan: Plan, edge: Edge) -> dict[str, Any]:
    found = {"from": plan.reference(edge), "tensors": list(edge.tensors), "renames": dict(edge.renames)}
    return {**found, "nextRound": True} if edge.back else found


def _titles(plan: Plan) -> Iterator[tuple[str, int]]:
    for index in plan.steps:
        yield plan.nodes[index].name, index
    if plan.output_index is not None:
        yield "output", plan.output_index


def _manner(node: Node) -> str:
    """How a step waits and is called, where there is something to tell."""
    manners = [str(node.join)] if len(node.edges) > 1 else []
    if node.batch:
        manners.append(_rows(node.batch))
    return f" ({', '.join(manners)})" if manners else ""


def _rows(batch: Batch) -> str:
    """A batch in words; either of its bounds may be absent."""
    size = f" of {batch.size} rows" if batch.size else ""
    window = f" within {batch.window_ms} ms" if batch.window_ms else ""
    return f"batch{size}{window}"


def _next_round(edge: Edge) -> str:
    return " (next round)" if edge.back else ""


def _taken(edge: Edge) -> str:
    renames = dict(edge.renames)
    names = edge.tensors or tuple(renames)
    shown = ", ".join(f"{name} as {renames[name]}" if name in renames else name for name in names)
    return f" {shown}" if shown else ""
