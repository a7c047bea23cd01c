"""The fault suite: `make faults`, `make soak`. Not part of a plain `pytest`, which it would make an hour long.

FAULTS says how much: `brief` (what CI runs), `full`, `soak`. SEED makes the same choices again; it is printed.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from broker import FragileKafka
from fleet import RESOURCES, Fleet, Victim
from traffic import Count, Load, Watch, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEVEL = os.environ.get("FAULTS", "")
SEED = int(os.environ.get("SEED") or secrets.randbelow(1_000_000))
LEVELS = ("brief", "full", "soak")

# One object of JSON for each row that was run, for the table in docs/reliability.md.
TABLE = os.environ.get("FAULTS_TABLE", "")

PARTITIONS = 4
SESSION_SECONDS = 3.0
TRANSACTION_SECONDS = 10.0
RATE = 500.0

collect_ignore_glob = [] if LEVEL else ["test_*.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "row(number, brief=False): a row of the matrix of faults; brief: CI runs it too")
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


class Scene:
    """A namespace of its own with workers, load on one pipeline, and the count at the end."""

    def __init__(self, kafka: FragileKafka, folder: Path, row: int, name: str) -> None:
        self.kafka, self.folder, self.row, self.name = kafka, folder, row, name
        self.namespace = f"f{secrets.token_hex(4)}"
        self.settings = {
            "SELDON_SESSION_TIMEOUT": str(SESSION_SECONDS),
            "SELDON_TRANSACTION_TIMEOUT": str(TRANSACTION_SECONDS),
            "SELDON_LOG_LEVEL": "INFO",
        }
        self.made: list[Victim] = []
        self.fleet = Fleet(self.make)
        self.figures: dict[str, Any] = {}
        self.since = time.monotonic()

    def make(self, part: str, *arguments: object, settings: dict[str, str] | None = None, **flags: object) -> Victim:
        """A process of the product in this namespace, not started yet."""
        named = {"namespace": self.namespace, "kafka-broker": self.kafka.address, "partitions": PARTITIONS}
        if part in ("up", "gateway"):
            named["listen"] = "127.0.0.1:0"
        named.update({name.replace("_", "-"): value for name, value in flags.items()})
        options = [word for flag, value in named.items() for word in (f"--{flag}", value)]
        folder = self.folder / f"process-{len(self.made)}"
        victim = Victim(folder, part, *arguments, *options, settings={**self.settings, **(settings or {})})
        self.made.append(victim)
        return victim

    def topic(self, *parts: str) -> str:
        return ".".join(("seldon", self.namespace, *parts))

    def load(self, pipeline: str = "chain", rate: float = RATE) -> Load:
        return Load(self.kafka.address, self.topic("pipeline", pipeline, "inputs"), rate, self.namespace)

    def watch(self, pipeline: str = "chain") -> Watch:
        return Watch(self.kafka.address, self.topic("pipeline", pipeline, "outputs"))

    def count(self) -> Count:
        """End all workers, and count what there is of the chain."""
        self.fleet.end_all()
        found = verify(
            self.kafka.address,
            self.topic("pipeline", "chain", "inputs"),
            self.topic("pipeline", "chain", "outputs"),
            {
                self.topic("model", "first", "inputs"): 0,
                self.topic("model", "first", "outputs"): 1,
                self.topic("model", "second", "inputs"): 1,
                self.topic("model", "second", "outputs"): 2,
            },
            added=2,
            seconds=TRANSACTION_SECONDS + 10,
        )
        self.figures.update(
            requests=found.requests,
            lost=len(found.lost),
            duplicated=len(found.duplicated),
            partial=len(found.partial),
            crossed=len(found.crossed),
            errors=len(found.errors),
        )
        return found

    def said(self) -> str:
        """The last words of each process."""
        return "\n".join(
            f"-- {victim.arguments[0]} {victim.directory.parent.name}\n{victim.err[-2500:]}" for victim in self.made
        )

    def tell(self) -> None:
        """A line of the table."""
        line = {"row": self.row, "test": self.name, "seed": SEED, "seconds": round(time.monotonic() - self.since, 1)}
        line.update(
            {key: round(value, 2) if isinstance(value, float) else value for key, value in self.figures.items()}
        )
        text = json.dumps(line)
        sys.stderr.write(f"\n{text}\n")
        if TABLE:
            with Path(TABLE).open("a") as table:
                table.write(f"{text}\n")


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


__all__ = ["RESOURCES", "Scene"]
