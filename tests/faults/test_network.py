"""The way to the broker goes wrong: rows 9 and 10."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from product import wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from proxy import Proxy
    from scene import Scene

SETTLED_SECONDS = 90.0
SWALLOWED = 3


@pytest.fixture
def proxy(scene: Scene) -> Iterator[Proxy]:
    """The suite's proxy, which passes everything on again at the end."""
    found = scene.kafka.proxy
    yield found
    found.delay(0)
    found.swallow(0)
    found.release()


@pytest.mark.row(9)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["cut", "delay", "hold"])
def test_a_bad_line_to_the_broker_tears_no_request_apart(
    scene: Scene, proxy: Proxy, chance: random.Random, exactly_once: Callable[[], None], fault: str
) -> None:
    workers = scene.fleet.grow(2, kafka_broker=proxy.address)
    with scene.watch() as watch, scene.load() as load:
        for _ in range(3):
            time.sleep(chance.uniform(1, 3))
            if fault == "cut":
                proxy.cut()
            elif fault == "delay":
                proxy.delay(2.0)
                time.sleep(6)
                proxy.delay(0)
            else:
                proxy.hold()
                time.sleep(chance.uniform(2, 8))
                proxy.cut()
                proxy.release()
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
    assert all(worker.running for worker in workers)
    exactly_once()


@pytest.mark.row(10)
@pytest.mark.timeout(300)
def test_a_commit_whose_answer_is_lost_is_asked_for_and_not_written_again(
    scene: Scene, proxy: Proxy, exactly_once: Callable[[], None]
) -> None:
    workers = scene.fleet.grow(2, kafka_broker=proxy.address)
    before = proxy.swallowed
    with scene.watch() as watch, scene.load() as load:
        for number in range(1, SWALLOWED + 1):
            time.sleep(2)
            proxy.swallow()
            wait_until(lambda n=number: proxy.swallowed - before >= n, "an answer to EndTxn", 30)
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
    assert all(worker.running for worker in workers)
    assert any("no answer to a commit" in worker.err for worker in workers)
    scene.figures.update(swallowed=SWALLOWED)
    exactly_once()
