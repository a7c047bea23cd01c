"""Tables and bars of what is done with requests on Kafka: the chain by all contenders, other works, growth."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from bench.growth import STEPS
from bench.report.table import Bar, Table, spread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.growth import Grown
    from bench.throughput import Row
    from bench.workloads import Loaded

# What was wanted before: at least once over peers' requests/s, and of exactly once over at least once.
EARLIER = {"faust": 10.0, "bare": 0.2}
PRICE_RATE = 0.75

# (measure, ours, peer, by CPU, wanted, at most)
BARS = (
    ("tfsimples exactly once, requests/s / Quix Streams exactly once", "exactly", "quix-exactly", False, 4.0),
    ("tfsimples exactly once, requests/s / plain Faust", "exactly", "faust", False, 30.0),
    ("tfsimples exactly once, requests/s / bare aiokafka loop in transactions", "exactly", "bare-exactly", False, 0.5),
    ("tfsimples at least once, CPU each / bare aiokafka loop", "ours", "bare", True, 2.5),
    ("tfsimples at least once, CPU each / Quix Streams", "ours", "quix", True, 0.2),
)
# Of the bare loop's requests/s, and of its MB/s.
OF_BARE = (("grpc-stacked", 0.12), ("grpc-single", 0.05))
TENSORS = 0.7


def chain(rows: Sequence[Row]) -> list[Table]:
    """The chain by all contenders, ratios of ours, and the price of exactly once."""
    if not rows:
        return []
    shown = [
        (
            f"{row.contender.title}, {row.contender.guarantee}",
            row.contents,
            f"{row.rate:,.0f}",
            spread([run.rate for run in row.runs]),
            f"{row.cpu_us:,.0f}",
            spread([run.cpu_us for run in row.runs]),
            f"{row.peak_rss_mb:,.0f}",
            *((f"{row.paced.p50:.1f}", f"{row.paced.p99:.1f}") if row.paced else ("", "")),
        )
        for row in rows
    ]
    columns = (
        *("contender", "contents", "requests/s", "min-max", "CPU µs each", "min-max"),
        *("peak MB", "p50 ms", "p99 ms"),
    )
    sizes = {row.contender.title: row.records for row in rows}
    paced = {f"{row.paced.calls:,}" for row in rows if row.paced}
    notes = [", ".join(f"{title}: {count:,} requests" for title, count in sizes.items()) + " in each run."]
    if paced:
        notes.append(
            f"p50 and p99: {', '.join(paced)} records produced at 50 a second, each until its answer was read."
        )
    notes += _cold(rows)
    notes += [
        f"{row.contender.title}, {row.contender.guarantee}, {row.contents}: {row.settled_rate:,.0f} requests/s until "
        "the models' agent had passed over the steps' records too; its CPU counts that."
        for row in rows
        if row.contender.agent
    ]
    tables = [Table("Throughput of tfsimples, all topics written, one process", columns, shown, notes)]
    return [*tables, *_ratios(rows), *_price(rows)]


def chain_bars(rows: Sequence[Row]) -> Iterator[Bar]:
    """Of raw contents."""
    by_name = {row.contender.name: row for row in rows if row.contents == "raw"}
    for measure, name, peer, by_cpu, wanted in BARS:
        ours, theirs = by_name.get(name), by_name.get(peer)
        if ours and theirs:
            found = ours.cpu_us / theirs.cpu_us if by_cpu else ours.rate / theirs.rate
            yield Bar(measure, found, wanted, by_cpu)


def works(loaded: Sequence[Loaded]) -> list[Table]:
    """Works of all kinds, exactly once; each beside the bare loop where that does it."""
    if not loaded:
        return []
    shown = []
    for row, server in ((each.row, each.server_us) for each in loaded):
        limit = _bare(loaded, row.work.name)
        shown.append(
            (
                row.work.title,
                row.contender.title,
                f"{row.records:,}",
                f"{row.rate:,.0f}",
                spread([run.rate for run in row.runs]),
                f"{row.cpu_us:,.0f}",
                f"{median(server):,.0f}" if server else "",
                f"{row.rate * row.work.megabytes:,.0f}" if row.work.megabytes else "",
                f"{row.rate / limit.rate:.2f}" if limit and limit is not row else "",
            )
        )
    columns = (
        *("work", "contender", "requests", "requests/s", "min-max", "CPU µs each"),
        *("server's µs", "MB/s", "of bare"),
    )
    note = (
        "MB/s: of the tensor as it comes in; each step reads and writes it once more. The remote server is "
        "bench/peers/v2_server.py: its own CPU on these cores bounds what comes through it."
    )
    notes = (note, *_cold([each.row for each in loaded]))
    return [Table("Works of other kinds, exactly once, all topics written, one process", columns, shown, notes)]


def works_bars(loaded: Sequence[Loaded]) -> Iterator[Bar]:
    """Of the bare loop in transactions, in the same part of the run."""
    ours = {each.row.work.name: each.row for each in loaded if each.row.contender.computes}
    chain_limit, tensor_limit = _bare(loaded, "tfsimples"), _bare(loaded, "tensors")
    for name, wanted in OF_BARE:
        if name in ours and chain_limit:
            yield Bar(f"{ours[name].work.title}, requests/s / bare loop", ours[name].rate / chain_limit.rate, wanted)
    if "tensors" in ours and tensor_limit:
        yield Bar("1 MB tensors through two steps, MB/s / bare loop", ours["tensors"].rate / tensor_limit.rate, TENSORS)


def growth(grown: Sequence[Grown]) -> list[Table]:
    """CPU per request by size, and for each unit of the work."""
    if not grown:
        return []
    firsts = {each.kind: each for each in reversed(grown)}
    shown = []
    for each in grown:
        first = firsts[each.kind]
        ratio = (each.row.cpu_us / each.units) / (first.row.cpu_us / first.units)
        cpu = spread([run.cpu_us for run in each.row.runs])
        rate = f"{each.row.rate:,.0f}"
        shown.append(
            (
                *(f"{each.kind}: {each.count}", f"{each.row.records:,}", f"{each.row.cpu_us:,.0f}", cpu),
                f"{each.row.cpu_us / each.units:,.0f}" if each.kind == STEPS else "",
                "" if each is first else f"{ratio:.2f}",
                *(rate, f"{each.row.peak_rss_mb:,.0f}"),
            )
        )
    columns = ("size", "requests", "CPU µs each", "min-max", "for each step", "of the first", "requests/s", "peak MB")
    note = "At least once, workers exactly once; of several, which share the same cores, all CPU and memory."
    notes = (note, *_cold([each.row for each in grown]))
    return [Table("Growth of the cost of a request of tfsimples", columns, shown, notes)]


def _bare(loaded: Sequence[Loaded], work: str) -> Row | None:
    found = (each.row for each in loaded if each.row.work.name == work and not each.row.contender.computes)
    return next(found, None)


def _cold(rows: Sequence[Row]) -> list[str]:
    """Which of the figures say little."""
    found = {f"{row.work.name} by {row.contender.title}" for row in rows if any(run.cold for run in row.runs)}
    return [f"Too few requests, so that the start of the process counts: {', '.join(sorted(found))}."] if found else []


def _ratios(rows: Sequence[Row]) -> list[Table]:
    """Ours over each peer, per kind of contents; empty when one of them was not measured."""
    rates = {(row.contender.name, row.contents): row.rate for row in rows}
    contents = list(dict.fromkeys(row.contents for row in rows))
    found = []
    for peer, wanted in EARLIER.items():
        if all((name, each) in rates for name in ("ours", peer) for each in contents):
            ratios = (rates["ours", each] / rates[peer, each] for each in contents)
            found.append((f"ours / {peer}", *(f"{ratio:.2f}" for ratio in ratios), f"{wanted:g}"))
    columns = ("", *(f"{each} contents" for each in contents), "wanted")
    return [Table("Ratios of the medians, at least once", columns, found)] if found else []


def _price(rows: Sequence[Row]) -> list[Table]:
    """What exactly once costs, in the same run."""
    by_name = {(row.contender.name, row.contents): row for row in rows}
    shown = []
    for contents in ("raw", "typed"):
        once, least = (by_name.get((name, contents)) for name in ("exactly", "ours"))
        if once is not None and least is not None:
            ratio = f"{once.rate / least.rate:.2f}"
            shown.append(
                (f"requests/s, {contents}", f"{once.rate:,.0f}", f"{least.rate:,.0f}", ratio, f"over {PRICE_RATE}")
            )
            ratio = f"{once.cpu_us / least.cpu_us:.2f}"
            shown.append((f"CPU µs each, {contents}", f"{once.cpu_us:,.0f}", f"{least.cpu_us:,.0f}", ratio, ""))
    columns = ("", "exactly once", "at least once", "ratio", "wanted")
    return [Table("The price of exactly once", columns, shown)] if shown else []
