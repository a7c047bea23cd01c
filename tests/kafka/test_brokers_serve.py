"""Both brokers of the tests serve a client that nobody here wrote."""

from __future__ import annotations

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

HEADERS = [("x-a", b"1"), ("x-null", None), ("x-a", b"2"), ("x-bytes", b"\x00\xff"), ("x-empty", b"")]


def test_duplicate_and_null_headers_come_back_in_order(broker: str, namespace: str) -> None:
    topic = f"seldon.{namespace}.model.m.inputs"
    admin = AdminClient({"bootstrap.servers": broker})
    admin.create_topics([NewTopic(topic, 2, 1)])[topic].result(20)

    producer = Producer({"bootstrap.servers": broker, "acks": "all"})
    producer.produce(topic, value=b"value", key=b"key", headers=HEADERS, partition=1)
    assert producer.flush(20) == 0

    consumer = Consumer({"bootstrap.servers": broker, "group.id": namespace, "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, 1, 0)])
        record = consumer.poll(20)
    finally:
        consumer.close()

    assert record is not None
    assert record.error() is None
    assert (record.key(), record.value(), record.partition(), record.offset()) == (b"key", b"value", 1, 0)
    assert record.headers() == HEADERS


def test_a_topic_is_not_made_by_asking_for_it(kafka_broker: str, namespace: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_broker})
    admin.list_topics(f"seldon.{namespace}.model.misspelt.inputs", timeout=10)
    assert f"seldon.{namespace}.model.misspelt.inputs" not in admin.list_topics(timeout=10).topics
