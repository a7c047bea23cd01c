"""`python -m bench`: measure the product and its peers on one Kafka, print tables, write bench/results/DATE.md."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from bench import (
    ROOT,
    branches,
    calls,
    checks,
    direct,
    environment,
    growth,
    idle,
    observing,
    report,
    serving,
    throughput,
    workloads,
)
from bench.broker import HEAP_MB, ApacheKafka, Bench, NotHere, folder
from bench.contenders import CHAIN
from bench.failures import told

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from bench.chain import Contents

CONTENDERS = tuple(contender.name for contender in CHAIN)
FOREIGN = frozenset(contender.name for contender in CHAIN if contender.foreign)
ON_KAFKA = ("works", "growth", "latency", "branches", "many")
ALONE = ("direct", "small", "startup", "serving", "stacking", "observing", "checks")
# Names for many parts at once.
HALVES = {"on-kafka": (*CONTENDERS, *ON_KAFKA), "alone": ALONE}
PARTS = tuple(part for half in HALVES.values() for part in half)
# Its turns have to be long enough for the kernel to count their CPU.
NOT_QUICK = ("observing",)
RESULTS = ROOT / "bench" / "results"
PLAIN_WIDTH = 160

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    records      requests of the chain's contenders, by their speed
    contents     how tensors stand in them
    works        requests of other works
    grown        requests of each size of the growth tables, and those sizes
    calls        of each kind at a fixed rate, and the rates
    saturating   calls of callers that call again when they are answered
    one_by_one   calls one after the other
    starts       of `seldon up`
    many         pipelines that wait, and how many seconds they are watched
    served       calls beside MLServer
    stacked      calls of the iris sample
    observed     calls of each kind, with and without being observed
    checked      steps of pipelines that are read and compiled
    """

    records: dict[str, int]
    contents: tuple[Contents, ...]
    works: workloads.Sizes
    grown: int
    growth: Mapping[str, Sequence[int]]
    rounds: int
    calls: int
    rates: tuple[float, ...]
    saturating: int
    one_by_one: int
    starts: int
    many: int
    watched: float
    served: int
    stacked: int
    observed: int
    checked: Sequence[int]


FULL = Size(
    records={"fast": 200_000, "middling": 40_000, "slow": 5_000},
    contents=("raw", "typed"),
    works=workloads.Sizes(local=100_000, remote=40_000, tensors=400, pipelines=50),
    grown=50_000,
    growth=growth.FULL,
    rounds=3,
    calls=1000,
    rates=calls.RATES,
    saturating=10_000,
    one_by_one=500,
    starts=3,
    many=200,
    watched=30.0,
    served=300,
    stacked=10_000,
    observed=15_000,
    checked=checks.STEPS,
)
# Shows that every part works; its figures mean little.
QUICK = Size(
    records={"fast": 5_000, "middling": 1_000, "slow": 200},
    contents=("raw",),
    works=workloads.Sizes(local=2_000, remote=500, tensors=20, pipelines=5),
    grown=3_000,
    growth=growth.QUICK,
    rounds=1,
    calls=20,
    rates=(calls.RATES[1],),
    saturating=200,
    one_by_one=20,
    starts=1,
    many=5,
    watched=1.0,
    served=20,
    stacked=500,
    observed=300,
    checked=checks.FEW,
)


@click.command()
@click.option("--quick", is_flag=True, help="Small numbers and one round, for CI: under three minutes.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice((*HALVES, *PARTS)),
    help="Measure this and no other; may be repeated. `alone`: all that needs no Kafka; `on-kafka`: the rest.",
)
@click.option(
    "--records",
    type=click.IntRange(min=1000),
    help=f"Requests of the fast contenders. [default: {FULL.records['fast']}]",
)
@click.option("--rounds", type=click.IntRange(min=1), help=f"Times that each is measured. [default: {FULL.rounds}]")
@click.option("--partitions", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Markdown file. [default: DATE.md, of a whole run]")
def main(
    only: tuple[str, ...],
    records: int | None,
    rounds: int | None,
    partitions: int,
    output: Path | None,
    *,
    quick: bool,
) -> None:
    """Measure the product and its peers on one Apache Kafka."""
    size = QUICK if quick else FULL
    if records:
        size = replace(size, records={**size.records, "fast": records})
    named = [part for name in only or HALVES for part in HALVES.get(name, (name,))]
    wanted = [part for part in named if part in only or not (quick and part in NOT_QUICK)]
    results = report.Results(partitions, rounds or size.rounds)
    console, began = Console(stderr=True), time.monotonic()
    with console.status("starting") as status:

        def progress(text: str) -> None:
            status.update(text)
            if not console.is_terminal:
                click.echo(f"{time.monotonic() - began:5.0f} s  {text}", err=True)

        if FOREIGN & set(wanted):
            progress("installing the peers into .venv-bench")
            if reason := environment.PEERS.ensure():
                raise click.ClickException(reason)
        _measure(results, _alone(size, results.rounds), wanted, progress)
        if set(HALVES["on-kafka"]) & set(wanted):
            progress("starting Apache Kafka")
            with _kafka(partitions) as bench:
                progress("warming Apache Kafka up")
                throughput.warm_up(bench, size.records["fast"])
                rows, runs = throughput.chain_rows(wanted, size.records, size.contents), results.rounds
                results.throughput = throughput.measure(bench, rows, runs, size.calls, progress, results.failed)
                _measure(results, _on_kafka(bench, size, results, progress), wanted, progress)
    # A file or a pipe has room for whole rows.
    report.show(results, Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH))
    if output or not (quick or only):
        path = output or RESULTS / f"{results.began:%Y-%m-%d}.md"
        report.write(results, path)
        click.echo(f"written to {path}")
    if results.failed:
        raise click.ClickException("not measured: " + "; ".join(results.failed))


@dataclass(frozen=True, slots=True)
class Part:
    """What one name of `--only` measures, and the attribute of the results that it goes to."""

    name: str
    into: str
    text: str
    measure: Callable[[], object]


def _alone(size: Size, rounds: int) -> list[Part]:
    """What needs no Kafka."""
    return [
        Part("checks", "checks", "reading and compiling pipelines of many steps", lambda: checks.measure(size.checked)),
        Part(
            "serving",
            "serving",
            "calling a Python model directly, and MLServer with the same",
            lambda: serving.measure(size.served, rounds),
        ),
        Part(
            "direct",
            "direct",
            "calling tfsimple1 directly, and bare servers that send everything back",
            lambda: direct.measure(2 * size.one_by_one),
        ),
        Part(
            "stacking",
            "stacking",
            "calling the iris sample from 64 callers at a time",
            lambda: serving.measure_stacking(size.stacked),
        ),
        Part(
            "observing",
            "observing",
            "calling seldon up with and without traces and a scraper",
            lambda: observing.measure(size.observed),
        ),
        Part(
            "startup",
            "startup",
            f"starting seldon up pipelines/ on the embedded broker, {size.starts} times",
            lambda: idle.measure_startup(size.starts, size.one_by_one),
        ),
        Part(
            "small",
            "small",
            f"starting seldon up of ten pipelines without the extras, {size.starts} times",
            lambda: idle.measure_small(10, size.starts),
        ),
    ]


def _on_kafka(bench: Bench, size: Size, results: report.Results, progress: Progress) -> list[Part]:
    rounds, failed = results.rounds, results.failed
    return [
        Part(
            "works",
            "works",
            "pipelines of other kinds",
            lambda: workloads.measure(bench, size.works, rounds, progress, failed),
        ),
        Part(
            "growth",
            "growth",
            "more partitions, pipelines, steps, workers",
            lambda: growth.measure(bench, size.grown, size.growth, rounds, progress, failed),
        ),
        Part(
            "latency",
            "latency",
            f"calling seldon up by REST, gRPC and Kafka, {size.calls} times each",
            lambda: calls.measure(bench, size.calls, size.rates, size.saturating),
        ),
        Part(
            "branches",
            "branches",
            "calling pipelines with slow branches, and with branches that are not taken",
            lambda: branches.measure(bench.address, bench.partitions, size.calls),
        ),
        Part(
            "many",
            "idle",
            f"watching {size.many} pipelines that wait",
            lambda: idle.measure_idle(bench, size.many, size.watched),
        ),
    ]


@contextlib.contextmanager
def _kafka(partitions: int) -> Iterator[Bench]:
    try:
        kafka = ApacheKafka(heap_mb=HEAP_MB, within=folder()).start()
    except NotHere as reason:
        raise click.ClickException(f"no Apache Kafka to measure on: {reason}") from None
    try:
        yield Bench(kafka.address, partitions)
    finally:
        if said := kafka.said():
            click.echo(f"Apache Kafka said:\n{said}", err=True)
        kafka.stop()


def _measure(results: report.Results, parts: Iterable[Part], wanted: Collection[str], progress: Progress) -> None:
    for part in parts:
        if part.name in wanted:
            progress(part.text)
            with told(results.failed, part.name):
                setattr(results, part.into, part.measure())


if __name__ == "__main__":
    main()
