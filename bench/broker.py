"""The Apache Kafka of the tests, and what the bench asks of it."""

from __future__ import annotations

import contextlib
import shutil
import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from bench import suite
from bench.chain import HEADERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.chain import Contents
    from bench.works import Layout

PATIENCE = 60.0
RETRY_SECONDS = 0.2
# For a while after a topic or a group was made, and where a broker too busy to say that it lives has lost and regained
# its partitions, the client knows no leader or the one from before, until it asks again.
PASSING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError._NOENT,
)


# A heap for tensors of 1 MB from several clients at once, and room for all that is written until it is deleted: where
# there is that much memory the log lies in it, as a disk that is slow to take gigabytes would be measured otherwise.
HEAP_MB = 2048
MEMORY = "/dev/shm"
ROOM_BYTES = 10e9

_brokers = suite.load("brokers")
ApacheKafka: Any = _brokers.ApacheKafka
NotHere: type[Exception] = _brokers.NotHere


def folder() -> str | None:
    """A folder in memory for the broker's log; None where there is not enough, and it goes to the disk."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(MEMORY).free > ROOM_BYTES:
            return MEMORY
    return None


class Bench:
    """Topics, records and counts on one broker."""

    def __init__(self, address: str, partitions: int) -> None:
        self.address, self.partitions = address, partitions
        self._admin = AdminClient({"bootstrap.servers": address, "log_level": 0})

    def preload(self, layout: Layout, count: int, contents: Contents) -> None:
        """Create a work's topics and write `count` requests to those that it reads, shared out evenly."""
        names = (*layout.inputs, *layout.written(0))
        created = self._admin.create_topics([NewTopic(name, self.partitions, 1) for name in names])
        for future in created.values():
            future.result(PATIENCE)
        # Clients that ask for a topic before it has its leaders complain of it.
        self.written(*names)
        settings = {"bootstrap.servers": self.address, "linger.ms": 20, "acks": "all", "message.max.bytes": 10_000_000}
        with Producer({**settings, "log_level": 0}) as producer:
            for number in range(count):
                self._produce(producer, layout, number, contents)
            if left := producer.flush(PATIENCE):
                raise RuntimeError(f"{left} of {count} records could not be written beforehand")

    def _produce(self, producer: Any, layout: Layout, number: int, contents: Contents) -> None:
        inputs, value = layout.inputs, layout.work.request(number, contents)
        topic, partition = inputs[number % len(inputs)], number // len(inputs) % self.partitions
        while True:
            try:
                producer.produce(topic, value, str(number), partition, headers=list(HEADERS))
                break
            except BufferError:
                producer.poll(0.1)
        if not number % 1000:
            producer.poll(0)

    def remove(self, layout: Layout) -> None:
        """Delete all that a contender has made, so that the next one finds the same broker."""
        namespace = f"seldon.{layout.namespace}."
        names = [name for name in self._admin.list_topics(timeout=PATIENCE).topics if name.startswith(namespace)]
        for future in self._admin.delete_topics(names).values():
            future.result(PATIENCE)

    def written(self, *topics: str) -> int:
        """How many records stand in these topics together."""
        places = {TopicPartition(topic, number): OffsetSpec.latest() for topic in topics for number in self._numbers}
        return self._patiently(
            lambda: sum(future.result(PATIENCE).offset for future in self._admin.list_offsets(places).values())
        )

    def committed(self, groups: Mapping[str, str]) -> int:
        """How many records groups have finished, each of its topic."""
        return self._patiently(lambda: self._finished({group: (topic,) for group, topic in groups.items()}))

    def lag(self, group: str, topics: Sequence[str]) -> int:
        """How many records of these topics a group has not finished yet."""
        return self.written(*topics) - self._patiently(lambda: self._finished({group: topics}))

    def _finished(self, groups: Mapping[str, Sequence[str]]) -> int:
        asked = [self._asked(group, *topics) for group, topics in groups.items()]
        return sum(max(place.offset, 0) for each in asked for place in each.result(PATIENCE).topic_partitions)

    def _patiently(self, ask: Callable[[], int]) -> int:
        """What is asked of the broker, asked again where it does not know yet."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return ask()
            except (KafkaException, TimeoutError) as error:
                passes = isinstance(error, TimeoutError) or error.args[0].code() in PASSING
                if not passes or time.monotonic() > until:
                    raise
                time.sleep(RETRY_SECONDS)
                self._admin.list_topics(timeout=PATIENCE)

    def joined(self, groups: Sequence[str]) -> bool:
        """Whether every group has a member that works."""
        described = self._admin.describe_consumer_groups(list(groups), request_timeout=PATIENCE)
        return all(
            group.result(PATIENCE).state is ConsumerGroupState.STABLE and bool(group.result(PATIENCE).members)
            for group in described.values()
        )

    def _asked(self, group: str, *topics: str) -> Any:
        places = [TopicPartition(topic, number) for topic in topics for number in self._numbers]
        return self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)])[group]

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
            count, ended, until = 0, set[int](), time.monotonic() + PATIENCE
            while len(ended) < self.partitions:
                found = consumer.consume(10_000, RETRY_SECONDS)
                if time.monotonic() > until:
                    raise RuntimeError(f"{topic} cannot be read to its end")
                ended.update(record.partition() for record in found if record.error() is not None)
                count += sum(record.error() is None for record in found)
            return count
        finally:
            consumer.close()

    def check_answers(self, topic: str, check: Callable[[bytes], None]) -> None:
        """Raise unless the first answers of a partition are right."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "bench.check", "log_level": 0})
        records, until = [], time.monotonic() + PATIENCE
        try:
            # Not every peer keeps a record's partition.
            consumer.assign([TopicPartition(topic, number, 0) for number in self._numbers])
            while not records and time.monotonic() < until:
                records = consumer.consume(10, RETRY_SECONDS)
        finally:
            consumer.close()
        if not records:
            raise RuntimeError(f"no record can be read from {topic}")
        for record in records:
            check(record.value())

    @property
    def _numbers(self) -> range:
        return range(self.partitions)
