"""Requests per second and CPU per request of each contender, from what the broker and the kernel count."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from bench import latency
from bench.contenders import CHAIN, Contender, Job
from bench.failures import told
from bench.processes import wait_until
from bench.works import Layout, tfsimples
from engine.kafka.transactions import POOL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bench.broker import Bench
    from bench.chain import Contents
    from bench.latency import Latency
    from bench.processes import Process, Team
    from bench.works import Work

# A contender that writes nothing for so long is broken.
SILENCE = 60.0

# Offsets are asked for this often: 1 % of a run of five seconds.
SAMPLE_SECONDS = 0.05

# Before this share of the answers a contender is starting up.
WARM = 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    rate           requests per second until the last answer could be read
    cpu_us         of the process, per request, until all work for them was done
    settled_rate   requests per second until then: for ours the models' agent has read what was written, too
    peak_rss_mb    the most memory that it held
    cold           whether most was done at the first look, so that the start of the process counts: of tiny runs
    """

    rate: float
    cpu_us: float
    settled_rate: float
    peak_rss_mb: float
    cold: bool


@dataclass(slots=True)
class Row:
    """All runs of one contender with one work and one kind of contents.

    paced   how long its answers took at a fixed rate, where that was measured
    """

    contender: Contender
    work: Work
    contents: Contents
    records: int
    runs: list[Run] = field(default_factory=list)
    paced: Latency | None = None

    @property
    def rate(self) -> float:
        return median(run.rate for run in self.runs)

    @property
    def cpu_us(self) -> float:
        return median(run.cpu_us for run in self.runs)

    @property
    def settled_rate(self) -> float:
        return median(run.settled_rate for run in self.runs)

    @property
    def peak_rss_mb(self) -> float:
        return max(run.peak_rss_mb for run in self.runs)


def chain_rows(names: Iterable[str], records: dict[str, int], contents: Iterable[Contents]) -> list[Row]:
    """The tfsimples chain by the contenders of these names; `records` by their speed."""
    wanted, work = set(names), tfsimples()
    return [
        Row(contender, work, each, records[contender.speed])
        for each in contents
        for contender in CHAIN
        if contender.name in wanted
    ]


def measure(
    bench: Bench, rows: Sequence[Row], rounds: int, calls: int, progress: Callable[[str], None], failed: list[str]
) -> list[Row]:
    """Every row in turn, `rounds` times, so that a change of the machine touches all of them: those that had a run.

    With `calls`, the process of a row of raw contents is also called that often, 50 times a second, after its last run.
    """
    for number in range(1, rounds + 1):
        for row in rows:
            contender = row.contender
            step = f"round {number} of {rounds}: {row.work.name} by {contender.title}, {contender.guarantee}"
            progress(step)
            paced = calls if number == rounds and row.contents == "raw" else 0
            with told(failed, step):
                run_once(bench, row, f"{contender.name}-{row.work.name}-{row.contents}-{number}", paced)
    return [row for row in rows if row.runs]


def warm_up(bench: Bench, records: int) -> None:
    """One run that does not count: a Java broker compiles what it does often, and nobody should pay for all others."""
    [row] = chain_rows(("bare",), {"fast": records}, ("raw",))
    run_once(bench, row, "warm-up")


def run_once(bench: Bench, row: Row, namespace: str, calls: int = 0) -> None:
    """Load the requests of a row, have them done, add the run to it, and remove all."""
    layout = Layout(namespace, row.work)
    bench.preload(layout, row.records, row.contents)
    with row.contender.start(Job(bench.address, bench.partitions, layout)) as process:
        row.runs.append(_run(bench, process, row, layout))
        if calls:
            row.paced = latency.by_kafka(bench.address, layout, calls, row.contender.title)
            process.check()
    bench.remove(layout)


def _run(bench: Bench, process: Process | Team, row: Row, layout: Layout) -> Run:
    answers = _answers(bench, row.contender, layout)
    began = _Mark(time.perf_counter(), 0, 0.0)
    first = _reach(answers, process, layout, int(row.records * WARM))
    if cold := first.count > row.records / 2:
        first = began
    answered = _reach(answers, process, layout, row.records)
    # The models' agent reads what our steps write, and passes over it: that is work of the same requests.
    settled = _caught_up(bench, process, layout, answered.count) if row.contender.agent else answered
    requests = answered.count - first.count
    _check(bench, process, row, layout)
    return Run(
        rate=requests / (answered.time - first.time),
        cpu_us=(settled.cpu - first.cpu) / requests * 1e6,
        settled_rate=requests / (settled.time - first.time),
        peak_rss_mb=process.peak_rss_mb(),
        cold=cold,
    )


@dataclass(frozen=True, slots=True)
class _Mark:
    time: float
    count: int
    cpu: float


def _answers(bench: Bench, contender: Contender, layout: Layout) -> Callable[[], int]:
    """How many answers readers see: with transactions, whose ends stand among the records, by what was committed."""
    if contender.groups is None:
        return lambda: bench.written(*layout.outputs)
    groups = contender.groups(layout)
    return lambda: bench.committed(groups)


def _reach(count_now: Callable[[], int], process: Process | Team, layout: Layout, wanted: int) -> _Mark:
    """The moment when so many requests are answered."""
    seen, moved = -1, time.monotonic()
    while True:
        count, now = count_now(), time.perf_counter()
        if count >= wanted:
            return _Mark(now, count, process.cpu_seconds())
        if count != seen:
            seen, moved = count, time.monotonic()
        if time.monotonic() - moved > SILENCE:
            raise RuntimeError(f"{layout.namespace} stands at {count} of {wanted} answers:\n{process.errors()}")
        process.check()
        time.sleep(SAMPLE_SECONDS)


def _caught_up(bench: Bench, process: Process | Team, layout: Layout, count: int) -> _Mark:
    """The moment when the models' agent has nothing before it but, in each partition, the ends of transactions."""
    topics = layout.step_inputs
    # Each producer of the process may have had a transaction open whose end stands behind the last record.
    ends = len(topics) * bench.partitions * POOL
    wait_until(
        lambda: bench.lag(layout.models_group, topics) <= ends, process, "the models' agent is still behind", SILENCE
    )
    return _Mark(time.perf_counter(), count, process.cpu_seconds())


def _check(bench: Bench, process: Process | Team, row: Row, layout: Layout) -> None:
    """All topics hold every request once, and the answers are right."""
    for topic, wanted in layout.written(row.records).items():
        count = _stands(process, partial(bench.read if row.contender.groups else bench.written, topic), wanted)
        if count != wanted:
            raise RuntimeError(f"{row.contender.title}: {topic} holds {count} records, not {wanted}")
    if row.contender.computes:
        bench.check_answers(layout.outputs[0], row.work.check)


def _stands(process: Process | Team, count_now: Callable[[], int], wanted: int) -> int:
    """How many records stand in a topic once enough are there: a transaction's end reaches it after the offsets'."""
    count = 0

    def enough() -> bool:
        nonlocal count
        count = count_now()
        return count >= wanted

    wait_until(enough, process, f"a topic holds fewer than {wanted} records", SILENCE)
    return count
