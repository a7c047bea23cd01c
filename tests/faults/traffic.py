"""Load on a pipeline's inputs topic, and the count of what came of it. Nothing here is of the product.

A request's id is `<seed>-<number>`, its tensor holds the number, and each model adds one: so a record that carries the
answer of another request is seen as crossed. What stands on the inputs topic is what must be answered: a producer that
could not tell whether a request arrived may have written it twice, and then two answers are right.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from google.protobuf.message import DecodeError

from engine.protocol.messages import ModelInferRequest, ModelInferResponse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from confluent_kafka import Message

# A broker that is away for a minute must not cost the generator a request.
DELIVERY_MS = 180_000
STEADY = {"log_level": 0, "topic.metadata.refresh.interval.ms": 1000, "reconnect.backoff.max.ms": 500}
INPUT = "INPUT"


def payload(number: int) -> bytes:
    """A V2 request of one INT32."""
    request = ModelInferRequest()
    tensor = request.inputs.add(name=INPUT, datatype="INT32", shape=[1, 1])
    tensor.contents.int_contents.append(number)
    return request.SerializeToString()


class Load:
    """Sends numbered requests at a steady rate, on a thread of its own, until it is stopped. Use it in a `with`."""

    def __init__(self, broker: str, topic: str, rate: float, prefix: str) -> None:
        self.topic, self.rate, self.prefix = topic, rate, prefix
        self.sent: dict[str, float] = {}
        self._failed: list[tuple[int, KafkaError]] = []
        self._stopping = threading.Event()
        self._producer = Producer(
            {
                "bootstrap.servers": broker,
                "enable.idempotence": True,
                "linger.ms": 2,
                "delivery.timeout.ms": DELIVERY_MS,
                "queue.buffering.max.messages": 1_000_000,
                **STEADY,
            }
        )
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._since = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End, and wait until the broker has everything."""
        self._stopping.set()
        self._thread.join()
        left = self._producer.flush(DELIVERY_MS / 1000)
        assert not left, f"{left} requests were never taken by the broker"
        assert not self._failed, f"the generator could not send: {self._failed[:3]}"

    def _run(self) -> None:
        number = 0
        while not self._stopping.is_set():
            due = int((time.monotonic() - self._since) * self.rate)
            while number < due:
                self._send(number)
                number += 1
            self._producer.poll(0)
            self._stopping.wait(0.01)

    def _send(self, number: int) -> None:
        name = f"{self.prefix}-{number}"

        def delivered(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                self._failed.append((number, error))

        self.sent[name] = time.monotonic()
        self._producer.produce(
            self.topic,
            payload(number),
            key=name.encode(),
            headers=[("x-request-id", name.encode())],
            on_delivery=delivered,
        )


def _consumer(broker: str, *, committed: bool) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": f"verifier-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "fetch.wait.max.ms": 20,
            **STEADY,
        }
    )


def _places(consumer: Consumer, topics: Iterable[str]) -> list[TopicPartition]:
    return [
        TopicPartition(topic, number, 0)
        for topic in topics
        for number in consumer.list_topics(topic, timeout=20).topics[topic].partitions
    ]


def _name(record: Message) -> str:
    return next((value.decode() for key, value in record.headers() or [] if key == "x-request-id"), "")


class Watch:
    """When each request's answer became visible: a read_committed reader on a thread. Use it in a `with`."""

    def __init__(self, broker: str, topic: str) -> None:
        self.seen: dict[str, float] = {}
        self._stopping = threading.Event()
        self._consumer = _consumer(broker, committed=True)
        self._consumer.assign(_places(self._consumer, [topic]))
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            records = self._consumer.consume(1000, timeout=0.05)
            now = time.monotonic()
            for record in records:
                if record.error() is None:
                    self.seen.setdefault(_name(record), now)

    def until_all(self, load: Load, seconds: float) -> None:
        """Wait until every request that was sent has an answer."""
        deadline = time.monotonic() + seconds
        while missing := load.sent.keys() - self.seen.keys():
            some = sorted(missing)[:3]
            assert time.monotonic() < deadline, f"{len(missing)} unanswered after {seconds:g} s, for example {some}"
            time.sleep(0.1)

    def longest(self, load: Load, since: float = 0.0, until: float = float("inf")) -> float:
        """The longest that a request of that time waited for its answer, in seconds."""
        waits = [self.seen[name] - at for name, at in load.sent.items() if since <= at <= until and name in self.seen]
        return max(waits, default=0.0)

    def first_after(self, moment: float) -> float:
        """How long after a moment the next answer was there."""
        return min((at for at in self.seen.values() if at >= moment), default=float("inf")) - moment


@dataclass
class Count:
    """What the verifier found on all topics of a pipeline."""

    requests: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    crossed: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.requests} requests: lost {len(self.lost)}, duplicated {len(self.duplicated)}, "
            f"partial {len(self.partial)}, crossed {len(self.crossed)}, errors {len(self.errors)}; "
            f"for example {[*self.lost, *self.duplicated, *self.partial, *self.crossed, *self.errors][:4]}"
        )

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.partial or self.crossed or self.errors)


def verify(broker: str, inputs: str, outputs: str, between: dict[str, int], added: int, seconds: float = 60) -> Count:
    """Count, when all workers have ended.

    inputs, outputs  the pipeline's own topics
    between          the topics of its steps, and what has been added to a request's number there
    added            what the pipeline as a whole adds
    seconds          how long a transaction that a dead worker left open may take to be ended by the broker
    """
    added_at = {outputs: added, **between}
    seen: dict[str, Counter[str]] = {topic: Counter() for topic in (inputs, *added_at)}
    # One object for each name: a long run has millions of records.
    names: dict[str, str] = {}
    count = Count()
    for record in read(broker, list(seen), seconds):
        topic, name = record.topic(), _name(record)
        seen[topic][names.setdefault(name, name)] += 1
        if topic == inputs:
            count.requests += 1
        elif any(key == "seldon-error-code" for key, _ in record.headers() or []):
            count.errors.append(f"{topic} {name}: {record.value()!r}")
        elif number_of(record.value()) != int(name.rpartition("-")[2]) + added_at[topic]:
            count.crossed.append(f"{topic} {name}")
    answers, steps = seen[outputs], [seen[topic] for topic in between]
    for name, times in seen[inputs].items():
        found = answers[name]
        if found < times:
            count.lost.append(name)
        if found > times or any(step[name] > times for step in steps):
            count.duplicated.append(name)
        if any(step[name] != found for step in steps):
            count.partial.append(name)
    return count


def number_of(value: bytes | None) -> int | None:
    """The INT32 of a request or a response, which have their tensors in different fields."""
    for kind, tensors in ((ModelInferResponse, "outputs"), (ModelInferRequest, "inputs")):
        try:
            message = kind.FromString(value or b"")
        except DecodeError:
            continue
        for index, tensor in enumerate(getattr(message, tensors)):
            raw = getattr(message, f"raw_{tensors[:-1]}_contents")
            if raw:
                return int.from_bytes(raw[index][:4], "little", signed=True)
            if tensor.contents.int_contents:
                return int(tensor.contents.int_contents[0])
    return None


def read_all(broker: str, topics: list[str], seconds: float = 60) -> dict[str, list[Message]]:
    """Every committed record of these topics, as `read` gives them."""
    found: dict[str, list[Message]] = {topic: [] for topic in topics}
    for record in read(broker, topics, seconds):
        found[record.topic()].append(record)
    return found


def read(broker: str, topics: list[str], seconds: float) -> Iterator[Message]:
    """Every committed record that is there now; fails when none comes for so long, as a transaction stays open then."""
    raw, reader = _consumer(broker, committed=False), _consumer(broker, committed=True)
    try:
        places = _places(raw, topics)
        ends = {(at.topic, at.partition): raw.get_watermark_offsets(at, timeout=20)[1] for at in places}
        reader.assign(places)
        deadline = time.monotonic() + seconds
        while True:
            records = reader.consume(5000, timeout=0.2)
            for record in records:
                if record.error() is not None:
                    raise KafkaException(record.error())
                yield record
            behind = [
                at
                for at in reader.position(places)
                if ends[at.topic, at.partition] and at.offset < ends[at.topic, at.partition]
            ]
            if not behind:
                return
            if records:
                deadline = time.monotonic() + seconds
            assert time.monotonic() < deadline, f"a transaction is open on {behind[:3]} after {seconds:g} s"
    finally:
        raw.close()
        reader.close()
