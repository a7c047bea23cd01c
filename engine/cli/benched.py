"""What `bench` shows: a bar while it sends, and at its end what became of the requests, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from engine.cli import printing

if TYPE_CHECKING:
    from rich.console import Console

    from engine.cli.latencies import Latencies
    from engine.cli.load import Outcome, Schedule

_QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))

# Rows of the histogram, and columns of its longest bar.
_MOST_ROWS, _BAR = 14, 40
_EIGHTHS = "▏▎▍▌▋▊▉█"

# From this share of a core on, it is this process that is measured.
_BUSY = 0.9
_SELF = "This command kept a core busy all the time: what it measured may be itself."


class Bar:
    """How far a load is, on a terminal; nothing elsewhere."""

    def __init__(self, schedule: Schedule, outcome: Outcome, console: Console) -> None:
        self._schedule, self._outcome = schedule, outcome
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[told]}", markup=False),
            console=console,
            transient=True,
            expand=True,
            auto_refresh=False,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=schedule.requests, told="")
        self._progress.start()

    def draw(self) -> None:
        """Show what has become of it so far."""
        outcome = self._outcome
        told = [f"{outcome.in_flight} in flight", f"{outcome.failed.total():,} failed"]
        if outcome.latencies.count:
            told.insert(0, f"p99 {printing.duration(outcome.latencies.quantile(0.99))}")
        described = f"{outcome.done:,} of {self._schedule.requests:,}"
        self._progress.update(
            self._task, completed=outcome.done, description=described, told="  ".join(told), refresh=True
        )

    def stop(self) -> None:
        """Take it away."""
        self._progress.stop()


def report(outcome: Outcome, cpu_seconds: float) -> Text:
    """What became of all requests, and a histogram of how long those took that were answered."""
    answered, seconds = outcome.latencies.count, outcome.seconds
    per_second = f", {printing.rate(answered / seconds)}/s" if seconds else ""
    lines = [
        Text(""),
        Text(f"requests  {outcome.done:,} in {printing.duration(seconds)}"),
        Text(f"answered  {answered:,}{per_second}"),
        Text(f"failed    {outcome.failed.total():,}", style="red" if outcome.failed else ""),
        *_failures(outcome),
    ]
    if answered:
        lines += [_latency(outcome.latencies), Text(""), *_histogram(outcome.latencies)]
    if cpu_seconds > _BUSY * seconds:
        lines += [Text(""), Text(_SELF, style="yellow")]
    return Text("\n").join(lines)


def _failures(outcome: Outcome) -> list[Text]:
    """The failed by status, most first, each with what was said of it first."""
    width = max(map(len, outcome.failed), default=0)
    digits = max((len(f"{count:,}") for count in outcome.failed.values()), default=0)
    return [
        Text(f"  {status:<{width}}  {count:>{digits},}  {printing.plain(outcome.reasons[status])}")
        for status, count in outcome.failed.most_common()
    ]


def _latency(latencies: Latencies) -> Text:
    told = [f"{name} {printing.duration(latencies.quantile(share))}" for name, share in _QUANTILES]
    return Text("latency   " + "   ".join([*told, f"max {printing.duration(latencies.longest)}"]))


def _histogram(latencies: Latencies) -> list[Text]:
    """A line for each bound, with a bar as long as its share."""
    found = latencies.bars(_MOST_ROWS)
    most = max(count for _, count in found)
    bounds = [f"{bound:g} s" if bound >= 1 else f"{bound * 1000:g} ms" for bound, _ in found]
    width = max(map(len, bounds))
    return [
        Text.assemble(f"  up to {bound:>{width}}  ", (f"{bar(count / most, _BAR):<{_BAR}}", "cyan"), f"  {count:,}")
        for bound, (_, count) in zip(bounds, found, strict=True)
    ]


def bar(share: float, width: int) -> str:
    """A bar of so many columns for 1; whatever is more than nothing is to be seen."""
    eighths = round(share * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest - 1] if rest else "")
