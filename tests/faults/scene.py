"""A namespace of its own with workers, load on one pipeline, and the count at the end."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka.admin import AdminClient, NewTopic
from fleet import Fleet, Victim
from traffic import Count, Load, Watch, verify

if TYPE_CHECKING:
    from broker import FragileKafka

SEED = int(os.environ.get("SEED") or secrets.randbelow(1_000_000))

# One object of JSON for each row that was run, for the table in docs/reliability.md.
TABLE = os.environ.get("FAULTS_TABLE", "")

PARTITIONS = 4
SESSION_SECONDS = 3.0
TRANSACTION_SECONDS = 10.0
RATE = 500.0


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

    def create_topics(self) -> None:
        """The chain's own topics, as an administrator makes them who grants nobody else the right."""
        names = [self.topic("pipeline", "chain", side) for side in ("inputs", "outputs")]
        admin = AdminClient({"bootstrap.servers": self.kafka.address})
        for done in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names]).values():
            done.result(20)

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
