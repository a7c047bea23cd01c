"""Requests per second and CPU per request of each contender, from what the broker and the kernel count."""

from __future__ import annotations

import functools
import sys
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from bench.chain import ChainTopics
from bench.processes import SELDON, Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bench.broker import Bench
    from bench.chain import Contents

# A contender that writes nothing for so long is broken.
SILENCE = 60.0

# Offsets are asked for this often: 1 % of a run of five seconds.
SAMPLE_SECONDS = 0.05

# Before this share of the answers a contender is starting up.
WARM = 0.1


@dataclass(frozen=True, slots=True)
class Contender:
    """A program that does the chain.

    records    how many requests it is given: fewer for a slow one, so that each works for some seconds
    computes   whether its answers can be checked
    start      the process, from the broker's address, the namespace and the number of partitions
    """

    name: str
    title: str
    records: int
    computes: bool
    start: Callable[[str, str, int], Process]


def contenders(fast: int, slow: int) -> tuple[Contender, ...]:
    """Ours and its peers; the fast ones get `fast` requests each, the slow one `slow`."""
    return (
        Contender("ours", "seldon worker", fast, True, _at_least_once),
        Contender("exactly", "seldon worker, exactly once", fast, True, _exactly_once),
        Contender("faust", "Faust agent", slow, True, _faust),
        Contender("bare", "bare aiokafka loop", fast, False, _bare),
    )


def _ours(address: str, namespace: str, partitions: int, guarantee: str) -> Process:
    command = [
        *(SELDON, "worker", "pipelines/tfsimples.yaml", "--kafka-broker", address),
        *("--namespace", namespace, "--partitions", str(partitions)),
    ]
    return Process(command, SELDON_PROCESSING_GUARANTEE=guarantee)


def _at_least_once(address: str, namespace: str, partitions: int) -> Process:
    return _ours(address, namespace, partitions, "at_least_once")


def _exactly_once(address: str, namespace: str, partitions: int) -> Process:
    return _ours(address, namespace, partitions, "exactly_once")


def _faust(address: str, namespace: str, _: int) -> Process:
    command = [sys.executable, "-m", "bench.peers.plain_faust", "worker", "--loglevel", "error", "--without-web"]
    return Process(command, BOOTSTRAP=address, NAMESPACE=namespace)


def _bare(address: str, namespace: str, _: int) -> Process:
    return Process([sys.executable, "-m", "bench.peers.bare_loop"], BOOTSTRAP=address, NAMESPACE=namespace)


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    rate            requests per second until all work for them was done
    cpu_us          of the process, per request, in the same time
    answer_rate     requests per second until the last answer; for ours the models' agent is then still at work
    answer_cpu_us   as cpu_us, until the last answer
    """

    rate: float
    cpu_us: float
    answer_rate: float
    answer_cpu_us: float


@dataclass(slots=True)
class Row:
    """All runs of one contender with one kind of contents."""

    contender: Contender
    contents: Contents
    runs: list[Run] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return median(run.rate for run in self.runs)

    @property
    def cpu_us(self) -> float:
        return median(run.cpu_us for run in self.runs)


def measure(bench: Bench, wanted: Iterable[Contender], rounds: int, progress: Callable[[str], None]) -> list[Row]:
    """Every contender in turn, `rounds` times, so that a change of the machine touches all of them."""
    rows = [Row(contender, contents) for contents in ("raw", "typed") for contender in wanted]
    for number in range(1, rounds + 1):
        for row in rows:
            what = f"round {number} of {rounds}: {row.contender.title}, {row.contents} contents"
            topics = ChainTopics(f"{row.contender.name}-{row.contents}-{number}")
            progress(f"{what}: loading {row.contender.records:,} requests")
            bench.preload(topics, row.contender.records, row.contents)
            progress(f"{what}: measuring")
            row.runs.append(_run(bench, row.contender, topics))
            bench.remove(topics)
    return rows


def warm_up(bench: Bench, records: int) -> None:
    """One run that does not count: a Java broker compiles what it does often, and nobody should pay for all others."""
    topics = ChainTopics("warm-up")
    bench.preload(topics, records, "raw")
    _run(bench, Contender("bare", "bare aiokafka loop", records, False, _bare), topics)
    bench.remove(topics)


def _run(bench: Bench, contender: Contender, topics: ChainTopics) -> Run:
    with contender.start(bench.address, topics.namespace, bench.partitions) as process:
        answers = _answers(bench, contender, topics)
        first = _reach(answers, process, topics.outputs, int(contender.records * WARM))
        answered = _reach(answers, process, topics.outputs, contender.records)
        # The models' agent reads what our steps write, and passes over it: that is work of the same requests.
        last = _caught_up(bench, process, topics, answered.count) if contender.name == "ours" else answered
        _check(bench, process, contender, topics)
    requests = answered.count - first.count
    if requests < contender.records / 2:
        raise RuntimeError(f"{contender.title}: {contender.records} requests are too few to measure it by")
    return Run(
        rate=requests / (last.time - first.time),
        cpu_us=(last.cpu - first.cpu) / requests * 1e6,
        answer_rate=requests / (answered.time - first.time),
        answer_cpu_us=(answered.cpu - first.cpu) / requests * 1e6,
    )


@dataclass(frozen=True, slots=True)
class _Mark:
    time: float
    count: int
    cpu: float


def _answers(bench: Bench, contender: Contender, topics: ChainTopics) -> Callable[[], int]:
    """How many answers readers see: with transactions, whose ends stand among the records, by what was committed."""
    if contender.name == "exactly":
        return lambda: bench.committed(topics.pipeline_group, topics.inputs)
    return lambda: bench.written(topics.outputs)


def _reach(count_now: Callable[[], int], process: Process, topic: str, wanted: int) -> _Mark:
    """The moment when so many answers stand in the topic."""
    seen, moved = -1, time.monotonic()
    while True:
        count, now = count_now(), time.perf_counter()
        if count >= wanted:
            return _Mark(now, count, process.cpu_seconds())
        if count != seen:
            seen, moved = count, time.monotonic()
        if time.monotonic() - moved > SILENCE:
            raise RuntimeError(f"{topic} stands at {count} of {wanted} records:\n{process.errors()}")
        process.check()
        time.sleep(SAMPLE_SECONDS)


def _caught_up(bench: Bench, process: Process, topics: ChainTopics, count: int) -> _Mark:
    """The moment when the models' agent has nothing before it."""
    until = time.monotonic() + SILENCE
    while bench.lag(topics.models_group, topics.steps[::2]) > 0:
        if time.monotonic() > until:
            raise RuntimeError(f"the models' agent is still behind after {SILENCE:.0f} s:\n{process.errors()}")
        process.check()
        time.sleep(SAMPLE_SECONDS)
    return _Mark(time.perf_counter(), count, process.cpu_seconds())


def _check(bench: Bench, process: Process, contender: Contender, topics: ChainTopics) -> None:
    """All five topics hold every request once, and the answers are right."""
    for topic in topics.written:
        if contender.name == "exactly":
            count = bench.read(topic)
        else:
            count = _reach(functools.partial(bench.written, topic), process, topic, contender.records).count
        if count != contender.records:
            raise RuntimeError(f"{contender.title}: {topic} holds {count} records, not {contender.records}")
    if contender.computes:
        bench.check_answers(topics.outputs)
