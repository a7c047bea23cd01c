"""A runtime whose requests go to another one in stacks: the rows of many as those of one, and each gets its own back.

It is for runtimes that make a call of each request, remote ones. The call of a stack carries the headers of its last
request.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from engine.errors import InvalidInput, ModelFailed, RequestError
from engine.protocol import columns as col
from engine.runtimes.contract import Part
from engine.runtimes.runs import follow
from engine.runtimes.stacking import Stacker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from engine.protocol.columns import Columns
    from engine.protocol.record import HeaderPairs
    from engine.runtimes.contract import Runtime
    from engine.runtimes.stacking import Answers, Stacked
    from engine.runtimes.stacks import Stack


class StackedRuntime:
    """Another runtime's model, called with stacks; see `Stacker` for what the numbers mean."""

    def __init__(self, name: str, runtime: Runtime, *, calls_at_once: int, max_rows: int, delay: float) -> None:
        self._name, self._runtime = name, runtime
        self.load, self.ready, self.metadata = runtime.load, runtime.ready, runtime.metadata
        self._out: set[asyncio.Task[Answers]] = set()
        self._stacker = Stacker(name, self._begin, calls_at_once=calls_at_once, max_rows=max_rows, delay=delay)

    async def unload(self) -> None:
        """Unload the model; what waits ends with an error."""
        self._stacker.stop()
        await self._runtime.unload()

    async def infer(self, columns: Columns, headers: Sequence[HeaderPairs], timeout: float) -> AsyncIterator[Part]:
        """Answers in parts; what cannot be stacked is called as it is."""
        agreed = col.layout(columns)
        if agreed is None:
            async for part in self._runtime.infer(columns, headers, timeout):
                yield part
            return
        run = self._stacker.begin(columns, agreed, headers, timeout)
        async with aclosing(follow(run, self._name, len(columns), timeout)) as parts:
            async for part in parts:
                yield part

    def _begin(self, stack: Stack[Stacked]) -> asyncio.Task[Answers]:
        task = asyncio.create_task(self._answer(stack))
        self._out.add(task)
        task.add_done_callback(self._out.discard)
        return task

    async def _answer(self, stack: Stack[Stacked]) -> Answers:
        """One call for all rows; when the fault may be that of one of them, each is called alone."""
        slices = [run.columns.take(rows) for run, rows in stack]
        timeout = max(run.deadline for run, _ in stack) - asyncio.get_running_loop().time()
        if sum(map(len, slices)) > 1:
            run, rows = stack[-1]
            headers = [run.headers[rows[-1]]]
            [part] = [part async for part in self._runtime.infer(col.stack(slices), headers, timeout)]
            shares = _shares(part.outcome, slices)
            if not isinstance(shares, ModelFailed | InvalidInput):
                return [
                    [Part(rows, shares if isinstance(shares, RequestError) else shares[place], _each(part, rows))]
                    for place, (_, rows) in enumerate(stack)
                ]
        answers = (self._alone(run, rows, each, timeout) for (run, rows), each in zip(stack, slices, strict=True))
        return list(await asyncio.gather(*answers))

    async def _alone(self, run: Stacked, rows: range, columns: Columns, timeout: float) -> list[Part]:
        headers = [run.headers[row] for row in rows]
        parts = self._runtime.infer(columns, headers, timeout)
        return [Part([rows[row] for row in part.rows], part.outcome, part.headers) async for part in parts]


def _each(part: Part, rows: range) -> Any:
    return None if part.headers is None else [*part.headers] * len(rows)


def _shares(outcome: Columns | RequestError, slices: Sequence[Columns]) -> list[Columns] | RequestError:
    """What of a stack's answer each slice gets; ModelFailed when that cannot be told."""
    if isinstance(outcome, RequestError):
        return outcome
    try:
        return col.share_out(outcome, slices, "in a stack")
    except ModelFailed as error:
        return error
