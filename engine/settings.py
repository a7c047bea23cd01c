"""One frozen Settings: flag, environment, files, default, in this order. Each field tells what it means."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from engine.errors import InvalidSettings
from engine.protocol.record import legal_prefix

if TYPE_CHECKING:
    from collections.abc import Mapping

AT_LEAST_ONCE, EXACTLY_ONCE = "at_least_once", "exactly_once"
GUARANTEES = (AT_LEAST_ONCE, EXACTLY_ONCE)

SECURITY_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
SASL_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

# What a topic's compression.type may be in Kafka, and its retention.ms.
COMPRESSIONS = ("producer", "uncompressed", "gzip", "snappy", "lz4", "zstd")
FOR_EVER, MOST_MILLISECONDS = -1, (1 << 63) - 1

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOG_FORMATS = ("text", "json")

# A host, or an IPv6 address in brackets; Kafka's clients know a port where none is named.
_BROKER = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:,\[\]]+)(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set.

    kafka_broker            HOST:PORT[,HOST:PORT] of the broker; empty: `up` starts the embedded one
    kafka_listen            where the embedded broker listens; only on this machine
    kafka_security          PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL, as the broker's listener speaks
    kafka_ca                PEM file of who signed the broker's certificate; empty: whom this machine trusts
    kafka_certificate, kafka_key, kafka_key_password    our own, in PEM files, where the broker wants one
    kafka_identification    https: the broker's certificate must be of the host that was called; none: it need not
    kafka_sasl, kafka_user, kafka_password      how SASL is spoken, and as whom
    listen                  where the gateway listens
    ui_listen               where a gateway serves the page that shows it all; empty: nowhere
    namespace, topic_prefix parts of every topic, group and transactional id
    partitions              of each topic of a namespace, as joins need equal counts
    replication_factor      of topics that we create
    retention_ms            records of requests stay on topics that we create; -1: for ever; 0: as the broker says
    compression             in which form the broker keeps them; empty: as the broker says
    request_timeout         seconds a caller waits at most, and a model's call takes at most
    max_message_bytes       of one request or answer: REST body, gRPC message, Kafka record
    max_in_flight           synchronous calls that wait at once in one gateway; the next one gets 429
    budget_bytes            of requests that one process has fetched and not finished; then it stops fetching. Those of
                            models, and of pipelines whose explainers wait for other pipelines, count apart
    session_timeout         seconds after which a silent worker's partitions go to others
    batch_max_wait          seconds that a step's batch without a windowMs waits for more rows
    join_max_entries        requests that may wait in a join of pipelines for each partition; then the oldest goes
    transaction_timeout     seconds after which the broker ends a transaction whose worker, and all others, are gone
    processing_guarantee    exactly_once or at_least_once; empty: the best that the broker holds
    allow_pickle            load artefacts that unpickle from anywhere, and paths out of the resource file's folder
    artefact_cache          folder for artefacts that were fetched from elsewhere; empty: in the user's cache folder
    metrics_listen          where `/metrics` is served apart from the gateway, or without one; empty: nowhere
    tracing_config          file that says where spans go, as the reference has it; empty: nothing is traced
    log_level               of the log lines of the product and of what it is made of
    log_format              text, or json: one object a line
    """

    kafka_broker: str = ""
    kafka_listen: str = "127.0.0.1:9092"
    kafka_security: str = "PLAINTEXT"
    kafka_ca: str = ""
    kafka_certificate: str = ""
    kafka_key: str = ""
    kafka_key_password: str = field(default="", repr=False)
    kafka_identification: str = "https"
    kafka_sasl: str = "PLAIN"
    kafka_user: str = ""
    kafka_password: str = field(default="", repr=False)
    listen: str = "127.0.0.1:9000"
    ui_listen: str = ""
    namespace: str = "default"
    topic_prefix: str = "seldon"
    partitions: int = 8
    replication_factor: int = 1
    retention_ms: int = 0
    compression: str = ""
    request_timeout: float = 30.0
    max_message_bytes: int = 100 * 1024 * 1024
    max_in_flight: int = 4096
    budget_bytes: int = 256 * 1024 * 1024
    session_timeout: float = 6.0
    # Well under request_timeout: who waits as long as its callers do answers nobody.
    batch_max_wait: float = 5.0
    join_max_entries: int = 100_000
    transaction_timeout: float = 60.0
    processing_guarantee: str = ""
    allow_pickle: bool = False
    artefact_cache: str = ""
    metrics_listen: str = ""
    tracing_config: str = ""
    log_level: str = "WARNING"
    log_format: str = "text"

    def __post_init__(self) -> None:
        for name in (
            "partitions",
            "replication_factor",
            "max_message_bytes",
            "max_in_flight",
            "budget_bytes",
            "join_max_entries",
        ):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("request_timeout", "session_timeout", "transaction_timeout", "batch_max_wait"):
            if not getattr(self, name) > 0:
                raise InvalidSettings(f"{name} is {getattr(self, name)}; it must be more than 0 seconds")
        for name in ("namespace", "topic_prefix"):
            self._check_topic_part(name)
        self._check_choice("processing_guarantee", ("", *GUARANTEES))
        self._check_choice("compression", ("", *COMPRESSIONS))
        self._check_choice("log_format", LOG_FORMATS)
        if not FOR_EVER <= self.retention_ms <= MOST_MILLISECONDS:
            raise InvalidSettings(
                f"retention_ms is {self.retention_ms}; it must be at least 1, -1 for ever, or 0 for the broker's own"
            )
        self._check_kafka()

        if self.kafka_broker and not all(map(_BROKER.fullmatch, self.kafka_broker.split(","))):
            raise InvalidSettings(
                f'kafka_broker is "{self.kafka_broker}"; write HOST:PORT, or several with commas between them'
            )
        if self.log_level.upper() not in LOG_LEVELS:
            raise InvalidSettings(f'log_level is "{self.log_level}"; it must be one of {", ".join(LOG_LEVELS)}')

    def _check_kafka(self) -> None:
        self._check_choice("kafka_security", SECURITY_PROTOCOLS)
        self._check_choice("kafka_sasl", SASL_MECHANISMS)
        self._check_choice("kafka_identification", ("https", "none"))
        if self.kafka_security.startswith("SASL") and not (self.kafka_user and self.kafka_password):
            raise InvalidSettings(f"kafka_security is {self.kafka_security}; set kafka_user and kafka_password too")
        if self.kafka_key and not self.kafka_certificate:
            raise InvalidSettings("kafka_key is set; set kafka_certificate too")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise InvalidSettings(f'{name} is "{value}"; it must be one of {", ".join(filter(None, choices))}')

    def _check_topic_part(self, name: str) -> None:
        if not legal_prefix(getattr(self, name)):
            raise InvalidSettings(
                f'{name} is "{getattr(self, name)}"; it may hold letters, digits, - and _, and no dots'
            )


# The reference's names, and ours where it has none. A later one wins over an earlier.
ENVIRONMENT: tuple[tuple[str, str], ...] = (
    ("KAFKA_DEFAULT_NUM_PARTITIONS", "partitions"),
    ("KAFKA_DEFAULT_REPLICATION_FACTOR", "replication_factor"),
    ("POD_NAMESPACE", "namespace"),
    ("SELDON_INFER_HOST", "listen"),
    ("SELDON_KAFKA_BOOTSTRAP_SERVERS", "kafka_broker"),
    ("SELDON_KAFKA_BROKER", "kafka_broker"),
    ("SELDON_KAFKA_PARTITIONS_DEFAULT", "partitions"),
    ("SELDON_KAFKA_REPLICATION_FACTOR", "replication_factor"),
    ("SELDON_KAFKA_TOPIC_RETENTION_MS", "retention_ms"),
    ("SELDON_KAFKA_TOPIC_COMPRESSION_TYPE", "compression"),
    ("SELDON_KAFKA_MAX_MESSAGE_SIZE_BYTES", "max_message_bytes"),
    ("SELDON_KAFKA_LISTEN", "kafka_listen"),
    ("SELDON_KAFKA_SECURITY_PROTOCOL", "kafka_security"),
    ("SELDON_KAFKA_SSL_CA_LOCATION", "kafka_ca"),
    ("SELDON_KAFKA_SSL_CERTIFICATE_LOCATION", "kafka_certificate"),
    ("SELDON_KAFKA_SSL_KEY_LOCATION", "kafka_key"),
    ("SELDON_KAFKA_SSL_KEY_PASSWORD", "kafka_key_password"),
    ("SELDON_KAFKA_SSL_ENDPOINT_IDENTIFICATION_ALGORITHM", "kafka_identification"),
    ("SELDON_KAFKA_SASL_MECHANISM", "kafka_sasl"),
    ("SELDON_KAFKA_SASL_USERNAME", "kafka_user"),
    ("SELDON_KAFKA_SASL_PASSWORD", "kafka_password"),
    ("SELDON_TOPIC_PREFIX", "topic_prefix"),
    ("SELDON_REQUEST_TIMEOUT", "request_timeout"),
    ("SELDON_MAX_IN_FLIGHT", "max_in_flight"),
    ("SELDON_BUDGET_BYTES", "budget_bytes"),
    ("SELDON_SESSION_TIMEOUT", "session_timeout"),
    ("SELDON_TRANSACTION_TIMEOUT", "transaction_timeout"),
    ("SELDON_BATCH_MAX_WAIT", "batch_max_wait"),
    ("SELDON_JOIN_MAX_ENTRIES", "join_max_entries"),
    ("SELDON_PROCESSING_GUARANTEE", "processing_guarantee"),
    ("SELDON_ALLOW_PICKLE", "allow_pickle"),
    ("SELDON_ARTEFACT_CACHE", "artefact_cache"),
    ("SELDON_METRICS_LISTEN", "metrics_listen"),
    ("SELDON_UI_LISTEN", "ui_listen"),
    ("SELDON_TRACING_CONFIG_PATH", "tracing_config"),
    ("SELDON_LOG_LEVEL", "log_level"),
    ("SELDON_LOG_FORMAT", "log_format"),
)


def load(
    flags: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
    files: Mapping[str, Any] = MappingProxyType({}),
) -> Settings:
    """Settings from flags (None: not given), then the environment, then what files say, then the defaults.

    Raises InvalidSettings, naming the variable or flag, its value and what would do.
    """
    kinds = {each.name: type(each.default) for each in fields(Settings)}
    found: dict[str, Any] = dict(files)
    for variable, name in ENVIRONMENT:
        if environment.get(variable):
            found[name] = _parse(environment[variable], kinds[name], variable)
    found.update({name: value for name, value in flags.items() if value is not None})
    return replace(Settings(), **found)


def _parse(text: str, kind: type, variable: str) -> Any:
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise InvalidSettings(f'{variable} is "{text}"; write true or false')
    try:
        return kind(text)
    except ValueError:
        raise InvalidSettings(f'{variable} is "{text}"; it must be a number') from None


def host_and_port(text: str, flag: str) -> tuple[str, int]:
    """The two parts of HOST:PORT; InvalidSettings names the flag."""
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:  # noqa: PLR2004  the highest port there is
        raise InvalidSettings(f'{flag} is "{text}"; write HOST:PORT, for example 127.0.0.1:9000')
    return host.strip("[]"), int(port)
