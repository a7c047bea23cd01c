"""What a process does as a whole, from the figures that it counts itself: between two looks, per second."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from engine.protocol.record import Owner
from engine.telemetry.figures import CALL_SECONDS, OK
from engine.telemetry.quantiles import quantile

if TYPE_CHECKING:
    from engine.telemetry.figures import Figures
    from engine.telemetry.quantiles import Quantile

_ANSWERED = {OK, "200"}
_BOUNDS = (*CALL_SECONDS, float("inf"))


@dataclass(frozen=True, slots=True)
class Totals:
    """What a process has done since its start; less when something is unloaded.

    calls      of its gateway, by how long they took: so many up to each of `CALL_SECONDS`, the last ones longer
    refused    of them, those that were not answered
    requests   that its pipelines have taken, from callers and from Kafka
    failed     of them, those that ended with an error
    """

    calls: tuple[int, ...]
    refused: int
    requests: int
    failed: int


@dataclass(frozen=True, slots=True)
class Pace:
    """What a process does per second; its gateway's calls first."""

    calls: float
    refused: float
    p99: Quantile | None
    requests: float
    failed: float


def totals(figures: Figures) -> Totals:
    """What a process has done until now."""
    calls, refused = [0] * len(_BOUNDS), 0
    for answers in figures.answers.values():
        for (_, method, code), seconds in answers.items():
            if method in figures.calls:
                calls = [count + more for count, more in zip(calls, seconds.counts, strict=True)]
                refused += 0 if code in _ANSWERED else seconds.count
    flows = [flow for (owner, _), flow in figures.flows.items() if owner is Owner.PIPELINE]
    failed = sum(sum(flow.unanswered.values()) for flow in flows)
    return Totals(tuple(calls), refused, sum(flow.taken for flow in flows), failed)


def pace(before: Totals, after: Totals, seconds: float) -> Pace:
    """What was done between two looks; what was unloaded meanwhile has done nothing."""

    def rate(earlier: int, later: int) -> float:
        return max(later - earlier, 0) / seconds

    calls = [max(later - earlier, 0) for earlier, later in zip(before.calls, after.calls, strict=True)]
    below = list(zip(_BOUNDS, accumulate(calls), strict=True))
    return Pace(
        sum(calls) / seconds,
        rate(before.refused, after.refused),
        quantile(0.99, below),
        rate(before.requests, after.requests),
        rate(before.failed, after.failed),
    )


def in_flight(figures: Figures) -> int:
    """Requests that its pipelines have taken and not finished."""
    return sum(flow.in_flight for (owner, _), flow in figures.flows.items() if owner is Owner.PIPELINE)


async def lag(figures: Figures) -> int:
    """Records that its consumer groups have not finished; asks the broker."""
    groups = await asyncio.gather(*(member.measure() for member in [*figures.groups.values()]))
    return sum(sum(group.behind.values()) for group in groups)
