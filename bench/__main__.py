"""`python -m bench`: measure the product and its peers on one Kafka, print tables, write bench/results/latest.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from bench import ROOT, branches, checks, latency, report, serving, throughput
from bench.broker import ApacheKafka, Bench, NotHere

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CONTENDERS = ("ours", "exactly", "faust", "bare")
CALLED = ("latency", "branches", "startup")
PARTS = (*CONTENDERS, *CALLED, "checks", "serving", "stacking")
LATEST = ROOT / "bench" / "results" / "latest.md"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: requests of the fast contenders and of the slow one, rounds, calls of each kind, starts."""

    fast: int
    slow: int
    rounds: int
    calls: int
    sequential_calls: int
    starts: int
    served: int
    stacked: int


FULL = Size(fast=300_000, slow=5_000, rounds=3, calls=1000, sequential_calls=500, starts=3, served=300, stacked=10_000)
# Shows that the bench works; its figures mean little.
QUICK = Size(fast=20_000, slow=400, rounds=1, calls=50, sequential_calls=50, starts=1, served=20, stacked=500)


@click.command()
@click.option("--quick", is_flag=True, help="Small numbers and one round, for CI: under a minute.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(PARTS),
    help="Measure this alone; may be repeated.",
)
@click.option(
    "--records", type=click.IntRange(min=1000), help=f"Requests of the fast contenders. [default: {FULL.fast}]"
)
@click.option("--rounds", type=click.IntRange(min=1), help=f"Times that each is measured. [default: {FULL.rounds}]")
@click.option("--partitions", type=click.IntRange(min=1), default=8, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="Markdown file. [default: latest.md, of a whole run]")
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
    wanted = only or PARTS
    results = report.Results(partitions, rounds or size.rounds)
    chosen = [
        contender for contender in throughput.contenders(records or size.fast, size.slow) if contender.name in wanted
    ]
    console = Console(stderr=True)
    with console.status("starting") as status:

        def progress(text: str) -> None:
            status.update(text)
            if not console.is_terminal:
                click.echo(text, err=True)

        if "checks" in wanted:
            progress("reading and compiling pipelines of many steps")
            results.checks = checks.measure()
        if "serving" in wanted:
            progress("calling a Python model directly, and MLServer with the same")
            results.serving = serving.measure(size.served, results.rounds)
        if "stacking" in wanted:
            progress("calling the iris sample from 64 callers at a time")
            results.stacking = serving.measure_stacking(size.stacked)
        if "startup" in wanted:
            progress(f"starting seldon up pipelines/ on the embedded broker, {size.starts} times")
            results.startup = latency.measure_startup(size.starts, size.sequential_calls)
        if chosen or {"latency", "branches"} & set(wanted):
            progress("starting Apache Kafka")
            called = {part: size.calls for part in CALLED if part in wanted}
            _on_kafka(results, chosen, called, progress, warm_up=size.fast)
    report.show(results, Console())
    if output or not (quick or only):
        report.write(results, output or LATEST)
        click.echo(f"written to {output or LATEST}")


def _on_kafka(
    results: report.Results,
    chosen: Sequence[throughput.Contender],
    called: Mapping[str, int],
    progress: Callable[[str], None],
    *,
    warm_up: int,
) -> None:
    try:
        kafka = ApacheKafka().start()
    except NotHere as reason:
        raise click.ClickException(f"no Apache Kafka to measure on: {reason}") from None
    try:
        bench = Bench(kafka.address, results.partitions)
        progress("warming Apache Kafka up")
        throughput.warm_up(bench, warm_up)
        results.throughput = throughput.measure(bench, chosen, results.rounds, progress)
        if calls := called.get("latency"):
            progress(f"calling seldon up 50 times a second, {calls} times by REST and by Kafka")
            results.latency = latency.measure(kafka.address, results.partitions, calls)
        if calls := called.get("branches"):
            progress("calling pipelines with slow branches, and with branches that are not taken")
            results.branches = branches.measure(kafka.address, results.partitions, calls)
    finally:
        kafka.stop()


if __name__ == "__main__":
    main()
