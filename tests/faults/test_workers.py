"""Workers that die, stall, come and go: rows 1 to 5, and 0 for what the matrix does not have."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from fleet import POINTS
from product import wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from scene import Scene

SESSION_SECONDS = 3.0
TAKEOVER_SECONDS = SESSION_SECONDS + 3.0
STALL_SECONDS = 2.0
SETTLED_SECONDS = 60.0


@pytest.mark.row(1, brief=True)
@pytest.mark.timeout(240)
def test_workers_that_are_killed_lose_and_double_nothing(
    scene: Scene, chance: random.Random, exactly_once: Callable[[], None]
) -> None:
    scene.fleet.grow(2)
    with scene.watch() as watch, scene.load() as load:
        kills = []
        for _ in range(3):
            time.sleep(chance.uniform(3, 5))
            kills.append(scene.fleet.kill(chance.choice(scene.fleet.workers)))
            time.sleep(TAKEOVER_SECONDS)
            scene.fleet.grow()
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
        takeovers = [watch.longest(load, kill - 1, kill + SESSION_SECONDS) for kill in kills]
    scene.figures.update(kills=len(kills), takeover=max(takeovers))
    exactly_once()
    assert max(takeovers) < TAKEOVER_SECONDS


@pytest.mark.row(1)
@pytest.mark.timeout(240)
@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_dies_inside_a_transaction_is_replaced_as_fast(
    scene: Scene, chance: random.Random, exactly_once: Callable[[], None], point: str
) -> None:
    scene.fleet.grow(2)
    with scene.watch() as watch, scene.load() as load:
        time.sleep(3)
        victim = chance.choice(scene.fleet.workers)
        killed = victim.at(point, "SIGKILL")
        scene.fleet.workers.remove(victim)
        time.sleep(TAKEOVER_SECONDS)
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
        takeover = watch.longest(load, killed - 1, killed + SESSION_SECONDS)
    scene.figures.update(kills=1, takeover=takeover)
    exactly_once()
    assert takeover < TAKEOVER_SECONDS


def pauses(scene: Scene, chance: random.Random, seconds: float) -> int:
    """One worker after the other stands still, at each point of a transaction; how often they did."""
    points = list(POINTS)
    chance.shuffle(points)
    for point in points:
        time.sleep(chance.uniform(1, 2))
        victim = chance.choice(scene.fleet.workers)
        victim.at(point)
        time.sleep(seconds)
        victim.thaw()
        time.sleep(SESSION_SECONDS)
    return len(points)


@pytest.mark.row(2, brief=True)
@pytest.mark.timeout(240)
def test_a_worker_that_was_paused_past_its_session_commits_nothing(
    scene: Scene, chance: random.Random, exactly_once: Callable[[], None]
) -> None:
    workers = scene.fleet.grow(2)
    with scene.watch() as watch, scene.load() as load:
        scene.figures["pauses"] = pauses(scene, chance, 1.5 * SESSION_SECONDS)
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
    assert all(worker.running for worker in workers), "a worker that was paused goes on by itself"
    exactly_once()


@pytest.mark.row(2, brief=True)
@pytest.mark.timeout(240)
def test_the_suite_sees_the_duplicates_of_a_producer_without_fences(scene: Scene, chance: random.Random) -> None:
    scene.settings["UNFENCED"] = "1"
    scene.fleet.grow(2)
    with scene.watch() as watch, scene.load() as load:
        scene.figures["pauses"] = pauses(scene, chance, 1.5 * SESSION_SECONDS)
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
    assert scene.count().duplicated, "this run is broken on purpose, and the verifier found nothing"


@pytest.mark.row(3)
@pytest.mark.timeout(240)
def test_a_pause_longer_than_the_transaction_costs_nothing(
    scene: Scene, chance: random.Random, exactly_once: Callable[[], None]
) -> None:
    scene.settings["SELDON_TRANSACTION_TIMEOUT"] = "4"
    workers = scene.fleet.grow(2)
    with scene.watch() as watch, scene.load() as load:
        scene.figures["pauses"] = pauses(scene, chance, 7.0)
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
    assert all(worker.running for worker in workers)
    exactly_once()


@pytest.mark.row(4, brief=True)
@pytest.mark.timeout(240)
def test_growing_and_shrinking_under_load_stalls_for_less_than_two_seconds(
    scene: Scene, exactly_once: Callable[[], None]
) -> None:
    scene.fleet.grow(1)
    with scene.watch() as watch, scene.load(rate=250) as load:
        since = time.monotonic()
        for _ in range(3):
            scene.fleet.grow()
            time.sleep(2)
        while len(scene.fleet.workers) > 1:
            scene.fleet.end(scene.fleet.workers[0])
            time.sleep(2)
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
        stall = watch.longest(load, since)
    scene.figures.update(rebalances=6, stall=stall)
    exactly_once()
    assert stall < STALL_SECONDS


@pytest.mark.row(5)
@pytest.mark.timeout(240)
def test_a_rolling_restart_drains_each_worker(scene: Scene, exactly_once: Callable[[], None]) -> None:
    scene.fleet.grow(2)
    with scene.watch() as watch, scene.load() as load:
        drains = []
        for _ in range(4):
            time.sleep(2)
            drains.append(scene.fleet.end(scene.fleet.workers[0]))
            scene.fleet.grow()
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
    scene.figures.update(restarts=len(drains), drain=max(drains))
    exactly_once()
    assert max(drains) < 10


@pytest.mark.row(0)
@pytest.mark.timeout(240)
def test_a_consumer_that_reads_nothing_any_more_is_replaced(scene: Scene, exactly_once: Callable[[], None]) -> None:
    (worker,) = scene.fleet.grow(1)
    with scene.watch() as watch, scene.load(rate=100) as load:
        time.sleep(2)
        worker.hang("fetch")
        hung = time.monotonic()
        # Its heartbeats go on, so the group never takes its partitions away.
        wait_until(lambda: "it joins anew" in worker.err, "the watchdog", 90)
        time.sleep(SESSION_SECONDS)
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
        stall = watch.longest(load, hung - 1, hung + 1)
    scene.figures.update(stall=stall)
    exactly_once()
