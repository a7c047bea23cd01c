"""What `top` shows: the figures of one interval, as a screen of a terminal or as lines."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from engine.cli import printing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from engine.telemetry.scrapes import Calls, Row

_TITLES = ("requests/s", "p50", "p99", "failed/s", "lag", "in flight")

# What the screen has besides what is said of processes and the rows: whose figures, an empty line, the table's head.
_HEAD_LINES = 4

_FAILING = "red"

# Of a column of figures at least, so that it does not move with them.
_WIDTH = 7


@dataclass(frozen=True, slots=True)
class Interval:
    """What is shown of one interval.

    rows    pipelines with their steps behind them, models, experiments
    calls   None while nothing is known yet
    away    processes that do not answer, each with since when and why
    """

    rows: Sequence[tuple[Row, ...]]
    calls: Calls | None
    away: Mapping[str, tuple[str, str]]
    addresses: Sequence[str]
    seconds: float


def lines(interval: Interval) -> str:
    """The interval as plain lines, each with the full name of what it is about."""
    clock = time.strftime("%H:%M:%S")
    named = [
        (row.kind, printing.plain(row.name if row is group[0] else f"{group[0].name}/{row.name}"), *_cells(row))
        for group in interval.rows
        for row in group
    ]
    head = [f"{clock}  {said}" for said in (*_away(interval), _told(interval)) if said]
    return "\n".join([*head, printing.table(("kind", "name", *_TITLES), named)])


class Screen:
    """The interval as it fits a terminal: of what does not, that which does most is shown."""

    def __init__(self, interval: Interval) -> None:
        self._interval = interval

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The head, and the table below it."""
        interval = self._interval
        yield Text.assemble(
            ("seldon top", "bold"),
            f"  {', '.join(interval.addresses)}  {time.strftime('%H:%M:%S')}, every {interval.seconds:.10g} s",
            no_wrap=True,
            overflow="ellipsis",
        )
        heads = [Text(said, style=_FAILING) for said in _away(interval)]
        if said := _told(interval):
            heads.append(Text(said, style=_FAILING if _alarming(interval) else ""))
        for head in heads:
            head.no_wrap, head.overflow = True, "ellipsis"
            yield head
        yield Text("")
        room = (options.height or console.height) - len(heads) - _HEAD_LINES
        shown, left = fitting(interval.rows, room)
        if shown:
            yield _table(shown)
        if left:
            yield Text(f"and {left} more that do less", style="dim")


def fitting(groups: Sequence[tuple[Row, ...]], room: int) -> tuple[list[tuple[Row, ...]], int]:
    """Those groups that fit into so many lines, in their order, and how many are left out.

    The busiest come first into the room, with their steps where these fit as well; one line is kept for what is said of
    the others.
    """
    if sum(map(len, groups)) <= room:
        return list(groups), 0
    taken: dict[int, tuple[Row, ...]] = {}
    left = room - 1
    for index in sorted(range(len(groups)), key=lambda each: -groups[each][0].requests):
        group = groups[index]
        if len(group) > left:
            group = group[:1]
        if len(group) <= left:
            taken[index] = group
            left -= len(group)
    return [taken[index] for index in sorted(taken)], len(groups) - len(taken)


def _table(groups: Sequence[tuple[Row, ...]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True, overflow="ellipsis")
    for title in _TITLES:
        table.add_column(title, justify="right", no_wrap=True, min_width=_WIDTH)
    for row in chain.from_iterable(groups):
        table.add_row(_name(row), *_cells(row), style=_FAILING if row.failed else "" if row.requests else "dim")
    return table


def _name(row: Row) -> Text:
    """Steps stand in below their pipeline, which most of the others are: only of the rest it is said what they are."""
    kind = {"pipeline": "", "step": "  "}.get(row.kind, f"{row.kind} ")
    return Text(kind + printing.plain(row.name))


def _cells(row: Row) -> tuple[str, ...]:
    return (
        printing.rate(row.requests),
        printing.estimate(row.p50),
        printing.estimate(row.p99),
        printing.rate(row.failed),
        _count(row.lag),
        _count(row.in_flight),
    )


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _away(interval: Interval) -> list[str]:
    """What is said of the processes that do not answer."""
    return [
        f"{address} has been away since {since}: {printing.plain(reason)}; trying again"
        for address, (since, reason) in interval.away.items()
    ]


def _told(interval: Interval) -> str:
    """What gateways do; nothing where all are away."""
    calls = interval.calls
    if calls is None:
        return "" if interval.away else f"looking for {interval.seconds:g} s"
    by_code = sorted(calls.failed.items(), key=lambda item: -item[1])
    codes = f" ({', '.join(f'{code} {printing.rate(value)}/s' for code, value in by_code)})" if by_code else ""
    return (
        f"calls {printing.rate(calls.rate)}/s  failed {printing.rate(sum(calls.failed.values()))}/s{codes}  "
        f"answering {calls.in_flight:,.0f}  broker {'up' if calls.kafka else 'away'}"
    )


def _alarming(interval: Interval) -> bool:
    calls = interval.calls
    return calls is not None and (bool(calls.failed) or not calls.kafka)
