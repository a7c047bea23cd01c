"""Late sides, a worker that dies between two sides, cycles that must end, clocks that are set: rows 22, 23, 25, 34."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from fleet import MORE
from topics import Kafka
from traffic import number_of, payload, read_all

from engine.kafka.joins import TICK_SECONDS
from engine.protocol.messages import ModelInferResponse

if TYPE_CHECKING:
    import random

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


# As more.yaml has it, and how near to it a pair may be for either outcome: a record's time is taken before it is seen.
WINDOW_SECONDS = 1.0
EDGE_SECONDS = 0.1


@pytest.mark.row(22)
@pytest.mark.timeout(180)
def test_sides_that_are_late_around_the_windows_edge_are_in_one_request_each_and_never_in_two(
    scene: Scene, chance: random.Random
) -> None:
    scene.fleet.grow(2, MORE)
    joined = {name: scene.topic("pipeline", f"{name}-pair", "outputs") for name in ("outer", "any")}
    sources = [scene.topic("pipeline", name, "outputs") for name in ("left", "right")]
    with Kafka(scene.kafka.address) as kafka, kafka.tap(*sources) as tap:
        send_late(kafka, scene, chance)
        tap.until(lambda found: len(found.seen) >= 2 * KEYS, "what both sides give", 60)
    time.sleep(3 * WINDOW_SECONDS)  # a late side that begins a window of its own is answered after it
    scene.fleet.end_all()
    found = read_all(scene.kafka.address, [*joined.values(), *sources])
    times: dict[bytes, list[int]] = {}
    for record in (record for topic in sources for record in found[topic]):
        times.setdefault(record.key(), []).append(record.timestamp()[1])
    apart = {key: (max(both) - min(both)) / 1000 for key, both in times.items()}
    requests = {name: Counter(record.key() for record in found[topic]) for name, topic in joined.items()}
    sides = Counter[bytes]()
    for record in found[joined["outer"]]:
        sides[record.key()] += width(record.value())
    together = [key for key in apart if apart[key] < WINDOW_SECONDS - EDGE_SECONDS]
    alone = [key for key in apart if apart[key] > WINDOW_SECONDS + EDGE_SECONDS]
    scene.figures.update(
        requests=sum(map(len, requests.values())),
        lost=sum(KEYS - len(each) for each in requests.values()),
        duplicated=sum(each[key] - 1 for each in requests.values() for key in together),
        together=len(together),
        at_the_edge=KEYS - len(together) - len(alone),
    )
    assert together
    assert alone
    assert set(apart) == set(requests["outer"]) == set(requests["any"])
    assert set(sides.values()) == {2}, "each record is in one request of the outer join"
    assert {requests[name][key] for name in joined for key in together} == {1}
    assert {requests[name][key] for name in joined for key in alone} == {2}
    assert {width(record.value()) for record in found[joined["any"]]} == {1}


def send_late(kafka: Kafka, scene: Scene, chance: random.Random) -> None:
    """Both sides of each key, either first; the other comes well within the window, around its end, or long after."""
    sides = {name: side(name) for name in ("left", "right")}
    times: list[tuple[float, str, int]] = []
    for number in range(KEYS):
        first, second = chance.sample(sorted(sides), 2)
        at = chance.uniform(0, 5)
        late = WINDOW_SECONDS * chance.choice((0.5, 0.95, 1.0, 1.05, 3.0))
        times += [(at, first, number), (at + late, second, number)]
    begin = time.monotonic()
    for at, name, number in sorted(times):
        time.sleep(max(0.0, begin + at - time.monotonic()))
        kafka.send_many(scene.topic("pipeline", name, "inputs"), [sides[name][number]])


def width(answer: bytes | None) -> int:
    """How many numbers an answer holds: one for each side."""
    (tensor,) = ModelInferResponse.FromString(answer or b"").outputs
    return int(tensor.shape[1])


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
