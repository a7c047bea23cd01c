"""Which topics an expression of `seldon pipeline inspect` names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from engine.dataflow.compiler import compile_pipeline
from engine.errors import InvalidInput, UnknownResource
from engine.protocol.record import Owner, Side
from engine.resources import Pipeline, did_you_mean, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.kafka.view import View
    from engine.protocol.record import Topics


@dataclass(frozen=True, slots=True)
class Source:
    """One topic to look at.

    side      which messages it holds; None for the errors topic, whose records are text
    tensor    the only tensor to show; None shows all
    unnamed   whether a record that names no pipeline belongs to the pipeline as well
    """

    topic: str
    side: Side | None
    tensor: str | None = None
    unnamed: bool = False


def resolve(view: View, topics: Topics, expression: str) -> tuple[str, tuple[Source, ...]]:
    """The pipeline that an expression names, and the topics to look at in the order of its plan.

    An expression is `pipeline[.step][.inputs|outputs[.tensor]]`. UnknownResource when no such pipeline is loaded,
    InvalidInput for a step that it does not have; both name what was probably meant.
    """
    name, *rest = expression.split(".")
    loaded = view.resources.get(("pipeline", name))
    if loaded is None or not isinstance(loaded.resource, Pipeline):
        known = [key[1] for key in view.resources if key[0] == "pipeline"]
        raise UnknownResource(hinted(f"no pipeline {quoted(name)} is loaded", name, known))
    steps = _steps(loaded.resource)
    if not rest:
        inner = [source for step in steps for source in _both(topics, Owner.MODEL, step)]
        return name, (*inner, *ends(topics, name))
    owner, asked = Owner.PIPELINE, name
    if rest[0] not in tuple(Side):
        owner, asked = Owner.MODEL, rest.pop(0)
        if asked not in steps:
            raise InvalidInput(hinted(f'pipeline "{name}" has no step {quoted(asked)}', asked, steps))
    return name, _sides(expression, rest, _both(topics, owner, asked))


def ends(topics: Topics, pipeline: str) -> tuple[Source, ...]:
    """Where a pipeline's requests come in, and where they end: with an answer or with an error."""
    return (*_both(topics, Owner.PIPELINE, pipeline), Source(topics.errors, None))


def _steps(pipeline: Pipeline) -> list[str]:
    plan, _ = compile_pipeline(pipeline)
    if plan is None:
        return [step.name for step in pipeline.steps]
    return [plan.nodes[index].name for index in plan.steps]


def _both(topics: Topics, owner: Owner, name: str) -> tuple[Source, ...]:
    return tuple(
        Source(topics.of(owner, name, side), side, unnamed=owner is Owner.PIPELINE and side is Side.INPUTS)
        for side in Side
    )


def _sides(expression: str, rest: Sequence[str], both: tuple[Source, ...]) -> tuple[Source, ...]:
    if not rest:
        return both
    # A tensor's name may hold dots.
    side, tensor = rest[0], ".".join(rest[1:])
    chosen = tuple(replace(source, tensor=tensor or None) for source in both if source.side == side)
    if not chosen or (len(rest) > 1 and not tensor):
        raise InvalidInput(
            f"{quoted(expression)} names nothing to look at; "
            "write PIPELINE, PIPELINE.STEP, or one of these with .inputs or .outputs, and .TENSOR behind it"
        )
    return chosen


def hinted(text: str, word: str, known: Sequence[str]) -> str:
    """A refusal of a word, with what was probably meant, or what there is."""
    hint = did_you_mean(word, known) or (f"there is {', '.join(known)}" if known else "")
    return f"{text}; {hint}" if hint else text
