"""The two kinds of files that settings come from, in the reference's forms: `kafka.json`, and configs of its CLI.

Both are JSON, and a key that is not known is refused: a setting that was misspelt would silently not be set.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InvalidSettings
from engine.resources import did_you_mean, quoted
from engine.settings import FOR_EVER, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# librdkafka's names, and the settings that they are here.
_CLIENT = {
    "bootstrap.servers": "kafka_broker",
    "security.protocol": "kafka_security",
    "ssl.ca.location": "kafka_ca",
    "ssl.certificate.location": "kafka_certificate",
    "ssl.key.location": "kafka_key",
    "ssl.key.password": "kafka_key_password",
    "ssl.endpoint.identification.algorithm": "kafka_identification",
    "sasl.mechanism": "kafka_sasl",
    "sasl.mechanisms": "kafka_sasl",
    "sasl.username": "kafka_user",
    "sasl.password": "kafka_password",
    "session.timeout.ms": "session_timeout",
    "message.max.bytes": "max_message_bytes",
}
_TOPICS = {
    "numPartitions": "partitions",
    "replicationFactor": "replication_factor",
    "retention.ms": "retention_ms",
    "compression.type": "compression",
}

# What the reference's own files hold and what only tunes its client: known, and without effect here.
_WITHOUT_EFFECT = (
    "acks",
    "auto.offset.reset",
    "client.id",
    "compression.type",
    "debug",
    "enable.idempotence",
    "linger.ms",
    "log_level",
    "socket.keepalive.enable",
    "statistics.interval.ms",
    "topic.metadata.propagation.max.ms",
)

_SECTIONS = ("consumer", "producer", "streams", "topics")
_KAFKA = (*_SECTIONS, "bootstrap.servers", "consumerGroupIdPrefix", "debug", "topicPrefix")

_TLS = ("tls", "skipSSLVerify", "keyPath", "crtPath", "caPath")
_CONFIG = {
    "dataplane": ("inferHost", *_TLS),
    "controlplane": ("schedulerHost", *_TLS),
    "kafka": ("bootstrap", "namespace", "topicPrefix"),
}


@dataclass(frozen=True, slots=True)
class Config:
    """What a config of the command line says.

    infer_host   which gateway is called; empty: the config does not say
    settings     the broker and the parts of topics' names, by the names of Settings
    document     the file as it is
    """

    infer_host: str
    settings: Mapping[str, Any]
    document: Mapping[str, Any]


def kafka(path: str) -> dict[str, Any]:
    """The settings that a `kafka.json` holds, by the names of Settings; what Kafka Streams would be told is left out.

    Raises InvalidSettings, naming the file and the key, for what is unknown or cannot be.
    """
    document = _read(path)
    _refuse_unknown(path, document, _KAFKA)
    found: dict[str, Any] = {}
    _put(found, path, "bootstrap.servers", document, "kafka_broker")
    _put(found, path, "topicPrefix", document, "topic_prefix")
    for section in ("consumer", "producer"):
        entries = _section(path, document, section)
        _refuse_unknown(f"{path}: {section}", entries, (*_CLIENT, *_WITHOUT_EFFECT))
        for key, name in _CLIENT.items():
            _put(found, f"{path}: {section}", key, entries, name)
    topics = _section(path, document, "topics")
    _refuse_unknown(f"{path}: topics", topics, _TOPICS)
    for key, name in _TOPICS.items():
        _put(found, f"{path}: topics", key, topics, name)
    groups = document.get("consumerGroupIdPrefix") or None
    if groups not in (None, found.get("topic_prefix", Settings().topic_prefix)):
        raise InvalidSettings(
            f"{path}: consumerGroupIdPrefix is {json.dumps(groups)}; groups begin with topicPrefix here, leave it out"
        )
    return found


def config(path: str) -> Config:
    """A config of the command line. Raises InvalidSettings, naming the file and the key, as `kafka` does."""
    document = _read(path)
    _refuse_unknown(path, document, _CONFIG)
    sections = {name: _section(path, document, name) for name in _CONFIG}
    for name, known in _CONFIG.items():
        _refuse_unknown(f"{path}: {name}", sections[name], known)
    if sections["dataplane"].get("tls"):
        raise InvalidSettings(f"{path}: dataplane.tls is set, and the gateway is called without TLS; leave it out")
    found: dict[str, Any] = {}
    for key, name in (("bootstrap", "kafka_broker"), ("namespace", "namespace"), ("topicPrefix", "topic_prefix")):
        _put(found, f"{path}: kafka", key, sections["kafka"], name)
    host = sections["dataplane"].get("inferHost", "")
    if not isinstance(host, str):
        raise InvalidSettings(f"{path}: dataplane: inferHost is {json.dumps(host)}; it must be a text")
    return Config(host, found, document)


def _read(path: str) -> dict[str, Any]:
    try:
        document = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InvalidSettings(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidSettings(f"{path}: it cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidSettings(f"{path}: it holds no JSON object")
    return document


def _section(path: str, document: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = document.get(name, {})
    if not isinstance(found, dict):
        raise InvalidSettings(f"{path}: {name} is no JSON object")
    return found


def _refuse_unknown(place: str, entries: Iterable[str], known: Iterable[str]) -> None:
    for key in entries:
        if key not in known:
            hint = did_you_mean(key, list(known)) or f"known are {', '.join(known)}"
            raise InvalidSettings(f"{place}: unknown key {quoted(key)}; {hint}")


def _put(found: dict[str, Any], place: str, key: str, entries: Mapping[str, Any], name: str) -> None:
    """Take an entry over as the setting `name`; an empty text says nothing."""
    if key not in entries or entries[key] == "":
        return
    value = _value(place, key, entries[key], name)
    if found.get(name, value) != value:
        raise InvalidSettings(f"{place}: {key} is another one than elsewhere in the file; all clients have the same")
    found[name] = value


def _value(place: str, key: str, value: Any, name: str) -> Any:
    default = getattr(Settings(), name)
    if isinstance(default, str):
        if not isinstance(value, str):
            raise InvalidSettings(f"{place}: {key} must be a text")
        return value
    if name == "retention_ms" and str(value) == str(FOR_EVER):
        return FOR_EVER
    # librdkafka takes numbers as texts too.
    if isinstance(value, bool) or not str(value).isdecimal():
        raise InvalidSettings(f"{place}: {key} is {json.dumps(value)}; it must be a number, 0 or more")
    return int(value) / 1000 if isinstance(default, float) else int(value)
