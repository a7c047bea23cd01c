"""CPU per request as partitions, pipelines, steps and workers grow: it must be flat, or linear in the work done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import works
from bench.broker import Bench
from bench.contenders import ours
from bench.failures import told
from bench.throughput import Row, run_once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PARTITIONS, PIPELINES, STEPS, WORKERS = "partitions", "pipelines", "steps", "workers"
FULL = {PARTITIONS: (1, 4, 16, 64), PIPELINES: (1, 10, 50, 200), STEPS: (1, 2, 5, 10, 20), WORKERS: (1, 2)}
QUICK = {PARTITIONS: (16,), PIPELINES: (3,), STEPS: (5,), WORKERS: (2,)}

# Two hundred pipelines have four hundred topics and more: the broker is to be no part of what grows.
PIPELINE_PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Grown:
    """One size of one kind, with the work done for a request in units that it should be proportional to."""

    kind: str
    count: int
    units: int
    row: Row


def measure(
    bench: Bench,
    records: int,
    sizes: Mapping[str, Sequence[int]],
    rounds: int,
    progress: Callable[[str], None],
    failed: list[str],
) -> list[Grown]:
    """Ours by all sizes in turn, `rounds` times: at least once, but for several workers."""
    plans = [_plan(kind, count, bench.partitions, records) for kind, counts in sizes.items() for count in counts]
    for number in range(1, rounds + 1):
        for grown, held in plans:
            step = f"round {number} of {rounds}: {grown.count} {grown.kind}"
            progress(step)
            with told(failed, step):
                run_once(Bench(bench.address, held), grown.row, f"grown-{grown.kind}-{grown.count}-{number}")
    return [grown for grown, _ in plans if grown.row.runs]


def _plan(kind: str, count: int, partitions: int, records: int) -> tuple[Grown, int]:
    """What is run, and on how many partitions. Long chains get fewer requests, so that all write about as much."""
    contender, work, units, held = ours("at least once"), works.tfsimples(), 1, partitions
    if kind == PARTITIONS:
        held = count
    elif kind == PIPELINES:
        work, held = works.many_pipelines(count), PIPELINE_PARTITIONS
        records -= records % count
    elif kind == STEPS:
        work, units = works.long_chain(count), count
        records = max(records // max(1, count // 2), 1000)
    else:
        # One joins after the other, and at least once, what moves from one to the other may be done twice.
        contender = ours("exactly once", workers=count)
    return Grown(kind, count, units, Row(contender, work, "raw", records)), held
