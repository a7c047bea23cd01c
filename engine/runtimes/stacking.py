"""Calls of one model made together: rows of many requests stacked into few calls, on the model's threads.

While every thread computes, what comes in waits and goes into the next stack, so stacks grow with the load by
themselves; `delay` lets them wait besides, for models whose calls cost much and whose callers come one by one.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from engine.errors import ModelFailed
from engine.runtimes.function import Result, Slice, answer_stack, together
from engine.runtimes.stacks import Stacks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.protocol.columns import Columns
    from engine.runtimes.contract import Part
    from engine.runtimes.function import Function
    from engine.runtimes.stacks import Layout, Stack

# For each slice of a stack the results of its rows.
Results: TypeAlias = "list[list[Result]]"


class Stacker:
    """Makes the stacked calls of one loaded model.

    start          has one of the model's threads do something
    calls_at_once  stacks that are computed at the same time
    max_rows       rows along the first dimension of one stack, at most
    delay          seconds that a stack which is not full waits for more rows
    """

    def __init__(
        self,
        name: str,
        function: Function,
        start: Callable[[Callable[[], Results]], asyncio.Future[Results]],
        *,
        calls_at_once: int,
        max_rows: int,
        delay: float,
    ) -> None:
        self._name, self._function, self._start = name, function, start
        self._free, self._stopped = calls_at_once, False
        self._stacks: Stacks[Stacked] = Stacks(max_rows, delay)
        self._timer: asyncio.Handle | None = None
        # When the timer fires; never later than the next stack is due while a thread is free.
        self._alarm = math.inf

    def begin(self, columns: Columns, layout: Layout) -> Stacked:
        """Let the rows of a call be computed with those of others."""
        run = Stacked(self, columns)
        loop = asyncio.get_running_loop()
        self._stacks.offer(run, range(len(columns)), columns.specs[0].shape[0], layout, loop.time())
        self._watch(loop)
        return run

    def drop(self, run: Stacked) -> None:
        """Compute nothing more for a call."""
        self._stacks.drop(run)

    def stop(self) -> None:
        """Begin no more calls; those whose rows wait end with an error."""
        self._stopped = True
        while stack := self._stacks.take(math.inf):
            self._fail(stack)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look again when the next stack is due; at the earliest when all who come now have come."""
        due = self._stacks.due
        if due is None or not self._free or due >= self._alarm:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._alarm = due
        self._timer = loop.call_soon(self._dispatch) if due <= loop.time() else loop.call_at(due, self._dispatch)

    def _dispatch(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer, self._alarm = None, math.inf
        while self._free and not self._stopped and (stack := self._stacks.take(loop.time())):
            self._free -= 1
            slices = [Slice(run.columns, rows) for run, rows in stack]
            future = self._start(partial(answer_stack, self._function, slices))
            future.add_done_callback(partial(self._done, stack))
        self._watch(loop)

    def _done(self, stack: Stack[Stacked], future: asyncio.Future[Results]) -> None:
        self._free += 1
        if future.cancelled():
            self._fail(stack)
            return
        for (run, _), results in zip(stack, future.result(), strict=True):
            run.add(results)
        self._dispatch()

    def _fail(self, stack: Stack[Stacked]) -> None:
        error = ModelFailed(f'model "{self._name}" was unloaded before its turn came')
        for run, rows in stack:
            run.add([Result(rows, error)])


class Stacked:
    """One call's rows, as they come back in parts."""

    def __init__(self, stacker: Stacker, columns: Columns) -> None:
        self.columns = columns
        self._stacker, self._left = stacker, len(columns)
        self._results: list[Result] = []
        self._news = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return not self._left

    def add(self, results: Sequence[Result]) -> None:
        """Some rows have been computed."""
        self._results += results
        self._left -= sum(len(result.rows) for result in results)
        self._news.set()

    async def finished(self) -> list[Part]:
        """The parts that have come in since the last time; waits for news."""
        await self._news.wait()
        self._news.clear()
        return self.left()

    def left(self) -> list[Part]:
        """The parts that have come in and were not taken yet."""
        results, self._results = self._results, []
        return together(results, self.columns)

    def stop(self) -> None:
        """Begin no more calls for it."""
        if self._left:
            self._stacker.drop(self)
