"""What a running product says of itself in its status line: what it waits for, then what it does, then that it ends."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING

from rich.text import Text

from engine.cli import printing
from engine.telemetry import totals

if TYPE_CHECKING:
    from engine.cli.status_line import StatusLine
    from engine.telemetry.figures import Figures
    from engine.telemetry.totals import Pace

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAME_SECONDS = 0.1

# How often figures are looked at, and how often the broker is asked how far groups are behind.
_LOOK_SECONDS = 1.0
_LAG_SECONDS = 5.0


class Standing:
    """Keeps a status line up to date, from the start of a process to its end."""

    def __init__(self, line: StatusLine) -> None:
        self._line = line
        self._waiting, self._frames = "starting", itertools.cycle(_FRAMES)
        self._since = time.monotonic()
        self._figures: Figures | None = None

    def waits(self, text: str) -> None:
        """What is being waited for, in a few words."""
        if self._figures is not None:
            self._figures, self._since = None, time.monotonic()
        self._waiting = text
        self._spin()

    def runs(self, figures: Figures) -> None:
        """It has started, and counts what it does."""
        self._figures = figures
        self._line.show(Text())

    async def keep(self) -> None:
        """Keep the line as it should be until cancelled."""
        if not self._line.shown:
            return
        while True:
            if self._figures is None:
                self._spin()
                await asyncio.sleep(_FRAME_SECONDS)
            else:
                await self._follow(self._figures)

    def _spin(self) -> None:
        seconds = time.monotonic() - self._since
        self._line.show(Text.assemble((next(self._frames), "cyan"), (f" {seconds:.0f} s  ", "dim"), self._waiting))

    async def _follow(self, figures: Figures) -> None:
        """Show what is done, as long as it is these figures that count."""
        before, looked, lag, asked = totals.totals(figures), time.monotonic(), 0, 0.0
        while figures is self._figures:
            await asyncio.sleep(_LOOK_SECONDS)
            if time.monotonic() - asked > _LAG_SECONDS:
                lag, asked = await totals.lag(figures), time.monotonic()
            after, now = totals.totals(figures), time.monotonic()
            if figures is self._figures:
                self._line.show(told(totals.pace(before, after, now - looked), lag, totals.in_flight(figures)))
            before, looked = after, now


def told(pace: Pace, lag: int, in_flight: int) -> Text:
    """What is done per second by the gateway and by the pipelines, and what they have still to do."""
    # What fails for a caller has mostly failed in a pipeline, too: added up it would be told twice.
    failed = max(pace.refused, pace.failed)
    return Text.assemble(
        f"calls {printing.rate(pace.calls)}/s  p99 {printing.estimate(pace.p99)}  "
        f"pipelines {printing.rate(pace.requests)}/s  lag {lag:,}  in flight {in_flight:,}  ",
        (f"failed {printing.rate(failed)}/s", "not dim red" if failed else ""),
        style="dim",
    )
