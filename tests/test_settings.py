from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from engine.errors import InvalidSettings
from engine.settings import ENVIRONMENT, Settings, host_and_port, load


def test_what_is_not_set_is_the_default() -> None:
    assert load({}, {}) == Settings()


def test_a_flag_wins_over_the_environment() -> None:
    assert load({"partitions": 2}, {"KAFKA_DEFAULT_NUM_PARTITIONS": "3"}).partitions == 2


def test_a_flag_that_was_not_given_leaves_the_environment() -> None:
    assert load({"partitions": None}, {"KAFKA_DEFAULT_NUM_PARTITIONS": "3"}).partitions == 3


def test_of_two_variables_the_later_wins() -> None:
    given = {"SELDON_KAFKA_PARTITIONS_DEFAULT": "4", "KAFKA_DEFAULT_NUM_PARTITIONS": "3"}
    assert load({}, given).partitions == 4


def test_the_environment_wins_over_files() -> None:
    said = {"partitions": 4, "namespace": "ns"}
    found = load({}, {"KAFKA_DEFAULT_NUM_PARTITIONS": "3"}, said)
    assert (found.partitions, found.namespace) == (3, "ns")


def test_a_batch_without_a_window_runs_well_before_its_callers_give_up() -> None:
    assert Settings().batch_max_wait <= Settings().request_timeout / 2


def test_secrets_are_not_shown() -> None:
    assert "hush" not in repr(Settings(kafka_password="hush", kafka_key_password="hush"))


def test_an_empty_variable_is_none() -> None:
    assert load({}, {"POD_NAMESPACE": ""}).namespace == "default"


def test_every_variable_sets_a_field_that_there_is() -> None:
    assert {name for _, name in ENVIRONMENT} <= {field.name for field in fields(Settings)}


@pytest.mark.parametrize("text", ["1", "true", "Yes", "ON"])
def test_a_switch_is_on(text: str) -> None:
    assert load({}, {"SELDON_ALLOW_PICKLE": text}).allow_pickle is True


@pytest.mark.parametrize("text", ["0", "false", "No", "OFF"])
def test_a_switch_is_off(text: str) -> None:
    assert load({}, {"SELDON_ALLOW_PICKLE": text}).allow_pickle is False


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("SELDON_ALLOW_PICKLE", "maybe", 'SELDON_ALLOW_PICKLE is "maybe"; write true or false'),
        ("SELDON_MAX_IN_FLIGHT", "many", 'SELDON_MAX_IN_FLIGHT is "many"; it must be a number'),
        ("SELDON_REQUEST_TIMEOUT", "5s", 'SELDON_REQUEST_TIMEOUT is "5s"; it must be a number'),
    ],
)
def test_a_variable_that_cannot_be_read_is_told_with_its_name(variable: str, text: str, message: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load({}, {variable: text})
    assert str(caught.value) == message


@pytest.mark.parametrize("broker", ["", "kafka", "kafka:9092", "10.0.0.1:1,kafka-2.example:2", "[::1]:9092"])
def test_a_broker_is_named_by_its_addresses(broker: str) -> None:
    assert load({"kafka_broker": broker}, {}).kafka_broker == broker


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"partitions": 0}, "partitions is 0; it must be at least 1"),
        ({"budget_bytes": -5}, "budget_bytes is -5; it must be at least 1"),
        ({"request_timeout": 0.0}, "request_timeout is 0.0; it must be more than 0 seconds"),
        ({"session_timeout": float("nan")}, "session_timeout is nan; it must be more than 0 seconds"),
        ({"namespace": "a.b"}, 'namespace is "a.b"; it may hold letters, digits, - and _, and no dots'),
        ({"topic_prefix": ""}, 'topic_prefix is ""; it may hold letters, digits, - and _, and no dots'),
        (
            {"processing_guarantee": "twice"},
            'processing_guarantee is "twice"; it must be one of at_least_once, exactly_once',
        ),
        ({"kafka_broker": "a:b:c"}, 'kafka_broker is "a:b:c"; write HOST:PORT, or several with commas between them'),
        ({"kafka_broker": "a:1,"}, 'kafka_broker is "a:1,"; write HOST:PORT, or several with commas between them'),
        ({"log_level": "loud"}, 'log_level is "loud"; it must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL'),
        (
            {"kafka_security": "TLS"},
            'kafka_security is "TLS"; it must be one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL',
        ),
        (
            {"kafka_sasl": "OAUTHBEARER"},
            'kafka_sasl is "OAUTHBEARER"; it must be one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512',
        ),
        (
            {"kafka_security": "SASL_SSL", "kafka_user": "u"},
            "kafka_security is SASL_SSL; set kafka_user and kafka_password too",
        ),
        ({"kafka_key": "k.pem"}, "kafka_key is set; set kafka_certificate too"),
        ({"retention_ms": -2}, "retention_ms is -2; it must be at least 1, -1 for ever, or 0 for the broker's own"),
        (
            {"compression": "zip"},
            'compression is "zip"; it must be one of producer, uncompressed, gzip, snappy, lz4, zstd',
        ),
        ({"transaction_timeout": 0.0}, "transaction_timeout is 0.0; it must be more than 0 seconds"),
    ],
)
def test_a_setting_that_cannot_hold_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load(given, {})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "found"),
    [("127.0.0.1:9000", ("127.0.0.1", 9000)), ("[::1]:0", ("::1", 0)), ("host:65535", ("host", 65535))],
)
def test_an_address_has_two_parts(text: str, found: tuple[str, int]) -> None:
    assert host_and_port(text, "--listen") == found


@pytest.mark.parametrize("text", ["", "host", ":80", "host:", "host:x", "host:65536", "host:²", "host:" + "9" * 5000])
def test_what_is_no_address_is_refused_with_its_flag(text: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        host_and_port(text, "--listen")
    assert str(caught.value) == f'--listen is "{text}"; write HOST:PORT, for example 127.0.0.1:9000'
