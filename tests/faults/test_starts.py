"""First starts, neighbours, and brokers that are too old: rows 19, 20, 30 and 31."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from fleet import POINTS
from old_broker import OldBroker
from product import seldon
from scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SETTLED_SECONDS = 60.0


@pytest.mark.row(19)
@pytest.mark.timeout(120)
@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_dies_in_its_first_transaction_ever_is_made_up_for(
    scene: Scene, exactly_once: Callable[[], None], point: str
) -> None:
    (first,) = scene.fleet.grow(1)
    with scene.watch() as watch, scene.load(rate=200) as load:
        first.at(point, "SIGKILL")
        scene.fleet.workers.remove(first)
        scene.fleet.grow(1)
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
    exactly_once()


@pytest.mark.row(20)
@pytest.mark.timeout(120)
def test_requests_that_were_there_before_any_worker_are_answered(
    scene: Scene, exactly_once: Callable[[], None]
) -> None:
    scene.create_topics()
    with scene.watch() as watch, scene.load() as load:
        time.sleep(3)
        load.stop()
        scene.fleet.grow(1)
        watch.until_all(load, SETTLED_SECONDS)
    exactly_once()


@pytest.mark.row(30)
@pytest.mark.timeout(180)
def test_two_namespaces_with_the_same_names_do_not_touch_each_other(
    scene: Scene, tmp_path: Path, exactly_once: Callable[[], None]
) -> None:
    other = Scene(scene.kafka, tmp_path / "other", scene.row, "other")
    try:
        scene.fleet.grow(1)
        other.fleet.grow(1)
        with (
            scene.watch() as watch,
            other.watch() as other_watch,
            scene.load(rate=200) as load,
            other.load(rate=200) as other_load,
        ):
            time.sleep(4)
            other_load.stop()
            load.stop()
            watch.until_all(load, SETTLED_SECONDS)
            other_watch.until_all(other_load, SETTLED_SECONDS)
        count = other.count()
        assert count.requests, "the other namespace had load too"
        assert count.clean, str(count)
        exactly_once()
        assert "Fenced" not in scene.said() + other.said()
    finally:
        for victim in other.made:
            victim.kill()


@pytest.mark.row(31)
@pytest.mark.timeout(60)
def test_exactly_once_on_a_broker_that_fences_no_generation_is_refused_with_the_reason(scene: Scene) -> None:
    # The embedded broker's refusal is in tests/broker/test_guarantee.py.
    with OldBroker() as old:
        asked = ("worker", "--kafka-broker", old.address, "--processing-guarantee", "exactly_once")
        found = seldon(*asked, settings=scene.settings)
    assert found.code == 2, found
    assert found.err == (
        f"Error: processing_guarantee is exactly_once, which the broker at {old.address} cannot hold: it has no "
        "transactions that are fenced by a consumer's generation and tell how they ended; use at_least_once, or "
        "Apache Kafka 3.0 or later\n"
    )
