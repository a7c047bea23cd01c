"""Kafka as an independent client (librdkafka) sees it: what is on the topics, in their order, with their headers."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from engine.protocol.messages import ModelInferResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from confluent_kafka import Message

DEADLINE = 20.0

Headers = list[tuple[str, bytes | None]]


@dataclass(frozen=True)
class Seen:
    """One record as it stands on a topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    def all(self, name: str) -> list[bytes | None]:
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str | None:
        found = self.all(name)
        return found[0].decode() if found and found[0] is not None else None

    @property
    def request_id(self) -> str | None:
        return self.header("x-request-id")

    @property
    def error_code(self) -> str | None:
        return self.header("seldon-error-code")

    @property
    def response(self) -> ModelInferResponse:
        assert self.error_code is None, f"an error where an answer was expected: {self}"
        return ModelInferResponse.FromString(self.value)


class Kafka:
    """One broker. Use it in a `with` block."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._producer = Producer(
            {
                "bootstrap.servers": address,
                "linger.ms": 1,
                "partitioner": "murmur2_random",
                "message.max.bytes": 100_000_000,
                "log_level": 0,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.flush(DEADLINE)

    def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Iterable[tuple[str, bytes | None]] = (),
        partition: int = -1,
    ) -> tuple[int, int]:
        """Produce one record; its partition and offset."""
        return self.send_many(topic, [(value, key, list(headers))], partition)[0]

    def send_many(
        self,
        topic: str,
        records: Sequence[tuple[bytes | None, bytes | None, Headers]],
        partition: int = -1,
    ) -> list[tuple[int, int]]:
        """Produce (value, key, headers) records and wait until the broker has them all."""
        places: list[tuple[int, int]] = []
        failures: list[KafkaError] = []

        def delivered(error: KafkaError | None, record: Message) -> None:
            if error is not None:
                failures.append(error)
            else:
                places.append((record.partition(), record.offset()))

        for value, key, headers in records:
            self._producer.produce(
                topic, value=value, key=key, headers=headers, partition=partition, on_delivery=delivered
            )
            self._producer.poll(0)
        left = self._producer.flush(DEADLINE)
        assert not left, f"{left} of {len(records)} records were not taken by the broker within {DEADLINE:g} s"
        assert not failures, f"the broker refused records for {topic}: {failures[:3]}"
        return places

    def tap(self, *topics: str) -> Tap:
        """Whatever comes to these topics from now on."""
        return Tap(self.address, topics, from_start=False)

    def all_of(self, *topics: str) -> Tap:
        """Whatever stands on these topics, and comes to them."""
        return Tap(self.address, topics, from_start=True)


class Tap:
    """Reads topics by assignment; keeps all that it has read in `seen`. Use it in a `with` block."""

    def __init__(self, address: str, topics: Sequence[str], *, from_start: bool) -> None:
        self.topics, self.seen = topics, list[Seen]()
        self._consumer = Consumer(
            {
                "bootstrap.servers": address,
                "group.id": f"tap-{uuid.uuid4().hex}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                # The embedded broker holds a fetch for its whole wait.
                "fetch.wait.max.ms": 10,
                "topic.metadata.refresh.interval.ms": 500,
                "log_level": 0,
            }
        )
        try:
            self._consumer.assign([tp for topic in topics for tp in self._positions(topic, from_start)])
        except BaseException:
            self._consumer.close()
            raise

    def _positions(self, topic: str, from_start: bool) -> list[TopicPartition]:  # noqa: FBT001
        described = self._consumer.list_topics(topic, timeout=DEADLINE).topics[topic]
        assert described.error is None, f"there is no topic {topic}: {described.error}"
        places = []
        for partition in described.partitions:
            marks = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=DEADLINE)
            places.append(TopicPartition(topic, partition, marks[0 if from_start else 1]))
        return places

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def until(self, enough: Callable[[Self], bool], what: str, seconds: float = DEADLINE) -> list[Seen]:
        """Read until `enough` says so; all that was read since the tap was opened."""
        deadline = time.monotonic() + seconds
        while not enough(self):
            wait = deadline - time.monotonic()
            if wait <= 0:
                raise AssertionError(f"not within {seconds:g} s: {what}; seen {len(self.seen)}: {self._sample()}")
            for record in self._consumer.consume(500, timeout=min(wait, 0.2)):
                assert record.error() is None, f"reading {self.topics}: {record.error()}"
                self.seen.append(_seen(record))
        return self.seen

    def of(self, request_id: str, count: int = 1, seconds: float = DEADLINE) -> list[Seen]:
        """`count` records of a request, or more when more came with them."""
        self.until(
            lambda tap: len(tap.records_of(request_id)) >= count,
            f"{count} records of request {request_id} on {', '.join(self.topics)}",
            seconds,
        )
        return self.records_of(request_id)

    def one(self, request_id: str, seconds: float = DEADLINE) -> Seen:
        """The record of a request, the first of it."""
        return self.of(request_id, 1, seconds)[0]

    def records_of(self, request_id: str) -> list[Seen]:
        """What was read of a request so far."""
        return [record for record in self.seen if record.request_id == request_id]

    def _sample(self) -> list[str]:
        return [
            f"{record.topic}/{record.partition}@{record.offset} {record.headers} {(record.value or b'')[:80]!r}"
            for record in self.seen[-5:]
        ]


def _seen(record: Message) -> Seen:
    return Seen(
        record.topic() or "",
        record.partition() or 0,
        record.offset() or 0,
        record.key(),
        record.value(),
        list(record.headers() or []),
    )
