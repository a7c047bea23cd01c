"""A broker that dies, stops, freezes: rows 6 to 8, 32, 33 and 35."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker import EmbeddedInThread, free_ports
from confluent_kafka.admin import AdminClient, NewTopic
from fleet import RESOURCES
from product import SELDON, infer, inputs, wait_until
from scene import RATE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from product import Response
    from scene import Scene

RECOVERY_SECONDS = 15.0
SETTLED_SECONDS = 90.0
CALL_SECONDS = 5.0
DEATHS = 6
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


@pytest.mark.row(6)
@pytest.mark.timeout(400)
def test_a_broker_that_dies_again_and_again_forgets_how_transactions_ended_and_its_workers_do_not(
    scene: Scene, exactly_once: Callable[[], None]
) -> None:
    scene.fleet.grow(2)
    with ballast(scene.kafka.address), scene.watch() as watch, scene.load() as load:
        for _ in range(DEATHS):
            answered = len(watch.seen)
            wait_until(lambda answered=answered: len(watch.seen) > answered + RATE, "answers again", SETTLED_SECONDS)
            scene.kafka.kill()
            time.sleep(1)
            scene.kafka.again()
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
    scene.figures.update(kills=DEATHS)
    exactly_once()


@contextmanager
def ballast(address: str) -> Iterator[None]:
    """Topics that nobody uses: the more there are, the longer a broker that comes back does not know who leads them."""
    names, admin = [f"ballast-{number}" for number in range(40)], AdminClient({"bootstrap.servers": address})
    for done in admin.create_topics([NewTopic(name, 4, 1) for name in names]).values():
        done.result(60)
    yield
    for done in admin.delete_topics(names).values():
        done.result(60)


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


@pytest.mark.row(35)
@pytest.mark.timeout(300)
def test_a_broker_whose_disk_is_full_loses_nothing_and_is_waited_for_in_peace(
    scene: Scene, exactly_once: Callable[[], None]
) -> None:
    taken: list[float] = []

    def fill() -> None:
        scene.kafka.fill_disk()
        scene.kafka.wait()
        taken.extend(worker.cpu_seconds for worker in scene.fleet.workers)

    def make_room() -> None:
        for index, worker in enumerate(scene.fleet.workers):
            taken[index] = worker.cpu_seconds - taken[index]
        scene.kafka.again()

    away = 20.0
    recovery = outage(scene, fill, make_room, away)
    scene.figures.update(cpu_share=max(taken) / away)
    exactly_once()
    assert recovery < RECOVERY_SECONDS
    assert max(taken) < away / 4, "a worker whose broker is away does not spin"


@pytest.mark.row(35)
@pytest.mark.timeout(60)
def test_a_process_that_cannot_write_what_it_has_to_say_ends_with_the_reason(scene: Scene) -> None:
    command = [SELDON, "worker", str(RESOURCES), "--kafka-broker", scene.kafka.address, "--namespace", scene.namespace]
    with Path("/dev/full").open("wb") as full:
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=45)
    assert found.returncode == 1
    assert found.stderr == "Error: cannot write to standard output: No space left on device\n"


@pytest.mark.row(32)
@pytest.mark.timeout(120)
def test_an_embedded_broker_that_dies_and_comes_back_empty_is_taken_up_again(scene: Scene) -> None:
    port, _ = free_ports(0)
    with EmbeddedInThread(f"127.0.0.1:{port}") as broker:
        named = {"kafka_broker": broker.address}
        worker = scene.make("worker", RESOURCES, settings={"SELDON_SESSION_TIMEOUT": "2"}, **named).start()
        gateway = scene.make(
            "gateway", RESOURCES, settings={"SELDON_REQUEST_TIMEOUT": str(CALL_SECONDS)}, **named
        ).start()

        def call(number: int) -> Response | None:
            try:
                return infer(gateway.address, "pipelines/chain", inputs(INPUT=[number]))
            except ConnectionError:
                return None  # it is beginning anew: refused at once, and nobody hangs

        before = call(1)
        broker.kill()
        away = [call(number) for number in range(3)]
        broker.again()
        back = time.monotonic()
        for victim in (worker, gateway):
            wait_until(lambda victim=victim: "beginning anew" in victim.err, "the broker's loss to be told", 10)
        after = wait_until(
            lambda: (answer := call(5)) and answer.status == 200 and answer, scene.said, RECOVERY_SECONDS * 2
        )
        recovery = time.monotonic() - back
        scene.figures.update(recovery=recovery, requests=5, errors=len(away))
        worker.end()
        gateway.end()
    assert before
    assert before.output("INPUT") == [3]
    assert after.output("INPUT") == [7]
    assert {answer.status if answer else 503 for answer in away} <= {503, 504}, away
    assert all(answer.seconds < CALL_SECONDS + 2 for answer in away if answer), away
    assert "what was on its topics is gone" in worker.err
    assert recovery < RECOVERY_SECONDS
