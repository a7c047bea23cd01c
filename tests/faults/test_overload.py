"""Ten times as much as can be worked off, for a minute: row 38."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import overload_load as load
import pytest
from topics import Kafka
from traffic import Load, read_all

if TYPE_CHECKING:
    from scene import Scene

SECONDS = 60.0
GROWN_BYTES = 150e6


@pytest.mark.row(38)
@pytest.mark.timeout(300)
def test_a_minute_of_ten_times_the_capacity_costs_refusals_and_lag_and_nothing_else(scene: Scene) -> None:
    product = scene.make("up", load.OVERLOADED, settings=load.SETTINGS).start()
    inputs, outputs = (scene.topic("pipeline", "fed", side) for side in ("inputs", "outputs"))
    before = product.resident
    with Load(scene.kafka.address, inputs, load.CAPACITY * load.TIMES, scene.namespace) as flood:
        calling = load.Calling(product.address, SECONDS)
        ends = calling.ends()
    answered = sum(1 for _ in read_all(scene.kafka.address, [outputs])[outputs])
    grown = product.peak - before
    product.end()
    scene.figures.update(requests=len(flood.sent), lag=len(flood.sent) - answered, grown_mb=grown / 1e6)
    for door, calls in ends.items():
        scene.figures.update({f"{door}_{name}": value for name, value in calls.figures.items()})
    for calls in ends.values():
        load.check(calls)
        load.check_times(calls)
    assert 0 < answered < len(flood.sent) / 2, "the records should have waited"
    assert grown < GROWN_BYTES

    # Another process reads on where this one was, and its model takes no time.
    since = time.monotonic()
    worker = scene.make("worker", load.OVERLOADED).start()
    with Kafka(scene.kafka.address) as kafka, kafka.all_of(outputs) as tap:
        tap.until(lambda found: len(found.seen) >= len(flood.sent), "an answer for each record", 120)
    worker.end()
    ids = Counter(
        dict(record.headers())["x-request-id"].decode() for record in read_all(scene.kafka.address, [outputs])[outputs]
    )
    lost, doubled = set(flood.sent) - set(ids), [name for name, count in ids.items() if count > 1]
    scene.figures.update(lost=len(lost), duplicated=len(doubled), caught_up=time.monotonic() - since)
    assert not lost
    assert not doubled
