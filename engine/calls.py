"""The calls of a plan's steps: those that are out, and those that wait to be made with others."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from engine.dataflow.batches import Batches
from engine.dataflow.gather import Call
from engine.errors import InvalidInput, ModelFailed, RequestError
from engine.runtimes.contract import Part

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from engine.dataflow.batches import Ready, Shared
    from engine.dataflow.plan import Plan
    from engine.protocol.columns import Columns
    from engine.protocol.record import HeaderPairs
    from engine.resources import Batch
    from engine.runtimes.contract import Runtime

log = logging.getLogger(__name__)


class Answered(Protocol):
    """Takes what a call gives for some of its requests, as soon as it is known."""

    def __call__(self, call: Call, part: Part) -> None:
        """Each request of a call comes once, whatever its runtime does."""


class Calls:
    """Makes the calls of one plan's steps; of steps with a batch, several as one.

    answered         is given what comes of them
    timeout          seconds that one call may take
    batch_max_wait   seconds that a batch without a window of its own waits
    """

    def __init__(
        self,
        plan: Plan,
        runtime_of: Callable[[str], Runtime],
        answered: Answered,
        *,
        timeout: float,
        batch_max_wait: float,
    ) -> None:
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
        task = asyncio.ensure_future(self._call(ready) if isinstance(ready, Call) else self._call_shared(ready))
        self._out.add(task)
        task.add_done_callback(self._out.discard)

    async def _call(self, call: Call) -> None:
        async for part in self._parts(call.node, call.columns, _headers(call)):
            self._answered(call, part)

    async def _call_shared(self, shared: Shared) -> None:
        """One call for several requests. When the fault may be that of one of them, each is called alone."""
        last = shared.calls[-1]
        [part] = [part async for part in self._parts(last.node, shared.columns, _headers(last)[-1:])]
        shares = self._shares(shared, part.outcome)
        if isinstance(shares, ModelFailed | InvalidInput):
            for call in shared.calls:
                self._make(call)
            return
        for place, call in enumerate(shared.calls):
            count = len(call.requests)
            outcome = shares if isinstance(shares, RequestError) else shares[place]
            headers = None if part.headers is None else [*part.headers] * count
            self._answered(call, Part(range(count), outcome, headers))

    def _shares(self, shared: Shared, outcome: Columns | RequestError) -> list[Columns] | RequestError:
        """What of an answer each call gets; an error of the call, or that of an answer that cannot be shared out."""
        if isinstance(outcome, RequestError):
            return outcome
        try:
            return shared.split(outcome)
        except Exception as error:  # noqa: BLE001  a runtime that breaks its contract; the calls alone will show it
            log.warning('step "%s" is called for each request alone: %s', self._names[shared.calls[0].node], error)
            return ModelFailed(str(error))

    async def _parts(self, node: int, columns: Columns, headers: Sequence[HeaderPairs]) -> AsyncIterator[Part]:
        """What a step's model gives, so that each row comes once; what a runtime does wrong is the model's failure."""
        left = set(range(len(columns)))
        name = self._names[node]
        try:
            async for part in self._runtime_of(name).infer(columns, headers, self._timeout):
                _check_part(part, left)
                left.difference_update(part.rows)
                if part.rows:
                    yield part
        except RequestError as error:
            failure = error
        except Exception as error:
            # A runtime that breaks its contract must not leave its callers waiting; the trace tells whom to blame.
            log.exception('the runtime of model "%s" raised', name)
            failure = ModelFailed(f"{type(error).__name__}: {error}")
        else:
            failure = ModelFailed(f'the runtime of model "{name}" gave no answer')
        if left:
            yield Part(sorted(left), failure)


def _window(batch: Batch, longest: float) -> float:
    return longest if batch.window_ms is None else batch.window_ms / 1000


def _headers(call: Call) -> list[HeaderPairs]:
    return [request.headers for request in call.requests]  # type: ignore[attr-defined]


def _check_part(part: Part, left: set[int]) -> None:
    """Whether a runtime keeps its contract; what it answers wrongly would end with the wrong caller, or with none."""
    rows = set(part.rows)
    if len(rows) < len(part.rows) or not rows <= left:
        raise ValueError("a part answers rows twice, or rows that nobody asked for")
    if not isinstance(part.outcome, RequestError) and len(part.outcome) != len(rows):
        raise ValueError(f"a part has {len(part.outcome)} answers for {len(rows)} rows")
    if part.headers is not None and len(part.headers) != len(rows):
        raise ValueError(f"a part has headers for {len(part.headers)} of {len(rows)} rows")
