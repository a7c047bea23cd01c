"""The Model resource: what computes one step, and how it is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.resources.metadata import Metadata
from engine.resources.problems import quoted

if TYPE_CHECKING:
    from engine.resources.section import Section
    from engine.resources.source import Document

_FIELDS = (
    "artifactVersion",
    "dataflow",
    "dedicated",
    "explainer",
    "llm",
    "logger",
    "maxReplicas",
    "memory",
    "minReplicas",
    "modelType",
    "parameters",
    "preloaded",
    "replicas",
    "requirements",
    "schemaUri",
    "secretName",
    "server",
    "storageUri",
)

_UINT32 = (1 << 32) - 1
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Explainer:
    """What a model explains: one other model, or one pipeline; the reference that is not used is empty."""

    type: str
    model_ref: str = ""
    pipeline_ref: str = ""


@dataclass(frozen=True, slots=True)
class Logger:
    """Where and how often payloads are to be logged."""

    uri: str = ""
    percent: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model as it is written; texts that are not written are empty, numbers None.

    `storage_uri` and `requirements` say who computes; an explainer may be without. The fields on placement (memory,
    replicas, server and the like) are kept for those who read them; an engine in one process places nothing.
    """

    name: str
    storage_uri: str
    requirements: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    explainer: Explainer | None = None
    clean_topics_on_delete: bool = False
    model_type: str = ""
    artifact_version: int | None = None
    schema_uri: str = ""
    secret_name: str = ""
    memory: str | int | None = None
    replicas: int | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    server: str = ""
    preloaded: bool = False
    dedicated: bool = False
    logger: Logger | None = None
    metadata: Metadata = field(default_factory=Metadata)
    document: Document = field(compare=False, repr=False)


def read_model(name: str, metadata: Metadata, spec: Section, document: Document) -> Model:
    """The model of a `spec`; faults go to its findings."""
    spec.only(_FIELDS)
    _refuse_llm(spec)
    return Model(
        name=name,
        storage_uri=_storage_uri(spec),
        requirements=spec.texts("requirements"),
        parameters=_parameters(spec),
        explainer=_explainer(spec),
        clean_topics_on_delete=clean_topics_on_delete(spec),
        model_type=spec.text("modelType"),
        artifact_version=spec.number("artifactVersion", most=_UINT32),
        schema_uri=spec.text("schemaUri"),
        secret_name=spec.text("secretName"),
        memory=_memory(spec),
        replicas=spec.number("replicas"),
        min_replicas=spec.number("minReplicas"),
        max_replicas=spec.number("maxReplicas"),
        server=spec.text("server"),
        preloaded=spec.flag("preloaded"),
        dedicated=spec.flag("dedicated"),
        logger=_logger(spec),
        metadata=metadata,
        document=document,
    )


def _storage_uri(spec: Section) -> str:
    """An explainer's is optional: it names data that features are compared with."""
    is_optional = spec.has("llm") or spec.has("explainer")
    return spec.text("storageUri") if is_optional else spec.required("storageUri")


def clean_topics_on_delete(spec: Section) -> bool:
    """The one field of a `dataflow` section, which models and pipelines share."""
    section = spec.section("dataflow")
    if section is None:
        return False
    section = section.titled(f"{spec.title} dataflow")
    section.only(("cleanTopicsOnDelete",))
    return section.flag("cleanTopicsOnDelete")


def _refuse_llm(spec: Section) -> None:
    section = spec.section("llm")
    if section is None:
        return
    _references(section.titled(f"{spec.title} llm"))
    if spec.has("explainer"):
        spec.refuse_key("llm", f"{spec.title} cannot have both an explainer and an llm")
    spec.refuse_key("llm", f"{spec.title}: llm models are not supported")


def _explainer(spec: Section) -> Explainer | None:
    section = spec.section("explainer")
    if section is None:
        return None
    section = section.titled(f"{spec.title} explainer")
    model_ref, pipeline_ref = _references(section, "type")
    return Explainer(section.required("type"), model_ref, pipeline_ref)


def _references(section: Section, *others: str) -> tuple[str, str]:
    """The model or the pipeline that a section names, of which there must be exactly one."""
    section.only(("modelRef", "pipelineRef", *others))
    refs = section.text("modelRef"), section.text("pipelineRef")
    if section.has("modelRef") == section.has("pipelineRef"):
        count = "one of them and not both" if section.has("modelRef") else "one of them"
        section.refuse(f'{section.title} needs "modelRef" or "pipelineRef", {count}')
    return refs


def _logger(spec: Section) -> Logger | None:
    section = spec.section("logger")
    if section is None:
        return None
    section = section.titled(f"{spec.title} logger")
    section.only(("percent", "uri"))
    return Logger(section.text("uri"), section.number("percent", most=100))


def _memory(spec: Section) -> str | int | None:
    memory = spec.data.get("memory")
    if isinstance(memory, str) and not _QUANTITY.fullmatch(memory):
        spec.refuse(f'{spec.title}: "memory" must be a quantity such as 100Ki, not {quoted(memory)}', at="memory")
    return memory if isinstance(memory, str) else spec.number("memory", most=(1 << 63) - 1)


def _parameters(spec: Section) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for section in spec.sections("parameters"):
        entry = section.titled(f"{spec.title} parameter")
        entry.only(("name", "value"))
        name = entry.required("name")
        if name and name in found:
            entry.refuse(f"{spec.title} has repeated parameter {quoted(name)}", at="name")
        found[name] = entry.titled(f"{entry.title} {quoted(name)}").text("value")
    return tuple(found.items())
