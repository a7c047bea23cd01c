"""How a resource's topics are made, where it asks for it: annotations with the names that Kafka has for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.resources.problems import did_you_mean, quoted
from engine.settings import COMPRESSIONS, FOR_EVER, MOST_MILLISECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.resources.section import Section

PREFIX = "kafka.seldon.io/"
MOST_REPLICAS = (1 << 15) - 1

_RETENTION, _COMPRESSION, _REPLICAS = "retention.ms", "compression.type", "replication.factor"
_NUMBER = re.compile(r"-?[0-9]{1,19}")


@dataclass(frozen=True, slots=True)
class TopicOptions:
    """What is asked for a topic; what is 0 or empty, nobody has asked for.

    retention_ms        how long its records stay; `FOR_EVER`: until the topic is deleted
    compression         in which form the broker keeps them, one of `COMPRESSIONS`
    replication_factor  on how many brokers
    """

    retention_ms: int = 0
    compression: str = ""
    replication_factor: int = 0

    @property
    def configs(self) -> dict[str, str]:
        """What of it are settings of the topic, by the names that Kafka has for them."""
        asked = {_RETENTION: str(self.retention_ms or ""), _COMPRESSION: self.compression}
        return {name: value for name, value in asked.items() if value}

    def __or__(self, other: TopicOptions) -> TopicOptions:
        """These, and the other's where these ask for nothing."""
        return TopicOptions(
            self.retention_ms or other.retention_ms,
            self.compression or other.compression,
            self.replication_factor or other.replication_factor,
        )


def read_topic_options(section: Section, annotations: Iterable[tuple[str, str]]) -> TopicOptions:
    """The options that a metadata section's annotations ask for; those of others are passed over."""
    asked = {name.removeprefix(PREFIX): value for name, value in annotations if name.startswith(PREFIX)}
    for name in asked.keys() - {_RETENTION, _COMPRESSION, _REPLICAS}:
        _refuse_name(section, name)
    return TopicOptions(
        _number(section, asked, _RETENTION, MOST_MILLISECONDS, is_endless=True),
        _compression(section, asked),
        _number(section, asked, _REPLICAS, MOST_REPLICAS),
    )


def _refuse_name(section: Section, name: str) -> None:
    if name == "partitions":
        message = f"{section.title} cannot have a number of partitions of its own"
        hint = "a request keeps its partition from topic to topic, so a namespace has one number: set --partitions"
    else:
        message = f"{section.title} has an unknown annotation {quoted(PREFIX + name)}"
        known = [PREFIX + each for each in (_RETENTION, _COMPRESSION, _REPLICAS)]
        hint = did_you_mean(PREFIX + name, known) or f"there are {', '.join(known)}"
    section.refuse_key(("annotations", PREFIX + name), message, hint)


def _compression(section: Section, asked: dict[str, str]) -> str:
    value = asked.get(_COMPRESSION, "")
    if _COMPRESSION not in asked or value in COMPRESSIONS:
        return value
    _refuse_value(section, _COMPRESSION, f"{', '.join(COMPRESSIONS[:-1])} or {COMPRESSIONS[-1]}", value)
    return ""


def _number(section: Section, asked: dict[str, str], name: str, most: int, *, is_endless: bool = False) -> int:
    """A whole number, 0 when it is absent or refused."""
    text = asked.get(name)
    if text is None:
        return 0
    value = int(text) if _NUMBER.fullmatch(text) else 0
    if 1 <= value <= most or (is_endless and value == FOR_EVER):
        return value
    wanted = "a whole number of milliseconds, or -1 for ever" if is_endless else f"a whole number from 1 to {most}"
    _refuse_value(section, name, wanted, text)
    return 0


def _refuse_value(section: Section, name: str, wanted: str, value: str) -> None:
    message = f"{section.title}: {quoted(PREFIX + name)} must be {wanted}, not {quoted(value)}"
    section.refuse(message, at=("annotations", PREFIX + name))
