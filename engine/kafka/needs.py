"""Which topics a resource has, which it needs, and how they are to be made. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.dataflow.external import compile_input
from engine.protocol.record import Owner, Side
from engine.resources import Experiment, Model, Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.protocol.record import Topics
    from engine.resources import Resource, TopicOptions


def owners(model: Model) -> list[Owner]:
    """Under whose names a model's topics are: an explainer has some of its own besides."""
    return [Owner.MODEL, Owner.EXPLAINER] if model.explainer is not None else [Owner.MODEL]


def own(topics: Topics, resource: Resource) -> list[str]:
    """The topics of a resource alone, of requests and answers: none of an experiment."""
    if isinstance(resource, Experiment):
        return []
    kinds = owners(resource) if isinstance(resource, Model) else [Owner.PIPELINE]
    return [topics.of(owner, resource.name, side) for owner in kinds for side in Side]


def calls(topics: Topics, models: Iterable[Model]) -> dict[str, tuple[Owner, str]]:
    """The topics that models are called on, each with the owner and the name that it has."""
    return {topics.of(owner, each.name, Side.INPUTS): (owner, each.name) for each in models for owner in owners(each)}


def needed(topics: Topics, resource: Resource) -> list[str]:
    """The topics that a resource works with: its own, and those of what it reads and writes."""
    if not isinstance(resource, Pipeline):
        return own(topics, resource)
    upstream = compile_input(resource)[0]
    sources = upstream.sources if upstream is not None else ()
    return [
        *own(topics, resource),
        *(topics.of(Owner.MODEL, step.name, side) for step in resource.steps for side in Side),
        *(topics.of(source.owner, source.name, source.side) for source in sources),
    ]


def steps(resource: Resource) -> list[str]:
    """The models that a pipeline's requests need."""
    return [step.name for step in resource.steps] if isinstance(resource, Pipeline) else []


def joins(topics: Topics, resource: Resource) -> list[str]:
    """The changelog of a pipeline that joins what others give; none of all else."""
    upstream = compile_input(resource)[0] if isinstance(resource, Pipeline) else None
    return [topics.joins(resource.name)] if upstream is not None and upstream.joins else []


def options(topics: Topics, resources: Iterable[Resource]) -> dict[str, TopicOptions]:
    """What is asked for the topics of each resource: whoever has a topic says how it is, not whoever else uses it."""
    return {name: each.metadata.topic_options for each in resources for name in own(topics, each)}
