"""Load at a rate: which request is due when, and what became of each. Knows no protocol and no terminal.

The loop is open: a request is due at its time whatever became of those before, and how long it took is counted from
then. A product that stalls for a second so shows that second in all requests that were due meanwhile, also in those
that had to wait for their turn here because only so many may be in flight.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.cli.latencies import Latencies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# How a request counts that could not be sent before the time was over.
UNSENT = "not sent"


@dataclass(frozen=True, slots=True)
class Schedule:
    """So many requests per second for so many seconds, at most so many of them at once."""

    rate: float
    seconds: float
    at_once: int

    @property
    def requests(self) -> int:
        """How many there are: one at the start of each interval that fits, and at least one."""
        return max(math.floor(self.rate * self.seconds + 1e-9), 1)

    def due(self, number: int) -> float:
        """When a request is due, in seconds since the start; the first has number 0."""
        return number / self.rate

    def due_by(self, seconds: float) -> int:
        """How many are due within so many seconds since the start."""
        return min(self.requests, math.floor(seconds * self.rate + 1e-9) + 1)


@dataclass(slots=True)
class Outcome:
    """What became of the requests so far.

    latencies   of those that were answered, from when each was due
    failed      the others by their status; `reasons` has what was said first of each
    seconds     from the start to the last answer
    """

    latencies: Latencies = field(default_factory=Latencies)
    failed: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    in_flight: int = 0
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """How many have come to an end, those that were not sent included."""
        return self.latencies.count + self.failed.total()

    @property
    def sent(self) -> int:
        """How many were sent and have come to an end."""
        return self.done - self.failed[UNSENT]

    def fail(self, status: str, reason: str, requests: int = 1) -> None:
        """So many requests failed in one way."""
        self.failed[status] += requests
        self.reasons.setdefault(status, reason)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request was not answered: its status, and what was said of it."""

    status: str
    reason: str


async def apply(
    schedule: Schedule,
    send: Callable[[], Awaitable[Failure | None]],
    clock: Callable[[], float],
    outcome: Outcome,
    stop: asyncio.Event,
) -> None:
    """Send what a schedule says and wait for the answers; `outcome` is kept up to date meanwhile.

    send   sends one request and waits for its answer; must end by itself

    When the time is over, or `stop` is set, nothing more is sent; what was due by then and could not be has failed.
    """
    stopping = asyncio.create_task(stop.wait())
    turns = _Turns(schedule, send, clock, outcome, stopping)
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(schedule.at_once, schedule.requests)):
                group.create_task(turns.take())
    finally:
        stopping.cancel()
        outcome.seconds = clock() - turns.start


class _Turns:
    """What all that send at once share: the numbers that are left, and when all began."""

    def __init__(
        self,
        schedule: Schedule,
        send: Callable[[], Awaitable[Failure | None]],
        clock: Callable[[], float],
        outcome: Outcome,
        stopping: asyncio.Task[bool],
    ) -> None:
        self._schedule, self._send, self._clock, self._outcome = schedule, send, clock, outcome
        self._stopping, self._next, self._requests = stopping, 0, schedule.requests
        self.start = clock()

    async def take(self) -> None:
        """Send the next request when it is due, and again until there is none."""
        while (number := self._next) < self._requests:
            self._next += 1
            at = self.start + self._schedule.due(number)
            if at > self._clock():
                await asyncio.wait((self._stopping,), timeout=at - self._clock())
                if self._stopping.done():
                    return
            elif self._stopping.done() or self._clock() > self.start + self._schedule.seconds:
                self._give_up(number)
                return
            await self._one(at)

    async def _one(self, at: float) -> None:
        outcome = self._outcome
        outcome.in_flight += 1
        failure = await self._send()
        outcome.in_flight -= 1
        if failure is None:
            outcome.latencies.add(self._clock() - at)
        else:
            outcome.fail(failure.status, failure.reason)

    def _give_up(self, number: int) -> None:
        """This one and all that are due by now are not sent: whoever is still waiting has an earlier one."""
        self._requests = 0
        late = self._schedule.due_by(self._clock() - self.start) - number
        self._outcome.fail(UNSENT, f"{self._schedule.at_once} were in flight until the time was over", late)
