"""The Experiment resource: how calls are split between candidates, and copied to a mirror."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from engine.resources.metadata import Metadata
from engine.resources.problems import did_you_mean, quoted
from engine.resources.topic_options import PREFIX, TopicOptions

if TYPE_CHECKING:
    from engine.resources.section import Section
    from engine.resources.source import Document

_FIELDS = ("candidates", "default", "mirror", "resourceType")
_UINT32 = (1 << 32) - 1


class ResourceType(StrEnum):
    """What an experiment's candidates are."""

    MODEL = "model"
    PIPELINE = "pipeline"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One that takes a share of the calls: its weight over the sum of all weights."""

    name: str
    weight: int


@dataclass(frozen=True, slots=True)
class Mirror:
    """One that gets a copy of some calls and whose answers nobody sees."""

    name: str
    percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """An experiment as it is written; `default` is empty or the candidate whose own calls are split."""

    name: str
    default: str = ""
    candidates: tuple[Candidate, ...] = ()
    mirror: Mirror | None = None
    resource_type: ResourceType = ResourceType.MODEL
    metadata: Metadata = field(default_factory=Metadata)
    document: Document = field(compare=False, repr=False)


def read_experiment(name: str, metadata: Metadata, spec: Section, document: Document) -> Experiment:
    """The experiment of a `spec`; faults go to its findings."""
    spec.only(_FIELDS)
    experiment = Experiment(
        name=name,
        default=spec.text("default"),
        candidates=_candidates(spec),
        mirror=_mirror(spec),
        resource_type=spec.choice("resourceType", ResourceType, ResourceType.MODEL),
        metadata=metadata,
        document=document,
    )
    _check(experiment, spec)
    if metadata.topic_options != TopicOptions():
        message = f"{spec.title} has no topics of its own, and asks something of them"
        hint = f"move {PREFIX}... to the models or pipelines that it names"
        spec.findings.add(document.key_problem(("metadata", "annotations"), message, hint))
    return experiment


def _candidates(spec: Section) -> tuple[Candidate, ...]:
    found: dict[str, Candidate] = {}
    for section in spec.sections("candidates"):
        name, weight = _share(section, "candidate", "weight", most=_UINT32)
        if name and name in found:
            section.refuse(f"{spec.title} has repeated candidate {quoted(name)}", at="name")
        found[name] = Candidate(name, weight)
    return tuple(found.values())


def _mirror(spec: Section) -> Mirror | None:
    section = spec.section("mirror")
    return Mirror(*_share(section, "mirror", "percent", most=100)) if section else None


def _share(section: Section, noun: str, key: str, most: int) -> tuple[str, int]:
    """A name with a number that must be there, as candidates and mirrors have it."""
    entry = section.titled(f"{section.title} {noun}")
    name = entry.required("name")
    entry = entry.titled(f"{entry.title} {quoted(name)}")
    entry.only(("name", key))
    if not entry.has(key):
        entry.refuse(f"{entry.title} needs {quoted(key)}")
    return name, entry.number(key, most=most) or 0


def _check(experiment: Experiment, spec: Section) -> None:
    names = [candidate.name for candidate in experiment.candidates]
    if experiment.default and experiment.default not in names:
        message = f"{spec.title}: default {quoted(experiment.default)} is not one of its candidates"
        spec.refuse(message, did_you_mean(experiment.default, names), at="default")
    if spec.data.get("candidates") in (None, []) and not spec.has("mirror"):
        spec.refuse(f"{spec.title} has neither candidates nor a mirror")
    if names and not any(candidate.weight for candidate in experiment.candidates):
        spec.refuse(f"{spec.title}: the weights of its candidates add up to 0", at="candidates")
    if experiment.mirror and experiment.mirror.name in names:
        message = f"{spec.title}: mirror {quoted(experiment.mirror.name)} is a candidate as well"
        spec.refuse(message, at=("mirror", "name"))
