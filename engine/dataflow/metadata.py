"""What a pipeline takes and gives, as far as its steps' models say what they take and give.

Datatypes and shapes stay unknown (an empty datatype) where nobody tells them, or where two steps tell different ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from engine.dataflow.plan import ENTRY
from engine.protocol.columns import TensorSpec
from engine.protocol.messages import ModelMetadataResponse
from engine.protocol.record import Side
from engine.resources import Join

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.dataflow.plan import Edge, Node, Plan

# What is known of tensors, by their names.
_Known: TypeAlias = "dict[str, TensorSpec]"


def derive(plan: Plan, told: Mapping[str, Any]) -> Any:
    """A pipeline's `ModelMetadataResponse`, from those of its steps by their names; steps may be missing.

    Its inputs are what the steps that read them take, before they are renamed; its outputs what the output's sources
    give, after. Where a step joins several sources, what nobody can tell the source of is left out.
    """
    steps = [_Step(plan, index, told) for index in range(len(plan.nodes))]
    for index in range(len(plan.nodes) - 1, ENTRY, -1):
        steps[index].ask(steps)
    message = ModelMetadataResponse(name=plan.name, platform="pipeline")
    for step in steps[1:]:
        for spec in step.of_entry:
            _note(steps[ENTRY].takes, spec)
    _add(message.inputs, steps[ENTRY].takes)
    if plan.output_index is not None:
        _add(message.outputs, _given(plan.nodes[plan.output_index], steps))
    return message


class _Step:
    """A node with what is known of its tensors.

    takes     what its model says of its inputs, and what others read of them
    gives     what its model says of its outputs; None when it says nothing
    of_entry  what of the pipeline's inputs it is given
    """

    def __init__(self, plan: Plan, index: int, told: Mapping[str, Any]) -> None:
        self.node = plan.nodes[index]
        metadata = told.get(self.node.name) if index in plan.steps else None
        self.takes = _known(metadata.inputs) if metadata is not None else {}
        self.gives = _known(metadata.outputs) if metadata is not None and metadata.outputs else None
        self.of_entry: list[TensorSpec] = []

    def ask(self, steps: list[_Step]) -> None:
        """Pass on what it takes to those that give it; its readers have asked it before."""
        for edge in self.node.edges:
            for name in edge.tensors:
                _note(self.takes, _unknown(dict(edge.renames).get(name, name)))
        for spec in self.takes.values():
            for edge, name in _sources(self.node, spec.name, steps):
                if edge.source == ENTRY:
                    self.of_entry.append(spec._replace(name=name))
                elif edge.side is Side.INPUTS and not edge.back:
                    _note(steps[edge.source].takes, spec._replace(name=name))


def _sources(node: Node, name: str, steps: list[_Step]) -> list[tuple[Edge, str]]:
    """The edges that give a node this tensor, and its name there; none when it cannot be told."""
    possible = [(edge, origin) for edge in node.edges if (origin := _origin(edge, name)) is not None]
    named = [(edge, origin) for edge, origin in possible if edge.tensors or origin != name]
    if named or node.join is Join.ANY:
        return named or possible
    giving = [pair for pair in possible if pair[1] in (_outputs(pair[0], steps) or ())]
    silent = [pair for pair in possible if _outputs(pair[0], steps) is None]
    return giving or (silent if len(silent) == 1 else [])


def _outputs(edge: Edge, steps: list[_Step]) -> _Known | None:
    return steps[edge.source].gives if edge.side is Side.OUTPUTS else None


def _origin(edge: Edge, name: str) -> str | None:
    """What a tensor of a node is called at an edge's source; None when the edge does not bring it."""
    renames = dict(edge.renames)
    origin = next((old for old, new in edge.renames if new == name), name)
    brought = origin in edge.tensors or not edge.tensors
    return origin if brought and renames.get(origin, origin) == name else None


def _given(output: Node, steps: list[_Step]) -> _Known:
    found: _Known = {}
    for edge in output.edges:
        source = steps[edge.source]
        known = source.takes if edge.side is Side.INPUTS else source.gives or {}
        renames = dict(edge.renames)
        for name in edge.tensors or known:
            _note(found, known.get(name, _unknown(name))._replace(name=renames.get(name, name)))
    return found


def _known(described: Iterable[Any]) -> _Known:
    return {tensor.name: TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in described}


def _unknown(name: str) -> TensorSpec:
    return TensorSpec(name, "", ())


def _note(found: _Known, spec: TensorSpec) -> None:
    """Add what is known of a tensor to what was known before."""
    before = found.get(spec.name)
    found[spec.name] = spec if before is None else _both(before, spec)


def _both(first: TensorSpec, second: TensorSpec) -> TensorSpec:
    """What two say of one tensor: the dimensions that either fixes; nothing when they contradict each other."""
    if not first.datatype or not second.datatype:
        return first if first.datatype else second
    sizes = list(zip(first.shape, second.shape, strict=False))
    agree = all(a == b or -1 in (a, b) for a, b in sizes) and len(first.shape) == len(second.shape)
    if first.datatype != second.datatype or not agree:
        return _unknown(first.name)
    return first._replace(shape=tuple(max(pair) for pair in sizes))


def _add(tensors: Any, known: _Known) -> None:
    for spec in known.values():
        tensors.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
