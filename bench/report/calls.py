"""Tables and bars of how long callers wait, and of what the product takes before anybody calls it."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from bench.calls import REST
from bench.latency import BARE_ROUND_TRIP, BARE_TRANSACTION, CALLERS, RATE
from bench.report.table import Bar, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.direct import Direct
    from bench.idle import Idle, Small, Startup
    from bench.latency import Latency
    from bench.observing import Observed

SLOWED = 1.5
PRICE_CALL = 2.5
TRIP_P50, TRIP_P99 = 2.0, 4.0
ECHO = 2.0
SMALL_MB, SMALL_SECONDS = 200.0, 3.0
OBSERVED_PERCENT = 5.0
IDLE_SHARE, IDLE_THREADS = 30.0, 40.0


def latency(measured: Sequence[Latency]) -> list[Table]:
    """Calls by every path at every rate, and REST calls over what is the least."""
    if not measured:
        return []
    rows = [
        (
            each.path,
            f"{each.rate:,.0f}{f' by {CALLERS} callers' if each.closed else ''}",
            f"{each.calls:,}",
            f"{each.p50:.1f}",
            f"{each.p99:.1f}",
        )
        for each in measured
    ]
    note = (
        f"Counted from the intended time of sending; of {CALLERS} callers that call again when they are answered, "
        "from the sending."
    )
    columns = ("path", "calls/s", "calls", "p50 ms", "p99 ms")
    tables = [Table("Calls of tfsimples on Apache Kafka, exactly once", columns, rows, (note,))]
    paced = {each.path: each for each in measured if each.rate == RATE and not each.closed}
    if REST in paced and BARE_TRANSACTION in paced:
        call, bare = paced[REST].p50, paced[BARE_TRANSACTION].p50
        row = ("REST call, p50 ms", f"{call:.1f}", f"{bare:.1f}", f"{call / bare:.2f}", f"at most {PRICE_CALL:g}")
        columns = (f"{RATE:g} a second", "exactly once", "bare transaction", "ratio", "wanted")
        tables.append(Table("A call over a bare transaction of one record", columns, [row]))
    return tables


def latency_bars(measured: Sequence[Latency]) -> Iterator[Bar]:
    """REST calls at 50 a second over the bare round trip."""
    paced = {each.path: each for each in measured if each.rate == RATE and not each.closed}
    if REST in paced and BARE_ROUND_TRIP in paced:
        call, bare = paced[REST], paced[BARE_ROUND_TRIP]
        yield Bar("REST pipeline call at 50/s, p50 / bare round trip", call.p50 / bare.p50, TRIP_P50, most=True)
        yield Bar("REST pipeline call at 50/s, p99 / bare round trip", call.p99 / bare.p99, TRIP_P99, most=True)


def direct(measured: Sequence[Direct]) -> list[Table]:
    """Direct calls beside an echo."""
    rows = [
        (
            each.path,
            f"{each.calls:,}",
            f"{each.model_ms:.2f}",
            f"{each.echo_ms:.2f}",
            f"{each.model_ms / each.echo_ms:.2f}",
        )
        for each in measured
    ]
    columns = ("one call after the other", "calls", "model, median ms", "bare echo, median ms", "ratio")
    return [Table("tfsimple1 called directly, INT32 [1,16]", columns, rows)] if rows else []


def direct_bars(measured: Sequence[Direct]) -> Iterator[Bar]:
    for each in measured:
        yield Bar(f"direct call by {each.path}, p50 / bare echo", each.model_ms / each.echo_ms, ECHO, most=True)


def observing(measured: Sequence[Observed]) -> list[Table]:
    """What each way of being observed adds to the CPU of a request."""
    if not measured:
        return []
    plain, *_ = measured
    rows = [
        (each.how, f"{each.calls:,}", f"{median(each.cpu_us):.0f}", f"{each.price(plain) * 100:+.1f}")
        for each in measured
    ]
    note = "Medians: of the turns, and of the ratios of turns that followed each other."
    columns = ("observed by", "calls", "CPU µs each", "% against neither")
    return [Table("REST calls of tfsimples while the product is observed, embedded broker", columns, rows, (note,))]


def observing_bars(measured: Sequence[Observed]) -> Iterator[Bar]:
    for each in measured[1:]:
        yield Bar(f"CPU for {each.how}", each.price(measured[0]) * 100, OBSERVED_PERCENT, most=True, unit=" %")


def branches(measured: Sequence[Latency]) -> list[Table]:
    """Pairs of rows: the second of each is held against the first."""
    rows = []
    for base, row in zip(measured[::2], measured[1::2], strict=True):
        rows.append((base.path, f"{base.calls}", f"{base.p50:.1f}", f"{base.p99:.1f}", "", ""))
        ratio = f"{row.p50 / base.p50:.2f}"
        rows.append((row.path, f"{row.calls}", f"{row.p50:.1f}", f"{row.p99:.1f}", ratio, f"{SLOWED:g}"))
    columns = ("REST, 50 calls a second", "calls", "p50 ms", "p99 ms", "ratio", "wanted under")
    note = "A model takes `threads` calls at once (4): with that many slow ones in it, the next one waits for its turn."
    title = "Slow branches and branches that are not taken, on Apache Kafka"
    return [Table(title, columns, rows, (note,))] if rows else []


def startup(found: Startup | None) -> list[Table]:
    if found is None:
        return []
    rows = [
        (*_seconds("process start to banner, s", found.seconds), "5"),
        ("REST call, one by one, ms", f"{found.median_ms:.1f}", "", f"{found.calls} calls", "15"),
    ]
    columns = ("", "median", "min to max", "of", "wanted under")
    return [Table("seldon up pipelines/ on the embedded broker", columns, rows)]


def idle(small: Small | None, many: Idle | None) -> list[Table]:
    tables = []
    if small is not None:
        rows = [
            _seconds("process start to banner, s", small.seconds),
            _megabytes("RSS when idle, MB", small.rss_mb),
            _megabytes("the same with the embedded broker's process, MB", small.broker_mb),
        ]
        title = f"seldon up of {small.pipelines} pipelines on the embedded broker, without the extras"
        tables.append(Table(title, ("", "median", "min to max", "of"), rows))
    if many is not None:
        row = (
            *(f"{many.pipelines}", f"{many.share * 100:.1f}", f"{many.threads}", f"{many.rss_mb:.0f}"),
            *(f"{many.partitions}", f"{many.watched_seconds:g}"),
        )
        columns = ("pipelines", "% of one core", "threads", "RSS MB", "partitions each", "watched s")
        tables.append(Table("seldon worker on Apache Kafka when no request comes", columns, [row]))
    return tables


def idle_bars(small: Small | None, many: Idle | None) -> Iterator[Bar]:
    if small is not None:
        what = f"seldon up of {small.pipelines} pipelines"
        yield Bar(f"{what}: RSS when idle, without the extras", median(small.rss_mb), SMALL_MB, most=True, unit=" MB")
        yield Bar(f"{what}: start on the embedded broker", median(small.seconds), SMALL_SECONDS, most=True, unit=" s")
    if many is not None:
        what = f"{many.pipelines} pipelines idle on Kafka"
        yield Bar(f"{what}: share of one core", many.share * 100, IDLE_SHARE, most=True, unit=" %")
        yield Bar(f"{what}: threads", many.threads, IDLE_THREADS - 1, most=True)


def _seconds(what: str, values: Sequence[float]) -> tuple[str, ...]:
    return (what, f"{median(values):.2f}", f"{min(values):.2f} to {max(values):.2f}", f"{len(values)} starts")


def _megabytes(what: str, values: Sequence[float]) -> tuple[str, ...]:
    return (what, f"{median(values):.0f}", f"{min(values):.0f} to {max(values):.0f}", f"{len(values)} starts")
