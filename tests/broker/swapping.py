"""Resources loaded, swapped and unloaded at random under load, and the count of what came of it.

Four pipelines on two workers and two gateways, each with requests from Kafka and from callers; one is never touched.
Whatever is counted here is read by librdkafka from the broker: nothing here asks the product what it did, but for the
states that it is to give again when it has been built anew.
"""

from __future__ import annotations

import contextlib
import json
import struct
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))

from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient
from product import infer, inputs, seldon, wait_until
from traffic import Load, number_of, read, read_all

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from product import Product

STILL, TOUCHED = "still", ("red", "green", "blue")
PIPELINES = (STILL, *TOUCHED)
STEPS = ("first", "second", "third")

# Sessions so long that no pause of a busy machine is a rebalance: every one that is seen has been made here.
SETTINGS = {"SELDON_SESSION_TIMEOUT": "10", "SELDON_LOG_LEVEL": "INFO"}

RATE = 50.0
READY_SECONDS = 25.0
ANSWERED_SECONDS = 60.0
TRANSACTION_SECONDS = 70.0

# What the broker writes of a group may be dated a moment after the command that waited for it.
MOMENT = 1.0

MODELS = """\
def plus(INPUT):
    return {"INPUT": INPUT + 1}


def also(INPUT):
    return {"INPUT": 1 + INPUT}
"""
MODEL = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Model
metadata: {{name: {name}}}
spec: {{storageUri: "python:swapped_models:{function}"}}
"""
PIPELINE = """\
apiVersion: mlops.seldon.io/v1alpha1
kind: Pipeline
metadata: {{name: {name}}}
spec:
  steps: [{steps}]
  output: {{steps: [{last}]}}
"""


@dataclass
class Swapped:
    """A pipeline as it stands: of two steps or three, each of which adds one, with models by one of two functions."""

    name: str
    long: bool = False
    functions: list[str] = field(default_factory=lambda: ["plus"] * len(STEPS))

    @property
    def models(self) -> list[str]:
        return [f"{self.name}-{step}" for step in STEPS]

    @property
    def steps(self) -> list[str]:
        return self.models if self.long else self.models[:2]

    def text(self) -> str:
        """Its resource file: all three models, so that a shorter version leaves none behind."""
        models = [MODEL.format(name=n, function=f) for n, f in zip(self.models, self.functions, strict=True)]
        feeds = ["", *(f", inputs: [{name}]" for name in self.steps)]
        steps = ", ".join(f"{{name: {name}{feed}}}" for name, feed in zip(self.steps, feeds, strict=False))
        return "---\n".join([*models, PIPELINE.format(name=self.name, steps=steps, last=self.steps[-1])])

    def change(self, chance: random.Random) -> None:
        """Another number of steps, or other models, or both."""
        what = chance.choice(("steps", "models", "both"))
        if what != "models":
            self.long = not self.long
        if what != "steps":
            self.functions = [{"plus": "also", "also": "plus"}[function] for function in self.functions]


class Caller:
    """Calls a pipeline by a gateway, one call after the other, until the block ends."""

    def __init__(self, address: str, pipeline: str, prefix: str) -> None:
        self.prefix = prefix
        self.answers: list[tuple[str, int, Any]] = []
        self._address, self._pipeline, self._over = address, pipeline, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(40)

    def _run(self) -> None:
        number = 0
        while not self._over.wait(0.05):
            name = f"{self.prefix}-{number}"
            answer = infer(
                self._address, f"pipelines/{self._pipeline}", inputs(INPUT=[number]), [("x-request-id", name)]
            )
            value = answer.output("INPUT")[0] - number if answer.status == 200 else answer.body
            self.answers.append((name, answer.status, value))
            number += 1


class Swaps:
    """A namespace with two workers and two gateways; `run` touches it, the rest says what is wrong then."""

    def __init__(
        self, broker: str, namespace: str, make: Callable[..., Product], folder: Path, chance: random.Random
    ) -> None:
        self.broker, self.namespace, self._make, self._folder, self._chance = broker, namespace, make, folder, chance
        self.pipelines = {name: Swapped(name) for name in PIPELINES}
        # When a pipeline was away or came back: its group may change then, and at no other time.
        self.away: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self.story: list[str] = []
        self.callers: list[Caller] = []
        self.since = self.until = 0.0
        self.requests = 0
        self._admin = AdminClient({"bootstrap.servers": broker, "log_level": 0})
        (folder / "swapped_models.py").write_text(MODELS)

    def start(self) -> None:
        """Start the processes, load everything, and wait until every group has both workers."""
        self.workers = [self._make("worker", settings=SETTINGS).launch() for _ in range(2)]
        for worker in self.workers:
            worker.wait_ready()
        self.gateways = [self._make("gateway", settings=SETTINGS).start() for _ in range(2)]
        for pipeline in self.pipelines.values():
            self._load(pipeline)
        for pipeline in self.pipelines.values():
            self._until_ready(pipeline)

    def run(self, seconds: float) -> None:
        """Touch one pipeline after the other for so long, under load, and wait until all is answered."""
        with contextlib.ExitStack() as stack:
            loads = [
                stack.enter_context(Load(self.broker, self._topic(name), RATE, f"{self.namespace}-{name}"))
                for name in PIPELINES
            ]
            self.callers = [
                stack.enter_context(Caller(gateway.address, name, f"{self.namespace}-{name}-caller{number}"))
                for number, gateway in enumerate(self.gateways)
                for name in PIPELINES
            ]
            self.since = time.time()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                self._touch(self.pipelines[self._chance.choice(TOUCHED)])
            for load in loads:
                load.stop()
        self._until_answered()
        self.until = time.time()

    def _touch(self, pipeline: Swapped) -> None:
        how = self._chance.choice((self._swap, self._swap_twice, self._take_away, self._take_all_away))
        self.story.append(f"{time.time() - self.since:6.1f} s {how.__name__.strip('_')} {pipeline.name}")
        how(pipeline)

    def _swap(self, pipeline: Swapped) -> None:
        pipeline.change(self._chance)
        self._load(pipeline)
        self._until_ready(pipeline)

    def _swap_twice(self, pipeline: Swapped) -> None:
        """The second before anybody can have taken up the first."""
        pipeline.change(self._chance)
        self._load(pipeline)
        self._swap(pipeline)

    def _take_away(self, pipeline: Swapped) -> None:
        self._gone(pipeline, "pipeline", "unload", pipeline.name)

    def _take_all_away(self, pipeline: Swapped) -> None:
        """With its models."""
        self._gone(pipeline, "unload", "-f", self._file(pipeline))

    def _gone(self, pipeline: Swapped, *unload: object) -> None:
        since = time.time()
        self._seldon(*unload)
        time.sleep(self._chance.uniform(0, 2))
        pipeline.change(self._chance)
        self._load(pipeline)
        self._until_ready(pipeline)
        self.away[pipeline.name].append((since, time.time() + MOMENT))

    def _load(self, pipeline: Swapped) -> None:
        self._file(pipeline).write_text(pipeline.text())
        self._seldon("load", "-f", self._file(pipeline))

    def _until_ready(self, pipeline: Swapped) -> None:
        self._seldon("pipeline", "status", pipeline.name, "-w", "PipelineReady", "-t", READY_SECONDS)
        wait_until(
            lambda: self._members(pipeline.name) == len(self.workers), f"both workers in {pipeline.name}", READY_SECONDS
        )

    def _members(self, name: str) -> int:
        """How many are in a pipeline's group, once they have agreed on who reads what."""
        found = self._admin.describe_consumer_groups([self._group(name)])[self._group(name)].result(10)
        return len(found.members) if found.state is ConsumerGroupState.STABLE else 0

    def _seldon(self, *arguments: object) -> str:
        said = seldon(*arguments, "--kafka-broker", self.broker, "--namespace", self.namespace)
        assert said.code == 0, f"seldon {' '.join(map(str, arguments))}: {said}\n{self}"
        return said.out

    def _file(self, pipeline: Swapped) -> Path:
        return self._folder / f"{pipeline.name}.yaml"

    def _group(self, name: str) -> str:
        return f"seldon.{self.namespace}.pipeline.{name}"

    def _topic(self, name: str, kind: str = "pipeline", side: str = "inputs") -> str:
        return f"seldon.{self.namespace}.{kind}.{name}.{side}"

    def _until_answered(self) -> None:
        for name in PIPELINES:
            wait_until(
                lambda name=name: not self._unanswered(name),
                lambda name=name: f"answers of {name} to {sorted(self._unanswered(name))[:5]}\n{self}",
                ANSWERED_SECONDS,
            )

    def _unanswered(self, name: str) -> set[str]:
        sides = [self._topic(name, side=side) for side in ("inputs", "outputs")]
        found = read_all(self.broker, sides, TRANSACTION_SECONDS)
        asked, answered = ({_name(record) for record in found[side]} for side in sides)
        return asked - answered

    def faults(self) -> list[str]:
        """Requests that were lost, doubled, crossed, half done or failed, and callers who were told something wrong."""
        return [*(fault for name in PIPELINES for fault in self._faults_of(name)), *self._faults_of_callers()]

    def _faults_of(self, pipeline: str) -> Iterator[str]:
        asked: Counter[str] = Counter()
        answers: dict[str, list[int | None]] = defaultdict(list)
        steps: dict[str, Counter[str]] = {name: Counter() for name in self.pipelines[pipeline].models}
        owners = {self._topic(name, "model", "outputs"): name for name in steps}
        topics = [self._topic(pipeline), self._topic(pipeline, side="outputs"), *owners]
        for record in read(self.broker, topics, TRANSACTION_SECONDS):
            topic, name = record.topic(), _name(record)
            if any(key == "seldon-error-code" for key, _ in record.headers() or []):
                yield f"{topic} {name} failed: {record.value()!r}"
            if topic == topics[0]:
                asked[name] += 1
            elif topic == topics[1]:
                value = number_of(record.value())
                answers[name].append(None if value is None else value - int(name.rpartition("-")[2]))
            else:
                steps[owners[topic]][name] += 1
        self.requests += asked.total()
        for name, times in asked.items():
            if times != 1 or len(answers[name]) != 1:
                yield f"{pipeline}: {name} was asked {times} times and answered {len(answers[name])} times"
                continue
            [added] = answers[name]
            ran = [steps[model][name] for model in steps]
            if added not in (2, 3) or ran != [1, 1, added - 2]:
                yield f"{pipeline}: {name} is {added} more than it was, and its steps ran {ran} times"

    def _faults_of_callers(self) -> Iterator[str]:
        for caller in self.callers:
            pipeline = caller.prefix.split("-")[1]
            refusals = (200,) if pipeline == STILL else (200, 404)
            for name, status, value in caller.answers:
                if status not in refusals or (status == 200 and value not in (2, 3)):
                    yield f"the caller {name} was told {status} {value}"

    def rebalances(self) -> list[str]:
        """Those that came to a pipeline while it was there and nobody took it away or brought it back."""
        groups = {self._group(name): name for name in PIPELINES}
        return [
            f"{groups[group]} was rebalanced at {at - self.since:.1f} s\n{self}"
            for group, at in generations(self.broker)
            if group in groups
            and self.since < at < self.until
            and not any(since <= at <= until for since, until in self.away[groups[group]])
        ]

    def prove(self, seconds: float) -> None:
        """All of it, for so long: nothing lost or doubled, nobody else disturbed, the same when it is built anew."""
        self.start()
        self.run(seconds)
        faults, rebalances = self.faults(), self.rebalances()
        assert not faults, "\n".join((f"{len(faults)} faults of {self.requests} requests", *faults[:10], str(self)))
        assert not rebalances, rebalances
        told, added = self.told(), self.added()
        assert {row["state"] for row in told} == {"PipelineReady", "ModelAvailable"}, told
        assert added == {name: len(pipeline.steps) for name, pipeline in self.pipelines.items()}
        self.build_anew()
        assert self.told() == told
        assert self.added() == added

    def told(self) -> list[dict[str, Any]]:
        """What is loaded, in which versions, and in which states."""
        return list(json.loads(self._seldon("status", "-o", "json")))

    def build_anew(self) -> None:
        """End every process, and start a worker and a gateway that know nothing but the broker."""
        for process in (*self.gateways, *self.workers):
            process.stop()
        self.workers = [self._make("worker", settings=SETTINGS).start()]
        self.gateways = [self._make("gateway", settings=SETTINGS).start()]
        for pipeline in self.pipelines.values():
            self._until_ready(pipeline)

    def added(self) -> dict[str, int]:
        """What each pipeline adds to a number by now."""
        return {
            name: infer(self.gateways[0].address, f"pipelines/{name}", inputs(INPUT=[0])).output("INPUT")[0]
            for name in PIPELINES
        }

    def __str__(self) -> str:
        return "\n".join(self.story)


def _name(record: Any) -> str:
    return next((value.decode() for key, value in record.headers() or [] if key == "x-request-id"), "")


def generations(broker: str) -> Iterator[tuple[str, float]]:
    """Each time that a group began another generation, as the broker wrote it down for itself: group and time."""
    newest: dict[str, int] = {}
    for record in read(broker, ["__consumer_offsets"], TRANSACTION_SECONDS):
        key, value = record.key() or b"", record.value()
        # Version 2 is of groups, 0 and 1 are of their offsets; no value: the group is gone.
        if value is None or struct.unpack_from(">h", key)[0] != 2:
            continue
        group, _ = _text(key, 2)
        _, at = _text(value, 2)
        [generation] = struct.unpack_from(">i", value, at)
        if newest.get(group) != generation:
            newest[group] = generation
            yield group, record.timestamp()[1] / 1000


def _text(raw: bytes, at: int) -> tuple[str, int]:
    """A text behind its length, and where it ends."""
    [length] = struct.unpack_from(">h", raw, at)
    return raw[at + 2 : at + 2 + length].decode(), at + 2 + length
