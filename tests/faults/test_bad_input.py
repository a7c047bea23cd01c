"""Models that go wrong or take long, and records that are none: rows 11 to 18."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from fleet import MORE
from product import infer, inputs
from topics import Kafka
from traffic import payload, read_all

from engine.protocol.messages import ModelInferRequest

if TYPE_CHECKING:
    import random

    from scene import Scene
    from topics import Headers

REQUESTS = 140
# Of every fifty: one raises, one names its tensor wrongly, one answers no tensors, one hangs; a NaN is an answer.
WRONG = {number for number in range(0, REQUESTS, 10) if number // 10 % 5 != 1}
LIMIT = 1_000_000


@pytest.mark.row(12, brief=True)
@pytest.mark.timeout(180)
def test_a_model_that_goes_wrong_fails_its_requests_and_no_others(scene: Scene) -> None:
    scene.settings["SELDON_REQUEST_TIMEOUT"] = "3"
    scene.fleet.grow(1)
    outputs, errors = scene.topic("pipeline", "moods", "outputs"), scene.topic("errors", "errors")
    with Kafka(scene.kafka.address) as kafka, kafka.tap(outputs) as tap:
        records: list[tuple[bytes | None, bytes | None, Headers]] = [
            (payload(number), None, [("x-request-id", b"%d" % number)]) for number in range(REQUESTS)
        ]
        kafka.send_many(scene.topic("pipeline", "moods", "inputs"), records)
        tap.until(lambda found: len(found.seen) >= REQUESTS, "an answer or an error for each request", 60)
    scene.fleet.end_all()
    found = read_all(scene.kafka.address, [outputs, errors])
    by_topic = {
        topic: {
            int(dict(record.headers())["x-request-id"]): dict(record.headers()).get("seldon-pipeline-errors")
            for record in found[topic]
            if any(name == "seldon-error-code" for name, _ in record.headers())
        }
        for topic in (outputs, errors)
    }
    assert len(found[outputs]) == REQUESTS
    assert set(by_topic[outputs]) == set(by_topic[errors]) == WRONG
    assert set(by_topic[outputs].values()) == {b"moody", b"second"}
    scene.figures.update(requests=REQUESTS, errors=len(WRONG), lost=0, duplicated=len(found[errors]) - len(WRONG))


MORTALS = 400
# Long enough for a process to be started again and the call to be made.
KILL_SECONDS = 2.0
POISON = {number for number in range(MORTALS) if number % 50 == 35}


@pytest.mark.row(13)
@pytest.mark.timeout(180)
def test_a_models_process_that_dies_costs_a_call_and_no_worker(scene: Scene, chance: random.Random) -> None:
    (worker,) = scene.fleet.grow(1, MORE)
    outputs, errors = scene.topic("pipeline", "mortals", "outputs"), scene.topic("errors", "errors")
    killed: list[int] = []
    enough = threading.Event()

    def kill_now_and_then() -> None:
        while not enough.wait(KILL_SECONDS):
            # As the kernel does when memory runs out.
            killed.append(chance.choice(worker.children))
            os.kill(killed[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill_now_and_then)
    with Kafka(scene.kafka.address) as kafka, kafka.tap(outputs) as tap:
        records: list[tuple[bytes | None, bytes | None, Headers]] = [
            (payload(number), None, [("x-request-id", b"%d" % number)]) for number in range(MORTALS)
        ]
        killer.start()
        try:
            kafka.send_many(scene.topic("pipeline", "mortals", "inputs"), records)
            tap.until(lambda found: len(found.seen) >= MORTALS, "an answer or an error for each request", 120)
        finally:
            enough.set()
            killer.join()
    assert worker.running
    scene.fleet.end_all()
    found = read_all(scene.kafka.address, [outputs, errors])
    ids = {topic: Counter(int(dict(record.headers())["x-request-id"]) for record in found[topic]) for topic in found}
    assert killed
    assert ids[outputs] == Counter(range(MORTALS))
    assert ids[errors] == Counter(POISON)
    scene.figures.update(requests=MORTALS, errors=len(POISON), kills=len(killed), lost=0, duplicated=0)


def _truncated() -> bytes:
    return payload(7)[:-1]


def _shaped(*shape: int) -> bytes:
    request = ModelInferRequest()
    tensor = request.inputs.add(name="INPUT", datatype="INT32", shape=shape)
    tensor.contents.int_contents.append(1)
    return bytes(request.SerializeToString())


BAD = (
    b"\xff\xfe no protobuf",
    b"",
    _truncated(),
    b'{"inputs": []}',
    _shaped(2),
    _shaped(-1),
    _shaped(2**31),
    _shaped(2**40, 2**40),
)


@pytest.mark.row(14, brief=True)
@pytest.mark.timeout(180)
def test_each_bad_record_gives_one_error_and_stops_nobody(scene: Scene, chance: random.Random) -> None:
    (worker,) = scene.fleet.grow(1)
    outputs, errors = scene.topic("pipeline", "chain", "outputs"), scene.topic("errors", "errors")
    records: list[tuple[bytes | None, bytes | None, Headers]] = [
        (value, None, [("x-request-id", f"{kind}-{number}".encode())])
        for number in range(1000)
        for kind, value in (("good", payload(number)), ("bad", BAD[number % len(BAD)]))
    ]
    chance.shuffle(records)
    with Kafka(scene.kafka.address) as kafka, kafka.tap(outputs) as tap:
        kafka.send_many(scene.topic("pipeline", "chain", "inputs"), records[:200])
        tap.until(lambda found: len(found.seen) >= 200, "the first answers", 60)
        before = worker.resident
        kafka.send_many(scene.topic("pipeline", "chain", "inputs"), records[200:])
        tap.until(lambda found: len(found.seen) >= len(records), "an answer or an error for each record", 60)
        grown = worker.resident - before
    scene.fleet.end_all()
    found = read_all(scene.kafka.address, [outputs, errors])
    names = {
        topic: Counter(dict(record.headers())["x-request-id"].decode() for record in found[topic]) for topic in found
    }
    assert names[errors] == Counter(f"bad-{number}" for number in range(1000))
    assert names[outputs] == names[errors] + Counter(f"good-{number}" for number in range(1000))
    scene.figures.update(requests=len(records), errors=1000, lost=0, duplicated=0, grown_mb=grown / 1e6)
    assert grown < 50e6, "bytes of memory after the first records"


@pytest.mark.row(17, brief=True)
@pytest.mark.timeout(180)
def test_what_is_too_large_is_told_at_once_on_the_way_in_and_out(scene: Scene) -> None:
    scene.settings["SELDON_KAFKA_MAX_MESSAGE_SIZE_BYTES"] = str(LIMIT)
    scene.fleet.grow(1)
    gateway = scene.make("gateway").start()
    fits, over = LIMIT // 4 - 1000, LIMIT // 4 + 1000
    asked = {
        ("chain", "in, just under"): ([0] * fits, 200),
        ("chain", "in, over"): ([0] * LIMIT, 413),
        ("grown", "out, just under"): ([fits], 200),
        ("grown", "out, over"): ([over], 413),
    }
    for _ in range(3):
        for (pipeline, what), (data, status) in asked.items():
            answer = infer(gateway.address, f"pipelines/{pipeline}", inputs(INPUT=data))
            assert answer.status == status, (what, answer.status, answer.body[:300])
            assert status == 200 or answer.seconds < 1, (what, answer.seconds)
    since = time.monotonic()
    assert infer(gateway.address, "pipelines/chain", inputs(INPUT=[5])).json["outputs"][0]["data"] == [7]
    scene.figures.update(requests=12, errors=6, lost=0, next_request=time.monotonic() - since)
    gateway.end()
    scene.fleet.end_all()


@pytest.mark.row(11)
@pytest.mark.timeout(240)
def test_a_call_of_forty_seconds_costs_no_membership_and_is_made_once(scene: Scene) -> None:
    scene.settings.update(SELDON_SESSION_TIMEOUT="10", SELDON_REQUEST_TIMEOUT="90")
    scene.fleet.grow(2, MORE)
    group = scene.topic("pipeline", "working")
    before = members(scene, group)
    outputs = scene.topic("pipeline", "working", "outputs")
    with Kafka(scene.kafka.address) as kafka, kafka.tap(outputs) as tap:
        since = time.monotonic()
        kafka.send_many(scene.topic("pipeline", "working", "inputs"), numbered(200))
        tap.until(lambda found: len(found.seen) >= 199, "the answers that need no waiting", 30)
        quick = time.monotonic() - since
        tap.until(lambda found: len(found.seen) >= 200, "the answer of the slow call", 90)
        slow = time.monotonic() - since
    assert members(scene, group) == before
    scene.fleet.end_all()
    found = Counter(
        dict(record.headers())["x-request-id"] for record in read_all(scene.kafka.address, [outputs])[outputs]
    )
    scene.figures.update(requests=200, duplicated=sum(found.values()) - len(found), lost=200 - len(found))
    scene.figures.update(quick=quick, slow=slow)
    assert set(found.values()) == {1}
    assert len(found) == 200


def members(scene: Scene, group: str) -> set[str]:
    """Who is in a consumer group."""
    admin = AdminClient({"bootstrap.servers": scene.kafka.address})
    described = admin.describe_consumer_groups([group])[group].result(20)
    return {member.member_id for member in described.members}


def numbered(count: int) -> list[tuple[bytes | None, bytes | None, Headers]]:
    """Requests with their numbers as ids and keys."""
    return [(payload(number), b"%d" % number, [("x-request-id", b"%d" % number)]) for number in range(count)]


CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


@pytest.mark.row(15)
@pytest.mark.timeout(120)
def test_records_are_read_in_whatever_codec_their_producer_chose(scene: Scene) -> None:
    scene.fleet.grow(1)
    outputs = scene.topic("pipeline", "chain", "outputs")
    with Kafka(scene.kafka.address) as kafka, kafka.tap(outputs) as tap:
        for codec in CODECS:
            producer = Producer({"bootstrap.servers": scene.kafka.address, "compression.type": codec, "linger.ms": 50})
            for value, key, headers in numbered(200):
                named = [("x-request-id", f"{codec}-".encode() + key)]
                producer.produce(scene.topic("pipeline", "chain", "inputs"), value, key, headers=[*headers[1:], *named])
            assert not producer.flush(20)
        tap.until(lambda found: len(found.seen) >= 200 * len(CODECS), "an answer for each record", 60)
        answers = Counter(record.request_id for record in tap.seen if record.error_code is None)
    scene.fleet.end_all()
    assert answers == Counter(f"{codec}-{number}" for codec in CODECS for number in range(200))
    scene.figures.update(requests=sum(answers.values()), lost=0, duplicated=0)


BOMB = 400
BOMB_BYTES = 900_000


@pytest.mark.row(16)
@pytest.mark.timeout(240)
def test_a_batch_that_unpacks_to_hundreds_of_megabytes_costs_bounded_memory_and_nobody_else(scene: Scene) -> None:
    (worker,) = scene.fleet.grow(1)
    inputs_topic, outputs = scene.topic("pipeline", "chain", "inputs"), scene.topic("pipeline", "chain", "outputs")
    with Kafka(scene.kafka.address) as kafka, kafka.tap(outputs) as tap:
        kafka.send_many(inputs_topic, numbered(100))
        tap.until(lambda found: len(found.seen) >= 100, "the first answers", 60)
        before = worker.resident
        producer = Producer(
            {
                "bootstrap.servers": scene.kafka.address,
                "compression.type": "gzip",
                "linger.ms": 2000,
                "batch.size": 2_000_000_000,
                "message.max.bytes": 1_000_000_000,
                "queue.buffering.max.kbytes": 2_000_000,
            }
        )
        for number in range(BOMB):
            producer.produce(
                inputs_topic, bytes(BOMB_BYTES), partition=0, headers=[("x-request-id", b"bomb-%d" % number)]
            )
        assert not producer.flush(60)
        kafka.send_many(inputs_topic, numbered(100))
        tap.until(lambda found: len(found.seen) >= 200 + BOMB, "an answer or an error for each record", 120)
        failed = Counter(record.request_id for record in tap.seen if record.error_code is not None)
        peak = worker.peak - before
    scene.fleet.end_all()
    assert failed == Counter(f"bomb-{number}" for number in range(BOMB))
    scene.figures.update(requests=200 + BOMB, errors=BOMB, lost=0, duplicated=0, peak_mb=peak / 1e6)
    assert peak < 4 * BOMB * BOMB_BYTES


@pytest.mark.row(18)
@pytest.mark.timeout(120)
def test_headers_pass_in_order_as_they_are_and_reserved_ones_do_not(scene: Scene) -> None:
    scene.fleet.grow(1)
    own: dict[str, Headers] = {
        "twice": [("x-a", b"1"), ("x-b", b"2"), ("x-a", b"3")],
        "null": [("x-a", None), ("x-b", b"")],
        "binary": [("x-a", bytes(range(256)))],
        "many": [(f"x-{number}", b"%d" % number) for number in range(1000)],
        "large": [("x-a", b"a" * 900_000)],
        "lines": [("x-a", b"1\r\nset-cookie: 2"), ("x\r\ny", b"3")],
    }
    reserved: Headers = [("seldon-reply", b"junk"), ("seldon-error-code", b"INTERNAL"), ("x-pipeline-version", b"9")]
    outputs = scene.topic("pipeline", "chain", "outputs")
    with Kafka(scene.kafka.address) as kafka, kafka.tap(outputs) as tap:
        for name, headers in own.items():
            sent = [("x-request-id", name.encode()), *headers, *reserved]
            kafka.send(scene.topic("pipeline", "chain", "inputs"), payload(1), headers=sent)
        found = {name: tap.one(name) for name in own}
    scene.fleet.end_all()
    for name, headers in own.items():
        answered = found[name].headers
        assert [
            pair for pair in answered if pair[0] not in ("x-request-id", "pipeline", "x-pipeline-version")
        ] == headers
        assert dict(answered)["x-pipeline-version"] == b"1"
    scene.figures.update(requests=len(own), lost=0, duplicated=0)
