"""`seldon top`: what pipelines and their steps do right now, from the `/metrics` of the processes that run them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live

from engine.cli import options, topped
from engine.errors import EngineError
from engine.settings import host_and_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

    from engine.telemetry.scrapes import Scrape

# A scrape asks the broker how far groups are behind, and waits a second for that at most.
_SCRAPE_SECONDS = 5.0

# Which share of the time the processes may be asked: hundreds of pipelines take them half a second of CPU.
_LOOK_SHARE = 0.1


@click.command()
@click.argument("addresses", nargs=-1, metavar="[HOST:PORT]...")
@click.option(
    "--interval",
    type=options.Amount(0.1, 3600),
    default=2,
    show_default=True,
    metavar="SECONDS",
    help="Look again after so long.",
)
@click.option("--once", is_flag=True, help="Look for one interval, print it and end.")
def top(addresses: tuple[str, ...], interval: float, *, once: bool) -> None:
    """Show what pipelines, their steps and models are doing: requests, times, failures, lag.

    HOST:PORT is a gateway, or a worker's SELDON_METRICS_LISTEN; the figures of several are added up. Without one it is
    the gateway that `infer` calls. Where output is no terminal, the figures of each interval are printed one after the
    other. Ctrl-C ends.

    \b
    Example:
      seldon top
      seldon top gateway:9000 worker-0:9100 worker-1:9100 --once
    """  # noqa: D301  click's own mark for a paragraph that is not to be wrapped
    watched = [Watched(address) for address in dict.fromkeys(addresses or (options.default_host(),))]
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):  # that is how one leaves
        asyncio.run(_watch(watched, interval, once=once))


class Watched:
    """One process and what it told last.

    change   what it has done between the last two scrapes; None until there are two
    fault    why it told nothing the last time; empty when it did
    """

    def __init__(self, address: str) -> None:
        host_and_port(address, "HOST:PORT")
        self.address, self.fault, self.since = address, "", ""
        self.change: Scrape | None = None
        self._last: tuple[float, Scrape] | None = None

    async def look(self, session: aiohttp.ClientSession) -> None:
        """Ask for its figures; what goes wrong is told in `fault`."""
        from engine.telemetry import scrapes

        try:
            found = scrapes.parse(await self._read(session))
        except (EngineError, OSError) as error:
            self._away(str(error))
            return
        now = time.monotonic()
        if self._last is not None:
            self.change = scrapes.change(self._last[1], found, now - self._last[0])
        self._last, self.fault, self.since = (now, found), "", ""

    async def _read(self, session: aiohttp.ClientSession) -> str:
        import aiohttp

        try:
            async with session.get(f"http://{self.address}/metrics") as response:
                text = await response.text(errors="replace")
        except TimeoutError:
            raise EngineError(f"it gave no answer within {_SCRAPE_SECONDS:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise EngineError(os.strerror(error.errno) if error.errno else str(error)) from None
        except aiohttp.ClientError as error:
            raise EngineError(f"it does not speak HTTP as we do: {error or type(error).__name__}") from None
        if response.status != 200:  # noqa: PLR2004  HTTP's OK
            raise EngineError(f"it answers /metrics with {response.status}")
        return text

    def _away(self, fault: str) -> None:
        # What it does when it is back is to be told from there on.
        self._last = self.change = None
        if not self.fault:
            self.since = time.strftime("%H:%M:%S")
        self.fault = fault


@dataclass(frozen=True, slots=True)
class _Pace:
    """How often it is looked, and whether to end after the first time."""

    interval: float
    once: bool


async def _watch(watched: list[Watched], interval: float, *, once: bool) -> None:
    import aiohttp

    watching = asyncio.current_task()
    assert watching is not None
    # A screen that is left as it is would leave the terminal in it.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, watching.cancel)
    timeout = aiohttp.ClientTimeout(total=_SCRAPE_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
        await _look(watched, session)
        for each in watched:
            if each.fault:
                raise EngineError(
                    f"no figures at {each.address}: {each.fault}; "
                    "name a gateway, or a worker that has SELDON_METRICS_LISTEN"
                )
        await _show(watched, session, _Pace(interval, once))


async def _look(watched: list[Watched], session: aiohttp.ClientSession) -> float:
    """Ask all; how many seconds it took."""
    since = time.monotonic()
    await asyncio.gather(*(each.look(session) for each in watched))
    return time.monotonic() - since


async def _show(watched: list[Watched], session: aiohttp.ClientSession, pace: _Pace) -> None:
    """A screen that changes on a terminal, lines elsewhere and for one interval only."""
    console = Console(highlight=False)
    if pace.once or not console.is_terminal or console.is_dumb_terminal:
        async for interval in _intervals(watched, session, pace):
            click.echo(topped.lines(interval) + ("" if pace.once else "\n"))
            sys.stdout.flush()
        return
    with Live(topped.Screen(_interval(watched, pace)), console=console, screen=True, auto_refresh=False) as live:
        async for interval in _intervals(watched, session, pace):
            live.update(topped.Screen(interval), refresh=True)


async def _intervals(
    watched: list[Watched], session: aiohttp.ClientSession, pace: _Pace
) -> AsyncIterator[topped.Interval]:
    """What is to be shown after each interval."""
    took = 0.0
    while True:
        await asyncio.sleep(max(pace.interval, took / _LOOK_SHARE))
        took = await _look(watched, session)
        yield _interval(watched, pace)
        if pace.once:
            return


def _interval(watched: list[Watched], pace: _Pace) -> topped.Interval:
    from engine.telemetry import scrapes

    changes = [each.change for each in watched if each.change is not None]
    figures = scrapes.together(changes)
    away = {each.address: (each.since, each.fault) for each in watched if each.fault}
    addresses = [each.address for each in watched]
    calls = scrapes.calls(figures) if changes else None
    return topped.Interval(scrapes.rows(figures), calls, away, addresses, pace.interval)
