"""What we need of aiokafka that it does not promise: a release without one of these must fail here, not at 3 a.m."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import aiokafka.client
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

import engine.kafka.client  # noqa: F401  what it does to aiokafka is tested below
from engine.kafka.wire import OffsetFetch, Produce, TxnOffsetCommit

NEEDED = [
    ("aiokafka.client", "AIOKafkaClient.bootstrap"),
    ("aiokafka.client", "AIOKafkaClient.coordinator_lookup"),
    ("aiokafka.client", "AIOKafkaClient.send"),
    ("aiokafka.client", "AIOKafkaClient.add_topic"),
    ("aiokafka.client", "AIOKafkaClient.force_metadata_update"),
    ("aiokafka.client", "AIOKafkaClient._get_conn"),
    ("aiokafka.client", "ConnectionGroup.COORDINATION"),
    ("aiokafka.client", "CoordinationType.TRANSACTION"),
    ("aiokafka.cluster", "ClusterMetadata.leader_for_partition"),
    ("aiokafka.conn", "READER_LIMIT"),
    ("aiokafka.consumer.group_coordinator", "GroupCoordinator"),
    ("aiokafka.consumer.fetcher", "Fetcher"),
    ("aiokafka.protocol.transaction", "InitProducerIdRequest"),
    ("aiokafka.protocol.transaction", "AddPartitionsToTxnRequest"),
    ("aiokafka.protocol.transaction", "AddOffsetsToTxnRequest"),
    ("aiokafka.protocol.transaction", "EndTxnRequest"),
    ("aiokafka.protocol.produce", "ProduceRequest"),
    ("aiokafka.protocol.commit", "OffsetCommitRequest"),
    ("aiokafka.protocol.commit", "OffsetFetchRequest"),
    ("aiokafka.protocol.offset", "OffsetRequest"),
    ("aiokafka.producer.sender", "Sender.sender_task"),
    ("aiokafka.producer.message_accumulator", "MessageAccumulator.fail_all"),
]


@pytest.mark.parametrize(("module", "name"), NEEDED, ids=[name for _, name in NEEDED])
def test_aiokafka_has_what_we_extend(module: str, name: str) -> None:
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        assert hasattr(found, part), f"aiokafka has no {module}.{name} any more: engine/kafka builds on it"
        found = getattr(found, part)


def test_the_client_takes_the_group_of_a_connection() -> None:
    assert "group" in inspect.signature(AIOKafkaClient.send).parameters


def test_a_batch_says_who_wrote_it() -> None:
    builder = DefaultRecordBatchBuilder(2, 0, 1, 7, 3, 11, 1000)
    builder.append(0, None, b"k", b"v", [])
    raw = bytes(builder.build())
    assert int.from_bytes(raw[43:51], "big") == 7
    assert int.from_bytes(raw[51:53], "big") == 3
    assert int.from_bytes(raw[53:57], "big") == 11
    assert raw[22] & 0b10000, "it is not marked as part of a transaction"


@pytest.mark.parametrize(
    ("request_", "version"),
    [
        (TxnOffsetCommit("id", "group", 1, 0, 5, "member", None, [("t", [(0, 3, -1, "m", {})], {})], {}), 3),
        (OffsetFetch("group", [("t", [0], {})], True, {}), 7),
    ],
)
def test_a_broker_is_asked_in_the_versions_of_kip_447(request_: Any, version: int) -> None:
    built = request_.prepare({request_.API_KEY: (0, 20)})
    assert version == built.API_VERSION
    assert built.encode()


@pytest.mark.parametrize("transactional_id", ["id", None])
def test_records_go_out_as_the_client_itself_would_send_them(transactional_id: str | None) -> None:
    topics = [("a", [(0, b"one"), (3, bytearray(b"two"))]), ("ü", [(1, b"")])]
    versions = {0: (0, 7)}
    ours = Produce(transactional_id, -1, 10_000, topics).prepare(versions)
    theirs = ProduceRequest(transactional_id, -1, 10_000, topics).prepare(versions)
    assert ours.encode() == theirs.encode()
    assert ours.API_VERSION == theirs.API_VERSION


def test_no_client_has_a_broker_make_a_topic_that_it_asks_about() -> None:
    struct = aiokafka.client.MetadataRequest(["t"]).prepare({3: (0, 5)})
    assert struct.to_object()["allow_auto_topic_creation"] is False
