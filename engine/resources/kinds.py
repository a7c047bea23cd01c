"""The resources that users write: from documents, from files, and to JSON and back."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from engine.resources import source
from engine.resources.experiment import Candidate, Experiment, Mirror, ResourceType, read_experiment
from engine.resources.metadata import Metadata, read_metadata, read_name
from engine.resources.model import Explainer, Logger, Model, read_model
from engine.resources.pipeline import Batch, Input, Join, Output, Pipeline, Step, read_pipeline
from engine.resources.problems import Findings, Place, Problem, TooManyProblems, did_you_mean, quoted
from engine.resources.section import Section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from engine.resources.source import Document

__all__ = [
    "API_VERSION",
    "Batch",
    "Candidate",
    "Experiment",
    "Explainer",
    "Input",
    "Join",
    "Logger",
    "Metadata",
    "Mirror",
    "Model",
    "Output",
    "Pipeline",
    "Resource",
    "ResourceType",
    "Resources",
    "Step",
    "files",
    "load",
    "parse",
    "to_json",
]

Resource: TypeAlias = Model | Pipeline | Experiment
_AnyResource = TypeVar("_AnyResource", Model, Pipeline, Experiment)

API_GROUP = "mlops.seldon.io"
API_VERSION = f"{API_GROUP}/v1alpha1"

_READERS: Mapping[str, Callable[[str, Metadata, Section, Document], Resource]] = {
    "Model": read_model,
    "Pipeline": read_pipeline,
    "Experiment": read_experiment,
}
_TOP_FIELDS = ("apiVersion", "kind", "metadata", "spec", "status")

# JSON leaves these as they are, and YAML refuses them or takes them for line ends.
_NOT_FOR_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Resources:
    """Everything that was loaded, each kind in the order in which it was written.

    faulty   what could be read of resources with faults, so that whoever checks further can tell all faults at once
    """

    models: tuple[Model, ...] = ()
    pipelines: tuple[Pipeline, ...] = ()
    experiments: tuple[Experiment, ...] = ()
    faulty: tuple[Model | Pipeline | Experiment, ...] = ()

    def named(self, kind: type[_AnyResource], name: str) -> _AnyResource | None:
        """The resource of a kind and a name, or None."""
        for resource in chain(self.models, self.pipelines, self.experiments):
            if isinstance(resource, kind) and resource.name == name:
                return resource
        return None


def parse(document: Document) -> tuple[Resource | None, list[Problem]]:
    """The resource that a document describes, or all that is wrong with it; never both."""
    resource, problems = _parse(document)
    return (None if problems else resource), problems


def _parse(document: Document) -> tuple[Resource | None, list[Problem]]:
    """What could be read of a resource, and all that is wrong with it."""
    findings = Findings()
    resource = None
    with suppress(TooManyProblems):
        resource = _read(document, findings)
    return resource, list(findings)


def to_json(resource: Resource) -> str:
    """The resource as it was written, as one canonical line of JSON.

    `documents` and `parse` read it back as an equal resource, so it can travel on a topic.
    """
    text = json.dumps(resource.document.data, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return _NOT_FOR_YAML.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def load(
    paths: Iterable[str | os.PathLike[str]], texts: Mapping[str, bytes] = MappingProxyType({})
) -> tuple[Resources, list[Problem]]:
    """The resources of files and folders, with everything that is wrong with them.

    A folder gives its *.yaml and *.yml in order, with those of the folders in it; hidden ones, and files that
    do not speak of our resources, are passed over. A file that is named must hold some. A file that is
    reached twice is read once. What has a fault is left out, what has none is there.

    texts   what is no file but was read already, by the path that it goes by
    """
    problems: list[Problem] = []
    resources: dict[tuple[type, str], Resource] = {}
    faulty: list[Resource] = []
    seen: set[str] = set()
    for path in map(Path, paths):
        for file in _files(path, problems):
            # Path.resolve raises where links go round, and that is for the reading to tell.
            real = os.path.realpath(file)
            if real not in seen:
                seen.add(real)
                raw = texts[str(file)] if str(file) in texts else _raw(file, problems)
                if raw is not None:
                    _add_file(file, raw, resources, faulty, problems, is_named=file == path)
    problems.extend(_shared_defaults(resources.values()))
    return _sorted_by_kind(resources.values(), faulty), problems


def files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files that `load` would read, and what was named and is not there."""
    return [file for path in map(Path, paths) for file in _files(path, [])]


def _read(document: Document, findings: Findings) -> Resource | None:
    if not isinstance(document.data, dict):
        findings.add(document.problem((), "a resource must be a mapping", "begin with apiVersion and kind"))
        return None
    top = Section(document, (), document.data, "the resource", findings)
    reader = _reader(top)
    if reader is None:
        return None
    top.only(_TOP_FIELDS)
    kind = top.text("kind").lower()
    top = top.titled(f"the {kind}")
    name, metadata = _head(top)
    top = top.titled(f"{kind} {quoted(name)}")
    spec = top.section("spec")
    if spec is None:
        if not top.has("spec"):
            top.refuse(f'{top.title} needs "spec"', at="spec")
        return None
    return reader(name, metadata, spec, document)


def _reader(top: Section) -> Callable[[str, Metadata, Section, Document], Resource] | None:
    """What reads the resource's kind, or None when kind or version are not ours."""
    version, kind = top.required("apiVersion"), top.required("kind")
    if version.strip() and version != API_VERSION:
        message = f"apiVersion {quoted(version)} is not supported"
        top.refuse(message, f"write {API_VERSION}", at="apiVersion")
    if kind.strip() and kind not in _READERS:
        hint = did_you_mean(kind, _READERS) or "there are Model, Pipeline and Experiment"
        top.refuse(f"kind {quoted(kind)} is not supported", hint, at="kind")
    return _READERS.get(kind) if version == API_VERSION else None


def _head(top: Section) -> tuple[str, Metadata]:
    section = top.section("metadata")
    if section is not None:
        return read_name(section), read_metadata(section)
    if not top.has("metadata"):
        top.refuse(f'{top.title} needs "metadata" with a "name"', at="metadata")
    return "", Metadata()


def _files(path: Path, problems: list[Problem]) -> Iterator[Path]:
    """The file itself, or the YAML files of a folder in order; nothing that is hidden."""
    if not path.is_dir():
        yield path
        return

    def refuse(error: OSError) -> None:
        problems.append(_unreadable(Path(error.filename), error))

    for folder, folders, names in os.walk(path, onerror=refuse):
        # os.walk goes where this list says, so this sorts the way and skips .git and its like.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith((".yaml", ".yml")) and not name.startswith("."):
                yield Path(folder, name)


def _raw(file: Path, problems: list[Problem]) -> bytes | None:
    try:
        return source.read(file)
    except OSError as error:
        problems.append(_unreadable(file, error))
        return None


def _add_file(
    file: Path,
    raw: bytes,
    resources: dict[tuple[type, str], Resource],
    faulty: list[Resource],
    problems: list[Problem],
    *,
    is_named: bool,
) -> None:
    if not is_named and API_GROUP.encode() not in raw:
        return
    found, faults = source.documents(raw, str(file))
    problems.extend(faults)
    if any(map(_is_ours, found)):
        _add(found, resources, faulty, problems)
    elif is_named and not faults:
        message = f"the file holds no resource of {API_GROUP}"
        problems.append(Problem(Place(str(file), 1, 1), message, f"begin it with apiVersion: {API_VERSION}"))


def _unreadable(file: Path, error: OSError) -> Problem:
    missing = isinstance(error, FileNotFoundError)
    message = "no such file or folder" if missing else f"cannot be read: {error.strerror}"
    return Problem(Place(str(file), 1, 1), message)


def _is_ours(document: Document) -> bool:
    return _api_version(document).startswith(API_GROUP)


def _is_foreign(document: Document) -> bool:
    """Whether a document says that it is for somebody else; one that says nothing is a slip of the pen."""
    return bool(_api_version(document)) and not _is_ours(document)


def _api_version(document: Document) -> str:
    version = document.data.get("apiVersion") if isinstance(document.data, dict) else ""
    return version if isinstance(version, str) else ""


def _add(
    found: Iterable[Document],
    resources: dict[tuple[type, str], Resource],
    faulty: list[Resource],
    problems: list[Problem],
) -> None:
    for document in found:
        if _is_foreign(document):
            continue
        resource, faults = _parse(document)
        problems.extend(faults)
        if resource is None:
            continue
        if faults:
            faulty.append(resource)
            continue
        first = resources.setdefault((type(resource), resource.name), resource)
        if first is not resource:
            problems.append(_duplicate(first, resource))


def _duplicate(first: Resource, second: Resource) -> Problem:
    kind = type(second).__name__.lower()
    there = first.document.place(("metadata", "name"))
    message = f"{kind} {quoted(second.name)} is already defined at {there}"
    return second.document.problem(("metadata", "name"), message)


def _shared_defaults(resources: Iterable[Resource]) -> Iterator[Problem]:
    """Experiments that split the calls of one model, or of one pipeline, between themselves."""
    first: dict[tuple[ResourceType, str], Experiment] = {}
    for resource in resources:
        if not isinstance(resource, Experiment) or not resource.default:
            continue
        other = first.setdefault((resource.resource_type, resource.default), resource)
        if other is not resource:
            there = other.document.place(("spec", "default"))
            message = f"{resource.resource_type} {quoted(resource.default)} is already the default of "
            yield resource.document.problem(("spec", "default"), f"{message}experiment {quoted(other.name)} at {there}")


def _sorted_by_kind(resources: Iterable[Resource], faulty: Iterable[Resource]) -> Resources:
    found = tuple(resources)
    return Resources(
        models=tuple(resource for resource in found if isinstance(resource, Model)),
        pipelines=tuple(resource for resource in found if isinstance(resource, Pipeline)),
        experiments=tuple(resource for resource in found if isinstance(resource, Experiment)),
        faulty=tuple(faulty),
    )
