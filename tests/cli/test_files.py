"""What `kafka.json` and configs of the command line say, and what is refused in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from engine.cli import files
from engine.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Written = Callable[[Any], str]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes a file, and gives its path."""

    def write(content: Any) -> str:
        path = tmp_path / "kafka.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return str(path)

    return write


def test_the_reference_s_own_file_is_taken(written: Written) -> None:
    content = {
        "bootstrap.servers": "kafka:9092",
        "debug": "",
        "topicPrefix": "seldon",
        "consumerGroupIdPrefix": "seldon",
        "consumer": {
            "session.timeout.ms": 6000,
            "auto.offset.reset": "earliest",
            "topic.metadata.propagation.max.ms": 300000,
            "message.max.bytes": 1000000000,
        },
        "producer": {"linger.ms": 0, "message.max.bytes": 1000000000},
        "streams": {"replication.factor": 1},
        "topics": {"numPartitions": 4, "replicationFactor": "3", "retention.ms": -1, "compression.type": "zstd"},
    }
    assert files.kafka(written(content)) == {
        "kafka_broker": "kafka:9092",
        "topic_prefix": "seldon",
        "session_timeout": 6.0,
        "max_message_bytes": 1000000000,
        "partitions": 4,
        "replication_factor": 3,
        "retention_ms": -1,
        "compression": "zstd",
    }


def test_tls_and_sasl_are_told_by_librdkafka_s_names(written: Written) -> None:
    secured = {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "u",
        "sasl.password": "p",
        "ssl.ca.location": "ca.pem",
        "ssl.certificate.location": "own.pem",
        "ssl.key.location": "own.key",
        "ssl.key.password": "",
        "ssl.endpoint.identification.algorithm": "none",
    }
    assert files.kafka(written({"consumer": secured, "producer": secured})) == {
        "kafka_security": "SASL_SSL",
        "kafka_sasl": "SCRAM-SHA-512",
        "kafka_user": "u",
        "kafka_password": "p",
        "kafka_ca": "ca.pem",
        "kafka_certificate": "own.pem",
        "kafka_key": "own.key",
        "kafka_identification": "none",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "it cannot be read as JSON"),
        ("[]", "it holds no JSON object"),
        ({"bootstrap.server": "a"}, 'unknown key "bootstrap.server"; did you mean "bootstrap.servers"?'),
        ({"consumer": 5}, "consumer is no JSON object"),
        ({"producer": {"sasl.user": "a"}}, 'producer: unknown key "sasl.user"'),
        ({"topics": {"partitions": 5}}, 'topics: unknown key "partitions"'),
        ({"topics": {"numPartitions": "many"}}, 'topics: numPartitions is "many"; it must be a number'),
        ({"topics": {"retention.ms": -5}}, "topics: retention.ms is -5; it must be a number, 0 or more"),
        ({"topics": {"compression.type": 5}}, "topics: compression.type must be a text"),
        ({"topics": {"numPartitions": True}}, "topics: numPartitions is true; it must be a number"),
        ({"bootstrap.servers": ["a"]}, "bootstrap.servers must be a text"),
        (
            {"consumer": {"sasl.username": "a"}, "producer": {"sasl.username": "b"}},
            "producer: sasl.username is another one than elsewhere in the file",
        ),
        ({"consumerGroupIdPrefix": "mine"}, 'consumerGroupIdPrefix is "mine"'),
    ],
)
def test_what_a_kafka_json_cannot_say_is_told_with_its_place(written: Written, content: Any, message: str) -> None:
    path = written(content)
    with pytest.raises(InvalidSettings) as caught:
        files.kafka(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_groups_that_begin_as_topics_do_by_default_are_taken(written: Written) -> None:
    assert files.kafka(written({"consumerGroupIdPrefix": "seldon"})) == {}


def test_a_secret_is_not_part_of_an_error(written: Written) -> None:
    with pytest.raises(InvalidSettings) as caught:
        files.kafka(written({"consumer": {"sasl.password": ["hush"]}}))
    assert "hush" not in str(caught.value)


def test_a_config_names_gateway_and_broker(written: Written) -> None:
    content = {
        "dataplane": {"inferHost": "mesh:80", "tls": False},
        "controlplane": {"schedulerHost": "scheduler:9004"},
        "kafka": {"bootstrap": "kafka:9092", "namespace": "ns", "topicPrefix": "p"},
    }
    found = files.config(written(content))
    assert found == files.Config(
        "mesh:80", {"kafka_broker": "kafka:9092", "namespace": "ns", "topic_prefix": "p"}, content
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"dataplan": {}}, 'unknown key "dataplan"; did you mean "dataplane"?'),
        ({"kafka": {"broker": "a"}}, 'kafka: unknown key "broker"'),
        ({"kafka": {"bootstrap": 5}}, "kafka: bootstrap must be a text"),
        ({"dataplane": {"inferHost": 5}}, "dataplane: inferHost is 5; it must be a text"),
        ({"dataplane": {"tls": True}}, "dataplane.tls is set"),
    ],
)
def test_what_a_config_cannot_say_is_told_with_its_place(written: Written, content: Any, message: str) -> None:
    path = written(content)
    with pytest.raises(InvalidSettings) as caught:
        files.config(path)
    assert str(caught.value).startswith(f"{path}: {message}")
