"""A Pipeline resource into a Plan: references completed and resolved, every fault told with its place."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from engine.dataflow.plan import ENTRY, Edge, Node, Plan
from engine.protocol.record import Side
from engine.resources import Join, nearest
from engine.resources.source import Findings, TooManyProblems

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from engine.resources import Pipeline, Problem, Step
    from engine.resources.source import KeyPath

# Nobody reads more names than these in one message.
_MOST_NAMES = 10

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
    """The plan of a pipeline, or the problems that stand against it."""
    return _Compiler(pipeline).run()


class _Compiler:
    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.problems = Findings()
        self.steps = {step.name: step for step in pipeline.steps}

    def run(self) -> tuple[Plan | None, list[Problem]]:
        plan = None
        with suppress(TooManyProblems):
            plan = self._plan()
        return plan, list(self.problems)

    def _plan(self) -> Plan | None:
        sources = {step.name: self._sources(index, step) for index, step in enumerate(self.pipeline.steps)}
        triggers = {step.name: self._triggers(index, step) for index, step in enumerate(self.pipeline.steps)}
        output = self._output_sources()
        arrangement = self._arrange(sources, triggers, output)
        if len(self.problems):
            return None
        names = [self.pipeline.name, *self.steps]
        positions = {names[number]: index for index, number in enumerate(arrangement.order)}
        nodes = [Node(self.pipeline.name)]
        for number in arrangement.order[1:]:
            node = self._node(names[number], sources, triggers, positions)
            nodes.append(replace(node, cycle=arrangement.cycles[number]) if arrangement.cycles[number] else node)
        nodes = [_with_back_edges(index, node, nodes) for index, node in enumerate(nodes)]
        if self.pipeline.output is not None:
            nodes.append(self._output_node(self.pipeline.output, output, positions))
        self._refuse_unpaired(nodes, [[], *([*sources[node.name], *triggers[node.name]] for node in nodes[1:])])
        plan = Plan(
            self.pipeline.name,
            tuple(nodes),
            output=self.pipeline.output is not None,
            max_visits=self.pipeline.max_step_revisits + 1,
        )
        return None if len(self.problems) else plan

    def _problem(self, path: KeyPath, message: str, hint: str = "") -> None:
        self.problems.add(self.pipeline.document.problem(path, message, hint))

    def _sources(self, index: int, step: Step) -> list[Reference]:
        path: KeyPath = ("spec", "steps", index)
        found = [Reference(self.pipeline.name, Side.INPUTS, None, path)]
        if step.inputs:
            found = list(self._references(step.inputs, (*path, "inputs"), f'step "{step.name}"'))
        self._check_tensor_map(step.tensor_map, found, (*path, "tensorMap"), f'step "{step.name}"')
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
        self._check_tensor_map(output.tensor_map, found, ("spec", "output", "tensorMap"), "the output")
        return found

    def _references(self, texts: Sequence[str], path: KeyPath, reader: str, *, own: bool = True) -> Iterator[Reference]:
        for index, text in enumerate(texts):
            reference = self._reference(text, (*path, index), reader)
            if reference is None:
                continue
            if reference.name not in self.steps and not (own and reference.name == self.pipeline.name):
                self._unknown_step(reference, text, reader, own=own)
            elif reference.name == self.pipeline.name and reference.side is Side.OUTPUTS:
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
        self, renames: Iterable[tuple[str, str]], sources: list[Reference], path: KeyPath, reader: str
    ) -> None:
        read: dict[tuple[str, str], set[str | None]] = {}
        for source in sources:
            read.setdefault((source.name, source.side), set()).add(source.tensor)
        for full, _ in renames:
            parts = full.split(".", 2)
            if len(parts) != 3 or not all(parts):  # noqa: PLR2004  step.side.tensor
                self._rename_problem(
                    (*path, full), f'{reader} renames "{full}"; write <step>.<inputs|outputs>.<tensor>'
                )
            elif read and read.get((parts[0], parts[1]), set()).isdisjoint((None, parts[2])):
                missing = full if (parts[0], parts[1]) in read else f"{parts[0]}.{parts[1]}"
                self._rename_problem((*path, full), f'{reader} renames "{full}", but does not read {missing}')

    def _rename_problem(self, path: KeyPath, message: str) -> None:
        self.problems.add(self.pipeline.document.key_problem(path, message))

    def _node(
        self,
        name: str,
        sources: Mapping[str, list[Reference]],
        triggers: Mapping[str, list[Reference]],
        positions: Mapping[str, int],
    ) -> Node:
        step = self.steps[name]
        edges = self._edges(sources[name], step.inputs_join, step.tensor_map, positions)
        gates = self._edges(triggers[name], step.triggers_join, (), positions) if triggers[name] else ()
        window = _seconds(step.join_window_ms)
        return Node(name, edges, step.inputs_join, gates, step.triggers_join, window, step.batch)

    def _output_node(self, output: Output, sources: list[Reference], positions: Mapping[str, int]) -> Node:
        edges = self._edges(sources, output.steps_join, output.tensor_map, positions)
        return Node(self.pipeline.name, edges, output.steps_join, window=_seconds(output.join_window_ms))

    def _arrange(
        self,
        sources: Mapping[str, list[Reference]],
        triggers: Mapping[str, list[Reference]],
        output: list[Reference],
    ) -> Arrangement:
        """The order of the entry (0) and the steps; what of it cannot be is a problem."""
        numbers = {name: number for number, name in enumerate((self.pipeline.name, *self.steps))}

        def need(join: Join, found: list[Reference]) -> list[Need]:
            wanted = frozenset(numbers[reference.name] for reference in found)
            return [Need(join is Join.INNER, wanted)] if wanted else []

        needs: list[list[Need]] = [[]]
        for name, step in self.steps.items():
            needs.append([*need(step.inputs_join, sources[name]), *need(step.triggers_join, triggers[name])])
        found = arrange(needs)
        if any(found.cycles) and not self.pipeline.allow_cycles:
            self._refuse_cycles(found.cycles, {name: [*sources[name], *triggers[name]] for name in sources})
        elif found.stuck:
            names = list(numbers)
            self._refuse_stuck({names[number]: found.cycles[number] for number in found.stuck}, sources, triggers)
            self._refuse_hopeless_output({names[number] for number in found.stuck}, output)
        return found

    def _refuse_cycles(self, cycles: Sequence[int], sources: Mapping[str, list[Reference]]) -> None:
        """Tell one ring of each cycle."""
        members: dict[int, dict[str, int]] = {}
        for name, number in zip(self.steps, cycles[1:], strict=True):
            if number:
                members.setdefault(number, {})[name] = number
        for ring in members.values():
            self._refuse_ring(ring, sources)

    def _refuse_ring(self, members: Collection[str], sources: Mapping[str, list[Reference]]) -> None:
        """Each of the steps reads at least one of the others, so walking on must come back."""
        name, seen = next(iter(members)), dict[str, Reference]()
        while name not in seen:
            seen[name] = next(source for source in sources[name] if source.name in members)
            name = seen[name].name
        ring = list(seen)[list(seen).index(name) :]
        path = seen[ring[0]].path
        self._problem(path, f'pipeline "{self.pipeline.name}" has a cycle among the steps {_listed(ring)}')

    def _refuse_stuck(
        self,
        stuck: Mapping[str, int],
        sources: Mapping[str, list[Reference]],
        triggers: Mapping[str, list[Reference]],
    ) -> None:
        """Tell of each step that can never run, with the number of its cycle, what it waits for in vain."""
        for name, cycle in stuck.items():
            step = self.steps[name]
            vain = _in_vain(step.inputs_join, sources[name], stuck)
            vain = vain or _in_vain(step.triggers_join, triggers[name], stuck)
            self._refuse_vain(f'step "{name}" can never run', vain, _BEGIN if cycle else "")

    def _refuse_hopeless_output(self, stuck: Collection[str], sources: list[Reference]) -> None:
        wanted = self.pipeline.output
        vain = _in_vain(wanted.steps_join, sources, stuck) if wanted is not None else []
        if vain:
            self._refuse_vain("the output can never come", vain)

    def _refuse_vain(self, what: str, vain: list[Reference], hint: str = "") -> None:
        names = _listed(dict.fromkeys(map(str, vain)))
        self._problem(vain[0].path, f"{what}: it waits for {names}, which can never come", hint)

    def _refuse_unpaired(self, nodes: Sequence[Node], references: Sequence[list[Reference]]) -> None:
        """Of several cycles a node takes one thing each: two of one cycle would have no rounds in common."""
        for node, found in zip(nodes, references, strict=True):
            foreign = {nodes[edge.source].cycle for edge in node.sources} - {0, node.cycle}
            free = node.join is Join.ANY and not node.triggers
            if free or not foreign or (len(foreign) == 1 and not node.cycle):
                continue
            
    def _edges(
        self,
        sources: list[Reference],
        join: Join,
        renames: Iterable[tuple[str, str]],
        positions: dict[str, int],
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
        positions: dict[str, int],
    ) -> Edge:
        prefix = f"{source.name}.{source.side}."
        chosen = tuple(
            (full.removeprefix(prefix), new)
            for full, new in renames
            if full.startswith(prefix) and (not wanted or full.removeprefix(prefix) in wanted)
        )
        return Edge(positions[source.name], source.side, wanted, chosen)


def _seconds(milliseconds: int | None) -> float | None:
    return milliseconds / 1000 if milliseconds else None


def _listed(names: Iterable[str]) -> str:
    """Names for a message, not more of them than anybody reads."""
    shown = list(islice(names, _MOST_NAMES + 1))
    return ", ".join([*shown[:_MOST_NAMES], *(["…"] if len(shown) > _MOST_NAMES else [])])
