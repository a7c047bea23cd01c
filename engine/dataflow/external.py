"""What a pipeline takes of other pipelines: its external references completed, resolved and checked against them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.dataflow.plan import Edge
from engine.protocol.record import Owner, Side
from engine.resources import Join, did_you_mean, quoted
from engine.resources.source import Findings, TooManyProblems

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from engine.resources import Pipeline, Problem
    from engine.resources.source import KeyPath

# How long records of one key wait for each other when the resource does not say; the reference's own default.
DEFAULT_WINDOW = 60.0

_STEP = "step"
_GRAMMAR = "write <pipeline> or <pipeline>.step.<step>, then .inputs or .outputs, and .<tensor> for one tensor of it"
# The longest of it: <pipeline>.step.<step>.<side>.<tensor>.
_MOST_PARTS = 5


@dataclass(frozen=True, slots=True)
class Source:
    """One topic that is read of another pipeline, and whose records of it: those of `pipeline`.

    The topic is the pipeline's own, or (`owner` model) that of the step `name`, which other pipelines may share.
    """

    pipeline: str
    owner: Owner
    name: str
    side: Side

    def __str__(self) -> str:
        step = f".{_STEP}.{self.name}" if self.owner is Owner.MODEL else ""
        return f"{self.pipeline}{step}.{self.side}"


@dataclass(frozen=True, slots=True)
class Upstream:
    """What a pipeline takes of others.

    sources        the topics, each once, in the order of the references
    edges          what is taken of them; `source` of an edge is an index into the sources
    join           how many of the edges it waits for
    triggers       what it waits for besides, without taking anything of it
    triggers_join  how many of the triggers it waits for
    window         seconds within which records of one key must come
    """

    sources: tuple[Source, ...]
    edges: tuple[Edge, ...]
    join: Join = Join.INNER
    triggers: tuple[Edge, ...] = ()
    triggers_join: Join = Join.INNER
    window: float = DEFAULT_WINDOW

    @property
    def joins(self) -> bool:
        """Whether records of several topics meet by their key."""
        return len(self.sources) > 1


@dataclass(frozen=True, slots=True)
class _Reference:
    source: Source
    tensor: str | None
    path: KeyPath


def compile_input(pipeline: Pipeline) -> tuple[Upstream | None, list[Problem]]:
    """What a pipeline takes of others, or the problems that stand against it; neither when it takes nothing."""
    problems = Findings()
    upstream = None
    with suppress(TooManyProblems):
        upstream = _upstream(pipeline, problems)
    return (None if len(problems) else upstream), list(problems)


def check_upstreams(pipelines: Iterable[Pipeline], present: Iterable[Pipeline] = ()) -> list[Problem]:
    """What stands against these pipelines when they feed each other, and are fed by those that are `present` already.

    Unknown pipelines and steps, pipelines that give no answers, and cycles: a record would go round for ever.
    """
    checked = {pipeline.name: pipeline for pipeline in pipelines}
    known = {pipeline.name: pipeline for pipeline in present} | checked
    problems = Findings()
    with suppress(TooManyProblems):
        for pipeline in checked.values():
            for reference in _references(pipeline, Findings()):
                _check_source(pipeline, reference, known, problems)
        _check_cycles(checked, known, problems)
    return list(problems)


def as_text(upstream: Upstream) -> str:
    """What is taken of others, as lines that go before those of the plan's steps."""
    lines = ["  input" + (f" ({upstream.join}, by key within {upstream.window:g} s)" if upstream.joins else "")]
    lines += [f"    <- {upstream.sources[edge.source]}{_taken(edge)}" for edge in upstream.edges]
    if upstream.triggers:
        lines.append("    triggered by" + (f" ({upstream.triggers_join})" if len(upstream.triggers) > 1 else ""))
        lines += [f"    <~ {upstream.sources[edge.source]}{_taken(edge)}" for edge in upstream.triggers]
    return "".join(f"{line}\n" for line in lines)


def as_mermaid(upstream: Upstream) -> str:
    """What is taken of others, as lines of a flowchart in which `n0` is the pipeline's inputs."""
    lines = [f'  u{index}(["{source}"])' for index, source in enumerate(upstream.sources)]
    for arrow, edges in (("-->", upstream.edges), ("-.->", upstream.triggers)):
        for edge in edges:
            label = _taken(edge).strip().replace('"', "#quot;")
            lines.append(f"  u{edge.source} {arrow}" + (f'|"{label}"|' if label else "") + " n0")
    return "".join(f"{line}\n" for line in lines)


def as_data(upstream: Upstream) -> dict[str, object]:
    """What is taken of others, as plain data for JSON."""

    def told(edges: Sequence[Edge]) -> list[dict[str, object]]:
        return [
            {"from": str(upstream.sources[e.source]), "tensors": list(e.tensors), "renames": dict(e.renames)}
            for e in edges
        ]

    return {
        "join": str(upstream.join),
        "windowSeconds": upstream.window,
        "sources": told(upstream.edges),
        "triggersJoin": str(upstream.triggers_join),
        "triggers": told(upstream.triggers),
    }


def _taken(edge: Edge) -> str:
    renames = dict(edge.renames)
    names = edge.tensors or tuple(renames)
    shown = ", ".join(f"{name} as {renames[name]}" if name in renames else name for name in names)
    return f" {shown}" if shown else ""


def _upstream(pipeline: Pipeline, problems: Findings) -> Upstream | None:
    wanted = pipeline.input
    if wanted is None:
        return None
    data = list(_listed(pipeline, "externalInputs", wanted.external_inputs, problems))
    triggers = list(_listed(pipeline, "externalTriggers", wanted.external_triggers, problems))
    _check_renames(pipeline, wanted.tensor_map, data, problems)
    sources = tuple(dict.fromkeys(reference.source for reference in (*data, *triggers)))
    return Upstream(
        sources,
        _edges(data, sources, wanted.join_type, wanted.tensor_map),
        wanted.join_type,
        _edges(triggers, sources, wanted.triggers_join_type, ()),
        wanted.triggers_join_type,
        wanted.join_window_ms / 1000 if wanted.join_window_ms else DEFAULT_WINDOW,
    )


def _references(pipeline: Pipeline, problems: Findings) -> Iterator[_Reference]:
    if pipeline.input is not None:
        yield from _listed(pipeline, "externalInputs", pipeline.input.external_inputs, problems)
        yield from _listed(pipeline, "externalTriggers", pipeline.input.external_triggers, problems)


def _listed(pipeline: Pipeline, key: str, texts: Sequence[str], problems: Findings) -> Iterator[_Reference]:
    for index, text in enumerate(texts):
        path: KeyPath = ("spec", "input", key, index)
        parts = text.split(".", _MOST_PARTS)
        source = _source(parts)
        if source is None:
            message = f"the input of pipeline {quoted(pipeline.name)} reads {quoted(text)}, which is no reference"
            problems.add(pipeline.document.problem(path, message, _GRAMMAR))
        elif source.pipeline == pipeline.name:
            message = f"the input of pipeline {quoted(pipeline.name)} reads {quoted(text)}, which is its own"
            hint = "steps read their own pipeline; the input names others"
            problems.add(pipeline.document.problem(path, message, hint))
        else:
            tensor = parts[4:5] if source.owner is Owner.MODEL else parts[2:3]
            yield _Reference(source, tensor[0] if tensor else None, path)


def _source(parts: Sequence[str]) -> Source | None:
    """What a reference reads, by its parts; None when it is none."""
    if not all(part.strip() for part in parts):
        return None
    owner, name, rest = Owner.PIPELINE, parts[0], parts[1:]
    if rest and rest[0] == _STEP:
        if len(rest) == 1:
            return None
        owner, name, rest = Owner.MODEL, rest[1], rest[2:]
    if not rest:
        return Source(parts[0], owner, name, Side.OUTPUTS)
    if len(rest) <= 2 and rest[0] in (Side.INPUTS, Side.OUTPUTS):  # noqa: PLR2004  side, tensor
        return Source(parts[0], owner, name, Side(rest[0]))
    return None


def _check_renames(
    pipeline: Pipeline, renames: Iterable[tuple[str, str]], data: Sequence[_Reference], problems: Findings
) -> None:
    read: dict[str, set[str | None]] = {}
    for reference in data:
        read.setdefault(str(reference.source), set()).add(reference.tensor)
    for full, _ in renames:
        source, _, tensor = full.rpartition(".")
        if read and read.get(source, set()).isdisjoint((None, tensor)):
            hint = did_you_mean(source, read) if source not in read else ""
            message = f"the input of pipeline {quoted(pipeline.name)} renames {quoted(full)}, but does not read it"
            hint = hint or "write <pipeline>.outputs.<tensor> or <pipeline>.step.<step>.outputs.<tensor>"
            problems.add(pipeline.document.key_problem(("spec", "input", "tensorMap", full), message, hint))


def _edges(
    references: Sequence[_Reference], sources: Sequence[Source], join: Join, renames: Iterable[tuple[str, str]]
) -> tuple[Edge, ...]:
    """One edge for each reference; one for a source when all of its tensors must be there."""
    if join is not Join.INNER:
        return tuple(_edge(r.source, (r.tensor,) if r.tensor else (), sources, renames) for r in references)
    wanted: dict[Source, list[str | None]] = {}
    for reference in references:
        wanted.setdefault(reference.source, []).append(reference.tensor)
    return tuple(
        _edge(source, () if None in tensors else tuple(t for t in tensors if t), sources, renames)
        for source, tensors in wanted.items()
    )


def _edge(
    source: Source, wanted: tuple[str, ...], sources: Sequence[Source], renames: Iterable[tuple[str, str]]
) -> Edge:
    prefix = f"{source}."
    chosen = tuple(
        (full.removeprefix(prefix), new)
        for full, new in renames
        if full.startswith(prefix) and (not wanted or full.removeprefix(prefix) in wanted)
    )
    return Edge(sources.index(source), source.side, wanted, chosen)


def _check_source(pipeline: Pipeline, reference: _Reference, known: Mapping[str, Pipeline], problems: Findings) -> None:
    source = reference.source
    reads = f"the input of pipeline {quoted(pipeline.name)} reads {quoted(str(source))}"
    found = known.get(source.pipeline)
    if found is None:
        hint = did_you_mean(source.pipeline, known.keys() - {pipeline.name}) or "load it first, or in the same call"
        problems.add(pipeline.document.problem(reference.path, f"{reads}; no pipeline has that name", hint))
    elif source.owner is Owner.MODEL and source.name not in (names := [step.name for step in found.steps]):
        hint = did_you_mean(source.name, names)
        message = f"{reads}; pipeline {quoted(source.pipeline)} has no step of that name"
        problems.add(pipeline.document.problem(reference.path, message, hint))
    elif source.owner is Owner.PIPELINE and source.side is Side.OUTPUTS and found.output is None:
        hint = "give it an output, or read one of its steps"
        message = f"{reads}; pipeline {quoted(source.pipeline)} has no output"
        problems.add(pipeline.document.problem(reference.path, message, hint))


def _check_cycles(checked: Mapping[str, Pipeline], known: Mapping[str, Pipeline], problems: Findings) -> None:
    """Tell each ring of pipelines once, at a reference of one that is being checked."""
    feeds = {
        name: {r.source.pipeline: r for r in _references(pipeline, Findings()) if r.source.pipeline in known}
        for name, pipeline in known.items()
    }
    left = _unordered(feeds)
    while left:
        ring = _ring(feeds, left)
        left -= set(ring)
        name = next((name for name in ring if name in checked), None)
        if name is not None:
            start = ring.index(name)
            ring = [*ring[start:], *ring[:start]]
            message = f"pipelines {', '.join(ring)} feed each other in a cycle"
            reference = feeds[name][ring[1 % len(ring)]]
            problems.add(known[name].document.problem(reference.path, message, "a record would go round for ever"))
        left = _unordered({name: feeds[name] for name in left})


def _unordered(feeds: Mapping[str, Mapping[str, _Reference]]) -> set[str]:
    """Those of the pipelines that are in a cycle, or fed by one."""
    readers: dict[str, list[str]] = {name: [] for name in feeds}
    missing = {name: sum(source in feeds for source in sources) for name, sources in feeds.items()}
    for name, sources in feeds.items():
        for source in sources:
            if source in feeds:
                readers[source].append(name)
    free = [name for name, count in missing.items() if not count]
    for name in free:  # it grows while it is read
        for reader in readers[name]:
            missing[reader] -= 1
            if not missing[reader]:
                free.append(reader)
    return set(feeds) - set(free)


def _ring(feeds: Mapping[str, Mapping[str, _Reference]], left: set[str]) -> list[str]:
    """One cycle: each of those left is fed by one of them, so walking on must come back."""
    name, seen = min(left), list[str]()
    while name not in seen:
        seen.append(name)
        name = min(source for source in feeds[name] if source in left)
    return seen[seen.index(name) :]
