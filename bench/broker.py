"""The Apache Kafka of the tests, and what the bench asks of it."""

from __future__ import annotations

import importlib.util
import sys
import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from bench import ROOT
from bench.chain import HEADERS, ChainTopics, check, request

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from bench.chain import Contents

PATIENCE = 30.0
RETRY_SECONDS = 0.2
LEADERLESS = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)


def _load_brokers() -> ModuleType:
    """tests/brokers.py by its path: `tests` is no package, and other distributions install one of that name."""
    spec = importlib.util.spec_from_file_location("brokers", ROOT / "tests" / "brokers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["brokers"] = module
    spec.loader.exec_module(module)
    return module


_brokers = _load_brokers()
ApacheKafka: Any = _brokers.ApacheKafka
NotHere: type[Exception] = _brokers.NotHere


class Bench:
    """Topics, records and counts on one broker."""

    def __init__(self, address: str, partitions: int) -> None:
        self.address, self.partitions = address, partitions
        self._admin = AdminClient({"bootstrap.servers": address, "log_level": 0})

    def preload(self, topics: ChainTopics, count: int, contents: Contents) -> None:
        """Create a contender's topics and write `count` requests to the first, shared out evenly."""
        names = (topics.inputs, *topics.written)
        created = self._admin.create_topics([NewTopic(name, self.partitions, 1) for name in names])
        for future in created.values():
            future.result(PATIENCE)
        producer = Producer({"bootstrap.servers": self.address, "linger.ms": 20, "acks": "all"})
        for number in range(count):
            while True:
                try:
                    producer.produce(
                        topics.inputs,
                        key=str(number),
                        value=request(number, contents),
                        headers=list(HEADERS),
                        partition=number % self.partitions,
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            if not number % 1000:
                producer.poll(0)
        if left := producer.flush(PATIENCE):
            raise RuntimeError(f"{left} of {count} records could not be written beforehand")

    def remove(self, topics: ChainTopics) -> None:
        """Delete all that a contender has made, so that the next one finds the same broker."""
        namespace = f"seldon.{topics.namespace}."
        names = [name for name in self._admin.list_topics(timeout=PATIENCE).topics if name.startswith(namespace)]
        for future in self._admin.delete_topics(names).values():
            future.result(PATIENCE)

    def written(self, *topics: str) -> int:
        """How many records stand in these topics together."""
        places = {TopicPartition(topic, number): OffsetSpec.latest() for topic in topics for number in self._numbers}
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return sum(future.result(PATIENCE).offset for future in self._admin.list_offsets(places).values())
            except KafkaException as error:
                # For a while after a topic was made the client may know no leader of it, until it asks again.
                if error.args[0].code() not in LEADERLESS or time.monotonic() > until:
                    raise
                time.sleep(RETRY_SECONDS)
                self._admin.list_topics(timeout=PATIENCE)

    def committed(self, group: str, *topics: str) -> int:
        """How many records of these topics a group has finished."""
        places = [TopicPartition(topic, number) for topic in topics for number in self._numbers]
        asked = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)])
        found = asked[group].result(PATIENCE).topic_partitions
        return sum(max(place.offset, 0) for place in found)

    def lag(self, group: str, topics: Sequence[str]) -> int:
        """How many records of these topics a group has not finished yet."""
        return self.written(*topics) - self.committed(group, *topics)

    def read(self, topic: str) -> int:
        """How many records a reader of the topic finds: the ends of transactions are none."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": "bench.read",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "log_level": 0,
            }
        )
        try:
            consumer.assign([TopicPartition(topic, number, 0) for number in self._numbers])
            count, ends, until = 0, 0, time.monotonic() + PATIENCE
            while ends < self.partitions:
                found = consumer.consume(10_000, RETRY_SECONDS)
                if time.monotonic() > until:
                    raise RuntimeError(f"{topic} cannot be read to its end")
                ends += sum(record.error() is not None for record in found)
                count += sum(record.error() is None for record in found)
            return count
        finally:
            consumer.close()

    def check_answers(self, topic: str) -> None:
        """Raise unless the first answers of a partition are right."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "bench.check", "log_level": 0})
        try:
            consumer.assign([TopicPartition(topic, 0, 0)])
            records = consumer.consume(10, PATIENCE)
        finally:
            consumer.close()
        if not records:
            raise RuntimeError(f"no record can be read from {topic}")
        for record in records:
            check(record.value())

    @property
    def _numbers(self) -> range:
        return range(self.partitions)
