"""Joins whose worker dies between their sides, cycles that must end, and clocks that are set: rows 23, 25 and 34."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from fleet import MORE
from topics import Kafka
from traffic import number_of, payload, read_all

from engine.kafka.joins import TICK_SECONDS

if TYPE_CHECKING:
    from scene import Scene
    from topics import Headers

KEYS = 300


def side(name: str) -> list[tuple[bytes | None, bytes | None, Headers]]:
    return [
        (payload(number), b"key-%d" % number, [("x-request-id", f"{name}-{number}".encode())]) for number in range(KEYS)
    ]


@pytest.mark.row(23)
@pytest.mark.timeout(240)
@pytest.mark.parametrize("workers", [1, 2])
def test_what_waits_for_its_partner_outlives_the_worker_and_fires_once(scene: Scene, workers: int) -> None:
    first, *_ = scene.fleet.grow(workers, MORE)
    outputs, changelog = scene.topic("pipeline", "pair", "outputs"), scene.topic("pipeline", "pair", "joins")
    with Kafka(scene.kafka.address) as kafka, kafka.tap(outputs) as tap, kafka.all_of(changelog) as waiting:
        kafka.send_many(scene.topic("pipeline", "left", "inputs"), side("left"))
        waiting.until(lambda found: len({record.key for record in found.seen}) >= KEYS, "an entry for each key", 60)
        scene.fleet.kill(first)
        kafka.send_many(scene.topic("pipeline", "right", "inputs"), side("right"))
        scene.fleet.grow(1, MORE)
        tap.until(lambda found: len(found.seen) >= KEYS, "a request of each pair", 90)
    scene.fleet.end_all()
    keys = Counter(record.key() for record in read_all(scene.kafka.address, [outputs])[outputs])
    scene.figures.update(
        requests=KEYS, lost=KEYS - len(keys), duplicated=sum(keys.values()) - len(keys), partial=0, kills=1
    )
    assert keys == Counter(b"key-%d" % number for number in range(KEYS))


@pytest.mark.row(34)
@pytest.mark.timeout(120)
def test_a_window_is_as_long_as_it_is_though_the_clock_is_set_forward(scene: Scene) -> None:
    (worker,) = scene.fleet.grow(1, MORE)
    outputs, changelog = scene.topic("pipeline", "pair", "outputs"), scene.topic("pipeline", "pair", "joins")
    with Kafka(scene.kafka.address) as kafka, kafka.tap(outputs) as tap, kafka.all_of(changelog) as waiting:
        kafka.send_many(scene.topic("pipeline", "left", "inputs"), side("left"))
        waiting.until(lambda found: len({record.key for record in found.seen}) >= KEYS, "an entry for each key", 60)
        worker.set_clock(3600)
        time.sleep(4 * TICK_SECONDS)  # windows are looked at meanwhile
        kafka.send_many(scene.topic("pipeline", "right", "inputs"), side("right"))
        tap.until(lambda found: len(found.seen) >= KEYS, "a request of each pair", 30)
    scene.fleet.end_all()
    keys = Counter(record.key() for record in read_all(scene.kafka.address, [outputs])[outputs])
    scene.figures.update(requests=KEYS, lost=KEYS - len(keys), duplicated=sum(keys.values()) - len(keys), partial=0)
    assert keys == Counter(b"key-%d" % number for number in range(KEYS))


VISITS = 6


def rounds(number: int) -> tuple[int | str, int]:
    """The answer of a request or its error's code, and how often `turn` runs for it."""
    for visit in range(1, VISITS + 1):
        if number % 50 == 35:
            return "INTERNAL", visit
        number += 1
        if number % 10 == 0:
            return number, visit
    return "FAILED_PRECONDITION", VISITS


@pytest.mark.row(25)
@pytest.mark.timeout(120)
def test_cycles_end_by_themselves_at_their_limit_or_by_poison(scene: Scene) -> None:
    scene.fleet.grow(2, MORE)
    outputs, turns = scene.topic("pipeline", "rounds", "outputs"), scene.topic("model", "turn", "inputs")
    with Kafka(scene.kafka.address) as kafka, kafka.tap(outputs) as tap:
        records: list[tuple[bytes | None, bytes | None, Headers]] = [
            (payload(number), b"%d" % number, [("x-request-id", b"%d" % number)]) for number in range(KEYS)
        ]
        kafka.send_many(scene.topic("pipeline", "rounds", "inputs"), records)
        tap.until(lambda found: len(found.seen) >= KEYS, "an answer or an error for each request", 60)
        ends = {int(record.request_id or ""): record.error_code or number_of(record.value) for record in tap.seen}
    scene.fleet.end_all()
    found = read_all(scene.kafka.address, [outputs, turns])
    visits = Counter(int(dict(record.headers())["x-request-id"]) for record in found[turns])
    scene.figures.update(requests=KEYS, lost=KEYS - len(ends), duplicated=len(found[outputs]) - KEYS)
    scene.figures.update(most_visits=max(visits.values()))
    assert len(found[outputs]) == KEYS
    assert ends == {number: rounds(number)[0] for number in range(KEYS)}
    assert visits == {number: rounds(number)[1] for number in range(KEYS)}
