"""Calls of one model made together: rows of many requests stacked into few calls.

While as many calls as may be are out, what comes in waits and goes into the next stack, so stacks grow with the load by
themselves; `delay` lets them wait besides, for models whose calls cost much and whose callers come one by one.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from engine.errors import ModelFailed
from engine.protocol import columns as col
from engine.runtimes.contract import Part
from engine.runtimes.stacks import Stacks

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from engine.protocol.columns import Columns, Layout
    from engine.protocol.record import HeaderPairs
    from engine.runtimes.stacks import Stack

# For each slice of a stack the parts that its rows are answered by.
Answers: TypeAlias = "list[list[Part]]"


class Stacker:
    """Makes the stacked calls of one model.

    answer         begins one call for a stack; it gives every row a part, and does not raise
    calls_at_once  stacks that are out at the same time
    max_rows       rows along the first dimension of one stack, at most
    delay          seconds that a stack which is not full waits for more rows
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[Stack[Stacked]], asyncio.Future[Answers]],
        *,
        calls_at_once: int,
        max_rows: int,
        delay: float,
    ) -> None:
        self._name, self._answer = name, answer
        self._free, self._stopped = calls_at_once, False
        self._stacks: Stacks[Stacked] = Stacks(max_rows, delay)
        self._timer: asyncio.Handle | None = None
        # When the timer fires; never later than the next stack is due while another call may be made.
        self._alarm = math.inf

    def begin(
        self, columns: Columns, layout: Layout, headers: Sequence[HeaderPairs] = (), timeout: float = math.inf
    ) -> Stacked:
        """Let the rows of a call, which has so many seconds, be computed with those of others."""
        loop = asyncio.get_running_loop()
        run = Stacked(self, columns, headers, loop.time() + timeout)
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
            future = self._answer(stack)
            future.add_done_callback(partial(self._done, stack))
        self._watch(loop)

    def _done(self, stack: Stack[Stacked], future: asyncio.Future[Answers]) -> None:
        self._free += 1
        if future.cancelled():
            self._fail(stack)
            return
        for (run, _), parts in zip(stack, future.result(), strict=True):
            run.add(parts)
        self._dispatch()

    def _fail(self, stack: Stack[Stacked]) -> None:
        error = ModelFailed(f'model "{self._name}" was unloaded before its turn came')
        for run, rows in stack:
            run.add([Part(rows, error)])


class Stacked:
    """One call's rows, as they come back in parts.

    headers   each row's travelling headers
    deadline  by the event loop's clock
    """

    def __init__(self, stacker: Stacker, columns: Columns, headers: Sequence[HeaderPairs], deadline: float) -> None:
        self.columns, self.headers, self.deadline = columns, headers, deadline
        self._stacker, self._left = stacker, len(columns)
        self._parts: list[Part] = []
        self._news = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return not self._left

    def add(self, parts: Sequence[Part]) -> None:
        """Some rows have been computed."""
        self._parts += parts
        self._left -= sum(len(part.rows) for part in parts)
        self._news.set()

    async def finished(self) -> list[Part]:
        """The parts that have come in since the last time; waits for news."""
        await self._news.wait()
        self._news.clear()
        return self.left()

    def left(self) -> list[Part]:
        """The parts that have come in and were not taken yet."""
        parts, self._parts = self._parts, []
        return _merged(parts)

    def stop(self) -> None:
        """Begin no more calls for it."""
        if self._left:
            self._stacker.drop(self)


def _merged(parts: list[Part]) -> list[Part]:
    """Parts of one kind as one: the fewer parts, the fewer batches follow."""
    groups: dict[Hashable, list[Part]] = {}
    for part in parts:
        columns = part.outcome
        alike = isinstance(columns, col.Columns) and part.headers is None
        key = (columns.specs, columns.parameters) if alike and isinstance(columns, col.Columns) else id(part)
        groups.setdefault(key, []).append(part)
    return [group[0] if len(group) == 1 else _one(group) for group in groups.values()]


def _one(group: list[Part]) -> Part:
    rows = [row for part in group for row in part.rows]
    return Part(rows, col.concatenate([part.outcome for part in group if isinstance(part.outcome, col.Columns)]))
