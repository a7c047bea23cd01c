"""A Pipeline resource into a Plan: references completed and resolved, every fault told with its place."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from engine.dataflow.order import Need, arrange
from engine.dataflow.plan import Edge, Node, Plan
from engine.protocol.record import Side
from engine.resources import Join, nearest
from engine.resources.source import Findings, TooManyProblems

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from engine.dataflow.order import Arrangement
    from engine.resources import Output, Pipeline, Problem, Step
    from engine.resources.source import KeyPath

# Nobody reads more names than these in one message.
_MOST_NAMES = 10

_BEGIN = 'a cycle begins at a step that joins a source from outside it by "any" or "outer"'

# Looking for a near name takes 15 µs for each there is.
_MOST_GUESSED = 1000


@dataclass(frozen=True, slots=True)
class Reference:
    """A completed reference, `<step or pipeline>.<inputs|outputs>[.<tensor>]`, and its place in the document."""

    name: str
    side: Side
    tensor: str | None
    path: KeyPath

    def __str__(self) -> str:
        return f"{self.name}.{self.side}" + (f".{self.tensor}" if self.tensor else "")


def compile_pipeline(pipeline: Pipeline) -> tuple[Plan | None, list[Problem]]:
    """The plan of a pipeline, or the problems that stand against it.

    A pipeline that has problems already has no plan either; what else is wrong with it is told.
    """
    return _Compiler(pipeline).run()


class _Compiler:
    """One pipeline on its way to a plan; references by the name of the step that reads them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.problems = Findings()
        self.steps = {step.name: step for step in pipeline.steps}
        self.data: dict[str, list[Reference]] = {}
        self.triggers: dict[str, list[Reference]] = {}
        self.output: list[Reference] = []

    def run(self) -> tuple[Plan | None, list[Problem]]:
        plan = None
        with suppress(TooManyProblems):
            plan = self._plan()
        return None if len(self.problems) else plan, list(self.problems)

    def _plan(self) -> Plan | None:
        for index, step in enumerate(self.pipeline.steps):
            self.data[step.name] = self._sources(index, step)
            self.triggers[step.name] = self._triggers(index, step)
        self.output = self._output_sources()
        if self.pipeline.name in self.steps:
            # Refused where it was read; what was said above is all that holds, since one name means two nodes.
            return None
        found = self._arrange()
        if len(self.problems):
            return None
        names = [self.pipeline.name, *self.steps]
        positions = {names[number]: index for index, number in enumerate(found.order)}
        nodes = [Node(self.pipeline.name)]
        nodes += [self._node(self.steps[names[number]], found.cycles[number], positions) for number in found.order[1:]]
        nodes = [_with_back_edges(node, index, nodes) for index, node in enumerate(nodes)]
        for node in nodes[1:]:
            self._refuse_unpaired(f'step "{node.name}"', node, nodes, self.data[node.name], self.triggers[node.name])
        if self.pipeline.output is not None:
            nodes.append(self._output_node(self.pipeline.output, positions))
            self._refuse_unpaired("the output", nodes[-1], nodes, self.output, [])
        has_output = self.pipeline.output is not None
        return Plan(self.pipeline.name, tuple(nodes), has_output, self.pipeline.max_step_revisits + 1)

    def _node(self, step: Step, cycle: int, positions: Mapping[str, int]) -> Node:
        data, triggers = self.data[step.name], self.triggers[step.name]
        edges = self._edges(data, step.inputs_join, step.tensor_map, positions)
        gates = self._edges(triggers, step.triggers_join, (), positions) if triggers else ()
        window = _seconds(step.join_window_ms)
        return Node(step.name, edges, step.inputs_join, gates, step.triggers_join, window, step.batch, cycle)

    def _output_node(self, output: Output, positions: Mapping[str, int]) -> Node:
        edges = self._edges(self.output, output.steps_join, output.tensor_map, positions)
        return Node(self.pipeline.name, edges, output.steps_join, window=_seconds(output.join_window_ms))

    def _problem(self, path: KeyPath, message: str, hint: str = "") -> None:
        self.problems.add(self.pipeline.document.problem(path, message, hint))

    def _sources(self, index: int, step: Step) -> list[Reference]:
        path: KeyPath = ("spec", "steps", index)
        found = [Reference(self.pipeline.name, Side.INPUTS, None, path)]
        if step.inputs:
            found = list(self._references(step.inputs, (*path, "inputs"), f'step "{step.name}"'))
        self._check_tensor_map(step.tensor_map, found, step.inputs_join, (*path, "tensorMap"), f'step "{step.name}"')
        return found

    def _triggers(self, index: int, step: Step) -> list[Reference]:
        path: KeyPath = ("spec", "steps", index, "triggers")
        return list(self._references(step.triggers, path, f'the trigger of step "{step.name}"'))

    def _output_sources(self) -> list[Reference]:
        output = self.pipeline.output
        if output is None:
            return []
        found = [Reference(self.pipeline.name, Side.INPUTS, None, ("spec", "output"))]
        if output.steps:
            found = list(self._references(output.steps, ("spec", "output", "steps"), "the output", own=False))
        path: KeyPath = ("spec", "output", "tensorMap")
        self._check_tensor_map(output.tensor_map, found, output.steps_join, path, "the output")
        return found

    def _references(self, texts: Sequence[str], path: KeyPath, reader: str, *, own: bool = True) -> Iterator[Reference]:
        for index, text in enumerate(texts):
            reference = self._reference(text, (*path, index), reader)
            if reference is None:
                continue
            if reference.name not in self.steps and not (own and reference.name == self.pipeline.name):
                self._unknown_step(reference, text, reader, own=own)
            elif reference.name not in self.steps and reference.side is Side.OUTPUTS:
                self._problem(reference.path, f'{reader} reads "{text}", the pipeline\'s own outputs')
            else:
                yield reference

    def _reference(self, text: str, path: KeyPath, reader: str) -> Reference | None:
        parts = text.split(".")
        if len(parts) == 1:
            side = Side.INPUTS if text == self.pipeline.name else Side.OUTPUTS
            return Reference(text, side, None, path)
        if len(parts) <= 3 and parts[1] in (Side.INPUTS, Side.OUTPUTS) and all(parts):  # noqa: PLR2004  step.side.tensor
            return Reference(parts[0], Side(parts[1]), parts[2] if len(parts) > 2 else None, path)  # noqa: PLR2004
        close = nearest(parts[1], ("inputs", "outputs")) if 2 <= len(parts) <= 3 else None  # noqa: PLR2004  step.side.tensor
        if close and close != parts[1]:
            hint = f'did you mean "{".".join((parts[0], close, *parts[2:]))}"?'
        else:
            hint = "write <step>, <step>.inputs or <step>.outputs, and .<tensor> for one tensor of it"
        self._problem(path, f'{reader} reads "{text}", which is no reference', hint)
        return None

    def _unknown_step(self, reference: Reference, text: str, reader: str, *, own: bool) -> None:
        if reference.name == self.pipeline.name:
            self._problem(reference.path, f'{reader} reads "{text}"; the pipeline\'s own name is not allowed there')
            return
        known = [*self.steps, *([self.pipeline.name] if own else [])]
        close = nearest(reference.name, known) if len(known) <= _MOST_GUESSED else None
        hint = f'did you mean "{close}"?' if close else f"the steps are {_listed(self.steps)}"
        self._problem(reference.path, f'{reader} reads "{text}"; no step has that name', hint)

    def _check_tensor_map(
        self, renames: Iterable[tuple[str, str]], sources: list[Reference], join: Join, path: KeyPath, reader: str
    ) -> None:
        read: dict[tuple[str, str], set[str | None]] = {}
        for source in sources:
            read.setdefault((source.name, source.side), set()).add(source.tensor)
        taken: dict[tuple[str, ...], str] = {}
        for full, new in renames:
            parts = full.split(".", 2)
            if len(parts) != 3 or not all(parts):  # noqa: PLR2004  step.side.tensor
                self._rename_problem(
                    (*path, full), f'{reader} renames "{full}"; write <step>.<inputs|outputs>.<tensor>'
                )
            elif read and read.get((parts[0], parts[1]), set()).isdisjoint((None, parts[2])):
                missing = full if (parts[0], parts[1]) in read else f"{parts[0]}.{parts[1]}"
                self._rename_problem((*path, full), f'{reader} renames "{full}", but does not read {missing}')
            elif read and (place := self._alone_among(parts, new, join, whole=None in read[parts[0], parts[1]])):
                first = taken.setdefault(place, full)
                if first != full:
                    message = f'{reader} renames "{first}" and "{full}" to "{new}", and both can come'
                    self._rename_problem((*path, full), message, "give them different names")

    def _alone_among(self, parts: Sequence[str], new: str, join: Join, *, whole: bool) -> tuple[str, ...]:
        """Among which tensors a new name must be the only one; nothing where others may come in place of this one.

        They may when the reader takes each tensor for itself and does without the rest; and callers may well send an
        input by one of two names.
        """
        if whole and parts[0] == self.pipeline.name:
            return ()
        if join is Join.INNER:
            return (new,)
        return (new, *parts[:2]) if whole else ()

    def _rename_problem(self, path: KeyPath, message: str, hint: str = "") -> None:
        self.problems.add(self.pipeline.document.key_problem(path, message, hint))

    def _arrange(self) -> Arrangement:
        """The order of the entry (0) and the steps; what of it cannot be is a problem."""
        numbers = {name: number for number, name in enumerate((self.pipeline.name, *self.steps))}
        needs: list[list[Need]] = [[]]
        for name, step in self.steps.items():
            groups = ((step.inputs_join, self.data[name]), (step.triggers_join, self.triggers[name]))
            needs.append(
                [
                    Need(join is Join.INNER, frozenset(numbers[reference.name] for reference in references))
                    for join, references in groups
                    if references
                ]
            )
        found = arrange(needs)
        names = list(numbers)
        if not self.pipeline.allow_cycles and any(found.cycles):
            cycles: dict[int, dict[str, None]] = {}
            for name, cycle in zip(names, found.cycles, strict=True):
                cycles.setdefault(cycle, {})[name] = None
            for cycle in sorted(cycles.keys() - {0}):
                self._refuse_cycle(cycles[cycle])
        elif found.stuck and not len(self.problems):  # a reference that is refused already may be all that a step lacks
            self._refuse_stuck({names[number]: found.cycles[number] for number in found.stuck})
        return found

    def _refuse_cycle(self, members: Mapping[str, None]) -> None:
        """Tell one ring: each of the steps reads at least one of the others, so walking on must come back."""
        name, seen = next(iter(members)), dict[str, Reference]()
        while name not in seen:
            references = (*self.data[name], *self.triggers[name])
            seen[name] = next(reference for reference in references if reference.name in members)
            name = seen[name].name
        ring = list(seen)[list(seen).index(name) :]
        path = seen[ring[0]].path
        message = f'pipeline "{self.pipeline.name}" has a cycle among the steps {_listed(ring)}'
        self._problem(path, message, "allowCycles: true permits it")

    def _refuse_stuck(self, stuck: Mapping[str, int]) -> None:
        """Tell of what can never run what it waits for; the steps come with the number of their cycle."""
        for name, cycle in stuck.items():
            step = self.steps[name]
            vain = _in_vain(step.inputs_join, self.data[name], stuck)
            vain = vain or _in_vain(step.triggers_join, self.triggers[name], stuck)
            self._refuse_vain(f'step "{name}" can never run', vain, _BEGIN if cycle else "")
        output = self.pipeline.output
        if output is not None and (vain := _in_vain(output.steps_join, self.output, stuck)):
            self._refuse_vain("the output can never come", vain)

    def _refuse_vain(self, what: str, vain: Sequence[Reference], hint: str = "") -> None:
        self._problem(vain[0].path, f"{what}: it waits for {_listed(map(str, vain))}, which can never come", hint)

    def _refuse_unpaired(
        self, reader: str, node: Node, nodes: Sequence[Node], data: Sequence[Reference], triggers: Sequence[Reference]
    ) -> None:
        """A node takes one thing of each cycle beside its own: two would have no round in common."""
        found: dict[int, list[Reference]] = {}
        references = (*_heads(node.edges, data), *_heads(node.triggers, triggers))
        for edge, reference in zip(node.sources, references, strict=True):
            found.setdefault(nodes[edge.source].cycle, []).append(reference)
        foreign = found.keys() - {0, node.cycle}
        if len(foreign) + bool(node.cycle) <= 1 or (node.join is Join.ANY and not node.triggers):
            return
        for cycle in sorted(foreign):
            if len(found[cycle]) > 1:
                names = _listed(map(str, found[cycle]))
                other = "is in another" if node.cycle else "reads another"
                message = f"{reader} waits for {names} of one cycle and {other}, so that no rounds pair them"
                self._problem(found[cycle][1].path, message, "join them in a step that is in no cycle")

    def _edges(
        self,
        sources: list[Reference],
        join: Join,
        renames: Iterable[tuple[str, str]],
        positions: Mapping[str, int],
    ) -> tuple[Edge, ...]:
        """One edge for each reference; a single one when all are tensors of one source that must all be there."""
        named = {(source.name, source.side) for source in sources}
        if len(named) == 1 and join is Join.INNER:
            whole = any(source.tensor is None for source in sources)
            wanted = () if whole else tuple(source.tensor for source in sources if source.tensor)
            return (self._edge(sources[0], wanted, renames, positions),)
        return tuple(
            self._edge(source, (source.tensor,) if source.tensor else (), renames, positions) for source in sources
        )

    def _edge(
        self,
        source: Reference,
        wanted: tuple[str, ...],
        renames: Iterable[tuple[str, str]],
        positions: Mapping[str, int],
    ) -> Edge:
        prefix = f"{source.name}.{source.side}."
        chosen = tuple(
            (full.removeprefix(prefix), new)
            for full, new in renames
            if full.startswith(prefix) and (not wanted or full.removeprefix(prefix) in wanted)
        )
        return Edge(positions[source.name], source.side, wanted, chosen)


def _with_back_edges(node: Node, index: int, nodes: Sequence[Node]) -> Node:
    """The node at that index, with its edges of the same cycle that give to the round after marked."""

    def turned(edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
        return tuple(
            replace(edge, back=True) if edge.source >= index and nodes[edge.source].cycle == node.cycle else edge
            for edge in edges
        )

    if not node.cycle:
        return node
    return replace(node, edges=turned(node.edges), triggers=turned(node.triggers))


def _in_vain(join: Join, references: Sequence[Reference], stuck: Collection[str]) -> list[Reference]:
    """The references of a join that it waits for though they can never come; none when it can do without them."""
    vain = [reference for reference in references if reference.name in stuck]
    return vain if join is Join.INNER or len(vain) == len(references) else []


def _heads(edges: Sequence[Edge], references: Sequence[Reference]) -> Sequence[Reference]:
    """The reference of each edge; the first where all became one."""
    return references if len(edges) == len(references) else references[: len(edges)]


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None


def _listed(names: Iterable[str]) -> str:
    """Names for a message, not more of them than anybody reads."""
    shown = list(islice(names, _MOST_NAMES + 1))
    return ", ".join([*shown[:_MOST_NAMES], *(["…"] if len(shown) > _MOST_NAMES else [])])
