"""A broker that dies, stops, freezes: rows 6 to 8, and 33, where everything freezes but the broker."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from scene import Scene

RECOVERY_SECONDS = 15.0
SETTLED_SECONDS = 90.0
BRIEF = os.environ.get("FAULTS") == "brief"


def outage(scene: Scene, begin: Callable[[], None], end: Callable[[], object], seconds: float) -> float:
    """Load before, while and after the broker is away; how long after its return the first answer was there."""
    workers = scene.fleet.grow(2)
    with scene.watch() as watch, scene.load() as load:
        time.sleep(3)
        begin()
        time.sleep(seconds)
        end()
        back = time.monotonic()
        time.sleep(5)
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
        recovery = watch.first_after(back)
    scene.figures.update(outage=seconds, recovery=recovery)
    assert all(worker.running for worker in workers), "a worker outlives its broker's absence"
    return recovery


@pytest.mark.row(6, brief=True)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [5] if BRIEF else [5, 60])
def test_a_broker_that_is_killed_and_comes_back_has_lost_and_doubled_nothing(
    scene: Scene, exactly_once: Callable[[], None], seconds: float
) -> None:
    recovery = outage(scene, scene.kafka.kill, scene.kafka.again, seconds)
    exactly_once()
    assert recovery < RECOVERY_SECONDS


@pytest.mark.row(7, brief=True)
@pytest.mark.timeout(300)
def test_a_broker_that_is_stopped_for_long_finds_its_workers_again(
    scene: Scene, exactly_once: Callable[[], None]
) -> None:
    # Longer than the 40 s after which aiokafka's own producer is lost for good; CI's time is short.
    recovery = outage(scene, scene.kafka.end, scene.kafka.again, 20 if BRIEF else 60)
    exactly_once()
    assert recovery < RECOVERY_SECONDS


@pytest.mark.row(8)
@pytest.mark.timeout(300)
def test_a_broker_that_freezes_is_waited_for(scene: Scene, exactly_once: Callable[[], None]) -> None:
    recovery = outage(scene, scene.kafka.freeze, scene.kafka.thaw, 50)
    exactly_once()
    assert recovery < RECOVERY_SECONDS


@pytest.mark.row(33)
@pytest.mark.timeout(300)
def test_a_laptop_that_sleeps_wakes_up_where_it_was(scene: Scene, exactly_once: Callable[[], None]) -> None:
    def sleep() -> None:
        for worker in scene.fleet.workers:
            worker.freeze()
        scene.kafka.freeze()

    def wake() -> None:
        scene.kafka.thaw()
        for worker in scene.fleet.workers:
            worker.thaw()

    recovery = outage(scene, sleep, wake, 60)
    exactly_once()
    assert recovery < RECOVERY_SECONDS
