"""Joins of pipelines whose worker dies between their sides: row 23."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from fleet import MORE
from topics import Kafka
from traffic import payload, read_all

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
