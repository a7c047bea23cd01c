"""Half an hour at half load with a kill or a pause each minute: row 37; joins that wait in vain: row 21."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

import pytest
from fleet import MORE
from topics import Kafka
from traffic import payload, read_all

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from fleet import Victim
    from scene import Scene
    from topics import Headers

SECONDS = float(os.environ.get("SOAK_SECONDS") or 1800)
# Half of what two workers, their broker, the generator and the reader do together on two cores.
RATE = 1000.0
FAULT_SECONDS = 60.0
SAMPLE_SECONDS = 5.0
SETTLED_SECONDS = 120.0
# Python's heap and the connections to everybody grow at first: the first fifth is not looked at.
WARM = 0.2
SLOPE_MB = 1.0
TEN_MINUTES = 600.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds at a time: seconds, bytes, open files, tasks."""

    at: float
    resident: int
    descriptors: int
    tasks: int


def sample(victim: Victim) -> Sample:
    return Sample(time.monotonic(), victim.resident, victim.descriptors, victim.tasks)


def slope(samples: Sequence[Sample]) -> float:
    """Megabytes in ten minutes, by least squares."""
    ats, sizes = [each.at for each in samples], [each.resident / 1e6 for each in samples]
    at, size = fmean(ats), fmean(sizes)
    spread = sum((each - at) ** 2 for each in ats)
    return sum((x - at) * (y - size) for x, y in zip(ats, sizes, strict=True)) / spread * TEN_MINUTES


def flat(values: Sequence[int], play: float) -> bool:
    """Whether the last third is where the third before it was."""
    third = len(values) // 3
    return median(values[-third:]) <= median(values[-2 * third : -third]) + play


@pytest.mark.row(37, soak=True)
@pytest.mark.timeout(SECONDS + 600)
def test_half_an_hour_of_faults_loses_nothing_and_grows_nothing(
    scene: Scene, chance: random.Random, exactly_once: Callable[[], None]
) -> None:
    (steady,) = scene.fleet.grow(1)
    scene.fleet.grow(1)
    samples: list[Sample] = []
    kills = pauses = 0
    with scene.watch() as watch, scene.load(rate=RATE) as load:
        end = time.monotonic() + SECONDS
        fault = time.monotonic() + FAULT_SECONDS / 2
        while time.monotonic() < end:
            time.sleep(SAMPLE_SECONDS)
            samples.append(sample(steady))
            if time.monotonic() < fault:
                continue
            fault += FAULT_SECONDS
            (other,) = (worker for worker in scene.fleet.workers if worker is not steady)
            if chance.random() < 0.5:
                scene.fleet.kill(other)
                scene.fleet.grow(1)
                kills += 1
            else:
                other.freeze()
                time.sleep(chance.uniform(1, 6))
                other.thaw()
                pauses += 1
        load.stop()
        watch.until_all(load, SETTLED_SECONDS)
    warm = samples[int(len(samples) * WARM) :]
    growth = slope(warm)
    scene.figures.update(minutes=SECONDS / 60, kills=kills, pauses=pauses, mb_per_10_min=growth)
    scene.figures.update(
        rss_mb=warm[-1].resident / 1e6,
        descriptors=f"{warm[0].descriptors} to {warm[-1].descriptors}",
        tasks=f"{warm[0].tasks} to {warm[-1].tasks}",
    )
    exactly_once()
    assert flat([each.descriptors for each in warm], 2), [each.descriptors for each in warm]
    assert flat([each.tasks for each in warm], 2), [each.tasks for each in warm]
    assert growth < SLOPE_MB, [round(each.resident / 1e6, 1) for each in warm]


@pytest.mark.row(21, soak=True)
@pytest.mark.timeout(SECONDS + 600)
def test_joins_that_wait_in_vain_hold_bounded_memory(scene: Scene) -> None:
    # Entries are bounded by their number: each that is over it makes the oldest one an error.
    most = 2000
    scene.settings["SELDON_JOIN_MAX_ENTRIES"] = str(most)
    (worker,) = scene.fleet.grow(1, MORE)
    errors, sent, samples = scene.topic("errors", "errors"), 0, list[Sample]()
    end = time.monotonic() + SECONDS / 3
    with Kafka(scene.kafka.address) as kafka:
        while time.monotonic() < end:
            kafka.send_many(scene.topic("pipeline", "left", "inputs"), lone(sent, 1000))
            sent += 1000
            samples.append(sample(worker))
            time.sleep(0.5)
        with kafka.all_of(errors) as tap:
            tap.until(lambda found: len(found.seen) >= sent - 4 * most, "an error for each entry that had to go", 120)
    scene.fleet.end_all()
    told = Counter(dict(record.headers())["x-request-id"] for record in read_all(scene.kafka.address, [errors])[errors])
    warm = samples[int(len(samples) * WARM) :]
    growth = slope(warm)
    scene.figures.update(
        requests=sent, errors=len(told), duplicated=sum(told.values()) - len(told), mb_per_10_min=growth
    )
    assert set(told.values()) == {1}
    assert len(told) >= sent - 4 * most
    assert growth < 10 * SLOPE_MB, [round(each.resident / 1e6, 1) for each in warm]


def lone(first: int, count: int) -> list[tuple[bytes | None, bytes | None, Headers]]:
    """Requests of the left side with keys that nobody else has."""
    return [
        (payload(number), b"lone-%d" % number, [("x-request-id", b"lone-%d" % number)])
        for number in range(first, first + count)
    ]
