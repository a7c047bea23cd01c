"""Tells that a process lives, what it runs and how far it has read; and buries those that have gone without a word."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.errors import EngineError
from engine.kafka import client
from engine.kafka.view import FORMAT, HEARTBEAT_SECONDS, MOST_UNREAD, Instance

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.kafka.registry import Registry
    from engine.kafka.view import View

log = logging.getLogger(__name__)

# Loads come in bursts: how far it has read is told once for what comes within this time.
SETTLE_SECONDS = 0.02

# An instance that has not stirred for this long is taken from the status topic with all that it said. One that was only
# paused sees it, and says everything anew.
BURY_SECONDS = 60.0


@dataclass
class Vigil:
    """Who has not stirred for how long, by the clock of whoever watches: others' clocks may be wrong."""

    _stirred: dict[str, tuple[float | None, float]] = field(default_factory=dict)
    _looked: float = 0.0

    def dead(self, beats: Mapping[str, float | None], now: float) -> list[str]:
        """Those whose last beat has been the same for too long. Ask with every beat of one's own."""
        # Who was asleep itself has heard nothing of the others meanwhile.
        slept = now - self._looked > 2 * HEARTBEAT_SECONDS
        self._looked = now
        before = {} if slept else self._stirred
        self._stirred = {
            name: before[name] if name in before and before[name][0] == beat else (beat, now)
            for name, beat in beats.items()
        }
        return [name for name, (_, since) in self._stirred.items() if now - since > BURY_SECONDS]


class Heart:
    """The heartbeat of one instance.

    retell   called when others have taken this instance for dead: what it said is gone from the topic
    """

    def __init__(
        self, registry: Registry, instance: str, clock: Callable[[], float], retell: Callable[[], None]
    ) -> None:
        self._registry, self._instance, self._clock, self._retell = registry, instance, clock, retell
        self._parts: tuple[str, ...] = ()
        self._vigil = Vigil()
        self._told: tuple[int, int, tuple[str, ...]] | None = None
        self._is_known = False
        self._news = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None
        self._leaving = False

    async def takes_part(self, part: str) -> None:
        """Tell that the instance is a `WORKER` or a `GATEWAY` now, and go on telling. Raises BrokerUnavailable."""
        self._parts = (*self._parts, part)
        await self._beat()
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat_on())

    def changed(self) -> None:
        """The registry's view has changed."""
        if self._leaving:
            return
        view = self._registry.view
        if self._instance in view.instances:
            self._is_known = True
        elif self._is_known:
            log.warning("this instance was silent for so long that others took it for dead; it tells all anew")
            self._is_known = False
            self._retell()
            self._news.set()
        if self._told is not None and self._told != self._standing(view):
            self._news.set()

    async def stop(self, *, tell: bool) -> None:
        """Say good-bye, within a bound; not to a broker that has gone."""
        self._leaving = True
        if self._beating is None:
            return
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)
        if not tell:
            return
        try:
            await asyncio.wait_for(self._registry.bury(self._instance), client.STOP_TIMEOUT)
        except (EngineError, TimeoutError) as error:
            log.warning("could not say good-bye: %s", error or type(error).__name__)

    async def _beat_on(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), HEARTBEAT_SECONDS)
                await asyncio.sleep(SETTLE_SECONDS)
            self._news.clear()
            try:
                await self._beat()
            except EngineError as error:
                log.warning("could not tell that this instance lives: %s", error)

    async def _beat(self) -> None:
        view = self._registry.view
        self._told = self._standing(view)
        unread = sorted(f"{kind}.{name}" for kind, name in view.unread)[:MOST_UNREAD]
        said = Instance(self._instance, self._clock(), self._parts, view.seen, tuple(unread))
        await self._registry.heartbeat(said)
        await self._bury(view)

    def _standing(self, view: View) -> tuple[int, int, tuple[str, ...]]:
        return view.seen, len(view.unread), self._parts

    async def _bury(self, view: View) -> None:
        """Take the dead from the topic; one instance does it for all."""
        beats: dict[str, float | None] = dict.fromkeys({name for states in view.states.values() for name in states})
        beats.update((name, instance.at) for name, instance in view.instances.items())
        dead = self._vigil.dead(beats, time.monotonic())
        living = [name for name, each in view.instances.items() if name not in dead and each.format == FORMAT]
        if dead and self._instance == min(living, default=""):
            for name in dead:
                log.info("instance %s has been silent for %g s; what it said is dropped", name, BURY_SECONDS)
                await self._registry.bury(name)
