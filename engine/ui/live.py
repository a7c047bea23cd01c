"""What pipelines, their steps, models and experiments did in the last seconds, from what the process counts."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from engine.protocol.record import Owner
from engine.telemetry.figures import CALL_SECONDS, OK, STEP_SECONDS
from engine.telemetry.quantiles import quantile

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from engine.protocol.record import Topics
    from engine.telemetry.figures import Figures, Flow, Resource

# Rates are over so many seconds: long enough to be calm, short enough to see what was done just now.
SPAN_SECONDS = 5.0

# How often it is counted while somebody watches. Lag has to be asked of the broker, group by group: with hundreds of
# pipelines that takes a while, and no more than this share of the time.
COUNT_SECONDS = 1.0
LAG_SECONDS = 2.0
LAG_SHARE = 0.1

_FINE = ("200", OK)

Figure: TypeAlias = "dict[str, Any]"


class Counted(NamedTuple):
    """How many requests there were, of them the failed ones, and how many took how long: a count for each bound."""

    requests: int = 0
    failed: int = 0
    seconds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """What was counted up to one moment."""

    at: float
    pipelines: Mapping[str, Counted]
    steps: Mapping[tuple[str, str], Counted]
    models: Mapping[str, Counted]
    drawn: Mapping[tuple[str, str], int]


@dataclass(slots=True)
class Lags:
    """What consumer groups said last: records behind of each resource, and requests waiting in the join of a group."""

    behind: dict[Resource, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)


def sample(figures: Figures, at: float) -> Sample:
    """What is counted now."""
    called = _answers(figures, Owner.PIPELINE)
    flows = {name: flow for (owner, name), flow in figures.flows.items() if owner is Owner.PIPELINE}
    # Where no worker is, what the gateway's callers met is all that is known.
    pipelines = {**called, **{name: _flow(flow, called.get(name, Counted())) for name, flow in flows.items()}}
    steps = {(name, step): each for name, flow in flows.items() for step, each in _steps(flow).items()}
    return Sample(at, pipelines, steps, _answers(figures, Owner.MODEL), dict(figures.drawn))


def _answers(figures: Figures, owner: Owner) -> dict[str, Counted]:
    found: dict[str, Counted] = {}
    for (name, _, code), seconds in figures.answers[owner].items():
        if not name:
            continue  # calls of names that are not known
        before, count = found.get(name, Counted()), seconds.count
        failed = 0 if code in _FINE else count
        found[name] = Counted(before.requests + count, before.failed + failed, _sum(before.seconds, seconds.counts))
    return found


def _flow(flow: Flow, called: Counted) -> Counted:
    return Counted(flow.taken, sum(flow.unanswered.values()), called.seconds)


def _steps(flow: Flow) -> dict[str, Counted]:
    failed: dict[str, int] = {}
    for (step, _), count in flow.errors.items():
        failed[step] = failed.get(step, 0) + count
    return {
        name: Counted(step.seconds.count, failed.get(name, 0), tuple(step.seconds.counts))
        for name, step in flow.steps.items()
    }


def _sum(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(first or [0] * len(second), second, strict=True))


def since(before: Counted | None, now: Counted, seconds: float, bounds: tuple[float, ...]) -> Figure:
    """Requests and errors a second between two counts, and in how many seconds half and 99 of 100 were answered."""
    begun = before or Counted()
    if begun.requests > now.requests:
        begun = Counted()  # it was unloaded meanwhile, and loaded anew
    counts = [a - b for a, b in zip(now.seconds, begun.seconds or [0] * len(now.seconds), strict=True)]
    buckets = list(zip((*bounds, float("inf")), accumulate(counts), strict=False))
    p50, p99 = quantile(0.5, buckets), quantile(0.99, buckets)
    return {
        "rate": (now.requests - begun.requests) / seconds,
        "errors": (now.failed - begun.failed) / seconds,
        "p50": p50 and p50.seconds,
        "p99": p99 and p99.seconds,
    }


class Live:
    """Counts while somebody watches, and tells of the last seconds.

    clock   seconds since 1970
    """

    def __init__(self, figures: Figures, topics: Topics, clock: Callable[[], float]) -> None:
        self._figures, self._topics, self._clock = figures, topics, clock
        self._samples: deque[Sample] = deque()
        self._lags = Lags()
        self._latest: Figure = {}
        self._counted = asyncio.Condition()
        self._watchers = 0
        self._ended = False
        self._tasks: list[asyncio.Task[None]] = []

    async def watch(self) -> AsyncGenerator[Figure, None]:
        """The figures, again each second, until `end`; those of the first time tell of nothing but the broker."""
        self._watchers += 1
        if self._watchers == 1:
            self._latest = self.count()
            self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._follow_lags())]
        try:
            while not self._ended:
                yield self._latest
                async with self._counted:
                    await self._counted.wait()
        finally:
            self._watchers -= 1
            if not self._watchers:
                await self._rest()

    async def end(self) -> None:
        """Tell those who watch no more."""
        self._ended = True
        async with self._counted:
            self._counted.notify_all()

    def count(self) -> Figure:
        """The figures since some seconds ago, now that it is counted once more; `since` is a moment told of before."""
        now = sample(self._figures, self._clock())
        while len(self._samples) > 1 and now.at - self._samples[0].at > SPAN_SECONDS:
            self._samples.popleft()
        before = self._samples[0] if self._samples and now.at > self._samples[0].at else None
        self._samples.append(now)
        fault = self._figures.kafka()
        told = {"at": now.at, "broker": {"ok": not fault, "fault": fault}}
        if before is None:
            return {**told, "since": None, "pipelines": {}, "models": {}, "experiments": {}}
        return {**told, "since": before.at, **self._told(before, now)}

    async def _rest(self) -> None:
        """Nobody watches: what is counted until somebody does again is not of the last seconds."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._samples.clear()
        self._lags = Lags()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            self._latest = self.count()
            async with self._counted:
                self._counted.notify_all()

    async def _follow_lags(self) -> None:
        """Ask the groups again and again how far they are behind."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            members = dict(self._figures.groups)
            measured = await asyncio.gather(*(member.measure() for member in members.values()))
            lags = Lags()
            for name, group in zip(members, measured, strict=True):
                for key, count in group.behind.items():
                    lags.behind[key] = lags.behind.get(key, 0) + count
                if group.waiting is not None:
                    lags.waiting[name] = group.waiting
            self._lags = lags
            await asyncio.sleep(max(LAG_SECONDS, (loop.time() - began) / LAG_SHARE))

    def _told(self, before: Sample, now: Sample) -> Figure:
        seconds = now.at - before.at
        steps: dict[str, Figure] = {}
        for (pipeline, step), counted in now.steps.items():
            told = since(before.steps.get((pipeline, step)), counted, seconds, STEP_SECONDS)
            steps.setdefault(pipeline, {})[step] = told
        return {
            "pipelines": {
                name: {
                    **since(before.pipelines.get(name), counted, seconds, CALL_SECONDS),
                    **self._standing(Owner.PIPELINE, name),
                    "waiting": self._lags.waiting.get(self._topics.group(Owner.PIPELINE, name)),
                    "steps": steps.get(name, {}),
                }
                for name, counted in now.pipelines.items()
            },
            "models": {
                name: {
                    **since(before.models.get(name), counted, seconds, CALL_SECONDS),
                    **self._standing(Owner.MODEL, name),
                }
                for name, counted in now.models.items()
            },
            "experiments": shares(before.drawn, now.drawn),
        }

    def _standing(self, owner: Owner, name: str) -> Figure:
        flow = self._figures.flows.get((owner, name))
        return {"lag": self._lags.behind.get((owner, name)), "in_flight": None if flow is None else flow.in_flight}


def shares(before: Mapping[tuple[str, str], int], now: Mapping[tuple[str, str], int]) -> dict[str, dict[str, float]]:
    """Which share of an experiment's calls each candidate got between two counts; nothing of those without calls."""
    found: dict[str, dict[str, int]] = {}
    for (experiment, candidate), count in now.items():
        grown = count - before.get((experiment, candidate), 0)
        if grown > 0:
            found.setdefault(experiment, {})[candidate] = grown
    return {
        experiment: {candidate: grown / sum(drawn.values()) for candidate, grown in drawn.items()}
        for experiment, drawn in found.items()
    }
