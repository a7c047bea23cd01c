"""What explainers refer to: whether it is there and can be asked, and whether explaining it would come to an end."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from engine.dataflow.external import compile_input
from engine.resources import Model, Pipeline, did_you_mean, quoted
from engine.resources.source import Findings, TooManyProblems

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from engine.resources import Problem
    from engine.resources.source import KeyPath

# Looking for a near name takes 15 µs for each there is.
_MOST_GUESSED = 1000

_Name: TypeAlias = "tuple[type[Model | Pipeline], str]"


@dataclass(frozen=True, slots=True)
class _Leads:
    """That one resource makes another one run, and where its document says so."""

    to: _Name
    path: KeyPath


def check_explained(resources: Iterable[Model | Pipeline], present: Iterable[Model | Pipeline] = ()) -> list[Problem]:
    """What stands against these explainers, and against these pipelines with explainers, beside what is `present`.

    Unknown references, explainers of explainers, pipelines that give no answers, and rings: an explainer asks a
    pipeline, the pipeline runs the explainer, and so on for ever.
    """
    checked = {(type(each), each.name): each for each in resources}
    known = {(type(each), each.name): each for each in present} | checked
    problems = Findings()
    with suppress(TooManyProblems):
        for resource in checked.values():
            if isinstance(resource, Model) and resource.explainer is not None:
                _check_reference(resource, known, problems)
        _check_rings(checked, known, problems)
    return list(problems)


def depth(pipeline: str, models: Mapping[str, Model], pipelines: Mapping[str, Pipeline]) -> int:
    """How many pipelines, one behind the other, the requests of a pipeline may wait for: those its explainers ask."""
    return _depth(pipeline, models, pipelines, frozenset())


def _depth(name: str, models: Mapping[str, Model], pipelines: Mapping[str, Pipeline], above: frozenset[str]) -> int:
    if name not in pipelines or name in above:
        return 0
    steps = (models.get(step.name) for step in pipelines[name].steps)
    asked = {model.explainer.pipeline_ref for model in steps if model is not None and model.explainer is not None}
    return max((1 + _depth(ref, models, pipelines, above | {name}) for ref in asked if ref), default=0)


def _check_reference(model: Model, known: Mapping[_Name, Model | Pipeline], problems: Findings) -> None:
    explainer = model.explainer
    assert explainer is not None
    kind: type[Model | Pipeline] = Pipeline if explainer.pipeline_ref else Model
    name = explainer.pipeline_ref or explainer.model_ref
    if not name:
        return  # its fields were refused
    path = ("spec", "explainer", "pipelineRef" if kind is Pipeline else "modelRef")
    found, called = known.get((kind, name)), kind.__name__.lower()
    if found is None:
        fault, hint = f"no {called} has that name", _near(kind, name, known)
    elif isinstance(found, Pipeline) and found.output is None:
        fault, hint = "it has no output, so that there is nothing to explain", "give it an output, or explain a model"
    elif found is model:
        fault, hint = "that is the explainer itself", "name the model whose answers are to be explained"
    elif isinstance(found, Model) and found.explainer is not None:
        fault, hint = "that is an explainer too", "name the model whose answers are to be explained"
    else:
        return
    text = f"explainer {quoted(model.name)} explains {called} {quoted(name)}; {fault}"
    problems.add(model.document.problem(path, text, hint))


def _near(kind: type[Model | Pipeline], name: str, known: Mapping[_Name, Model | Pipeline]) -> str:
    names = [other for each, other in known if each is kind]
    hint = did_you_mean(name, names) if len(names) <= _MOST_GUESSED else ""
    return hint or "load it first, or in the same call"


def _check_rings(
    checked: Mapping[_Name, Model | Pipeline], known: Mapping[_Name, Model | Pipeline], problems: Findings
) -> None:
    """Tell each ring once, at a resource of it that is being checked."""
    leads = _all_leads(known)
    told: set[_Name] = set()
    for name, resource in known.items():
        if not (isinstance(resource, Model) and resource.explainer is not None) or name in told:
            continue
        ring = _ring(name, leads)
        told.update(ring)
        for place, each in enumerate(ring):
            if each in checked:
                after = ring[(place + 1) % len(ring)]
                path = next(lead.path for lead in leads[each] if lead.to == after)
                text = f"{' -> '.join(map(_called, (*ring, ring[0])))}: explaining would go on for ever"
                problems.add(checked[each].document.problem(path, text, "explain a pipeline without this explainer"))
                break


def _all_leads(known: Mapping[_Name, Model | Pipeline]) -> dict[_Name, list[_Leads]]:
    """What each resource makes run: an explainer its pipeline, a pipeline its explainers and the pipelines it feeds."""
    leads: dict[_Name, list[_Leads]] = {name: [] for name in known}
    for name, resource in known.items():
        if isinstance(resource, Model):
            if resource.explainer is not None and resource.explainer.pipeline_ref:
                to: _Name = (Pipeline, resource.explainer.pipeline_ref)
                leads[name].append(_Leads(to, ("spec", "explainer", "pipelineRef")))
            continue
        for index, step in enumerate(resource.steps):
            model = known.get((Model, step.name))
            if isinstance(model, Model) and model.explainer is not None:
                leads[name].append(_Leads((Model, step.name), ("spec", "steps", index, "name")))
        for source in _sources(resource):
            if (Pipeline, source) in leads:
                # It is the fed pipeline's document that says so: its place is found there.
                leads[Pipeline, source].append(_Leads(name, ("metadata", "name")))
    return leads


def _sources(pipeline: Pipeline) -> Iterator[str]:
    upstream = compile_input(pipeline)[0]
    for source in upstream.sources if upstream is not None else ():
        yield source.pipeline


def _ring(start: _Name, leads: Mapping[_Name, Sequence[_Leads]]) -> list[_Name]:
    """The shortest way from a resource back to itself; empty when there is none."""
    came_from = {start: start}
    way = [start]
    for name in way:  # it grows while it is read
        for lead in leads.get(name, ()):
            if lead.to == start:
                ring = [name]
                while ring[-1] != start:
                    ring.append(came_from[ring[-1]])
                return ring[::-1]
            if lead.to not in came_from:
                came_from[lead.to] = name
                way.append(lead.to)
    return []


def _called(name: _Name) -> str:
    return f"{'explainer' if name[0] is Model else 'pipeline'} {quoted(name[1])}"
