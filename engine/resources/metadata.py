"""What every resource has: a name, and the rest of its Kubernetes metadata."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.resources.problems import quoted
from engine.resources.topic_options import TopicOptions, read_topic_options

if TYPE_CHECKING:
    from engine.resources.section import Section

_NAME = re.compile(r"[a-z0-9]([-_a-z0-9]{0,61}[a-z0-9])?")
_NAME_HINT = 'use lower-case letters, digits, "-" and "_", at most 63, with a letter or digit at both ends'

# `kubectl get -o yaml` writes all of these; what is not kept has no meaning outside a cluster.
_METADATA = (
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)


@dataclass(frozen=True, slots=True)
class Metadata:
    """A resource's Kubernetes metadata beside its name; nothing here changes what the resource does.

    topic_options   what the annotations ask of the resource's topics
    """

    namespace: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    generation: int | None = None
    topic_options: TopicOptions = field(default_factory=TopicOptions)


def read_metadata(section: Section) -> Metadata:
    """The metadata section, without the name."""
    section.only(_METADATA)
    annotations = section.pairs("annotations")
    return Metadata(
        namespace=section.text("namespace"),
        labels=section.pairs("labels"),
        annotations=annotations,
        generation=section.number("generation", most=(1 << 63) - 1),
        topic_options=read_topic_options(section, annotations),
    )


def read_name(section: Section) -> str:
    """The section's `name`, which must be there and be fit for a topic."""
    name = section.required("name")
    if name.strip() and not _NAME.fullmatch(name):
        section.refuse(f"{section.title} does not have a valid name: {quoted(name)}", _name_hint(name), at="name")
    return name


def _name_hint(name: str) -> str:
    """What a name may hold; of a letter that only looks like one of those, which it is."""
    foreign = next((character for character in name if not character.isascii()), "")
    which = f"{quoted(foreign)} is {unicodedata.name(foreign, f'U+{ord(foreign):04X}')}; " if foreign else ""
    return which + _NAME_HINT
