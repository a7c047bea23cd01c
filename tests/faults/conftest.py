"""The fault suite: `make faults`, `make soak`. Not part of a plain `pytest`, which it would make an hour long.

FAULTS says how much: `brief` (what CI runs), `full`, `soak`. SEED makes the same choices again; it is printed.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from broker import FragileKafka
from scene import SEED, Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEVEL = os.environ.get("FAULTS", "")
LEVELS = ("brief", "full", "soak")

collect_ignore_glob = [] if LEVEL else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "row(number, brief=False, soak=False): a row of the matrix of faults; brief: CI runs it too; soak: `make soak`",
    )
    if LEVEL and LEVEL not in LEVELS:
        raise pytest.UsageError(f"FAULTS is {LEVEL}; it may be {', '.join(LEVELS)}")


def pytest_report_header() -> str:
    return f"faults: {LEVEL or 'off'}, SEED={SEED}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this level does not run."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    left_out = [item for item in here if not _runs(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _runs(item: pytest.Item) -> bool:
    row = item.get_closest_marker("row")
    assert row is not None, f"{item.nodeid} belongs to no row"
    if LEVEL == "soak":
        return bool(row.kwargs.get("soak"))
    return (LEVEL == "full" and not row.kwargs.get("soak")) or bool(row.kwargs.get("brief"))


@pytest.fixture(scope="session")
def fragile_kafka() -> Iterator[FragileKafka]:
    """One Apache Kafka for the whole suite."""
    kafka = FragileKafka().start()
    yield kafka
    kafka.stop()


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """The same choices for the same SEED and test."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def scene(fragile_kafka: FragileKafka, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """As said; what still runs at the end is killed, and what the processes said is shown with a failure."""
    row = request.node.get_closest_marker("row")
    made = Scene(fragile_kafka, tmp_path, row.args[0], request.node.name)
    yield made
    made.tell()
    for victim in made.made:
        victim.kill()
    sys.stderr.write(made.said())


@pytest.fixture
def exactly_once(scene: Scene) -> Callable[[], None]:
    """Asserts at a test's end that every request was answered once, by all of its records and its own answer."""

    def check() -> None:
        count = scene.count()
        assert count.requests > 0
        assert count.clean, str(count)

    return check
