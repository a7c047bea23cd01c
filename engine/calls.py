"""The calls of a plan's steps: those that are out, and those that wait to be made with others."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from engine.dataflow.batches import Batches
from engine.dataflow.gather import Call
from engine.errors import InvalidInput, ModelFailed, RequestError
from engine.runtimes.contract import Part
from engine.telemetry.figures import OK, Flow, status
from engine.telemetry.logs import CONCERN, Concern

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from engine.dataflow.batches import Ready, Shared
    from engine.dataflow.gather import Progress
    from engine.dataflow.plan import Plan
    from engine.protocol.columns import Columns
    from engine.protocol.record import HeaderPairs, Headers
    from engine.resources import Batch
    from engine.runtimes.contract import Runtime

log = logging.getLogger(__name__)


class Answered(Protocol):
    """Takes what a call gives for some of its requests, as soon as it is known."""

    def __call__(self, call: Call, part: Part) -> None:
        """Each request of a call comes once, whatever its runtime does."""


class Way(NamedTuple):
    """The model that answers a request at a step, and the headers that say so where it might have been another."""

    model: str
    headers: Headers = ()


class Splits(Protocol):
    """How experiments split the calls of models between others."""

    def is_split(self, model: str) -> bool:
        """Whether any experiment concerns itself with the calls of this model."""

    def way(self, model: str, headers: HeaderPairs) -> Way:
        """Who answers a call of this model that has these headers; a route among them is taken again."""

    def mirror(self, model: str) -> Way | None:
        """Who gets a copy of this call, if anybody."""

    def route(self, model: str) -> bytes | None:
        """What tells a caller that this very model answered; None where that is told by the way of the call."""


class Unsplit:
    """No experiments: every call of a model is answered by that model."""

    def is_split(self, _: str) -> bool:
        """As `Splits` has it."""
        return False

    def way(self, model: str, _: HeaderPairs) -> Way:
        """As `Splits` has it."""
        return Way(model)

    def mirror(self, _: str) -> Way | None:
        """As `Splits` has it."""
        return None

    def route(self, _: str) -> bytes | None:
        """As `Splits` has it."""
        return None


UNSPLIT = Unsplit()


class Calls:
    """Makes the calls of one plan's steps; of steps with a batch, several as one.

    answered         is given what comes of them
    splits           decides which model answers each request; calls made as one are answered by one
    timeout          seconds that one call may take
    batch_max_wait   seconds that a batch without a window of its own waits
    flow             where it is counted how long they take
    """

    def __init__(
        self,
        plan: Plan,
        runtime_of: Callable[[str], Runtime],
        answered: Answered,
        *,
        timeout: float,
        batch_max_wait: float,
        splits: Splits = UNSPLIT,
        flow: Flow | None = None,
    ) -> None:
        self._splits = splits
        flow = Flow() if flow is None else flow
        self._steps = {index: flow.step(plan.nodes[index].name) for index in plan.steps}
        self._repeating = {index for index in plan.steps if plan.nodes[index].may_repeat}
        self._models, self._spans = flow.models, flow.spans
        self._names = [node.name for node in plan.nodes]
        self._runtime_of, self._answered, self._timeout = runtime_of, answered, timeout
        self._out: set[asyncio.Task[None]] = set()
        self._batches = {
            index: Batches(batch.size, _window(batch, batch_max_wait))
            for index in plan.steps
            if (batch := plan.nodes[index].batch) is not None
        }
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._draining = False

    @property
    def idle(self) -> bool:
        """Whether no call is out, and none waits."""
        return not self._out and all(batches.due is None for batches in self._batches.values())

    def start(self, call: Call) -> None:
        """Make a call, or let it wait for others."""
        batches = self._batches.get(call.node)
        if batches is None:
            self._make(call)
            return
        for ready in batches.offer(call, asyncio.get_running_loop().time()):
            self._make(ready)
        if self._draining:
            self.flush()
        self._watch(call.node, batches)

    async def drain(self) -> None:
        """Let no call wait any longer, and wait until all that are out have ended."""
        self._draining = True
        try:
            self.flush()
            while self._out:
                await asyncio.wait(self._out)
        finally:
            self._draining = False

    def cancel(self) -> None:
        """Give up every call that is out or waits."""
        for task in self._out:
            task.cancel()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for batches in self._batches.values():
            batches.flush()

    def flush(self) -> None:
        """Let no call that waits now wait any longer."""
        for batches in self._batches.values():
            for ready in batches.flush():
                self._make(ready)

    def _watch(self, node: int, batches: Batches) -> None:
        """Have one timer for what waits at a step; one that fires for what has gone by then is set again."""
        due = batches.due
        if due is not None and node not in self._timers:
            self._timers[node] = asyncio.get_running_loop().call_at(due, self._expire, node, batches, due)

    def _expire(self, node: int, batches: Batches, now: float) -> None:
        del self._timers[node]
        for ready in batches.expire(now):
            self._make(ready)
        self._watch(node, batches)

    def _make(self, ready: Ready) -> None:
        if isinstance(ready, Call):
            for call, way in self._ways(ready):
                self._begin(self._call(call, way))
        else:
            self._begin(self._call_shared(ready))

    def _begin(self, calling: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(calling)
        self._out.add(task)
        task.add_done_callback(self._out.discard)

    def _ways(self, call: Call) -> list[tuple[Call, Way]]:
        """A call as it is, or cut up by who answers each of its requests."""
        name = self._names[call.node]
        if not self._splits.is_split(name):
            return [(call, Way(name))]
        found: dict[Way, list[int]] = {}
        for row, request in enumerate(call.requests):
            found.setdefault(self._splits.way(name, _routed(request)), []).append(row)
        if len(found) == 1:
            return [(call, way) for way in found]
        return [
            (Call(call.node, [call.requests[row] for row in rows], call.columns.take(rows), call.round), way)
            for way, rows in found.items()
        ]

    async def _call(self, call: Call, way: Way) -> None:
        since = time.perf_counter()
        self._steps[call.node].sizes.observe(len(call.requests))
        headers = self._headers(call)
        # For the lines of whoever answers; the task ends with the call.
        CONCERN.set(Concern(headers, self._names[call.node]))
        span = self._spans.batch(way.model, call.requests) if self._spans and len(call.requests) > 1 else None
        async for part in self._parts(call.node, way, call.columns, headers):
            self._count(call.node, way, part.outcome, len(part.rows), since)
            self._answered(call, part)
        if span is not None:
            span.end()

    async def _call_shared(self, shared: Shared) -> None:
        """One call for several requests. When the fault may be that of one of them, each is called alone."""
        last, name = shared.calls[-1], self._names[shared.calls[-1].node]
        way = self._splits.way(name, _routed(last.requests[-1])) if self._splits.is_split(name) else Way(name)
        since = time.perf_counter()
        everyone: list[Any] = [request for call in shared.calls for request in call.requests]
        CONCERN.set(Concern([request.headers for request in everyone], name))
        span = self._spans.batch(name, everyone) if self._spans else None
        [part] = [part async for part in self._parts(last.node, way, shared.columns, self._headers(last)[-1:])]
        if span is not None:
            span.end()
        shares = self._shares(shared, part.outcome)
        if isinstance(shares, ModelFailed | InvalidInput):
            for call in shared.calls:
                self._make(call)
            return
        self._steps[last.node].sizes.observe(len(everyone))
        self._count(last.node, way, shares, len(everyone), since)
        for place, call in enumerate(shared.calls):
            count = len(call.requests)
            outcome = shares if isinstance(shares, RequestError) else shares[place]
            headers = None if part.headers is None else [*part.headers] * count
            self._answered(call, Part(range(count), outcome, headers))

    def _headers(self, call: Call) -> list[HeaderPairs]:
        requests: Sequence[Any] = call.requests
        if self._spans is None:
            return [request.headers for request in requests]
        return [
            request.headers if request.trip is None else request.trip.under(call.node, call.round, request.headers)
            for request in requests
        ]

    def _count(self, node: int, way: Way, outcome: object, requests: int, since: float) -> None:
        """So many requests were answered at once, each of which has waited for all of that time."""
        seconds = time.perf_counter() - since
        code = status(outcome) if isinstance(outcome, RequestError) else OK
        self._steps[node].seconds.observe(seconds, requests)
        self._models[way.model, "kafka", code].observe(seconds, requests)

    def _shares(self, shared: Shared, outcome: Columns | RequestError) -> list[Columns] | RequestError:
        """What of an answer each call gets; an error of the call, or that of an answer that cannot be shared out."""
        if isinstance(outcome, RequestError):
            return outcome
        try:
            return shared.split(outcome)
        except Exception as error:  # noqa: BLE001  a runtime that breaks its contract; the calls alone will show it
            log.warning('step "%s" is called for each request alone: %s', self._names[shared.calls[0].node], error)
            return ModelFailed(str(error))

    async def _parts(
        self, node: int, way: Way, columns: Columns, headers: Sequence[HeaderPairs]
    ) -> AsyncIterator[Part]:
        """What a model gives, so that each row comes once; what a runtime does wrong is the model's failure."""
        left = set(range(len(columns)))
        name = way.model
        try:
            if node in self._repeating:
                _check_names(columns)
            async for part in self._runtime_of(name).infer(columns, headers, self._timeout):
                _check_part(part, left)
                left.difference_update(part.rows)
                if part.rows:
                    yield _told(part, way)
        except RequestError as error:
            failure = error
        except Exception as error:
            # A runtime that breaks its contract must not leave its callers waiting; the trace tells whom to blame.
            log.exception('the runtime of model "%s" raised', name)
            failure = ModelFailed(f"{type(error).__name__}: {error}")
        else:
            failure = ModelFailed(f'the runtime of model "{name}" gave no answer')
        if left:
            yield _told(Part(sorted(left), failure), way)


def _check_names(columns: Columns) -> None:
    """Whether all tensors have names of their own: what came in had, so that the fault is the pipeline's."""
    for name in columns.repeated:
        raise ModelFailed(f'two of its tensors are named "{name}"; give them different names by tensorMap')


def _window(batch: Batch, longest: float) -> float:
    return longest if batch.window_ms is None else batch.window_ms / 1000


def _routed(request: Progress) -> HeaderPairs:
    """What tells the ways that a request has gone, and those that its caller asks for."""
    return (*request.headers, *request.asked)  # type: ignore[attr-defined]


def _told(part: Part, way: Way) -> Part:
    """A part that says who gave it, where it might have been another."""
    if not way.headers:
        return part
    added = part.headers if part.headers is not None else [()] * len(part.rows)
    outcome = part.outcome.at(way.model) if isinstance(part.outcome, RequestError) else part.outcome
    return Part(part.rows, outcome, [(*headers, *way.headers) for headers in added])


def _check_part(part: Part, left: set[int]) -> None:
    """Whether a runtime keeps its contract; what it answers wrongly would end with the wrong caller, or with none."""
    rows = set(part.rows)
    if len(rows) < len(part.rows) or not rows <= left:
        raise ValueError("a part answers rows twice, or rows that nobody asked for")
    if not isinstance(part.outcome, RequestError) and len(part.outcome) != len(rows):
        raise ValueError(f"a part has {len(part.outcome)} answers for {len(rows)} rows")
    if part.headers is not None and len(part.headers) != len(rows):
        raise ValueError(f"a part has headers for {len(part.headers)} of {len(rows)} rows")
