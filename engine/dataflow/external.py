"""What a pipeline takes of other pipelines: its external references completed, resolved and checked against them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from engine.dataflow.order import Need, arrange
from engine.dataflow.plan import Edge
from engine.protocol.record import Owner, Side
from engine.resources import Join, did_you_mean, quoted
from engine.resources.source import Findings, TooManyProblems

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from engine.resources import Input, Pipeline, Problem
    from engine.resources.source import KeyPath

# How long records of one key wait for each other when the resource does not say; the reference's own default.
DEFAULT_WINDOW = 60.0

# Looking for a near name takes 15 µs for each there is: so many are looked at for all problems of one kind.
_MOST_GUESSES = 30_000

# Nobody reads more names than these in one message.
_MOST_NAMES = 10

_STEP = "step"
_GRAMMAR = "write <pipeline> or <pipeline>.step.<step>, then .inputs or .outputs, and .<tensor> for one tensor of it"
_RENAMED = "write <pipeline>.outputs.<tensor> or <pipeline>.step.<step>.outputs.<tensor>"


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
    """A completed reference, with what is written for it and its place in the document."""

    text: str
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

    Unknown pipelines and steps, pipelines that give no answers, and cycles: a record would go round for ever. What is
    no reference at all is for `compile_input` to tell.
    """
    checked = {pipeline.name: pipeline for pipeline in pipelines}
    known = {pipeline.name: pipeline for pipeline in present} | checked
    reads = {name: list(_references(pipeline)) for name, pipeline in known.items()}
    problems = Findings()
    with suppress(TooManyProblems):
        for name, pipeline in checked.items():
            _check_sources(pipeline, reads[name], known, problems)
        _check_cycles(checked, reads, problems)
    return list(problems)


def as_text(upstream: Upstream) -> str:
    """What is taken of others, as lines that go before those of the plan's steps."""
    manners = [str(upstream.join)] if len(upstream.edges) > 1 else []
    manners += [f"by key within {upstream.window:g} s"] if upstream.joins else []
    lines = ["  input" + (f" ({', '.join(manners)})" if manners else "")]
    lines += [f"    <- {upstream.sources[edge.source]}{_taken(edge)}" for edge in upstream.edges]
    if upstream.triggers:
        lines.append("    triggered by" + (f" ({upstream.triggers_join})" if len(upstream.triggers) > 1 else ""))
        lines += [f"    <~ {upstream.sources[edge.source]}{_taken(edge)}" for edge in upstream.triggers]
    return "".join(f"{line}\n" for line in lines)


def as_mermaid(upstream: Upstream) -> str:
    """What is taken of others, as lines of a flowchart in which `n0` is the pipeline's inputs."""
    lines = [f'  u{index}(["{_label(str(source))}"])' for index, source in enumerate(upstream.sources)]
    for arrow, edges in (("-->", upstream.edges), ("-.->", upstream.triggers)):
        for edge in edges:
            label = _label(_taken(edge).strip())
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


def _label(text: str) -> str:
    """A text that may stand between the quotes of a flowchart's label."""
    return text.replace("#", "#35;").replace('"', "#quot;")


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
    renames = _renames(pipeline, wanted, data, problems)
    positions = {source: index for index, source in enumerate(dict.fromkeys(r.source for r in (*data, *triggers)))}
    return Upstream(
        tuple(positions),
        _edges(data, positions, wanted.join_type, renames),
        wanted.join_type,
        _edges(triggers, positions, wanted.triggers_join_type, {}),
        wanted.triggers_join_type,
        wanted.join_window_ms / 1000 if wanted.join_window_ms else DEFAULT_WINDOW,
    )


def _listed(pipeline: Pipeline, key: str, texts: Sequence[str], problems: Findings) -> Iterator[_Reference]:
    for index, text in enumerate(texts):
        path: KeyPath = ("spec", "input", key, index)
        reference = _reference(text, path)
        if reference is None:
            message = f"the input of pipeline {quoted(pipeline.name)} reads {quoted(text)}, which is no reference"
            problems.add(pipeline.document.problem(path, message, _GRAMMAR))
        elif reference.source.pipeline == pipeline.name:
            message = f"the input of pipeline {quoted(pipeline.name)} reads {quoted(text)}, which is its own"
            hint = "steps read their own pipeline; the input names others"
            problems.add(pipeline.document.problem(path, message, hint))
        else:
            yield reference


def _references(pipeline: Pipeline) -> Iterator[_Reference]:
    """Those of a pipeline's references that lead to others."""
    if pipeline.input is None:
        return
    listed = {
        "externalInputs": pipeline.input.external_inputs,
        "externalTriggers": pipeline.input.external_triggers,
    }
    for key, texts in listed.items():
        for index, text in enumerate(texts):
            reference = _reference(text, ("spec", "input", key, index))
            if reference is not None and reference.source.pipeline != pipeline.name:
                yield reference


def _reference(text: str, path: KeyPath) -> _Reference | None:
    """What a text refers to; None when it is no reference."""
    parts = text.split(".")
    if not all(part.strip() for part in parts):
        return None
    owner, name, rest = Owner.PIPELINE, parts[0], parts[1:]
    if rest and rest[0] == _STEP:
        if len(rest) == 1:
            return None
        owner, name, rest = Owner.MODEL, rest[1], rest[2:]
    if not rest:
        return _Reference(text, Source(parts[0], owner, name, Side.OUTPUTS), None, path)
    if len(rest) <= 2 and rest[0] in (Side.INPUTS, Side.OUTPUTS):  # noqa: PLR2004  side, tensor
        return _Reference(text, Source(parts[0], owner, name, Side(rest[0])), rest[1] if len(rest) > 1 else None, path)
    return None


def _renames(
    pipeline: Pipeline, wanted: Input, data: Sequence[_Reference], problems: Findings
) -> dict[str, dict[str, str]]:
    """The new name of each tensor, by source; a key that renames nothing is a problem, or one to another's new name."""
    read: dict[str, set[str | None]] = {}
    for reference in data:
        read.setdefault(str(reference.source), set()).add(reference.tensor)
    found: dict[str, dict[str, str]] = {}
    taken: dict[tuple[str, str], str] = {}
    for full, new in wanted.tensor_map:
        source, tensor = _split(full)
        if tensor and not read.get(source, set()).isdisjoint((None, tensor)):
            found.setdefault(source, {})[tensor] = new
            together = wanted.join_type is Join.INNER
            # Without the others of an inner join only the tensors of a whole source come together.
            if not together and None not in read[source]:
                continue
            first = taken.setdefault((new, "" if together else source), full)
            if first != full:
                what = f"{quoted(first)} and {quoted(full)} to {quoted(new)}, and both can come"
                message = f"the input of pipeline {quoted(pipeline.name)} renames {what}"
                path: KeyPath = ("spec", "input", "tensorMap", full)
                problems.add(pipeline.document.key_problem(path, message, "give them different names"))
        elif read:
            keys = [f"{name}.{known or tensor or '<tensor>'}" for name, tensors in read.items() for known in tensors]
            hint = _near(full, keys, problems) or _RENAMED
            message = f"the input of pipeline {quoted(pipeline.name)} renames {quoted(full)}, but does not read it"
            problems.add(pipeline.document.key_problem(("spec", "input", "tensorMap", full), message, hint))
    return found


def _split(full: str) -> tuple[str, str]:
    """Source and tensor of a tensorMap's key; a tensor may have dots in its name."""
    parts = full.split(".")
    count = 4 if parts[1:2] == [_STEP] else 2  # <pipeline>.step.<step>.<side> or <pipeline>.<side>
    return ".".join(parts[:count]), ".".join(parts[count:])


def _edges(
    references: Sequence[_Reference],
    positions: Mapping[Source, int],
    join: Join,
    renames: Mapping[str, Mapping[str, str]],
) -> tuple[Edge, ...]:
    """One edge for each reference; one for a source when all of its tensors must be there."""
    if join is not Join.INNER:
        return tuple(_edge(r.source, (r.tensor,) if r.tensor else (), positions, renames) for r in references)
    wanted: dict[Source, list[str | None]] = {}
    for reference in references:
        wanted.setdefault(reference.source, []).append(reference.tensor)
    return tuple(
        _edge(source, () if None in tensors else tuple(t for t in tensors if t), positions, renames)
        for source, tensors in wanted.items()
    )


def _edge(
    source: Source, wanted: tuple[str, ...], positions: Mapping[Source, int], renames: Mapping[str, Mapping[str, str]]
) -> Edge:
    of_source = renames.get(str(source), {})
    chosen = tuple((tensor, of_source[tensor]) for tensor in (wanted or of_source) if tensor in of_source)
    return Edge(positions[source], source.side, wanted, chosen)


def _check_sources(
    pipeline: Pipeline, references: Iterable[_Reference], known: Mapping[str, Pipeline], problems: Findings
) -> None:
    steps: dict[str, dict[str, None]] = {}
    for reference in references:
        source, found = reference.source, known.get(reference.source.pipeline)
        if found is not None and source.pipeline not in steps:
            steps[source.pipeline] = dict.fromkeys(step.name for step in found.steps)
        if found is None:
            fault = "no pipeline has that name"
            others = known.keys() - {pipeline.name}
            hint = _near(source.pipeline, others, problems) or "load it first, or in the same call"
        elif source.owner is Owner.MODEL and source.name not in steps[source.pipeline]:
            fault = f"pipeline {quoted(source.pipeline)} has no step of that name"
            names = steps[source.pipeline]
            hint = _near(source.name, names, problems) or f"its steps are {_told(names)}"
        elif source.owner is Owner.PIPELINE and source.side is Side.OUTPUTS and found.output is None:
            fault = f"pipeline {quoted(source.pipeline)} has no output"
            hint = "give it an output, or read one of its steps"
        else:
            continue
        message = f"the input of pipeline {quoted(pipeline.name)} reads {quoted(reference.text)}; {fault}"
        problems.add(pipeline.document.problem(reference.path, message, hint))


def _near(word: str, candidates: Collection[str], problems: Findings) -> str:
    """The hint with the nearest candidate; empty when nothing is near, or when looking would take too long."""
    return did_you_mean(word, candidates) if len(candidates) * (len(problems) + 1) <= _MOST_GUESSES else ""


def _check_cycles(
    checked: Mapping[str, Pipeline], reads: Mapping[str, Sequence[_Reference]], problems: Findings
) -> None:
    """Tell the shortest ring of each knot of pipelines, at a reference of one that is being checked."""
    numbers = {name: number for number, name in enumerate(reads)}
    feeds = {name: {r.source.pipeline: r for r in references} for name, references in reads.items()}
    needs = [[Need(False, frozenset(numbers[s] for s in sources if s in numbers))] for sources in feeds.values()]
    cycles = dict(zip(feeds, arrange(needs).cycles, strict=True))
    told = {0}
    for name, pipeline in checked.items():
        if cycles[name] not in told:
            told.add(cycles[name])
            ring = _ring(name, feeds)
            message = f"pipelines {_told(ring)} feed each other in a cycle"
            reference = feeds[name][ring[1]]
            problems.add(pipeline.document.problem(reference.path, message, "a record would go round for ever"))


def _ring(start: str, feeds: Mapping[str, Mapping[str, _Reference]]) -> list[str]:
    """The shortest way from a pipeline that is in a cycle over those that feed it back to itself."""
    reader = {start: start}
    way = [start]
    for name in way:  # it grows while it is read
        if start in feeds[name]:
            ring = [name]
            while ring[-1] != start:
                ring.append(reader[ring[-1]])
            return ring[::-1]
        for source in feeds[name]:
            if source in feeds and source not in reader:
                reader[source] = name
                way.append(source)
    raise AssertionError(f"{start} is in no cycle")


def _told(names: Collection[str]) -> str:
    """Names for a message, not more of them than anybody reads."""
    return ", ".join(islice(names, _MOST_NAMES)) + (", …" if len(names) > _MOST_NAMES else "")
