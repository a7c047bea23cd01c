"""Models that go wrong and records that are none: rows 12, 14 and 17."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
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
