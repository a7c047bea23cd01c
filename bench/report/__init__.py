"""The figures as tables, what is wanted of them first: by rich for a terminal, as markdown for `bench/results/`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table as Shown

from bench.report import calls, facts, serving, throughput
from bench.report.table import Bar, Table, bars_table

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from bench.checks import Check
    from bench.direct import Direct
    from bench.growth import Grown
    from bench.idle import Idle, Small, Startup
    from bench.latency import Latency
    from bench.observing import Observed
    from bench.serving import Calls, Stacking
    from bench.throughput import Row
    from bench.workloads import Loaded

__all__ = ["Results", "show", "write"]


@dataclass(slots=True)
class Results:
    """All figures of one run of the bench; what was not measured is empty. `failed`: what could not be, and why."""

    partitions: int
    rounds: int
    throughput: list[Row] = field(default_factory=list)
    works: list[Loaded] = field(default_factory=list)
    growth: list[Grown] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
    branches: list[Latency] = field(default_factory=list)
    direct: list[Direct] = field(default_factory=list)
    startup: Startup | None = None
    small: Small | None = None
    idle: Idle | None = None
    serving: list[Calls] = field(default_factory=list)
    stacking: list[Stacking] = field(default_factory=list)
    observing: list[Observed] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    load_average: float = field(default_factory=lambda: os.getloadavg()[0])
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    commit: str = field(default_factory=facts.commit)


def show(results: Results, console: Console) -> None:
    """Print the tables."""
    for table in _tables(results):
        shown = Shown(title=table.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for index, column in enumerate(table.columns):
            shown.add_column(column, justify="right" if index else "left", no_wrap=True)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
        for note in table.notes:
            console.print(note, highlight=False)


def write(results: Results, path: Path) -> None:
    """Write them as markdown, with what they were measured on."""
    lines = ["# Bench", "", *(f"- {fact}" for fact in _facts(results))]
    for table in _tables(results):
        lines += ["", f"## {table.title}", ""]
        lines += [f"| {' | '.join(table.columns)} |", f"|{' --- |'}{' ---: |' * (len(table.columns) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
        for note in table.notes:
            lines += ["", note]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _tables(results: Results) -> list[Table]:
    bars = _bars(results)
    return [
        *([bars_table(bars)] if bars else []),
        *throughput.chain(results.throughput),
        *throughput.works(results.works),
        *throughput.growth(results.growth),
        *calls.latency(results.latency),
        *calls.branches(results.branches),
        *calls.direct(results.direct),
        *calls.idle(results.small, results.idle),
        *calls.startup(results.startup),
        *(serving.serving(results.serving) if results.serving else []),
        *(serving.stacking(results.stacking) if results.stacking else []),
        *calls.observing(results.observing),
        *serving.checks(results.checks),
    ]


def _bars(results: Results) -> list[Bar]:
    """In the order of the parts."""
    return [
        *throughput.chain_bars(results.throughput),
        *throughput.works_bars(results.works),
        *calls.latency_bars(results.latency),
        *calls.direct_bars(results.direct),
        *calls.observing_bars(results.observing),
        *calls.idle_bars(results.small, results.idle),
    ]


def _facts(results: Results) -> list[str]:
    return [
        f"{results.began:%Y-%m-%d %H:%M} UTC, commit {results.commit}",
        f"Apache Kafka {facts.kafka_version()}, one KRaft node here, {facts.log_folder()}, no compression",
        facts.versions(),
        f"{facts.machine()}, load average {results.load_average:.1f} at the start",
        "tfsimples: two numpy models chained, two INT32 [1,16] tensors in each message",
        f"{results.partitions} partitions unless said, {results.rounds} rounds, all contenders in turn",
        *(f"not measured: {failure}" for failure in results.failed),
    ]
