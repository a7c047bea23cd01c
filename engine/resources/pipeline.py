"""The Pipeline resource: the steps of a request's way, and how each waits for its inputs.

Read here is what a pipeline says by itself. What its references mean, whether they lead anywhere and whether
they go in circles, the compiler finds out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from engine.resources.metadata import Metadata, read_name
from engine.resources.model import clean_topics_on_delete
from engine.resources.problems import quoted

if TYPE_CHECKING:
    from engine.resources.section import Section
    from engine.resources.source import Document

_FIELDS = ("allowCycles", "dataflow", "input", "maxStepRevisits", "output", "steps")
_STEP_FIELDS = (
    "batch",
    "inputs",
    "inputsJoinType",
    "joinWindowMs",
    "name",
    "tensorMap",
    "triggers",
    "triggersJoinType",
)
_BATCH_FIELDS = ("rolling", "size", "windowMs")
_INPUT_FIELDS = (
    "externalInputs",
    "externalTriggers",
    "joinType",
    "joinWindowMs",
    "tensorMap",
    "triggersJoinType",
)
_OUTPUT_FIELDS = ("joinWindowMs", "steps", "stepsJoin", "tensorMap")


class Join(StrEnum):
    """How several sources become one: all of them, those that come in time, or the first."""

    INNER = "inner"
    OUTER = "outer"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Batch:
    """How many rows a step collects before it runs, and for how long; None is no limit of that sort."""

    size: int | None = None
    window_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One model call of a pipeline; references stand as they are written.

    `join_window_ms` is None for the engine's default, which a written 0 asks for as well.
    """

    name: str
    inputs: tuple[str, ...] = ()
    inputs_join: Join = Join.INNER
    triggers: tuple[str, ...] = ()
    triggers_join: Join = Join.INNER
    join_window_ms: int | None = None
    tensor_map: tuple[tuple[str, str], ...] = ()
    batch: Batch | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """What a pipeline reads from other pipelines; as in a step, a window of None is the default."""

    external_inputs: tuple[str, ...]
    external_triggers: tuple[str, ...] = ()
    join_window_ms: int | None = None
    join_type: Join = Join.INNER
    triggers_join_type: Join = Join.INNER
    tensor_map: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """Whose answers make the pipeline's answer; no steps at all send back what came in."""

    steps: tuple[str, ...]
    steps_join: Join = Join.INNER
    join_window_ms: int | None = None
    tensor_map: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """A pipeline as it is written; without an output nobody can wait for its answer."""

    name: str
    steps: tuple[Step, ...]
    input: Input | None = None
    output: Output | None = None
    allow_cycles: bool = False
    max_step_revisits: int = 0
    clean_topics_on_delete: bool = False
    metadata: Metadata = field(default_factory=Metadata)
    document: Document = field(compare=False, repr=False)


def read_pipeline(name: str, metadata: Metadata, spec: Section, document: Document) -> Pipeline:
    """The pipeline of a `spec`; faults go to its findings."""
    spec.only(_FIELDS)
    return Pipeline(
        name=name,
        steps=_steps(name, spec),
        input=_input(spec),
        output=_output(spec),
        allow_cycles=spec.flag("allowCycles"),
        max_step_revisits=spec.number("maxStepRevisits") or 0,
        clean_topics_on_delete=clean_topics_on_delete(spec),
        metadata=metadata,
        document=document,
    )


def _steps(pipeline: str, spec: Section) -> tuple[Step, ...]:
    found: list[Step] = []
    names: set[str] = set()
    for section in spec.sections("steps"):
        step = _step(section)
        if step.name and step.name in names:
            hint = "a step runs the model of its name; load the model under a second name to run it twice"
            section.refuse(f"{spec.title} has repeated step {quoted(step.name)}", hint, at="name")
        if step.name and step.name == pipeline:
            hint = "the pipeline's name in a reference means what came in; rename one of them"
            section.refuse(f"{spec.title} must not have a step of its own name", hint, at="name")
        # A repeated one too: whoever checks further finds the place of a step by its index.
        found.append(step)
        names.add(step.name)
    if spec.data.get("steps") in (None, []):
        spec.refuse(f"{spec.title} has no steps", "write steps: [{name: <model>}]", at="steps")
    return tuple(found)


def _step(section: Section) -> Step:
    name = read_name(section.titled(f"{section.title} step"))
    step = section.titled(f"{section.title} step {quoted(name)}")
    step.only(_STEP_FIELDS)
    return Step(
        name=name,
        inputs=_references(step, "inputs", "input"),
        inputs_join=step.choice("inputsJoinType", Join, Join.INNER),
        triggers=_references(step, "triggers", "trigger"),
        triggers_join=step.choice("triggersJoinType", Join, Join.INNER),
        join_window_ms=_window(step),
        tensor_map=step.pairs("tensorMap"),
        batch=_batch(step),
    )


def _batch(step: Section) -> Batch | None:
    section = step.section("batch")
    if section is None:
        return None
    section = section.titled(f"{step.title} batch")
    section.only(_BATCH_FIELDS)
    if section.flag("rolling"):
        hint = 'leave it out; "size" and "windowMs" bound a batch'
        section.refuse(f"{section.title}: rolling batches are not supported", hint, at="rolling")
    batch = Batch(section.number("size", least=1), section.number("windowMs", least=1))
    return None if batch == Batch() else batch


def _input(spec: Section) -> Input | None:
    section = spec.section("input")
    if section is None:
        return None
    section = section.titled(f"{spec.title} input")
    section.only(_INPUT_FIELDS)
    if section.data.get("externalInputs") in (None, []):
        hint = "write externalInputs: [<pipeline>], or leave the input out"
        section.refuse(f'{section.title} has no "externalInputs"', hint, at="externalInputs")
    return Input(
        external_inputs=_references(section, "externalInputs", "external input"),
        external_triggers=_references(section, "externalTriggers", "external trigger"),
        join_window_ms=_window(section),
        join_type=section.choice("joinType", Join, Join.INNER),
        triggers_join_type=section.choice("triggersJoinType", Join, Join.INNER),
        tensor_map=section.pairs("tensorMap"),
    )


def _output(spec: Section) -> Output | None:
    section = spec.section("output")
    if section is None:
        return None
    section = section.titled(f"{spec.title} output")
    section.only(_OUTPUT_FIELDS)
    return Output(
        steps=_references(section, "steps", "step"),
        steps_join=section.choice("stepsJoin", Join, Join.INNER),
        join_window_ms=_window(section),
        tensor_map=section.pairs("tensorMap"),
    )


def _window(section: Section) -> int | None:
    return section.number("joinWindowMs") or None


def _references(section: Section, key: str, noun: str) -> tuple[str, ...]:
    references = section.texts(key)
    for index, reference in enumerate(references):
        if not reference.strip() or reference.startswith("."):
            section.refuse(f"{section.title} has an empty {noun}", "name what it reads, or delete it", at=(key, index))
    return references
